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
use corpusmill_kernels::minhash::MinHash;
use corpusmill_kernels::pii::find_pii;
use corpusmill_kernels::shingles::ShingleOptions;
use corpusmill_kernels::text::Form;
use corpusmill_kernels::{PiiKinds, QualityRules, Result, Tokenizer, lang_id, pii_redact, quality_signals, text};

/// Rows of a batch, as DataFusion makes them by default.
const BATCH_ROWS: usize = 8192;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().ok_or("usage: rates TEXTS [TOKENIZER.json]")?;
    let content = std::fs::read_to_string(&file)?;
    let lines: Vec<_> = content.lines().collect();
    let batches: Vec<StringArray> = lines
        .chunks(BATCH_ROWS)
        .map(|rows| StringArray::from(rows.to_vec()))
        .collect();
    println!("{file}: {} rows, {} bytes", lines.len(), content.len());

    let rate = Rate {
        batches: &batches,
        rows: lines.len(),
        bytes: content.len(),
    };
    let (kinds, rules) = (PiiKinds::all(), "gopher,c4,fineweb".parse::<QualityRules>()?);
    let family = MinHash::default();
    rate.of("normalize_text", |b| text::normalize(b, Form::Nfkc))?;
    rate.of("lang_id", |b| Ok(lang_id(b)))?;
    rate.of("quality_signals", |b| Ok(quality_signals(b, &rules)))?;
    rate.of("pii_redact", |b| pii_redact(b, &kinds))?;
    rate.of("minhash", |b| family.band_lists(b, ShingleOptions::default()))?;
    if let Some(path) = args.next() {
        let tokenizer = Tokenizer::from_bytes(&path, &std::fs::read(&path)?, None)?;
        let mut tokens = 0;
        for batch in &batches {
            tokens += tokenizer.encode(batch)?.values().len();
        }
        let seconds = rate.of("tokenize", |b| tokenizer.encode(b))?;
        println!(
            "{:16} {:.2} M tokens/s, fast path: {}",
            "",
            tokens as f64 / seconds / 1e6,
            tokenizer.has_fast_path()
        );
    }
    describe(&batches, &kinds)?;
    Ok(())
}

/// Texts to measure on.
struct Rate<'a> {
    batches: &'a [StringArray],
    rows: usize,
    bytes: usize,
}

impl Rate<'_> {
    /// Runs a kernel over all batches, prints its rate and returns the seconds that it took.
    fn of<T>(&self, name: &str, kernel: impl Fn(&StringArray) -> Result<T>) -> Result<f64> {
        // Once before, so that tables and expressions that are built on first use do not count.
        kernel(&self.batches[0].slice(0, 1))?;
        let start = Instant::now();
        for batch in self.batches {
            black_box(kernel(batch)?);
        }
        let seconds = start.elapsed().as_secs_f64();
        let (rows, megabytes) = (self.rows as f64 / seconds, self.bytes as f64 / seconds / 1e6);
        println!("{name:16} {rows:>11.0} rows/s {megabytes:>8.2} MB/s");
        Ok(seconds)
    }
}

fn describe(batches: &[StringArray], kinds: &PiiKinds) -> Result<()> {
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
