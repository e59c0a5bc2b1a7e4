//! Writes a table as a folder of part files in one of three formats.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use arrow::csv;
use arrow::datatypes::SchemaRef;
use arrow::json::LineDelimitedWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde::Serialize;

use super::Format;

/// Rows after which a new part file is begun.
const ROWS_PER_PART: u64 = 131_072;

/// A table that is being written.
pub(crate) struct Sink {
    folder: PathBuf,
    format: Format,
    schema: SchemaRef,
    part: Option<Part>,
    rows_in_part: u64,
    written: Written,
}

/// What is on disk of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Number of rows.
    pub rows: u64,
    /// Size of the part files.
    pub bytes: u64,
    /// Number of part files.
    pub files: u64,
}

enum Part {
    Parquet(Box<ArrowWriter<BufWriter<File>>>),
    Csv(Box<csv::Writer<BufWriter<File>>>),
    Jsonl(LineDelimitedWriter<BufWriter<File>>),
}

impl Sink {
    /// Starts a table in `folder`, which is created.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub(crate) fn new(folder: &Path, format: Format, schema: SchemaRef) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let folder = folder.to_owned();
        Ok(Self {
            folder,
            format,
            schema,
            part: None,
            rows_in_part: 0,
            written: Written::default(),
        })
    }

    fn path(&self) -> PathBuf {
        self.folder
            .join(format!("part-{:05}.{}", self.written.files, self.format.extension()))
    }

    fn begin(&self) -> Result<Part> {
        let path = self.path();
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let file = BufWriter::with_capacity(1 << 16, file);
        Ok(match self.format {
            Format::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(Default::default()))
                    .set_max_row_group_row_count(Some(32_768))
                    .build();
                Part::Parquet(Box::new(ArrowWriter::try_new(
                    file,
                    self.schema.clone(),
                    Some(properties),
                )?))
            }
            Format::Csv => Part::Csv(Box::new(csv::WriterBuilder::new().with_header(true).build(file))),
            Format::Jsonl => Part::Jsonl(LineDelimitedWriter::new(file)),
        })
    }

    /// Appends rows.
    ///
    /// # Errors
    /// When the disk is full or the file cannot be written; the message names the file.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.part.is_none() {
            self.part = Some(self.begin()?);
        }
        let path = self.path();
        let part = self.part.as_mut().expect("begun above");
        match part {
            Part::Parquet(writer) => writer.write(batch).map_err(anyhow::Error::from),
            Part::Csv(writer) => writer.write(batch).map_err(anyhow::Error::from),
            Part::Jsonl(writer) => writer.write(batch).map_err(anyhow::Error::from),
        }
        .with_context(|| format!("cannot write {}", path.display()))?;
        self.rows_in_part += batch.num_rows() as u64;
        if self.rows_in_part >= ROWS_PER_PART {
            self.end()
        } else {
            Ok(())
        }
    }

    /// Ends the part file that is open.
    fn end(&mut self) -> Result<()> {
        let Some(part) = self.part.take() else { return Ok(()) };
        let path = self.path();
        let close = || -> Result<u64> {
            let mut file = match part {
                Part::Parquet(writer) => writer.into_inner()?,
                Part::Csv(writer) => writer.into_inner(),
                Part::Jsonl(mut writer) => {
                    writer.finish()?;
                    writer.into_inner()
                }
            };
            file.flush()?;
            Ok(file.into_inner()?.metadata()?.len())
        };
        self.written.bytes += close().with_context(|| format!("cannot write {}", path.display()))?;
        self.written.rows += self.rows_in_part;
        self.written.files += 1;
        self.rows_in_part = 0;
        Ok(())
    }

    /// Ends the table. A table without rows still gets one file, so that its columns can be read.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub(crate) fn finish(mut self) -> Result<Written> {
        if self.part.is_none() && self.written.files == 0 {
            self.write(&RecordBatch::new_empty(self.schema.clone()))?;
        }
        self.end()?;
        Ok(self.written)
    }
}
