//! Decoded blocks on local disk, as Arrow IPC files that any process on the machine maps.
//!
//! A file is written under a private name and renamed into place, so a reader sees all of it or nothing, and two
//! processes that decode the same block leave one file. Names are hashes of what is inside (the stored block's
//! checksum and the columns), so nothing is ever rewritten. Over the limit, files unused for longest are unlinked.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow_ipc::reader::{FileDecoder, read_footer_length};
use arrow_ipc::writer::FileWriter;
use arrow_ipc::{Block, convert::fb_to_schema, root_as_footer};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::map::map_file;
use crate::error::{BatchError, Result};

/// Key of the footer's metadata that holds `BYTES:XXH3` of everything before the footer.
const CHECKSUM_KEY: &str = "corpusmill.xxh3";
/// Files are touched at most this often: eviction needs no finer order.
const TOUCH_AFTER: Duration = Duration::from_secs(60);
/// Half-written files of a process that died are removed after this long.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// A bounded folder of decoded blocks.
#[derive(Debug)]
pub(crate) struct DiskCache {
    folder: PathBuf,
    bytes_max: u64,
    bytes_used: AtomicU64,
    writes: AtomicU64,
}

impl DiskCache {
    /// Opens or makes the cache in `folder`, holding at most `bytes_max` bytes.
    ///
    /// # Errors
    /// I/O when the folder cannot be made or listed.
    pub(crate) fn open(folder: &Path, bytes_max: u64) -> Result<Self> {
        let failed = |e| BatchError::io(format!("block cache {}", folder.display()))(e);
        fs::create_dir_all(folder).map_err(failed)?;
        let cache = Self {
            folder: folder.to_owned(),
            bytes_max,
            bytes_used: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        };
        let used = cache.entries().map_err(failed)?.iter().map(|e| e.bytes).sum();
        cache.bytes_used.store(used, Ordering::Relaxed);
        Ok(cache)
    }

    fn path(&self, key: u128) -> PathBuf {
        self.folder.join(format!("{key:032x}.arrow"))
    }

    /// Maps the block stored under `key`; a file that fails its checksum is removed and counts as absent.
    pub(crate) fn get(&self, key: u128) -> Option<RecordBatch> {
        let path = self.path(key);
        let file = File::open(&path).ok()?;
        let batch = map_file(&file)
            .map_err(ArrowError::from)
            .and_then(|buffer| decode(&buffer));
        match batch {
            Ok(batch) => {
                let now = SystemTime::now();
                let stale = file
                    .metadata()
                    .and_then(|m| m.modified())
                    .map(|m| now.duration_since(m));
                if stale.is_ok_and(|age| age.is_ok_and(|age| age > TOUCH_AFTER)) {
                    // Only the order of eviction depends on it, and the folder may be read-only for us.
                    let _ = file.set_modified(now);
                }
                Some(batch)
            }
            Err(_) => {
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Stores `batch` under `key`, then evicts if the folder has grown over its limit.
    ///
    /// # Errors
    /// I/O, a full disk above all; nothing is left behind then.
    pub(crate) fn put(&self, key: u128, batch: &RecordBatch) -> Result<()> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let partial = self
            .folder
            .join(format!("{key:032x}.{}-{number}.partial", std::process::id()));
        let written = encode(&partial, batch).and_then(|bytes| {
            fs::rename(&partial, self.path(key))?;
            Ok(bytes)
        });
        match written {
            Ok(bytes) => {
                if self.bytes_used.fetch_add(bytes, Ordering::Relaxed) + bytes > self.bytes_max {
                    self.evict()
                        .map_err(BatchError::io(format!("block cache {}", self.folder.display())))?;
                }
                Ok(())
            }
            Err(e) => {
                let _ = fs::remove_file(&partial);
                Err(BatchError::io(format!("block cache {}", self.folder.display()))(e))
            }
        }
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for item in fs::read_dir(&self.folder)? {
            let item = item?;
            // Another process may have removed it since the listing.
            let Ok(meta) = item.metadata() else { continue };
            let path = item.path();
            let kind = path.extension().and_then(|e| e.to_str()).map(str::to_owned);
            let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if kind.as_deref() == Some("arrow") {
                entries.push(Entry {
                    path,
                    bytes: meta.len(),
                    used,
                });
            } else if kind.as_deref() == Some("partial") && used.elapsed().is_ok_and(|age| age > ABANDONED_AFTER) {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(entries)
    }

    /// Removes the files unused for longest until a tenth of the limit is free.
    fn evict(&self) -> io::Result<()> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|e| e.used);
        let mut used: u64 = entries.iter().map(|e| e.bytes).sum();
        for entry in &entries {
            if used <= self.bytes_max - self.bytes_max / 10 {
                break;
            }
            if fs::remove_file(&entry.path).is_ok() {
                used -= entry.bytes;
            }
        }
        self.bytes_used.store(used, Ordering::Relaxed);
        Ok(())
    }
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// Counts and hashes what passes through.
struct Hashing<W> {
    inner: W,
    hash: Xxh3,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hash.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn as_io(e: ArrowError) -> io::Error {
    match e {
        ArrowError::IoError(_, inner) => inner,
        other => io::Error::other(other),
    }
}

fn encode(path: &Path, batch: &RecordBatch) -> io::Result<u64> {
    let file = BufWriter::with_capacity(1 << 18, File::create_new(path)?);
    let hashing = Hashing {
        inner: file,
        hash: Xxh3::new(),
        bytes: 0,
    };
    let mut writer = FileWriter::try_new(hashing, batch.schema_ref()).map_err(as_io)?;
    writer.write(batch).map_err(as_io)?;
    let body = writer.get_ref();
    let checksum = format!("{}:{:016x}", body.bytes, body.hash.digest());
    writer.write_metadata(CHECKSUM_KEY, checksum);
    writer.finish().map_err(as_io)?;
    let mut done = writer.into_inner().map_err(as_io)?;
    done.flush()?;
    Ok(done.bytes)
}

fn malformed(what: &str) -> ArrowError {
    ArrowError::IpcError(format!("cached block: {what}"))
}

/// Decodes a mapped IPC file without copying. The checksum covers the messages, so the decoder sees only what we wrote.
fn decode(file: &Buffer) -> Result<RecordBatch, ArrowError> {
    let trailer = file.len().checked_sub(10).ok_or_else(|| malformed("too short"))?;
    let mut tail = [0u8; 10];
    tail.copy_from_slice(&file[trailer..]);
    let footer_start = trailer
        .checked_sub(read_footer_length(tail)?)
        .ok_or_else(|| malformed("footer length"))?;
    let footer = root_as_footer(&file[footer_start..trailer]).map_err(|e| malformed(&e.to_string()))?;
    let metadata: HashMap<&str, &str> = footer
        .custom_metadata()
        .iter()
        .flatten()
        .filter_map(|kv| kv.key().zip(kv.value()))
        .collect();
    let (bytes, hash) = metadata
        .get(CHECKSUM_KEY)
        .and_then(|v| v.split_once(':'))
        .and_then(|(bytes, hash)| Some((bytes.parse::<usize>().ok()?, u64::from_str_radix(hash, 16).ok()?)))
        .ok_or_else(|| malformed("no checksum"))?;
    if bytes > footer_start || xxh3_64(&file[..bytes]) != hash {
        return Err(malformed("checksum"));
    }
    let schema = Arc::new(fb_to_schema(footer.schema().ok_or_else(|| malformed("no schema"))?));
    let mut decoder = FileDecoder::new(schema, footer.version());
    let slice = |block: &Block| {
        let start = usize::try_from(block.offset()).ok();
        let length = usize::try_from(block.bodyLength() + i64::from(block.metaDataLength())).ok();
        let both = start
            .zip(length)
            .filter(|(s, l)| s.checked_add(*l).is_some_and(|end| end <= bytes));
        both.map(|(s, l)| file.slice_with_length(s, l))
            .ok_or_else(|| malformed("block outside the file"))
    };
    for block in footer.dictionaries().iter().flatten() {
        decoder.read_dictionary(block, &slice(block)?)?;
    }
    let blocks = footer
        .recordBatches()
        .filter(|b| b.len() == 1)
        .ok_or_else(|| malformed("not one batch"))?;
    let block = blocks.get(0);
    decoder
        .read_record_batch(block, &slice(block)?)?
        .ok_or_else(|| malformed("no batch"))
}
