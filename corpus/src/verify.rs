//! Checks a version from its first byte to its last: what it says of itself against what is there.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use arrow::array::{Array, AsArray};
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use crate::digest::{Checksum, RowDigest};
use crate::error::{CorpusError, Result};
use crate::key::{key_hashes, shard_of, value_digests};
use crate::lengths::LengthsReader;
use crate::read::CorpusReader;
use crate::store::{object_path, read_range};

/// Faults that are kept; more are counted.
const FAULTS_MAX: usize = 100;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Name of the corpus.
    pub corpus: String,
    /// Version.
    pub version: u64,
    /// Shards read.
    pub shards: usize,
    /// Rows read.
    pub rows: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Digest of the rows that were read.
    pub digest: RowDigest,
    /// The first 100 faults; none if the version is what it says.
    pub faults: Vec<Fault>,
    /// Number of all faults.
    pub fault_count: u64,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The object.
    pub path: String,
    /// What is wrong with it, and where in it.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.detail)
    }
}

impl VerifyReport {
    /// Says whether the version is what its manifest says.
    pub fn is_sound(&self) -> bool {
        self.fault_count == 0
    }

    fn fault(&mut self, path: &str, detail: impl Into<String>) {
        self.fault_count += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault {
                path: path.to_owned(),
                detail: detail.into(),
            });
        }
    }
}

/// Reads a whole version and recomputes checksums of files and blocks, row counts, digests, places and uniqueness of
/// keys, and row lengths.
///
/// `progress` is called with rows and bytes read so far, after each block. Holds 32 bytes per row of the largest
/// shard number.
///
/// # Errors
/// Only if the store fails in a way that may pass ([`CorpusError::retry`]); damage is a [`Fault`], not an error.
pub async fn verify(reader: &CorpusReader, mut progress: impl FnMut(u64, u64)) -> Result<VerifyReport> {
    let manifest = reader.manifest();
    let mut report = VerifyReport {
        corpus: manifest.corpus.clone(),
        version: manifest.version,
        shards: manifest.shard_files.len(),
        rows: 0,
        bytes: 0,
        digest: RowDigest::default(),
        faults: Vec::new(),
        fault_count: 0,
    };
    let lengths = match &manifest.lengths {
        None => None,
        Some(file) => match reader.lengths().await {
            Ok(lengths) => Some(lengths),
            Err(e) if e.retry() => return Err(e),
            Err(e) => {
                report.fault(&file.path, e.to_string());
                None
            }
        },
    };
    // The same key has the same shard number in every partition and generation.
    let mut by_number: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (i, file) in manifest.shard_files.iter().enumerate() {
        by_number.entry(file.shard).or_default().push(i);
    }
    let starts = manifest.slot_starts();
    for files in by_number.into_values() {
        let mut keys = HashSet::new();
        for shard in files {
            let mut check = ShardCheck {
                reader,
                shard,
                slot: starts[shard],
                lengths: lengths.as_ref(),
                keys: &mut keys,
                last_hash: 0,
            };
            check.run(&mut report, &mut progress).await?;
        }
    }
    if report.digest != manifest.digest && report.is_sound() {
        let detail = format!("digest {} instead of {}", report.digest, manifest.digest);
        report.fault("manifest", detail);
    }
    Ok(report)
}

struct ShardCheck<'a> {
    reader: &'a CorpusReader,
    shard: usize,
    slot: u64,
    lengths: Option<&'a LengthsReader>,
    keys: &'a mut HashSet<u128>,
    last_hash: u64,
}

impl ShardCheck<'_> {
    async fn run(&mut self, report: &mut VerifyReport, progress: &mut impl FnMut(u64, u64)) -> Result<()> {
        let file = &self.reader.manifest().shard_files[self.shard];
        let path = object_path(self.reader.root(), &file.path)?;
        let store = &**self.reader.warehouse().store();
        let (mut hash, mut position) = (Xxh3::new(), 0);
        let mut digest = RowDigest::default();
        let mut whole = true;
        for (number, block) in file.blocks.iter().chain([&file.footer]).enumerate() {
            for range in [position..block.offset, block.range()] {
                match read_range(store, &path, range).await {
                    Ok(bytes) => hash.update(&bytes),
                    Err(e) if e.retry() => return Err(e),
                    Err(e) => {
                        whole = false;
                        report.fault(&file.path, e.to_string());
                        break;
                    }
                }
            }
            if !whole {
                break;
            }
            position = block.offset + block.length;
            if number < file.blocks.len() {
                self.block(number, &mut digest, report).await?;
                self.slot += block.rows;
            }
            report.bytes += block.length;
            progress(report.rows + digest.rows, report.bytes);
        }
        if whole && Checksum(hash.digest()) != file.xxh3 {
            report.fault(
                &file.path,
                format!(
                    "checksum of the file {} instead of {}",
                    Checksum(hash.digest()),
                    file.xxh3
                ),
            );
        }
        if whole && digest != file.digest {
            report.fault(
                &file.path,
                format!("digest of the rows {digest} instead of {}", file.digest),
            );
        }
        report.rows += digest.rows;
        report.digest.merge(digest);
        Ok(())
    }

    async fn block(&mut self, block: usize, digest: &mut RowDigest, report: &mut VerifyReport) -> Result<()> {
        let file = &self.reader.manifest().shard_files[self.shard];
        match self.reader.read_block(self.shard, block, None).await {
            Ok(batch) => {
                digest.add(&batch)?;
                self.check_keys(&batch, report)?;
                self.check_lengths(&batch, report).await
            }
            Err(e) if e.retry() => Err(e),
            Err(e) => {
                report.fault(&file.path, e.to_string());
                Ok(())
            }
        }
    }

    fn check_keys(&mut self, batch: &RecordBatch, report: &mut VerifyReport) -> Result<()> {
        let manifest = self.reader.manifest();
        let file = &manifest.shard_files[self.shard];
        let keys: Vec<_> = manifest
            .primary_key
            .iter()
            .filter_map(|k| batch.column_by_name(k).cloned())
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let text = |row| {
            let cell = |c: &arrow::array::ArrayRef| array_value_to_string(c, row).unwrap_or_default();
            keys.iter().map(cell).collect::<Vec<_>>().join(", ")
        };
        let (hashes, digests) = (key_hashes(&keys)?, value_digests(&keys)?);
        for (row, (hash, digest)) in hashes.into_iter().zip(digests).enumerate() {
            if keys.iter().any(|k| k.is_null(row)) {
                report.fault(&file.path, format!("slot {}: NULL key", self.slot + row as u64));
            }
            if !self.keys.insert(digest) {
                report.fault(
                    &file.path,
                    format!("slot {}: key {} is there twice", self.slot + row as u64, text(row)),
                );
            }
            if shard_of(hash, manifest.shards) != file.shard {
                report.fault(
                    &file.path,
                    format!("key {} belongs to shard {}", text(row), shard_of(hash, manifest.shards)),
                );
            }
            if hash < self.last_hash {
                report.fault(&file.path, format!("key {} is out of the order of hashes", text(row)));
            }
            self.last_hash = hash;
        }
        Ok(())
    }

    async fn check_lengths(&self, batch: &RecordBatch, report: &mut VerifyReport) -> Result<()> {
        let Some(lengths) = self.lengths else { return Ok(()) };
        let slots = self.slot..self.slot + batch.num_rows() as u64;
        for column in lengths.columns() {
            let Some(list) = batch.column_by_name(column).and_then(|c| c.as_list_opt::<i32>()) else {
                continue;
            };
            let there = (0..list.len()).map(|r| {
                if list.is_null(r) {
                    0
                } else {
                    list.value_length(r) as u32
                }
            });
            match lengths.read(column, slots.clone()).await {
                Ok(said) if said.iter().copied().eq(there) => {}
                Ok(_) => report.fault(
                    lengths.path(),
                    format!("lengths of `{column}` in slots {slots:?} are not those of its rows"),
                ),
                Err(e) if e.retry() => return Err(e),
                Err(e) => report.fault(lengths.path(), e.to_string()),
            }
        }
        Ok(())
    }
}

impl From<Fault> for CorpusError {
    fn from(fault: Fault) -> Self {
        Self::Corrupt {
            path: fault.path,
            place: "found by verify".to_owned(),
            found: fault.detail,
            fix: crate::error::RESTORE,
        }
    }
}
