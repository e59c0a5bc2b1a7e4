//! Reads row lengths in pieces.

use std::ops::Range;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;

use super::LengthsFile;
use super::format::{Index, MAGIC, TRAILER_BYTES, u64_of};
use crate::digest::Checksum;
use crate::error::{CorpusError, RESTORE, Result};
use crate::store::{object_path, read_range};

/// What is read from the end of the file at first: enough for the index of 60 million rows of one column.
const FIRST_BYTES: u64 = 64 << 10;

/// A file of row lengths that is open: its index is in memory (16 bytes per 16,384 rows), its rows are not.
#[derive(Clone, Debug)]
pub struct LengthsReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    index: Arc<Index>,
}

impl LengthsReader {
    /// Opens the file below the corpus's folder `root`: one request, two if it is very large.
    ///
    /// # Errors
    /// [`CorpusError::Store`] if it cannot be read, [`CorpusError::Corrupt`] if it is not what was written,
    /// [`CorpusError::Format`] if a newer release wrote it.
    pub async fn open(store: Arc<dyn ObjectStore>, root: &Path, file: &LengthsFile) -> Result<Self> {
        let path = object_path(root, &file.path)?;
        let damaged = |found: String| CorpusError::Corrupt {
            path: path.to_string(),
            place: "index of the row lengths".into(),
            found,
            fix: RESTORE,
        };
        let start = file.bytes.saturating_sub(FIRST_BYTES);
        let tail = read_range(&*store, &path, start..file.bytes).await?;
        let trailer = tail.len().checked_sub(TRAILER_BYTES as usize).map(|at| &tail[at..]);
        let Some(mut trailer) = trailer.filter(|t| t.ends_with(MAGIC)) else {
            return Err(damaged(format!(
                "does not end with the mark of row lengths ({} bytes read)",
                tail.len()
            )));
        };
        let field = |t: &mut &[u8]| u64_of(t).map_err(damaged);
        let (offset, expected) = (field(&mut trailer)?, Checksum(field(&mut trailer)?));
        let end = file.bytes - TRAILER_BYTES;
        if offset > end {
            return Err(damaged(format!("index at byte {offset} of {}", file.bytes)));
        }
        let index = if offset >= start {
            tail.slice((offset - start) as usize..(end - start) as usize)
        } else {
            read_range(&*store, &path, offset..end).await?
        };
        if Checksum::of(&index) != expected {
            return Err(damaged(format!(
                "checksum {} instead of {expected}",
                Checksum::of(&index)
            )));
        }
        let index = Index::decode(&index, offset).map_err(|detail| CorpusError::format(&path, detail))?;
        if index.rows != file.rows || index.columns != file.columns {
            return Err(damaged("other rows or columns than the manifest says".into()));
        }
        Ok(Self {
            store,
            path,
            index: Arc::new(index),
        })
    }

    /// The object.
    pub fn path(&self) -> &str {
        self.path.as_ref()
    }

    /// Number of rows (slots).
    pub fn rows(&self) -> u64 {
        self.index.rows
    }

    /// Rows of a block: reads of whole blocks are the cheapest.
    pub fn block_rows(&self) -> u64 {
        self.index.block_rows
    }

    /// Names of the list columns.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.index.columns.iter().map(|c| c.column.as_str())
    }

    /// Sum of all lengths of a column.
    ///
    /// # Errors
    /// [`CorpusError::NotFound`] if there is no such list column.
    pub fn total(&self, column: &str) -> Result<u64> {
        Ok(self.index.columns[self.require(column)?].total)
    }

    /// Sum of the lengths of a column before the first row of a block (all of them from the last block on): finds
    /// the block of a token without reading any rows.
    ///
    /// # Errors
    /// [`CorpusError::NotFound`] if there is no such list column.
    pub fn total_before(&self, column: &str, block: u64) -> Result<u64> {
        let at = self.require(column)?;
        let known = usize::try_from(block).ok().and_then(|b| self.index.blocks.get(b));
        Ok(known.map_or(self.index.columns[at].total, |b| b.before[at]))
    }

    /// Reads the lengths of a column in a range of slots, with one request over the blocks that hold them.
    ///
    /// # Errors
    /// [`CorpusError::NotFound`] for an unknown column, [`CorpusError::Argument`] for slots beyond the last,
    /// [`CorpusError::Corrupt`] if a block is not what was written.
    pub async fn read(&self, column: &str, slots: Range<u64>) -> Result<Vec<u32>> {
        let at = self.require(column)?;
        let mut all = self.read_all(slots).await?;
        Ok(all.swap_remove(at))
    }

    pub(super) fn column_index(&self, column: &str) -> Option<usize> {
        self.index.columns.iter().position(|c| c.column == column)
    }

    /// As `read`, for every column.
    pub(super) async fn read_all(&self, slots: Range<u64>) -> Result<Vec<Vec<u32>>> {
        let index = &*self.index;
        let mut columns = vec![Vec::new(); index.columns.len()];
        if slots.start >= slots.end {
            return Ok(columns);
        }
        if slots.end > index.rows {
            let detail = format!("{} has {} rows", self.path, index.rows);
            return Err(CorpusError::argument("slots", format!("{slots:?}"), detail));
        }
        let (first, last) = (slots.start / index.block_rows, (slots.end - 1) / index.block_rows);
        let row_bytes = 4 * index.columns.len() as u64;
        let start = index.block_at(first).0;
        let (last_offset, last_rows) = index.block_at(last);
        let end = last_offset.saturating_add(last_rows.saturating_mul(row_bytes));
        let bytes = read_range(&*self.store, &self.path, start..end).await?;
        for block in first..=last {
            let (offset, rows) = index.block_at(block);
            let at = (offset - start) as usize;
            let bytes = &bytes[at..at + (rows * row_bytes) as usize];
            let (found, expected) = (Checksum::of(bytes), index.blocks[block as usize].xxh3);
            if found != expected {
                return Err(CorpusError::Corrupt {
                    path: self.path.to_string(),
                    place: format!("row lengths, block {block} of {}", index.blocks.len()),
                    found: format!("checksum {found} instead of {expected}"),
                    fix: RESTORE,
                });
            }
            let base = block * index.block_rows;
            let wanted = (slots.start.max(base) - base) as usize..(slots.end.min(base + rows) - base) as usize;
            for (column, lengths) in columns.iter_mut().zip(bytes.chunks_exact(4 * rows as usize)) {
                let words = &lengths[4 * wanted.start..4 * wanted.end];
                column.extend(
                    words
                        .chunks_exact(4)
                        .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])),
                );
            }
        }
        Ok(columns)
    }

    fn require(&self, column: &str) -> Result<usize> {
        self.column_index(column).ok_or_else(|| {
            let have: Vec<_> = self.columns().collect();
            CorpusError::NotFound {
                what: "list column",
                name: column.into(),
                hint: format!("; there are {}", have.join(", ")),
            }
        })
    }
}
