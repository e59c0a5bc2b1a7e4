//! Writes row lengths: with each shard, and joined for a version.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use super::format::{BLOCK_ROWS, Encoder, Index};
use super::{LengthsFile, LengthsReader};
use crate::error::{CorpusError, Result};
use crate::shard::ShardFile;
use crate::store::object_path;

/// Gives the names of the columns whose rows have lengths.
pub(crate) fn list_columns(schema: &Schema) -> Vec<String> {
    let lists = schema
        .fields()
        .iter()
        .filter(|f| matches!(f.data_type(), DataType::List(_)));
    lists.map(|f| f.name().clone()).collect()
}

/// Gathers the row lengths of one shard.
pub(crate) struct LengthsWriter {
    columns: Vec<String>,
    encoder: Encoder,
    rows: u64,
}

impl LengthsWriter {
    pub(crate) fn new(columns: Vec<String>) -> Self {
        Self {
            encoder: Encoder::new(columns.clone(), BLOCK_ROWS),
            columns,
            rows: 0,
        }
    }

    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let lengths = |name: &String| {
            let array = batch.column_by_name(name).and_then(|a| a.as_list_opt::<i32>());
            let array = array.ok_or_else(|| CorpusError::column(name, "is not a list"))?;
            let length = |row| {
                if array.is_null(row) {
                    0
                } else {
                    array.value_length(row) as u32
                }
            };
            Ok((0..array.len()).map(length).collect())
        };
        let columns = self.columns.iter().map(lengths).collect::<Result<Vec<Vec<u32>>>>()?;
        self.encoder.push(&columns);
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.encoder.memory_bytes()
    }

    pub(crate) async fn finish(
        self,
        store: &Arc<dyn ObjectStore>,
        root: &Path,
        shard: &str,
    ) -> Result<Option<LengthsFile>> {
        if self.columns.is_empty() || self.rows == 0 {
            return Ok(None);
        }
        let path = format!("_corpusmill/lengths/shards/{}.bin", shard.trim_end_matches(".parquet"));
        let (out, index, bytes) = self.encoder.finish();
        let object = object_path(root, &path)?;
        store
            .put(&object, PutPayload::from(out))
            .await
            .map_err(CorpusError::store("write", &object))?;
        Ok(Some(described(path, bytes, index)))
    }
}

fn described(path: String, bytes: u64, index: Index) -> LengthsFile {
    LengthsFile {
        path,
        bytes,
        rows: index.rows,
        columns: index.columns,
    }
}

/// Joins the row lengths of the shards of a version, in the order given (slot order), into one file at `path`.
///
/// `root` is the folder of the corpus in the store; `path` a key below it
/// (`_corpusmill/lengths/BUILD.bin`). A shard without a list column that others have counts 0 for its rows. Gives
/// `None`, and writes nothing, if there are no list columns.
///
/// # Errors
/// [`CorpusError::Store`], and [`CorpusError::Corrupt`] if the lengths of a shard are not what was written.
pub async fn write_lengths(
    store: &Arc<dyn ObjectStore>,
    root: &Path,
    path: &str,
    shards: &[ShardFile],
) -> Result<Option<LengthsFile>> {
    let mut columns: Vec<String> = Vec::new();
    for list in shards
        .iter()
        .filter_map(|s| s.lengths.as_ref())
        .flat_map(|l| &l.columns)
    {
        if !columns.contains(&list.column) {
            columns.push(list.column.clone());
        }
    }
    if columns.is_empty() {
        return Ok(None);
    }
    // Free of the order of shards, which differ between a full build and a refresh.
    columns.sort_unstable();
    let object = object_path(root, path)?;
    let mut upload = BufWriter::new(store.clone(), object.clone());
    let mut encoder = Encoder::new(columns.clone(), BLOCK_ROWS);
    for shard in shards {
        let reader = match &shard.lengths {
            Some(lengths) => Some(LengthsReader::open(store.clone(), root, lengths).await?),
            None => None,
        };
        let mut start = 0;
        while start < shard.rows {
            let end = shard.rows.min(start + BLOCK_ROWS as u64);
            let zeros = || vec![0; (end - start) as usize];
            let piece = match &reader {
                None => columns.iter().map(|_| zeros()).collect(),
                Some(reader) => {
                    let known = reader.read_all(start..end).await?;
                    let of = |c: &String| reader.column_index(c).map_or_else(zeros, |i| known[i].clone());
                    columns.iter().map(of).collect::<Vec<_>>()
                }
            };
            encoder.push(&piece);
            put(&mut upload, encoder.drain(), &object).await?;
            start = end;
        }
    }
    let (rest, index, bytes) = encoder.finish();
    put(&mut upload, rest, &object).await?;
    crate::store::complete(&mut upload, &object).await?;
    Ok(Some(described(path.to_owned(), bytes, index)))
}

async fn put(upload: &mut BufWriter, bytes: Vec<u8>, object: &Path) -> Result<()> {
    upload
        .put(Bytes::from(bytes))
        .await
        .map_err(CorpusError::store("write", object))
}
