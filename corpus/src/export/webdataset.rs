//! WebDataset: tar files in which the files of a sample stand together and have one stem
//! (webdataset.github.io, "The WebDataset Format").
//!
//! A row is `KEY.json` (all columns that are neither bytes nor lists of numbers), `KEY.COLUMN.npy` for a list of
//! numbers, and `KEY.COLUMN.jpg` (`.png`, `.gif`, `.webp`, else `.bin`, by the first bytes) for bytes. A NULL list or
//! NULL bytes have no file. `KEY` is the number of the row in the export, nine digits.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value};

use super::value::{json, number_type, numbers};
use super::{FormatWriter, Output};
use crate::error::{CorpusError, Result};

/// The end of a tar file: two blocks of zeros.
const END_BYTES: usize = 1024;

pub(super) struct WebDataset {
    schema: SchemaRef,
    stem: String,
    file_bytes: u64,
    tar: Vec<u8>,
    files: u32,
    rows: u64,
}

impl WebDataset {
    pub(super) fn new(schema: &SchemaRef, corpus: &str, file_bytes: u64) -> Self {
        Self {
            schema: schema.clone(),
            stem: corpus.to_owned(),
            file_bytes,
            tar: Vec::new(),
            files: 0,
            rows: 0,
        }
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let failed = |e: std::io::Error| CorpusError::format(name, format!("cannot be a file of a tar: {e}"));
        // Nothing of the time or the person is in it: the same rows give the same bytes.
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let mut builder = tar::Builder::new(&mut self.tar);
        builder.append_data(&mut header, name, bytes).map_err(failed)?;
        // The builder ends the file when it is finished, and it goes on: the end is taken away again.
        builder.finish().map_err(failed)?;
        drop(builder);
        self.tar.truncate(self.tar.len() - END_BYTES);
        Ok(())
    }

    fn close(&mut self, output: &mut Output) {
        self.tar.resize(self.tar.len() + END_BYTES, 0);
        output.close(
            &format!("{}-{:06}.tar", self.stem, self.files),
            std::mem::take(&mut self.tar),
        );
        self.files += 1;
    }

    fn row(&mut self, batch: &RecordBatch, row: usize) -> Result<()> {
        let key = format!("{:09}", self.rows);
        let mut scalars = Map::new();
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for (field, array) in self.schema.fields().iter().zip(batch.columns()) {
            let name = field.name();
            if number_type(field.data_type()).is_some() {
                if array.is_valid(row) {
                    files.push((format!("{key}.{name}.npy"), npy(name, array, row)?));
                }
            } else if *field.data_type() == DataType::Binary {
                if array.is_valid(row) {
                    let bytes = array.as_binary::<i32>().value(row);
                    files.push((format!("{key}.{name}.{}", extension(bytes)), bytes.to_vec()));
                }
            } else {
                scalars.insert(name.clone(), json(array, row)?);
            }
        }
        self.add(&format!("{key}.json"), Value::Object(scalars).to_string().as_bytes())?;
        files.iter().try_for_each(|(name, bytes)| self.add(name, bytes))
    }
}

impl FormatWriter for WebDataset {
    fn write(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        for row in 0..batch.num_rows() {
            self.row(batch, row)?;
            self.rows += 1;
            if self.tar.len() as u64 >= self.file_bytes {
                self.close(output);
            }
        }
        Ok(())
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        if !self.tar.is_empty() || self.files == 0 {
            self.close(output);
        }
        Ok(())
    }
}

/// The file format of numpy arrays, version 1.0 (numpy.lib.format), one dimension.
fn npy(column: &str, array: &ArrayRef, row: usize) -> Result<Vec<u8>> {
    let list = numbers(column, array, row)?;
    let descr = match number_type(array.data_type()) {
        Some("int8") => "|i1",
        Some("int16") => "<i2",
        Some("int32") => "<i4",
        Some("int64") => "<i8",
        Some("float32") => "<f4",
        _ => "<f8",
    };
    let mut header = format!(
        "{{'descr': '{descr}', 'fortran_order': False, 'shape': ({},), }}",
        list.len
    );
    // Magic, version, length and header together are a multiple of 64 bytes, the last of them a line feed.
    let padding = (64 - (10 + header.len() + 1) % 64) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(header.len() as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&list.bytes);
    Ok(out)
}

fn extension(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => "jpg",
        [0x89, b'P', b'N', b'G', ..] => "png",
        [b'G', b'I', b'F', b'8', ..] => "gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "webp",
        _ => "bin",
    }
}
