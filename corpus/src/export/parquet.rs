//! Plain Parquet: all columns, row groups of a common size, no folder of partitions.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::{FormatWriter, Output};
use crate::error::{CorpusError, Result};

const ROW_GROUP_ROWS: usize = 1 << 16;

pub(super) struct PlainParquet {
    schema: SchemaRef,
    file_bytes: u64,
    encoder: Option<ArrowWriter<Vec<u8>>>,
    files: u32,
}

impl PlainParquet {
    pub(super) fn new(schema: &SchemaRef, file_bytes: u64) -> Self {
        Self {
            schema: schema.clone(),
            file_bytes,
            encoder: None,
            files: 0,
        }
    }

    fn name(&self) -> String {
        format!("part-{:05}.parquet", self.files)
    }

    fn begin(&self) -> Result<ArrowWriter<Vec<u8>>> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_created_by(crate::shard::CREATED_BY.to_owned())
            .build();
        ArrowWriter::try_new(Vec::new(), self.schema.clone(), Some(properties))
            .map_err(CorpusError::parquet(self.name()))
    }

    fn close(&mut self, output: &mut Output) -> Result<()> {
        if let Some(encoder) = self.encoder.take() {
            let bytes = encoder.into_inner().map_err(CorpusError::parquet(self.name()))?;
            output.close(&self.name(), bytes);
            self.files += 1;
        }
        Ok(())
    }
}

impl FormatWriter for PlainParquet {
    fn write(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let mut encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => self.begin()?,
        };
        encoder.write(batch).map_err(CorpusError::parquet(self.name()))?;
        let bytes = (encoder.bytes_written() + encoder.in_progress_size()) as u64;
        self.encoder = Some(encoder);
        if bytes >= self.file_bytes {
            self.close(output)
        } else {
            Ok(())
        }
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        if self.files == 0 && self.encoder.is_none() {
            // An empty version is a file without rows, so that its columns are known.
            self.encoder = Some(self.begin()?);
        }
        self.close(output)
    }
}
