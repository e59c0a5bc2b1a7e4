//! The bytes of a file of row lengths, without any input or output.

use super::ListLength;
use crate::digest::Checksum;

pub(super) const MAGIC: &[u8; 8] = b"CMILLEN1";
pub(super) const TRAILER_BYTES: u64 = 24;
const VERSION: u32 = 1;

/// Rows of a block: 64 KiB per column, one request of any object store.
pub(super) const BLOCK_ROWS: usize = 16_384;

/// The part of the file that says where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) rows: u64,
    pub(super) block_rows: u64,
    pub(super) columns: Vec<ListLength>,
    pub(super) blocks: Vec<IndexBlock>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexBlock {
    pub(super) xxh3: Checksum,
    /// Per column, the sum of the lengths before this block.
    pub(super) before: Vec<u64>,
}

/// Turns rows of lengths into bytes.
pub(super) struct Encoder {
    index: Index,
    /// Lengths of the block that is being filled, per column.
    block: Vec<Vec<u32>>,
    out: Vec<u8>,
    written: u64,
}

impl Encoder {
    pub(super) fn new(columns: Vec<String>, block_rows: usize) -> Self {
        let block = vec![Vec::new(); columns.len()];
        let columns = columns
            .into_iter()
            .map(|column| ListLength { column, total: 0 })
            .collect();
        let index = Index {
            rows: 0,
            block_rows: block_rows as u64,
            columns,
            blocks: Vec::new(),
        };
        Self {
            index,
            block,
            out: MAGIC.to_vec(),
            written: 0,
        }
    }

    /// Adds rows: one slice per column, all of one length.
    pub(super) fn push(&mut self, columns: &[Vec<u32>]) {
        let rows = columns.first().map_or(0, Vec::len);
        let mut start = 0;
        while start < rows {
            let room = self.index.block_rows as usize - self.block[0].len();
            let end = rows.min(start + room);
            for (block, lengths) in self.block.iter_mut().zip(columns) {
                block.extend_from_slice(&lengths[start..end]);
            }
            if end - start == room {
                self.close_block();
            }
            start = end;
        }
        self.index.rows += rows as u64;
    }

    /// Takes the bytes that are final.
    pub(super) fn drain(&mut self) -> Vec<u8> {
        self.written += self.out.len() as u64;
        std::mem::take(&mut self.out)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.out.len() + self.block.iter().map(|b| b.len() * 4).sum::<usize>()
    }

    /// Gives the last bytes, and the index that they end with.
    pub(super) fn finish(mut self) -> (Vec<u8>, Index, u64) {
        if self.block.first().is_some_and(|b| !b.is_empty()) {
            self.close_block();
        }
        let offset = self.written + self.out.len() as u64;
        let index = self.index.encode();
        self.out.extend_from_slice(&index);
        self.out.extend_from_slice(&offset.to_le_bytes());
        self.out.extend_from_slice(&Checksum::of(&index).0.to_le_bytes());
        self.out.extend_from_slice(MAGIC);
        let bytes = self.written + self.out.len() as u64;
        (self.out, self.index, bytes)
    }

    fn close_block(&mut self) {
        let start = self.out.len();
        let before = self.index.columns.iter().map(|c| c.total).collect();
        for (lengths, column) in self.block.iter_mut().zip(&mut self.index.columns) {
            for length in lengths.drain(..) {
                column.total += u64::from(length);
                self.out.extend_from_slice(&length.to_le_bytes());
            }
        }
        self.index.blocks.push(IndexBlock {
            xxh3: Checksum::of(&self.out[start..]),
            before,
        });
    }
}

impl Index {
    /// First byte and number of rows of a block; the number of bytes is `rows × 4 × columns`.
    pub(super) fn block_at(&self, block: u64) -> (u64, u64) {
        let first = block.saturating_mul(self.block_rows);
        let row_bytes = 4 * self.columns.len() as u64;
        let offset = (MAGIC.len() as u64).saturating_add(first.saturating_mul(row_bytes));
        (offset, self.rows.saturating_sub(first).min(self.block_rows))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [VERSION, self.columns.len() as u32, self.block_rows as u32, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.rows.to_le_bytes());
        for column in &self.columns {
            // Delta limits nothing here, but no column has a name of 64 KiB: cut rather than spoil the file.
            let name = &column.column.as_bytes()[..column.column.len().min(u16::MAX.into())];
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(name);
            out.extend_from_slice(&column.total.to_le_bytes());
        }
        for block in &self.blocks {
            out.extend_from_slice(&block.xxh3.0.to_le_bytes());
            block
                .before
                .iter()
                .for_each(|b| out.extend_from_slice(&b.to_le_bytes()));
        }
        out
    }

    /// Reads an index of `offset` bytes into the file; says what is wrong with it.
    pub(super) fn decode(mut bytes: &[u8], offset: u64) -> Result<Self, String> {
        let bytes = &mut bytes;
        let version = u32_of(bytes)?;
        if version != VERSION {
            return Err(format!(
                "has version {version} of the row-length format, this release reads version {VERSION}"
            ));
        }
        let (columns, block_rows, _) = (u32_of(bytes)?, u32_of(bytes)?, u32_of(bytes)?);
        let rows = u64_of(bytes)?;
        if block_rows == 0 || columns == 0 || u64::from(columns) > bytes.len() as u64 {
            return Err(format!(
                "has {columns} columns in blocks of {block_rows} rows, which no writer writes"
            ));
        }
        let column = |bytes: &mut &[u8]| {
            let length = u16::from_le_bytes(take::<2>(bytes)?);
            let (name, rest) = bytes.split_at_checked(length.into()).ok_or("ends inside a name")?;
            *bytes = rest;
            let column = String::from_utf8(name.to_vec()).map_err(|_| "has a name that is not UTF-8")?;
            Ok::<_, String>(ListLength {
                column,
                total: u64_of(bytes)?,
            })
        };
        let columns = (0..columns).map(|_| column(bytes)).collect::<Result<Vec<_>, _>>()?;
        let mut index = Self {
            rows,
            block_rows: block_rows.into(),
            columns,
            blocks: Vec::new(),
        };
        let data = rows
            .checked_mul(4 * index.columns.len() as u64)
            .and_then(|d| d.checked_add(MAGIC.len() as u64));
        if data != Some(offset) {
            return Err(format!("holds {rows} rows, but its data end at byte {offset}"));
        }
        for _ in 0..rows.div_ceil(index.block_rows) {
            let xxh3 = Checksum(u64_of(bytes)?);
            let before = index.columns.iter().map(|_| u64_of(bytes)).collect::<Result<_, _>>()?;
            index.blocks.push(IndexBlock { xxh3, before });
        }
        if bytes.is_empty() {
            Ok(index)
        } else {
            Err(format!("has {} bytes after its last block", bytes.len()))
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], String> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or("ends inside its index")?;
    *bytes = rest;
    Ok(*head)
}

fn u32_of(bytes: &mut &[u8]) -> Result<u32, String> {
    take(bytes).map(u32::from_le_bytes)
}

pub(super) fn u64_of(bytes: &mut &[u8]) -> Result<u64, String> {
    take(bytes).map(u64::from_le_bytes)
}
