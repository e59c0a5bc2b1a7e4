//! Measures how fast rows are digested and keys hashed. `cargo run -p corpusmill-corpus --example digest_rows`
#![expect(clippy::print_stdout, reason = "it prints its measurement")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float32Array, Int32Builder, Int64Array, ListBuilder, RecordBatch, StringArray};
use corpusmill_corpus::{RowDigest, key_hashes};

const ROWS: usize = 8192;
const TOKENS: usize = 512;
const REPEATS: usize = 20;

fn best<T, E>(mut work: impl FnMut() -> Result<T, E>) -> Result<Duration, E> {
    let mut best = Duration::MAX;
    for _ in 0..REPEATS {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut tokens = ListBuilder::new(Int32Builder::new());
    for row in 0..ROWS {
        tokens.append_value((0..TOKENS).map(|t| Some((row * 31 + t * 7) as i32 % 30_000)));
    }
    let columns: [(&str, ArrayRef); 5] = [
        (
            "post_id",
            Arc::new(StringArray::from_iter_values(
                (0..ROWS).map(|i| format!("post-{i:012}")),
            )),
        ),
        ("user_id", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
        (
            "score",
            Arc::new(Float32Array::from_iter_values((0..ROWS).map(|i| i as f32))),
        ),
        (
            "text",
            Arc::new(StringArray::from_iter_values(
                (0..ROWS).map(|i| format!("{i} {}", "word ".repeat(40))),
            )),
        ),
        ("tokens", Arc::new(tokens.finish())),
    ];
    let batch = RecordBatch::try_from_iter(columns)?;
    let bytes = batch.get_array_memory_size() as f64;
    let whole = best(|| RowDigest::of(&batch))?.as_secs_f64();
    let narrow = batch.project(&[0, 1, 2])?;
    let small = best(|| RowDigest::of(&narrow))?.as_secs_f64();
    let keys = best(|| key_hashes(&[batch.column(0).clone()]))?.as_secs_f64();
    println!("{ROWS} rows, one core, best of {REPEATS}");
    println!(
        "digest, 5 columns, {TOKENS} tokens: {:.2} µs/row, {:.1} GB/s",
        whole * 1e6 / ROWS as f64,
        bytes / whole / 1e9
    );
    println!(
        "digest, 3 narrow columns:         {:.3} µs/row",
        small * 1e6 / ROWS as f64
    );
    println!(
        "key hash, one text column:        {:.3} µs/row",
        keys * 1e6 / ROWS as f64
    );
    Ok(())
}
