//! MosaicML Streaming's MDS, version 2, as `streaming.MDSWriter` writes it without compression.
//!
//! ```text
//! shard.00000.mds:  u32 samples N │ u32 × (N+1) offsets │ configuration, JSON │ samples
//! sample:           u32 size of each column of no fixed size │ the columns, in the order of their names
//! index.json:       {"version": 2, "shards": [{column_names, column_encodings, column_sizes, raw_data, samples, …}]}
//! ```
//! Lists of numbers are `ndarray:TYPE` of one dimension; booleans `uint8`; decimals, dates and times text; all else
//! `json`. The format has no NULL: a column of numbers or text that holds some is written as `json`, a NULL list or
//! NULL bytes as empty.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::*;
use arrow::record_batch::RecordBatch;
use serde_json::{Value, json};

use super::value::{self, number_type, numbers};
use super::{FormatWriter, Output};
use crate::error::{CorpusError, Result};
use crate::manifest::Manifest;

/// Offsets are u32: a file stays so far below 4 GiB that any sample of a block fits behind it.
const FILE_BYTES_MAX: u64 = 2 << 30;

struct Encoded {
    name: String,
    index: usize,
    encoding: String,
    size: Option<u32>,
}

pub(super) struct Mds {
    columns: Vec<Encoded>,
    config: Vec<u8>,
    config_json: Value,
    file_bytes: u64,
    samples: Vec<u8>,
    ends: Vec<u32>,
    shards: Vec<Value>,
}

impl Mds {
    pub(super) fn new(schema: &SchemaRef, manifest: &Manifest, file_bytes: u64) -> Result<Self> {
        let describe = |(index, field): (usize, &FieldRef)| {
            let (encoding, size) = encoding(field, holds_null(manifest, field.name()));
            Encoded {
                name: field.name().clone(),
                index,
                encoding,
                size,
            }
        };
        let mut columns: Vec<Encoded> = schema.fields().iter().enumerate().map(describe).collect();
        columns.sort_by(|a, b| a.name.cmp(&b.name));
        let file_bytes = file_bytes.clamp(1, FILE_BYTES_MAX);
        let config_json = json!({
            "column_encodings": columns.iter().map(|c| &c.encoding).collect::<Vec<_>>(),
            "column_names": columns.iter().map(|c| &c.name).collect::<Vec<_>>(),
            "column_sizes": columns.iter().map(|c| c.size).collect::<Vec<_>>(),
            "compression": null, "format": "mds", "hashes": [], "size_limit": file_bytes, "version": 2,
        });
        let config = config_json.to_string().into_bytes();
        Ok(Self {
            columns,
            config,
            config_json,
            file_bytes,
            samples: Vec::new(),
            ends: Vec::new(),
            shards: Vec::new(),
        })
    }

    fn sample(&mut self, batch: &RecordBatch, row: usize) -> Result<()> {
        let mut body = Vec::new();
        let sizes_at = self.samples.len();
        let variable = self.columns.iter().filter(|c| c.size.is_none()).count();
        self.samples.resize(sizes_at + 4 * variable, 0);
        let mut next = sizes_at;
        for column in &self.columns {
            let start = body.len();
            encode(column, batch.column(column.index), row, &mut body)?;
            if column.size.is_none() {
                let size = u32::try_from(body.len() - start).map_err(|_| {
                    CorpusError::column(&column.name, "has a value of 4 GiB or more, which MDS cannot hold")
                })?;
                self.samples[next..next + 4].copy_from_slice(&size.to_le_bytes());
                next += 4;
            }
        }
        self.samples.extend_from_slice(&body);
        let end = u32::try_from(self.samples.len())
            .map_err(|_| CorpusError::column("sample", "is larger than an MDS file may be (4 GiB)"))?;
        self.ends.push(end);
        Ok(())
    }

    fn close(&mut self, output: &mut Output) -> Result<()> {
        let name = format!("shard.{:05}.mds", self.shards.len());
        let head = 4 + 4 * (self.ends.len() + 1) + self.config.len();
        let mut out = Vec::with_capacity(head + self.samples.len());
        out.extend_from_slice(&(self.ends.len() as u32).to_le_bytes());
        for end in std::iter::once(0).chain(self.ends.drain(..)) {
            let offset = u32::try_from(head as u64 + u64::from(end))
                .map_err(|_| CorpusError::format(&name, "would be larger than 4 GiB; export with smaller files"))?;
            out.extend_from_slice(&offset.to_le_bytes());
        }
        let samples = u32::from_le_bytes([out[0], out[1], out[2], out[3]]);
        out.extend_from_slice(&self.config);
        out.append(&mut self.samples);
        let mut shard = self.config_json.clone();
        shard["raw_data"] = json!({"basename": name, "bytes": out.len(), "hashes": {}});
        shard["samples"] = samples.into();
        shard["zip_data"] = Value::Null;
        self.shards.push(shard);
        output.close(&name, out);
        Ok(())
    }
}

impl FormatWriter for Mds {
    fn write(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        for row in 0..batch.num_rows() {
            self.sample(batch, row)?;
            if self.samples.len() as u64 >= self.file_bytes {
                self.close(output)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        if !self.ends.is_empty() {
            self.close(output)?;
        }
        let index = json!({"shards": self.shards, "version": 2}).to_string();
        output.close("index.json", index.into_bytes());
        Ok(())
    }
}

/// Whether a column that is no list holds a NULL, by the statistics of the shards.
fn holds_null(manifest: &Manifest, column: &str) -> bool {
    manifest
        .shard_files
        .iter()
        .any(|s| match s.partition.iter().find(|(name, _)| name == column) {
            Some((_, value)) => value.is_none(),
            // A shard that is older than the column has no statistics of it: it is all NULL there.
            None => s.rows > 0 && s.statistics.get(column).is_none_or(|c| c.nulls > 0),
        })
}

fn encoding(field: &FieldRef, holds_null: bool) -> (String, Option<u32>) {
    if let Some(number) = number_type(field.data_type()) {
        return (format!("ndarray:{number}"), None);
    }
    if *field.data_type() == DataType::Binary {
        return ("bytes".to_owned(), None);
    }
    if holds_null || field.data_type().is_nested() {
        return ("json".to_owned(), None);
    }
    let (name, size) = match field.data_type() {
        DataType::Boolean => ("uint8", Some(1)),
        DataType::Int8 => ("int8", Some(1)),
        DataType::Int16 => ("int16", Some(2)),
        DataType::Int32 => ("int32", Some(4)),
        DataType::Int64 => ("int64", Some(8)),
        DataType::Float32 => ("float32", Some(4)),
        DataType::Float64 => ("float64", Some(8)),
        DataType::Decimal128(_, _) => ("str_decimal", None),
        _ => ("str", None),
    };
    (name.to_owned(), size)
}

fn encode(column: &Encoded, array: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<()> {
    macro_rules! number {
        ($type:ty) => {
            out.extend_from_slice(&array.as_primitive::<$type>().value(row).to_le_bytes())
        };
    }
    if column.encoding == "json" {
        out.extend_from_slice(value::json(array, row)?.to_string().as_bytes());
        return Ok(());
    }
    if array.is_null(row) && !array.data_type().is_nested() && *array.data_type() != DataType::Binary {
        // The statistics said that there is none.
        return Err(CorpusError::column(
            &column.name,
            "holds a NULL that its statistics do not count; run `corpusmill verify`",
        ));
    }
    match array.data_type() {
        DataType::Boolean => out.push(array.as_boolean().value(row).into()),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Utf8 => out.extend_from_slice(array.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary if array.is_null(row) => {}
        DataType::Binary => out.extend_from_slice(array.as_binary::<i32>().value(row)),
        DataType::List(_) | DataType::FixedSizeList(_, _) => ndarray(&column.name, array, row, out)?,
        _ => out.extend_from_slice(value::text(array, row)?.as_bytes()),
    }
    Ok(())
}

/// An array of a known type and any shape: `dimensions << 2 | width of the shape's numbers`, the shape, the values.
fn ndarray(column: &str, array: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<()> {
    let list = numbers(column, array, row)?;
    match (u8::try_from(list.len), u16::try_from(list.len)) {
        (Ok(len), _) => out.extend_from_slice(&[1 << 2, len]),
        (_, Ok(len)) => {
            out.push(1 << 2 | 1);
            out.extend_from_slice(&len.to_le_bytes());
        }
        _ => {
            out.push(1 << 2 | 2);
            // Arrow's lists have 32-bit offsets.
            out.extend_from_slice(&(list.len as u32).to_le_bytes());
        }
    }
    out.extend_from_slice(&list.bytes);
    Ok(())
}
