//! Measures how fast a block of tokens is decoded in each of Parquet's encodings, and how large it is: what the choice
//! in `shard/writer.rs` rests on. `cargo run -p corpusmill-corpus --example decode_tokens`
#![expect(clippy::print_stdout, reason = "it prints a table")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int32Builder, ListBuilder, RecordBatch};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::WriterProperties;

const ROWS: usize = 1024;
const TOKENS: usize = 512;
const REPEATS: usize = 30;

/// Ids as a tokenizer gives them: few are frequent (Zipf, 30,000 ids), from a fixed seed.
fn block() -> Result<RecordBatch, Box<dyn Error>> {
    let mut state = 42u64;
    let mut list = ListBuilder::new(Int32Builder::new());
    for _ in 0..ROWS {
        for _ in 0..TOKENS {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let uniform = (state >> 11) as f64 / (1u64 << 53) as f64;
            list.values().append_value(30_000f64.powf(uniform) as i32);
        }
        list.append(true);
    }
    Ok(RecordBatch::try_from_iter([(
        "tokens",
        Arc::new(list.finish()) as ArrayRef,
    )])?)
}

fn measure(batch: &RecordBatch, properties: WriterProperties) -> Result<(usize, f64), Box<dyn Error>> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
    writer.write(batch)?;
    let bytes = Bytes::from(writer.into_inner()?);
    let mut best = Duration::MAX;
    for _ in 0..REPEATS {
        let start = Instant::now();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?
            .with_batch_size(ROWS)
            .build()?;
        let rows: usize = reader.map(|b| b.map(|b| b.num_rows())).sum::<Result<_, _>>()?;
        best = best.min(start.elapsed());
        assert_eq!(rows, ROWS);
    }
    Ok((bytes.len(), best.as_secs_f64() * 1e6 / ROWS as f64))
}

fn main() -> Result<(), Box<dyn Error>> {
    let batch = block()?;
    let compressions = [
        ("none", Compression::UNCOMPRESSED),
        ("lz4", Compression::LZ4_RAW),
        ("snappy", Compression::SNAPPY),
        ("zstd 1", Compression::ZSTD(ZstdLevel::try_new(1)?)),
        ("zstd 3", Compression::ZSTD(ZstdLevel::try_new(3)?)),
    ];
    println!("{ROWS} samples of {TOKENS} tokens, decoding on one core, best of {REPEATS}");
    println!(
        "{:<22} {:<8} {:>12} {:>12}",
        "encoding", "codec", "µs/sample", "bytes/token"
    );
    for encoding in ["dictionary", "plain", "delta binary packed", "byte stream split"] {
        for (name, compression) in compressions {
            let builder = WriterProperties::builder().set_compression(compression);
            let builder = match encoding {
                "dictionary" => builder,
                "plain" => builder.set_dictionary_enabled(false).set_encoding(Encoding::PLAIN),
                "delta binary packed" => builder
                    .set_dictionary_enabled(false)
                    .set_encoding(Encoding::DELTA_BINARY_PACKED),
                _ => builder
                    .set_dictionary_enabled(false)
                    .set_encoding(Encoding::BYTE_STREAM_SPLIT),
            };
            let (bytes, micros) = measure(&batch, builder.build())?;
            let per_token = bytes as f64 / (ROWS * TOKENS) as f64;
            println!("{encoding:<22} {name:<8} {micros:>12.2} {per_token:>12.2}");
        }
    }
    Ok(())
}
