//! Plain Parquet files, hashed while they are written, and rows shown to people.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::{DataFusionError, Result};
use datafusion::parquet::arrow::AsyncArrowWriter;
use datafusion::parquet::arrow::async_writer::AsyncFileWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::properties::WriterProperties;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use tokio::io::AsyncWriteExt as _;
use xxhash_rust::xxh3::Xxh3;

use crate::{OperatorError, RowFile};

/// Rows in one row group of a plain file: bounds what the writer holds.
const GROUP_ROWS: usize = 16 * 1024;

/// Writes one Parquet file and knows its size and checksum at the end.
pub(crate) struct RowsFile {
    path: String,
    rows: u64,
    writer: AsyncArrowWriter<HashingWriter>,
}

impl RowsFile {
    /// Opens `path` in `store`; `name` is what the receipt will call it.
    pub(crate) fn create(store: Arc<dyn ObjectStore>, path: Path, name: String, schema: SchemaRef) -> Result<Self> {
        let properties = WriterProperties::builder()
            .set_created_by("corpusmill".to_owned())
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).map_err(parquet)?))
            .build();
        let sink = HashingWriter {
            path: path.to_string(),
            inner: BufWriter::new(store, path),
            hash: Xxh3::new(),
            bytes: 0,
        };
        let writer = AsyncArrowWriter::try_new(sink, schema, Some(properties)).map_err(parquet)?;
        Ok(Self {
            path: name,
            rows: 0,
            writer,
        })
    }

    /// Adds rows.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        self.writer.write(batch).await.map_err(parquet)
    }

    /// Bytes that the writer holds in memory.
    pub(crate) fn memory(&self) -> usize {
        self.writer.memory_size()
    }

    /// Completes the file; nothing is visible under its name before.
    pub(crate) async fn finish(mut self) -> Result<RowFile> {
        self.writer.finish().await.map_err(parquet)?;
        let sink = self.writer.into_inner();
        Ok(RowFile {
            path: self.path,
            rows: self.rows,
            bytes: sink.bytes,
            xxh3: format!("{:016x}", sink.hash.digest()),
        })
    }
}

fn parquet(error: ParquetError) -> DataFusionError {
    DataFusionError::ParquetError(Box::new(error))
}

/// A write that failed, with the object that it was for.
fn failed(path: &str, source: object_store::Error) -> ParquetError {
    let path = path.to_owned();
    ParquetError::External(Box::new(OperatorError::Store { path, source }))
}

/// Passes bytes on to object storage, hashing and counting them.
struct HashingWriter {
    inner: BufWriter,
    path: String,
    hash: Xxh3,
    bytes: u64,
}

impl AsyncFileWriter for HashingWriter {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, ParquetResult<()>> {
        self.hash.update(&bytes);
        self.bytes += bytes.len() as u64;
        async move {
            let written = self.inner.put(bytes).await;
            written.map_err(|source| failed(&self.path, source))
        }
        .boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, ParquetResult<()>> {
        async move {
            let ended = self.inner.shutdown().await;
            ended.map_err(|error| {
                let source = object_store::Error::Generic {
                    store: "upload",
                    source: Box::new(error),
                };
                failed(&self.path, source)
            })
        }
        .boxed()
    }
}

/// Shows up to three rows as `(column = value, …)`; `columns` names the columns, the first six when it is empty.
pub(crate) fn examples(batch: &RecordBatch, rows: &[usize], columns: &[String]) -> String {
    const ROWS: usize = 3;
    const COLUMNS: usize = 6;
    const CHARACTERS: usize = 60;
    let schema = batch.schema();
    let shown: Vec<usize> = if columns.is_empty() {
        (0..batch.num_columns())
            .filter(|index| !schema.field(*index).name().starts_with('_'))
            .take(COLUMNS)
            .collect()
    } else {
        columns.iter().filter_map(|name| schema.index_of(name).ok()).collect()
    };
    let options = FormatOptions::default().with_null("NULL");
    let row = |row: usize| {
        let cells: Vec<String> = shown
            .iter()
            .map(|index| {
                let value = ArrayFormatter::try_new(batch.column(*index), &options)
                    .and_then(|formatter| formatter.value(row).try_to_string())
                    .unwrap_or_else(|error| format!("<{error}>"));
                let mut short: String = value.chars().take(CHARACTERS).collect();
                if short.len() < value.len() {
                    short.push('…');
                }
                format!("{} = {short}", schema.field(*index).name())
            })
            .collect();
        format!("({})", cells.join(", "))
    };
    rows.iter()
        .take(ROWS)
        .map(|index| row(*index))
        .collect::<Vec<_>>()
        .join("; ")
}
