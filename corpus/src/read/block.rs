//! From the bytes of one block to its rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::{Buf, Bytes};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::reader::{ChunkReader, Length};

use super::integer_lists;
use crate::column::cast_strictly;
use crate::error::{CorpusError, RESTORE, Result};
use crate::shard::{Block, ShardFile, partition_array};

/// Bytes of the footer after its metadata: their length and the mark `PAR1`.
const TRAILER_BYTES: usize = 8;

/// Reads a shard's footer and holds it against the manifest; says what is wrong.
pub(super) fn parse_footer(file: &ShardFile, bytes: &[u8]) -> Result<ArrowReaderMetadata, String> {
    let metadata = bytes
        .len()
        .checked_sub(TRAILER_BYTES)
        .filter(|_| bytes.ends_with(b"PAR1"))
        .map(|end| &bytes[..end])
        .ok_or("does not end as a Parquet file does")?;
    let metadata = ParquetMetaDataReader::decode_metadata(metadata).map_err(|e| e.to_string())?;
    let rows = |g: usize| u64::try_from(metadata.row_group(g).num_rows()).unwrap_or(u64::MAX);
    let agrees = metadata.num_row_groups() == file.blocks.len()
        && file.blocks.iter().enumerate().all(|(g, block)| rows(g) == block.rows);
    if !agrees {
        return Err("has other blocks than the manifest says".to_owned());
    }
    ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new()).map_err(|e| e.to_string())
}

/// All that is needed to decode a block, owned: it runs on another thread.
pub(super) struct Decode {
    pub(super) path: String,
    pub(super) file_bytes: u64,
    pub(super) block: usize,
    pub(super) place: Block,
    pub(super) footer: ArrowReaderMetadata,
    pub(super) bytes: Bytes,
    /// The columns to give, in their order.
    pub(super) wanted: SchemaRef,
}

impl Decode {
    pub(super) fn run(self, partition: &[(String, Option<String>)]) -> Result<RecordBatch> {
        let rows = self.place.rows as usize;
        let stored = self.decode(rows)?;
        let column = |field: &FieldRef| {
            if let Some((name, value)) = partition.iter().find(|(name, _)| name == field.name()) {
                return partition_array(name, value.as_deref(), field.data_type(), rows);
            }
            match stored.iter().find(|(name, _)| name == field.name()) {
                Some((_, array)) => cast_strictly(array, field),
                None if field.is_nullable() => Ok(new_null_array(field.data_type(), rows)),
                None => Err(CorpusError::column(
                    field.name(),
                    format!("is not in shard {} and may not be NULL", self.path),
                )),
            }
        };
        let columns = self.wanted.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.wanted.clone(), columns, &options)
            .map_err(CorpusError::arrow(format!("reading {}", self.path)))
    }

    /// The columns that the file holds of those wanted.
    fn decode(&self, rows: usize) -> Result<Vec<(String, ArrayRef)>> {
        let source = Arc::new(BlockBytes {
            base: self.place.offset,
            file_bytes: self.file_bytes,
            bytes: self.bytes.clone(),
        });
        let mut columns = Vec::with_capacity(self.wanted.fields().len());
        let mut others = Vec::new();
        for (root, field) in self.footer.schema().fields().iter().enumerate() {
            if self.wanted.field_with_name(field.name()).is_ok() {
                match self.integer_lists(&source, root, field) {
                    Some(lists) => columns.push((field.name().clone(), lists)),
                    None => others.push(root),
                }
            }
        }
        if !others.is_empty() {
            let rest = self.decode_any(&source, others, rows)?;
            let names = rest.schema_ref().fields().iter().map(|f| f.name().clone());
            columns.extend(names.zip(rest.columns().iter().cloned()));
        }
        Ok(columns)
    }

    fn integer_lists(&self, source: &Arc<BlockBytes>, root: usize, field: &FieldRef) -> Option<ArrayRef> {
        let DataType::List(item) = field.data_type() else {
            return None;
        };
        let leaves = 0..self.footer.parquet_schema().num_columns();
        let mut leaves = leaves.filter(|leaf| self.footer.parquet_schema().get_column_root_idx(*leaf) == root);
        let group = self.footer.metadata().row_groups().get(self.block)?;
        integer_lists::read(source, group, leaves.next()?, item)
    }

    /// Decodes columns of any type.
    fn decode_any(&self, source: &Arc<BlockBytes>, roots: Vec<usize>, rows: usize) -> Result<RecordBatch> {
        let mask = ProjectionMask::roots(self.footer.parquet_schema(), roots);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(BlockBytes::clone(source), self.footer.clone())
            .with_row_groups(vec![self.block])
            .with_projection(mask)
            .with_batch_size(rows.max(1))
            .build()
            .map_err(CorpusError::parquet(&self.path))?;
        let batches = reader.collect::<Result<Vec<_>, _>>();
        let mut batches = batches.map_err(CorpusError::arrow(format!("decoding {}", self.path)))?;
        match batches.pop() {
            Some(batch) if batches.is_empty() && batch.num_rows() == rows => Ok(batch),
            other => Err(CorpusError::Corrupt {
                path: self.path.clone(),
                place: format!("block {}", self.block),
                found: format!("{} rows instead of {rows}", other.map_or(0, |b| b.num_rows())),
                fix: RESTORE,
            }),
        }
    }
}

/// The bytes of a block, addressed as if the whole file were there.
#[derive(Clone)]
struct BlockBytes {
    base: u64,
    file_bytes: u64,
    bytes: Bytes,
}

impl BlockBytes {
    fn from(&self, start: u64) -> Result<Bytes, ParquetError> {
        let at = start.checked_sub(self.base).and_then(|at| usize::try_from(at).ok());
        let at = at.filter(|at| *at <= self.bytes.len());
        let at = at.ok_or_else(|| ParquetError::EOF(format!("byte {start} is outside of the block")))?;
        Ok(self.bytes.slice(at..))
    }
}

impl Length for BlockBytes {
    fn len(&self) -> u64 {
        self.file_bytes
    }
}

impl ChunkReader for BlockBytes {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut bytes = self.from(start)?;
        if length > bytes.len() {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at {start} reach out of the block"
            )));
        }
        bytes.truncate(length);
        Ok(bytes)
    }
}
