//! The manifest of a version: everything that a loader, `show` and `verify` need, as one JSON file.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::column::{Column, arrow_schema};
use crate::digest::{Checksum, RowDigest};
use crate::error::{CorpusError, RESTORE, Result};
use crate::lengths::LengthsFile;
use crate::shard::ShardFile;

/// The format that this release writes and the newest that it reads.
pub const MANIFEST_FORMAT: u32 = 1;

/// How the field with the checksum begins, at the end of the text.
const CHECKSUM_FIELD: &str = ",\n  \"xxh3\": \"";

/// What a version of a corpus is made of and where it came from. JSON, `"format": 1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// Name of the corpus.
    pub corpus: String,
    /// Delta version, from 0.
    pub version: u64,
    /// Build that made it.
    pub build: String,
    /// Version that it was made from, for a refresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The time that the pipeline saw as its own.
    pub logical_time: DateTime<Utc>,
    /// The SQL that it was made by.
    pub sql: String,
    /// Key columns.
    pub primary_key: Vec<String>,
    /// Partition columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition_by: Vec<String>,
    /// Shards per partition and generation.
    pub shards: u32,
    /// Columns, partition columns among them, in the order of the query.
    pub columns: Vec<Column>,
    /// What was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// Functions, tokenizers and models that took part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<Function>,
    /// The steps of the build, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Rows dropped, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drops: BTreeMap<String, u64>,
    /// Rows quarantined, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quarantined: BTreeMap<String, u64>,
    /// Parquet files with the quarantined rows, keys below the corpus's folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine_files: Vec<String>,
    /// What was expected and came out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expectations: Vec<Expectation>,
    /// Number of rows, masked ones included.
    pub rows: u64,
    /// Size of the shards, bytes.
    pub bytes: u64,
    /// Digest of the rows.
    pub digest: RowDigest,
    /// Row lengths of the list columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lengths: Option<LengthsFile>,
    /// Slots whose rows are erased or taken down: delivered as mask. In order, apart from each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masked: Vec<SlotRange>,
    /// Instruction set of the machine that computed it ("x86_64 avx2"): the same input gives the same bits on the
    /// same kind only.
    pub cpu: String,
    /// The shards in slot order.
    pub shard_files: Vec<ShardFile>,
    /// What newer releases add and this one passes on.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// Something that a build read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Name in the SQL.
    pub name: String,
    /// Location.
    pub location: String,
    /// Version of a table, or fingerprint of files.
    pub version: String,
    /// Rows, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// A function, tokenizer or model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Name in the SQL.
    pub name: String,
    /// Digest of its code or files.
    pub digest: String,
}

/// A committed step of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Rows read, if counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_in: Option<u64>,
    /// Rows written.
    pub rows_out: u64,
    /// Number of splits.
    pub splits: u32,
    /// Bytes written.
    pub bytes: u64,
}

/// An `EXPECT` and its outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expectation {
    /// Name of the constraint.
    pub name: String,
    /// `row` or `corpus`.
    pub kind: String,
    /// The condition as it was written.
    pub condition: String,
    /// What happens on a violation (`drop row`, `quarantine row`, `fail build`, `warn`).
    pub action: String,
    /// `passed` or `violated`.
    pub outcome: String,
    /// What was seen: rows that violated it, or the value of the condition's left side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
}

/// Slots from `start` up to `end`, which is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRange {
    /// The first slot.
    pub start: u64,
    /// The slot after the last.
    pub end: u64,
}

/// Where the row of a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowPlace {
    /// Index into [`Manifest::shard_files`].
    pub shard: usize,
    /// Index into the shard's blocks.
    pub block: usize,
    /// Row in the block.
    pub row: usize,
}

impl Manifest {
    /// The columns as an Arrow schema, in the types in which they are read.
    pub fn schema(&self) -> SchemaRef {
        arrow_schema(&self.columns)
    }

    /// The first slot of every shard, and at the end the number of slots.
    pub fn slot_starts(&self) -> Vec<u64> {
        let ends = self.shard_files.iter().scan(0, |end, shard| {
            *end += shard.rows;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// Says whether the row of a slot is masked.
    pub fn is_masked(&self, slot: u64) -> bool {
        let at = self.masked.partition_point(|r| r.end <= slot);
        self.masked.get(at).is_some_and(|r| r.start <= slot)
    }

    /// Puts the shards in slot order and sums rows, bytes and digest over them.
    pub fn set_shard_files(&mut self, mut shard_files: Vec<ShardFile>) {
        shard_files.sort_by(ShardFile::slot_order);
        self.rows = shard_files.iter().map(|s| s.rows).sum();
        self.bytes = shard_files.iter().map(|s| s.bytes).sum();
        self.digest = RowDigest::default();
        shard_files.iter().for_each(|s| self.digest.merge(s.digest));
        self.shard_files = shard_files;
    }

    /// The file's text: its last field, `xxh3`, is the checksum of all bytes before that field.
    ///
    /// # Errors
    /// [`CorpusError::Format`] if it is not consistent, as [`Manifest::from_json`] would say on reading it.
    pub fn to_json(&self) -> Result<String> {
        self.check("manifest to be written")?;
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| CorpusError::format("manifest to be written", e.to_string()))?;
        text.truncate(text.len() - "\n}".len());
        let checksum = Checksum::of(text.as_bytes());
        Ok(format!("{text}{CHECKSUM_FIELD}{checksum}\"\n}}\n"))
    }

    /// Reads a manifest; `path` names it in errors.
    ///
    /// # Errors
    /// [`CorpusError::Corrupt`] if it is not the text that was written, [`CorpusError::Format`] if a newer release
    /// wrote it or it contradicts itself.
    pub fn from_json(path: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let damaged = |found: String| CorpusError::Corrupt {
            path: path.to_owned(),
            place: "manifest".to_owned(),
            found,
            fix: RESTORE,
        };
        let head: Head =
            serde_json::from_slice(bytes).map_err(|e| damaged(format!("is not JSON with a format: {e}")))?;
        if head.format == 0 || head.format > MANIFEST_FORMAT {
            let detail = format!(
                "has manifest format {}, this release reads up to {MANIFEST_FORMAT}; use a newer corpusmill",
                head.format
            );
            return Err(CorpusError::format(path, detail));
        }
        let end = format!("{CHECKSUM_FIELD}0123456789abcdef\"\n}}\n").len();
        let body = &bytes[..bytes.len().saturating_sub(end)];
        let expected = format!("{CHECKSUM_FIELD}{}\"\n}}\n", Checksum::of(body));
        if !bytes.ends_with(expected.as_bytes()) {
            return Err(damaged("its text is not what its checksum says".to_owned()));
        }
        let mut manifest: Self = serde_json::from_slice(bytes)
            .map_err(|e| CorpusError::format(path, format!("is not a manifest of format {}: {e}", head.format)))?;
        manifest.more.remove("xxh3");
        manifest.check(path)?;
        Ok(manifest)
    }

    /// Everything that readers take for granted afterwards.
    fn check(&self, path: &str) -> Result<()> {
        let wrong = |detail: String| Err(CorpusError::format(path, detail));
        let mut digest = RowDigest::default();
        let mut next_block = 0u64;
        for shard in &self.shard_files {
            digest = RowDigest {
                rows: digest.rows.saturating_add(shard.digest.rows),
                sum: digest.sum.wrapping_add(shard.digest.sum),
            };
            let rows = shard.blocks.iter().try_fold(0u64, |sum, b| sum.checked_add(b.rows));
            if rows != Some(shard.rows) || shard.digest.rows != shard.rows {
                return wrong(format!(
                    "the blocks of shard {} do not add up to its {} rows",
                    shard.path, shard.rows
                ));
            }
            for block in shard.blocks.iter().chain([&shard.footer]) {
                let end = block.offset.checked_add(block.length);
                if end.is_none_or(|end| end > shard.bytes) || block.offset < next_block {
                    return wrong(format!("a block of shard {} is outside of its file", shard.path));
                }
                next_block = block.offset + block.length;
            }
            next_block = 0;
        }
        if digest.rows != self.rows || digest != self.digest {
            return wrong(format!(
                "rows and digest of its shards are {digest}, of the version {}",
                self.digest
            ));
        }
        let known = |name: &&String| !self.columns.iter().any(|c| c.name == **name);
        if let Some(name) = self.primary_key.iter().chain(&self.partition_by).find(known) {
            return wrong(format!("key or partition column `{name}` is not among its columns"));
        }
        let ordered = self.masked.windows(2).all(|w| w[0].end <= w[1].start);
        if !ordered || self.masked.iter().any(|r| r.start >= r.end || r.end > self.rows) {
            return wrong("masked slots are not in order".to_owned());
        }
        if self.lengths.as_ref().is_some_and(|l| l.rows != self.rows) {
            return wrong("row lengths are of another number of rows".to_owned());
        }
        Ok(())
    }
}

/// Finds the places of slots by binary search.
#[derive(Clone, Debug)]
pub struct SlotMap {
    starts: Vec<u64>,
    /// First slot of each block, with shard and block: blocks may be of any size.
    blocks: Vec<(u64, u32, u32)>,
}

impl SlotMap {
    /// Builds the map of a version: 16 bytes per block.
    pub fn new(manifest: &Manifest) -> Self {
        let starts = manifest.slot_starts();
        let mut blocks = Vec::new();
        for (s, shard) in manifest.shard_files.iter().enumerate() {
            let mut slot = starts[s];
            for (b, block) in shard.blocks.iter().enumerate().filter(|(_, block)| block.rows > 0) {
                blocks.push((slot, s as u32, b as u32));
                slot += block.rows;
            }
        }
        Self { starts, blocks }
    }

    /// Number of slots.
    pub fn slots(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Gives the place of a slot; `None` beyond the last.
    pub fn locate(&self, slot: u64) -> Option<RowPlace> {
        if slot >= self.slots() {
            return None;
        }
        let at = self
            .blocks
            .partition_point(|(first, _, _)| *first <= slot)
            .checked_sub(1)?;
        let (first, shard, block) = self.blocks[at];
        Some(RowPlace {
            shard: shard as usize,
            block: block as usize,
            row: (slot - first) as usize,
        })
    }

    /// Gives the slot of a place's row.
    pub fn slot(&self, place: RowPlace) -> Option<u64> {
        let key = (place.shard as u32, place.block as u32);
        let at = self.blocks.binary_search_by_key(&key, |(_, s, b)| (*s, *b)).ok()?;
        Some(self.blocks[at].0 + place.row as u64)
    }

    /// Gives the blocks in slot order: first slot, shard, block.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = (u64, usize, usize)> {
        self.blocks
            .iter()
            .map(|(slot, shard, block)| (*slot, *shard as usize, *block as usize))
    }
}
