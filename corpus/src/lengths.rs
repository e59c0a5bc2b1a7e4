//! Row lengths of the list columns of a version, in one file that is read in pieces.
//!
//! A loader that packs sequences needs the length of rows before it reads them. Format 1, little-endian:
//! ```text
//! 0     8   "CMILLEN1"
//! 8     …   blocks of B rows in slot order; in a block, for each column, u32 × rows of the block
//! I     4   version, 1
//!       4   columns C          4  rows of a block B          4  zero          8  rows N
//!       …   per column:  u16 length of the name, the name in UTF-8, u64 sum of all its lengths
//!       …   per block:   u64 xxh3_64 of the block's bytes, then per column u64 sum of the lengths before the block
//! E-24  8   I               8  xxh3_64 of I..E-24          8  "CMILLEN1"
//! ```
//! Each shard has such a file of its own beside it, written with it; [`write_lengths`] joins those of a version.
//! The length of NULL is 0.

mod format;
mod reader;
mod writer;

use serde::{Deserialize, Serialize};

pub use reader::LengthsReader;
pub use writer::write_lengths;
pub(crate) use writer::{LengthsWriter, list_columns};

/// What a manifest says about a file of row lengths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthsFile {
    /// Key of the object below the corpus's folder.
    pub path: String,
    /// Size of the file, bytes.
    pub bytes: u64,
    /// Number of rows.
    pub rows: u64,
    /// The list columns with the sums of their lengths.
    pub columns: Vec<ListLength>,
}

/// The sum of the lengths of a list column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListLength {
    /// The column.
    pub column: String,
    /// Sum of the lengths of its lists (for a token column: number of tokens).
    pub total: u64,
}
