//! Small files beside the decoded blocks that spare a restarted job the work of the first start: the rows that a filter
//! or a class leaves, and the group index of a plan.
//!
//! They hold nothing that could not be worked out again: a file that is missing, damaged or of another format is.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Files that are kept; those written first go first.
const FILES_MAX: usize = 512;

/// A folder of small files by the hash of what they were worked out from.
#[derive(Debug)]
pub(crate) struct Kept {
    folder: PathBuf,
    writes: AtomicU64,
}

impl Kept {
    /// Keeps files in `kept` below the cache folder.
    pub(crate) fn below(cache: &Path) -> Self {
        Self {
            folder: cache.join("kept"),
            writes: AtomicU64::new(0),
        }
    }

    fn path(&self, kind: &str, of: &[&str]) -> PathBuf {
        let mut key = Vec::new();
        for part in of {
            key.extend_from_slice(&(part.len() as u64).to_le_bytes());
            key.extend_from_slice(part.as_bytes());
        }
        self.folder.join(format!("{:032x}.{kind}", xxh3_128(&key)))
    }

    /// What was kept of `kind` for `of`, if it is whole.
    pub(crate) fn get(&self, kind: &str, of: &[&str]) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.path(kind, of)).ok()?;
        let at = bytes.len().checked_sub(8)?;
        let stored = u64::from_le_bytes(bytes[at..].try_into().ok()?);
        bytes.truncate(at);
        (xxh3_64(&bytes) == stored).then_some(bytes)
    }

    /// Keeps `bytes`. A failure costs the next start some work and is nothing to report.
    pub(crate) fn put(&self, kind: &str, of: &[&str], mut bytes: Vec<u8>) {
        let path = self.path(kind, of);
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let partial = path.with_extension(format!("{}-{number}.partial", std::process::id()));
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| fs::write(&partial, &bytes))
            .and_then(|()| fs::rename(&partial, &path));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        self.drop_oldest();
    }

    fn drop_oldest(&self) {
        let Ok(items) = fs::read_dir(&self.folder) else { return };
        let modified = |item: &fs::DirEntry| {
            item.metadata()
                .and_then(|m| m.modified())
                .unwrap_or(SystemTime::UNIX_EPOCH)
        };
        let mut files: Vec<(SystemTime, PathBuf)> = items.flatten().map(|i| (modified(&i), i.path())).collect();
        if files.len() > FILES_MAX {
            files.sort();
            for (_, path) in &files[..files.len() - FILES_MAX] {
                let _ = fs::remove_file(path);
            }
        }
    }
}
