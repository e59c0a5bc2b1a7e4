//! A batch as bytes: a worker writes it into one slot, a trainer uses it where it lies.
//!
//! ```text
//!  header (JSON, beside the body): version, step, layout, notes, and of each section its name, dtype, shape and place
//!  body: input_ids │ fields made ahead │ documents (eight vectors) │ further columns (Arrow IPC stream)
//!        every section begins at a multiple of 64 bytes
//! ```
//! Arrays of a decoded batch are views of the body; only the vectors of documents, about 33 bytes each, are copied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{Field, Schema};
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use serde::{Deserialize, Serialize};

use crate::assemble::{Documents, Layout};
use crate::batch::{BatchData, BatchShape};
use crate::error::{BatchError, Result};
use crate::values::{Dtype, SlabPool, Values};

/// Version of the header.
const VERSION: u32 = 1;
/// Sections begin at multiples of it: what Arrow and vector instructions like.
const ALIGNMENT: usize = 64;
/// The field that is no derived one.
const INPUT_IDS: &str = "input_ids";

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    step: u64,
    rows: usize,
    width: usize,
    fields: Vec<Section>,
    documents: Vec<Section>,
    /// First byte and length of the further columns.
    columns: Option<(usize, usize)>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Section {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    at: usize,
}

/// A batch that is ready to be written into a slot.
#[derive(Debug)]
pub struct EncodedBatch {
    header: Vec<u8>,
    parts: Vec<(usize, Buffer)>,
    bytes: usize,
}

impl EncodedBatch {
    /// Lays a batch out: everything that was made of it so far.
    ///
    /// # Errors
    /// Arrow's, for columns that have no IPC form.
    pub fn of(batch: &BatchData) -> Result<Self> {
        let mut parts = Parts::default();
        let made = batch.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fields = Vec::with_capacity(made.len() + 1);
        let named = batch.input_ids.iter().map(|v| (INPUT_IDS, v));
        for (name, values) in named.chain(made.iter().map(|(name, v)| (name.as_str(), v))) {
            fields.push(parts.section(name, values.dtype(), values.shape(), values.buffer().clone()));
        }
        drop(made);
        let documents = batch.documents.sections(&mut parts);
        let columns = match batch.columns.is_empty() {
            true => None,
            false => Some(parts.push(columns_to_ipc(batch)?)),
        };
        let header = Header {
            version: VERSION,
            step: batch.step,
            rows: batch.layout.rows,
            width: batch.layout.width,
            fields,
            documents,
            columns,
            notes: batch.notes.clone(),
        };
        let header = serde_json::to_vec(&header).map_err(|e| wire(format!("the header: {e}")))?;
        Ok(Self {
            header,
            parts: parts.parts,
            bytes: parts.end,
        })
    }

    /// Bytes of the body.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the body is read by.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Writes the body into the first [`EncodedBatch::bytes`] of `slot`. Bytes between sections become 0.
    ///
    /// # Errors
    /// When the slot is smaller.
    pub fn write(&self, slot: &mut [u8]) -> Result<()> {
        let room = slot.len();
        let body = slot
            .get_mut(..self.bytes)
            .ok_or_else(|| wire(format!("it has {} bytes, the slot {room}", self.bytes)))?;
        let mut filled = 0;
        for (at, part) in &self.parts {
            body[filled..*at].fill(0);
            body[*at..at + part.len()].copy_from_slice(part);
            filled = at + part.len();
        }
        body[filled..].fill(0);
        Ok(())
    }
}

#[derive(Default)]
struct Parts {
    parts: Vec<(usize, Buffer)>,
    end: usize,
}

impl Parts {
    /// First byte and length of a part.
    fn push(&mut self, data: Buffer) -> (usize, usize) {
        let at = self.end.next_multiple_of(ALIGNMENT);
        let length = data.len();
        self.end = at + length;
        self.parts.push((at, data));
        (at, length)
    }

    fn section(&mut self, name: &str, dtype: Dtype, shape: Vec<usize>, data: Buffer) -> Section {
        let (at, _) = self.push(data);
        Section {
            name: name.to_owned(),
            dtype,
            shape,
            at,
        }
    }
}

impl Documents {
    fn sections(&self, parts: &mut Parts) -> Vec<Section> {
        let ints = [
            ("pack", &self.pack),
            ("number", &self.number),
            ("start", &self.start),
            ("length", &self.length),
            ("offset", &self.offset),
            ("source", &self.source),
        ];
        let rows = vec![self.len()];
        let mut sections: Vec<Section> = ints
            .into_iter()
            .map(|(name, items)| parts.section(name, Dtype::I32, rows.clone(), Buffer::from_slice_ref(items)))
            .collect();
        sections.push(parts.section("slot", Dtype::I64, rows.clone(), Buffer::from_slice_ref(&self.slot)));
        sections.push(parts.section("delivered", Dtype::U8, rows, Buffer::from_slice_ref(&self.delivered)));
        sections
    }

    /// Reads the vectors, and checks that every document lies inside the layout.
    fn read(sections: &[Section], body: &Buffer, layout: Layout) -> Result<Self> {
        let one = |name: &str, dtype: Dtype| {
            let found = sections.iter().find(|s| s.name == name && s.dtype == dtype);
            let found = found.ok_or_else(|| wire(format!("the documents have no `{name}`")))?;
            found.view(body).map(|v| v.buffer().clone())
        };
        let ints = |name: &str| Ok::<_, BatchError>(one(name, Dtype::I32)?.typed_data::<i32>().to_vec());
        let docs = Self {
            pack: ints("pack")?,
            number: ints("number")?,
            start: ints("start")?,
            length: ints("length")?,
            offset: ints("offset")?,
            source: ints("source")?,
            slot: one("slot", Dtype::I64)?.typed_data::<i64>().to_vec(),
            delivered: one("delivered", Dtype::U8)?.to_vec(),
        };
        let count = docs.pack.len();
        let counts = [&docs.number, &docs.start, &docs.length, &docs.offset, &docs.source].map(Vec::len);
        if counts != [count; 5] || docs.slot.len() != count || docs.delivered.len() != count {
            return Err(wire("the vectors of documents differ in length"));
        }
        let (rows, width) = (layout.rows as i64, layout.width as i64);
        let mut end = 0;
        for doc in 0..count {
            let (pack, start, length) = (docs.pack[doc], docs.start[doc], docs.length[doc]);
            let at = i64::from(pack) * width + i64::from(start);
            let fits = pack >= 0 && start >= 0 && length >= 0 && i64::from(pack) < rows;
            if !fits || i64::from(start) + i64::from(length) > width.max(0) && width > 0 || at < end {
                return Err(wire(format!("document {doc} lies outside its pack")));
            }
            end = if width > 0 { at + i64::from(length) } else { 0 };
        }
        Ok(docs)
    }
}

impl Section {
    /// The section as a view of the body.
    fn view(&self, body: &Buffer) -> Result<Arc<Values>> {
        let outside = || wire(format!("`{}` lies outside the body", self.name));
        let elements = self.shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis));
        let length = elements
            .and_then(|n| n.checked_mul(self.dtype.bytes()))
            .ok_or_else(outside)?;
        let end = self.at.checked_add(length).filter(|end| *end <= body.len());
        if end.is_none() || !self.at.is_multiple_of(ALIGNMENT) {
            return Err(outside());
        }
        let data = body.slice_with_length(self.at, length);
        Ok(Values::new(self.dtype, &self.shape, data, None))
    }
}

impl BatchData {
    /// Reads a batch of `shape` out of a body; its arrays are views of `body`, whose memory is 64-byte aligned.
    /// Fields that are not in it are derived when they are asked for, in memory from `pool`.
    ///
    /// # Errors
    /// Wire, when the bytes are not such a batch.
    pub fn decode(shape: &Arc<BatchShape>, header: &[u8], body: Buffer, pool: &Arc<SlabPool>) -> Result<Self> {
        let header: Header = serde_json::from_slice(header).map_err(|e| wire(format!("the header: {e}")))?;
        if header.version != VERSION {
            return Err(wire(format!("it has version {}, this is {VERSION}", header.version)));
        }
        let layout = Layout {
            rows: header.rows,
            width: header.width,
        };
        let documents = Documents::read(&header.documents, &body, layout)?;
        let known = shape.fields();
        let mut made = HashMap::new();
        let mut input_ids = None;
        for section in &header.fields {
            let values = section.view(&body)?;
            if section.name == INPUT_IDS {
                if values.shape() != [layout.rows, layout.width] {
                    return Err(wire("input_ids are not of the layout"));
                }
                input_ids = Some(values);
            } else if known.contains(&section.name) {
                made.insert(section.name.clone(), values);
            }
        }
        if input_ids.is_some() != shape.tokens {
            return Err(wire(
                "token ids are there and not in the plan, or in the plan and not there",
            ));
        }
        let columns = match header.columns {
            None => Vec::new(),
            Some((at, length)) => {
                let end = at.checked_add(length).filter(|end| *end <= body.len());
                end.ok_or_else(|| wire("the columns lie outside the body"))?;
                let ipc = body.slice_with_length(at, length);
                // Arrow's reader panics on types that it does not know, and bytes from a wire must not end a trainer.
                let read = std::panic::catch_unwind(|| columns_of_ipc(ipc));
                read.map_err(|_| wire("its columns are no Arrow IPC"))??
                    .columns()
                    .to_vec()
            }
        };
        if columns.len() != shape.columns.len() || columns.iter().any(|c| c.len() != documents.len()) {
            return Err(wire("the columns are not those of the plan"));
        }
        Ok(Self {
            shape: shape.clone(),
            step: header.step,
            layout,
            documents,
            input_ids,
            columns,
            notes: header.notes,
            pool: pool.clone(),
            made: Mutex::new(made),
        })
    }
}

fn columns_to_ipc(batch: &BatchData) -> Result<Buffer> {
    let failed = || BatchError::arrow("the columns of a batch as Arrow IPC");
    let named = batch.shape.columns.iter().zip(&batch.columns);
    let fields: Vec<Field> = named
        .map(|(name, array)| Field::new(name, array.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let rows = RecordBatch::try_new(schema.clone(), batch.columns.clone()).map_err(failed())?;
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, arrow_ipc::MetadataVersion::V5).map_err(failed())?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options).map_err(failed())?;
    writer.write(&rows).map_err(failed())?;
    let bytes = writer.into_inner().map_err(failed())?;
    Ok(Buffer::from_vec(bytes))
}

fn columns_of_ipc(mut bytes: Buffer) -> Result<RecordBatch> {
    let failed = || BatchError::arrow("the columns of a batch from a worker");
    let mut decoder = StreamDecoder::new();
    while !bytes.is_empty() {
        if let Some(rows) = decoder.decode(&mut bytes).map_err(failed())? {
            return Ok(rows);
        }
    }
    Err(wire("it has no columns where its header says so"))
}

fn wire(what: impl Into<String>) -> BatchError {
    BatchError::Wire(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use std::collections::BTreeMap;

    fn batch() -> BatchData {
        let pool = SlabPool::new(4);
        let shape = BatchShape {
            tokens: true,
            sequence_length: Some(4),
            wide_ids: false,
            columns: vec!["label".into(), "text".into()],
            fill: BTreeMap::new(),
        };
        let documents = Documents {
            pack: vec![0, 0, 1],
            number: vec![0, 1, 0],
            start: vec![0, 1, 0],
            length: vec![1, 3, 2],
            offset: vec![0, 0, 5],
            source: vec![0, 0, 1],
            slot: vec![7, 8, 9],
            delivered: vec![1, 0, 1],
        };
        let labels: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("längere")]));
        let ids = Values::new(
            Dtype::I32,
            &[2, 4],
            Buffer::from_vec(vec![1i32, 2, 3, 4, 5, 6, 0, 0]),
            None,
        );
        BatchData {
            shape: Arc::new(shape),
            step: 41,
            layout: Layout { rows: 2, width: 4 },
            documents,
            input_ids: Some(ids),
            columns: vec![labels, texts],
            notes: vec!["a note".into()],
            pool,
            made: Mutex::default(),
        }
    }

    fn encoded(batch: &BatchData) -> (Vec<u8>, Buffer) {
        let encoded = EncodedBatch::of(batch).unwrap();
        let mut slot = arrow::buffer::MutableBuffer::from_len_zeroed(encoded.bytes() + 100);
        slot.as_slice_mut().fill(0xAA);
        encoded.write(slot.as_slice_mut()).unwrap();
        let body = Buffer::from(slot).slice_with_length(0, encoded.bytes());
        (encoded.header().to_vec(), body)
    }

    #[test]
    fn a_batch_comes_back_as_it_was_without_a_copy() {
        let batch = batch();
        batch.derived("position_ids").unwrap();
        let (header, body) = encoded(&batch);
        let range = body.as_ptr() as usize..body.as_ptr() as usize + body.len();
        let back = BatchData::decode(&batch.shape, &header, body.clone(), &batch.pool).unwrap();
        assert_eq!(
            (back.step, back.layout, back.notes.clone()),
            (41, batch.layout, batch.notes.clone())
        );
        assert_eq!(back.columns, batch.columns);
        for field in batch.shape.fields() {
            let (one, other) = (batch.derived(&field).unwrap(), back.derived(&field).unwrap());
            let bytes = |v: &Option<Arc<Values>>| v.as_ref().map(|v| (v.dtype(), v.shape(), v.buffer().to_vec()));
            assert_eq!(bytes(&one), bytes(&other), "{field}");
        }
        for field in ["input_ids", "position_ids"] {
            let at = back.derived(field).unwrap().unwrap().buffer().as_ptr() as usize;
            assert!(range.contains(&at), "{field} was copied");
        }
        assert_eq!(back.documents_as_arrow().unwrap(), batch.documents_as_arrow().unwrap());
    }

    /// A body of version 1 as it was first written: `header`, then `body` in hexadecimal digits.
    const GOLDEN: &str = include_str!("../tests/golden/batch-v1.txt");

    #[test]
    fn bodies_of_version_1_can_be_read_for_ever() {
        let (header, body) = GOLDEN.trim_end().split_once('\n').unwrap();
        let digits: Vec<u8> = body.bytes().map(|b| (b as char).to_digit(16).unwrap() as u8).collect();
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        let body = Buffer::from_slice_ref(&bytes);
        let batch = batch();
        let back = BatchData::decode(&batch.shape, header.as_bytes(), body, &batch.pool).unwrap();
        assert_eq!((back.step, back.layout, &back.notes), (41, batch.layout, &batch.notes));
        assert_eq!(back.documents_as_arrow().unwrap(), batch.documents_as_arrow().unwrap());
        assert_eq!(back.rows_as_arrow().unwrap(), batch.rows_as_arrow().unwrap());
    }

    #[test]
    fn bytes_that_are_no_batch_are_an_error_and_no_panic() {
        let batch = batch();
        let (header, body) = encoded(&batch);
        let decode = |header: &[u8], body: &Buffer| BatchData::decode(&batch.shape, header, body.clone(), &batch.pool);
        for length in 0..body.len() {
            let short = body.slice_with_length(0, length);
            assert!(decode(&header, &short).is_err(), "{length} bytes of {}", body.len());
        }
        let text = String::from_utf8(header.clone()).unwrap();
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("\"width\":4", "\"width\":3"),
            ("\"rows\":2", "\"rows\":1"),
            ("[2,4]", "[2,4611686018427387904]"),
            ("\"at\":0", "\"at\":18446744073709551615"),
            ("\"at\":0", "\"at\":4"),
            ("\"pack\"", "\"sack\""),
        ] {
            assert!(text.contains(from), "{from} in {text}");
            assert!(
                decode(text.replacen(from, to, 1).as_bytes(), &body).is_err(),
                "{from} -> {to}"
            );
        }
        // Any single byte of the body may be anything: an error or other values, never a panic.
        for at in 0..body.len() {
            let mut bytes = body.to_vec();
            bytes[at] ^= 0xFF;
            if let Ok(batch) = decode(&header, &Buffer::from_slice_ref(&bytes)) {
                for field in batch.shape.fields() {
                    batch.derived(&field).unwrap();
                }
            }
        }
    }
}
