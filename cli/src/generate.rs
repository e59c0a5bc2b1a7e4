//! `corpusmill generate`: a deterministic moderation data set of any size.
//!
//! ```text
//!  seed ─► World: post(i), user(i), picture(i) are pure functions of (seed, i)
//!            │  chunks of posts, made by threads in any order
//!            ▼
//!          tables (Arrow batches) ─► Sink ─► DIR/posts/part-00000.parquet, votes, appeals, golden, users, …
//!            ├─► DIR/media/*.jpg, *.png     originals and edited copies
//!            ├─► DIR/tokenizer.json         WordPiece, trained on the posts
//!            ├─► DIR/truth/…                what was planted: labels, languages, duplicates, personal data
//!            └─► DIR/dataset.json           what is in there; written last
//! ```
//! To add a table: a function that returns [`table::Tables`], and a line in [`write_tables`] or [`table::of_posts`].
//! To add a language: a file in `generate/lexicon`, and a line in `generate/lexicon.rs`.

mod body;
mod edit;
mod label;
mod lexicon;
mod people;
mod picture;
mod rng;
mod sink;
mod table;
mod vocabulary;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context, Result, bail};
use arrow::array::{Int32Array, Int64Array, StringArray};
use serde::Serialize;

use self::sink::Sink;
pub use self::sink::Written;
use self::table::{Tables, batch, texts};
use self::world::World;

/// Posts made in one go by one thread.
const CHUNK: u64 = 8_192;
/// Grows when the same seed would give other bytes.
const GENERATOR_VERSION: u32 = 1;

/// File format of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Apache Parquet, ZSTD.
    Parquet,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// One JSON object a line.
    Jsonl,
}

impl Format {
    /// The extension of its files.
    fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
        }
    }
}

/// What to generate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Number of posts.
    pub posts: u64,
    /// Number of original pictures; each comes with zero to four edited copies.
    pub images: u64,
    /// Format of the tables.
    pub format: Format,
}

/// What was generated, as `dataset.json` says it.
#[derive(Debug, Serialize)]
pub struct Dataset {
    generator_version: u32,
    #[serde(flatten)]
    options: Options,
    /// Rows, bytes and files of each table.
    pub tables: BTreeMap<String, Written>,
    /// Number of picture files.
    pub pictures: u64,
}

/// Whether [`generate`] had anything to do.
#[derive(Debug)]
pub enum Outcome {
    /// The data set was written.
    Written(Dataset),
    /// The folder already holds exactly this data set.
    AlreadyThere,
}

/// Writes a data set into `out`.
///
/// The folder appears whole or not at all: files are written to `out` with `.partial` at its end, then renamed.
/// `progress` is told the number of posts and pictures done. `stop` is looked at between chunks.
///
/// # Errors
/// When `out` holds something else and `replace` is false, when the disk is full or not writable, or on `stop`.
pub fn generate(
    options: &Options,
    out: &Path,
    replace: bool,
    stop: &AtomicBool,
    progress: &dyn Fn(u64),
) -> Result<Outcome> {
    if holds(out, options) {
        return Ok(Outcome::AlreadyThere);
    }
    let occupied = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if occupied && !replace {
        bail!(
            "{} is not empty; choose another --out, or pass --force to replace what is in it",
            out.display()
        );
    }
    let partial = partial_path(out)?;
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    let written = write_all(options, &partial, stop, progress);
    let dataset = match written {
        Ok(dataset) => dataset,
        Err(error) => {
            // What is half there is of no use to anybody; the error that led here matters more than one in tidying.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
    };
    if occupied {
        fs::remove_dir_all(out).with_context(|| format!("cannot replace {}", out.display()))?;
    } else if out.exists() {
        fs::remove_dir(out).with_context(|| format!("cannot replace {}", out.display()))?;
    }
    fs::rename(&partial, out).with_context(|| format!("cannot move the data to {}", out.display()))?;
    Ok(Outcome::Written(dataset))
}

fn partial_path(out: &Path) -> Result<PathBuf> {
    let name = out
        .file_name()
        .with_context(|| format!("--out {} does not name a folder", out.display()))?;
    let mut name = name.to_owned();
    name.push(".partial");
    Ok(out.with_file_name(name))
}

/// True when the folder has this data set, by its `dataset.json`.
fn holds(out: &Path, options: &Options) -> bool {
    let Ok(text) = fs::read_to_string(out.join("dataset.json")) else {
        return false;
    };
    let Ok(found) = serde_json::from_str::<serde_json::Value>(&text) else {
        return false;
    };
    let Ok(wanted) = serde_json::to_value(options) else {
        return false;
    };
    let same = wanted
        .as_object()
        .is_some_and(|wanted| wanted.iter().all(|(key, value)| found.get(key) == Some(value)));
    same && found.get("generator_version") == Some(&GENERATOR_VERSION.into())
}

fn write_all(options: &Options, out: &Path, stop: &AtomicBool, progress: &dyn Fn(u64)) -> Result<Dataset> {
    let world = World::new(options.seed, options.posts, options.images)?;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut tables = write_tables(&world, options, out, stop, progress)?;
    let (pictures, written) = write_pictures(&world, options, out, stop, progress)?;
    tables.extend(written);
    write_json(&out.join("tokenizer.json"), &vocabulary::tokenizer_json(&world))?;
    let dataset = Dataset {
        generator_version: GENERATOR_VERSION,
        options: options.clone(),
        tables,
        pictures,
    };
    write_json(&out.join("dataset.json"), &dataset)?;
    Ok(dataset)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes every table that is not about pictures.
fn write_tables(
    world: &World,
    options: &Options,
    out: &Path,
    stop: &AtomicBool,
    progress: &dyn Fn(u64),
) -> Result<BTreeMap<String, Written>> {
    let mut sinks = Sinks {
        out,
        format: options.format,
        open: BTreeMap::new(),
    };
    // Also with no posts at all there are files with the right columns.
    sinks.write(&table::of_posts(world, 0..0)?)?;
    let mut done = 0;
    chunks(
        options.posts,
        stop,
        |range| table::of_posts(world, range),
        |rows, tables| {
            done += rows;
            progress(done);
            sinks.write(&tables)
        },
    )?;
    chunks(
        world.users,
        stop,
        |range| people::of_users(world, range),
        |_, tables| sinks.write(&tables),
    )?;
    sinks.write(&people::policies()?)?;
    sinks.write(&people::evals(world)?)?;
    sinks.finish()
}

/// The tables that are open for writing.
struct Sinks<'a> {
    out: &'a Path,
    format: Format,
    open: BTreeMap<&'static str, Sink>,
}

impl Sinks<'_> {
    fn write(&mut self, tables: &Tables) -> Result<()> {
        for (name, batch) in tables {
            if !self.open.contains_key(name) {
                let sink = Sink::new(&self.out.join(name), self.format, batch.schema())?;
                self.open.insert(name, sink);
            }
            if let Some(sink) = self.open.get_mut(name).filter(|_| batch.num_rows() > 0) {
                sink.write(batch)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<BTreeMap<String, Written>> {
        self.open
            .into_iter()
            .map(|(name, sink)| Ok((name.to_owned(), sink.finish()?)))
            .collect()
    }
}

/// Makes chunks of `0..total` on all cores and hands them over in order.
///
/// Each thread owns every n-th chunk and a channel of one: so the order needs no sorting, and nobody runs far ahead.
fn chunks<T: Send>(
    total: u64,
    stop: &AtomicBool,
    make: impl Fn(std::ops::Range<u64>) -> Result<T> + Sync,
    mut take: impl FnMut(u64, T) -> Result<()>,
) -> Result<()> {
    let threads = std::thread::available_parallelism()
        .map_or(1, |n| n.get() as u64)
        .min(total.div_ceil(CHUNK));
    let range = |chunk: u64| chunk * CHUNK..((chunk + 1) * CHUNK).min(total);
    std::thread::scope(|scope| {
        let receivers: Vec<Receiver<Result<T>>> = (0..threads)
            .map(|thread| {
                let (sender, receiver) = sync_channel(1);
                let make = &make;
                scope.spawn(move || {
                    for chunk in (thread..total.div_ceil(CHUNK)).step_by(threads as usize) {
                        // The receiver is gone when writing failed or was stopped: then there is nothing to make.
                        if sender.send(make(range(chunk))).is_err() {
                            break;
                        }
                    }
                });
                receiver
            })
            .collect();
        for chunk in 0..total.div_ceil(CHUNK) {
            if stop.load(Ordering::Relaxed) {
                bail!(Stopped);
            }
            let made = receivers[(chunk % threads) as usize]
                .recv()
                .context("a generating thread panicked")??;
            let rows = range(chunk);
            take(rows.end - rows.start, made)?;
        }
        Ok(())
    })
}

/// The error of a run that was asked to stop.
#[derive(Debug, Clone, Copy)]
pub struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted; nothing was left behind, run the same command to begin again")
    }
}

impl std::error::Error for Stopped {}

fn write_pictures(
    world: &World,
    options: &Options,
    out: &Path,
    stop: &AtomicBool,
    progress: &dyn Fn(u64),
) -> Result<(u64, Vec<(String, Written)>)> {
    if options.images == 0 {
        return Ok((0, Vec::new()));
    }
    let folder = out.join("media");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut rows = Vec::new();
    for original in 0..world.gallery.originals {
        if stop.load(Ordering::Relaxed) {
            bail!(Stopped);
        }
        rows.extend(world.gallery.write(original, &folder)?);
        progress(options.posts + original + 1);
    }
    let count = rows.len() as u64;
    let table = batch(vec![
        (
            "filename",
            texts(rows.iter().map(|(p, ..)| p.filename.as_str()).collect()),
        ),
        (
            "copy_of?",
            Arc::new(rows.iter().map(|(p, ..)| p.copy_of.as_deref()).collect::<StringArray>()),
        ),
        (
            "edit?",
            Arc::new(
                rows.iter()
                    .map(|(p, ..)| p.change.map(|c| c.name()))
                    .collect::<StringArray>(),
            ),
        ),
        (
            "width",
            Arc::new(Int32Array::from_iter_values(
                rows.iter().map(|(_, (w, _), _)| *w as i32),
            )),
        ),
        (
            "height",
            Arc::new(Int32Array::from_iter_values(
                rows.iter().map(|(_, (_, h), _)| *h as i32),
            )),
        ),
        (
            "bytes",
            Arc::new(Int64Array::from_iter_values(
                rows.iter().map(|(.., bytes)| *bytes as i64),
            )),
        ),
    ])?;
    let mut sink = Sink::new(&out.join("truth/media"), options.format, table.schema())?;
    sink.write(&table)?;
    Ok((count, vec![("truth/media".to_owned(), sink.finish()?)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(format: Format) -> Options {
        Options {
            seed: 7,
            posts: 10_000,
            images: 6,
            format,
        }
    }

    fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap().display().to_string();
                    found.insert(name, fs::read(path).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let run = |name: &str, options: &Options| {
            let out = folder.path().join(name);
            generate(options, &out, false, &AtomicBool::new(false), &|_| {}).unwrap();
            files(&out)
        };
        let first = run("a", &options(Format::Parquet));
        assert_eq!(first, run("b", &options(Format::Parquet)));
        assert_ne!(
            first,
            run(
                "c",
                &Options {
                    seed: 8,
                    ..options(Format::Parquet)
                }
            )
        );
        for name in [
            "posts/part-00000.parquet",
            "tokenizer.json",
            "truth/media/part-00000.parquet",
            "dataset.json",
        ] {
            assert!(first.contains_key(name), "{name} is missing");
        }
        let csv = run("d", &options(Format::Csv));
        assert!(csv["posts/part-00000.csv"].starts_with(b"post_id,user_id,created_at,dt,lang,body,media\n"));
        let jsonl = run("e", &options(Format::Jsonl));
        assert!(jsonl["votes/part-00000.jsonl"].starts_with(b"{\"vote_id\":"));
    }

    #[test]
    fn a_folder_with_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "do not lose").unwrap();
        let run = |replace| {
            let stop = AtomicBool::new(false);
            generate(
                &Options {
                    posts: 10,
                    ..options(Format::Csv)
                },
                folder.path(),
                replace,
                &stop,
                &|_| {},
            )
        };
        let error = run(false).unwrap_err().to_string();
        assert!(error.contains("is not empty") && error.contains("--force"), "{error}");
        assert!(folder.path().join("thesis.txt").exists());
        assert!(matches!(run(true).unwrap(), Outcome::Written(_)));
        assert!(matches!(run(false).unwrap(), Outcome::AlreadyThere));
    }

    #[test]
    fn stopping_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("data");
        let stop = AtomicBool::new(true);
        let error = generate(&options(Format::Parquet), &out, false, &stop, &|_| {}).unwrap_err();
        assert!(error.is::<Stopped>());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
