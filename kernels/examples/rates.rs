//! Measures the kernels on a file of texts, one a line, on one thread:
//!
//! ```text
//! cargo run --release -p corpusmill-kernels --example rates -- posts.txt [tokenizer.json]
//! ```
//!
//! Prints rows and megabytes per second of each kernel, and what the kernels said about the texts in all.
#![expect(clippy::print_stdout, reason = "a command that prints its results")]

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use arrow::array::{Array, AsArray, StringArray};
use corpusmill_kernels::minhash::{MinHash, ShingleUnit};
use corpusmill_kernels::pii::find_pii;
use corpusmill_kernels::text::Form;
use corpusmill_kernels::{
    PiiKinds, QualityRules, Tokenizer, content_hash_of, lang_id, pii_redact, quality_signals, text,
};

/// Rows of a batch, as DataFusion makes them by default.
const BATCH_ROWS: usize = 8192;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().ok_or("usage: rates TEXTS [TOKENIZER.json]")?;
    let content = std::fs::read_to_string(&file)?;
    let lines: Vec<_> = content.lines().collect();
    let batches: Vec<StringArray> = lines
        .chunks(BATCH_ROWS)
        .map(|rows| StringArray::from(rows.to_vec()))
        .collect();
    println!("{file}: {} rows, {} bytes", lines.len(), content.len());

    let rate =
        |name: &str, kernel: &dyn Fn(&StringArray) -> Result<(), Box<dyn Error>>| -> Result<f64, Box<dyn Error>> {
            kernel(&batches[0])?;
            let start = Instant::now();
            batches.iter().try_for_each(kernel)?;
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "{name:16} {:>11.0} rows/s {:>8.2} MB/s",
                lines.len() as f64 / seconds,
                content.len() as f64 / seconds / 1e6
            );
            Ok(seconds)
        };
    let (kinds, rules) = (PiiKinds::all(), "gopher,c4,fineweb".parse::<QualityRules>()?);
    let family = MinHash::default();
    rate("normalize_text", &|b| {
        Ok(drop(black_box(text::normalize(b, Form::Nfkc)?)))
    })?;
    rate("content_hash", &|b| Ok(drop(black_box(content_hash_of(b)?))))?;
    rate("lang_id", &|b| Ok(drop(black_box(lang_id(b)))))?;
    rate("quality_signals", &|b| Ok(drop(black_box(quality_signals(b, &rules)))))?;
    rate("pii_redact", &|b| Ok(drop(black_box(pii_redact(b, &kinds)?))))?;
    rate("minhash", &|b| {
        Ok(drop(black_box(family.band_key_lists(b, ShingleUnit::Word, 5)?)))
    })?;
    if let Some(path) = args.next() {
        let tokenizer = Tokenizer::from_bytes(&path, &std::fs::read(&path)?, None)?;
        let tokens: usize = batches
            .iter()
            .map(|b| tokenizer.encode(b).map(|l| l.values().len()))
            .sum::<Result<_, _>>()?;
        let seconds = rate("tokenize", &|b| Ok(drop(black_box(tokenizer.encode(b)?))))?;
        println!(
            "{:16} {:.2} M tokens/s, fast path: {}",
            "",
            tokens as f64 / seconds / 1e6,
            tokenizer.has_fast_path()
        );
    }
    describe(&batches, &kinds)
}

fn describe(batches: &[StringArray], kinds: &PiiKinds) -> Result<(), Box<dyn Error>> {
    let (mut languages, mut found) = (BTreeMap::<String, usize>::new(), BTreeMap::<&str, usize>::new());
    for batch in batches {
        let clean = text::normalize(batch, Form::Nfkc)?;
        for lang in lang_id(&clean).column(0).as_string::<i32>().iter().flatten() {
            *languages.entry(lang.to_string()).or_default() += 1;
        }
        for text in clean.iter().flatten() {
            for span in find_pii(text, kinds) {
                *found.entry(span.kind.name()).or_default() += 1;
                if !matches!(span.kind.name(), "mention" | "url") {
                    println!("{}: {}", span.kind.name(), &text[span.start..span.end]);
                }
            }
        }
    }
    println!("languages: {languages:?}\npersonal data: {found:?}");
    Ok(())
}
