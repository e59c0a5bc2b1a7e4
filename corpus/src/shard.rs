//! A shard: one Parquet file whose row groups are the blocks of a corpus, and what is known about it.

mod partition;
mod statistics;
mod writer;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{Checksum, RowDigest};
use crate::lengths::LengthsFile;

pub use partition::{partition_array, partition_value, shard_path};
pub use statistics::ColumnStatistics;
pub(crate) use writer::CREATED_BY;
pub use writer::{ShardOptions, ShardPlace, ShardWriter};

/// Rows of a block, unless an option says otherwise.
pub const BLOCK_ROWS: usize = 1024;

/// The value of a partition column, as text in Delta's form (`2024-05-01`, `true`, `42`); `None` is NULL.
pub type ScalarString = String;

/// What a manifest says about one shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardFile {
    /// Key of the object below the corpus's folder, partition folders included (not percent-encoded again: Delta's
    /// `add.path` needs that).
    pub path: String,
    /// Partition columns with their values, in the order of `PARTITIONED BY`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition: Vec<(String, Option<ScalarString>)>,
    /// 0 for a full build; each incremental refresh adds one.
    pub generation: u32,
    /// Number of the shard in its partition.
    pub shard: u32,
    /// Number of rows.
    pub rows: u64,
    /// Size of the file, bytes.
    pub bytes: u64,
    /// Checksum of the whole file.
    pub xxh3: Checksum,
    /// Digest of its rows, partition columns included.
    pub digest: RowDigest,
    /// Row groups in order.
    pub blocks: Vec<Block>,
    /// The rest of the file, from the end of the last block to its end: Parquet's footer.
    pub footer: Block,
    /// Minimum, maximum and number of NULLs of the columns that are not nested.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub statistics: BTreeMap<String, ColumnStatistics>,
    /// Row lengths of the list columns, if there are list columns and rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lengths: Option<LengthsFile>,
}

/// A run of bytes of a shard that is read and checked as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Number of rows; 0 for the footer.
    pub rows: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// Checksum of these bytes.
    pub xxh3: Checksum,
}

impl Block {
    /// The bytes of the file that the block occupies.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.offset..self.offset.saturating_add(self.length)
    }
}

impl ShardFile {
    /// The order of shards in a version: partition values (NULL first), generation, shard.
    pub fn slot_order(&self, other: &Self) -> std::cmp::Ordering {
        let values = |s: &'_ Self| s.partition.iter().map(|(_, v)| v.clone()).collect::<Vec<_>>();
        values(self)
            .cmp(&values(other))
            .then(self.generation.cmp(&other.generation))
            .then(self.shard.cmp(&other.shard))
            .then_with(|| self.path.cmp(&other.path))
    }

    /// The `stats` text of Delta's `add` action (Delta protocol, "Per-file Statistics").
    pub fn delta_stats(&self) -> String {
        let of = |get: fn(&ColumnStatistics) -> Option<serde_json::Value>| {
            let columns = self
                .statistics
                .iter()
                .filter_map(|(name, s)| Some((name.clone(), get(s)?)));
            serde_json::Value::Object(columns.collect())
        };
        serde_json::json!({
            "numRecords": self.rows,
            "minValues": of(|s| s.min.clone()),
            "maxValues": of(|s| s.max.clone()),
            "nullCount": of(|s| Some(s.nulls.into())),
        })
        .to_string()
    }
}
