//! The corpus on disk: its formats, written and read, without an engine.
//!
//! Builds write with it and loaders read with it, so there is neither DataFusion nor Delta in it; a version is found
//! by reading Delta's JSON commits, which is little. Everything works on any object store.
//!
//! ```text
//!  rows ─► column (stored types) ─► key (hash ─► shard) ─► shard::ShardWriter ─► ShardFile ─┐
//!                                                └─► digest, lengths, statistics            │
//!                                                                                           ▼
//!  warehouse ─► Delta log N.json ─► manifest ◄── written by the coordinator with the commit ┘
//!                                      │
//!                                      ▼
//!            read::CorpusReader ─► blocks (checksum first) ─► verify · export · the loader
//! ```
//!
//! To add an export format: one file in `export/` with a function over a [`CorpusReader`], one line in
//! [`ExportFormat`]. To add a stored type: one variant of [`ColumnType`], its encoding in `canonical.rs` (tags are
//! never used twice) and a row in the golden files. To change a format: a new version number, both versions read,
//! a golden file of each in `tests/golden`.

mod canonical;
mod column;
mod digest;
mod error;
mod export;
mod key;
mod lengths;
mod manifest;
mod read;
mod shard;
mod store;
mod verify;
mod warehouse;

pub use column::{Column, ColumnType, arrow_schema, columns_of, stored_schema, to_stored};
pub use digest::{Checksum, RowDigest};
pub use error::{CorpusError, Result};
pub use export::{ExportFormat, ExportOptions, ExportReport, export};
pub use key::{key_hashes, shard_of, value_digests};
pub use lengths::{LengthsFile, LengthsReader, ListLength, write_lengths};
pub use manifest::{Expectation, Function, Input, MANIFEST_FORMAT, Manifest, RowPlace, SlotMap, SlotRange, Step};
pub use read::CorpusReader;
pub use shard::{
    BLOCK_ROWS, Block, ColumnStatistics, ScalarString, ShardFile, ShardOptions, ShardPlace, ShardWriter,
    partition_array, partition_value, shard_path,
};
pub use store::{
    StoreAdvice, StoreAttempts, StoreOptions, open_store, store_advice, store_attempts, store_message, store_retry,
};
pub use verify::{Fault, VerifyReport, verify};
pub use warehouse::{TAGS_FILE, VersionInfo, Warehouse};
