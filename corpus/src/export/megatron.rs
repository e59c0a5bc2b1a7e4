//! Megatron-LM's indexed data set (`megatron/core/datasets/indexed_dataset.py`), a document per row, `int32`.
//!
//! ```text
//! PREFIX.bin:  the tokens of all documents, i32, one after another
//! PREFIX.idx:  "MMIDIDX\0\0" │ u64 version 1 │ u8 type 4 (int32) │ u64 sequences S │ u64 document marks D = S + 1
//!              i32 × S lengths │ i64 × S offsets in PREFIX.bin, bytes │ i64 × D first sequence of each document
//! ```

use arrow::array::{Array, AsArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Int32Type, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::{FormatWriter, Output};
use crate::error::{CorpusError, Result};

const INT32: u8 = 4;

pub(super) struct Megatron {
    column: String,
    prefix: String,
    lengths: Vec<i32>,
}

impl Megatron {
    pub(super) fn new(schema: &SchemaRef, prefix: &str) -> Result<Self> {
        let column = schema.fields().first().map(|f| f.name().clone()).unwrap_or_default();
        if prefix.is_empty() {
            return Err(CorpusError::argument(
                "export to",
                "/",
                "name the prefix of the .bin and .idx files",
            ));
        }
        Ok(Self {
            column,
            prefix: prefix.to_owned(),
            lengths: Vec::new(),
        })
    }

    fn index(&self) -> Vec<u8> {
        let sequences = self.lengths.len() as u64;
        let mut out = b"MMIDIDX\0\0".to_vec();
        out.extend_from_slice(&1u64.to_le_bytes());
        out.push(INT32);
        out.extend_from_slice(&sequences.to_le_bytes());
        out.extend_from_slice(&(sequences + 1).to_le_bytes());
        self.lengths
            .iter()
            .for_each(|l| out.extend_from_slice(&l.to_le_bytes()));
        let mut offset = 0i64;
        for length in &self.lengths {
            out.extend_from_slice(&offset.to_le_bytes());
            offset += i64::from(*length) * 4;
        }
        (0..=sequences).for_each(|s| out.extend_from_slice(&s.to_le_bytes()));
        out
    }
}

impl FormatWriter for Megatron {
    fn write(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let failed = |detail: String| CorpusError::column(&self.column, detail);
        let lists = batch
            .column(0)
            .as_list_opt::<i32>()
            .ok_or_else(|| failed("is not a list".to_owned()))?;
        let options = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let tokens = cast_with_options(lists.values(), &DataType::Int32, &options)
            .map_err(|e| failed(format!("has tokens that are no int32, as Megatron's files hold: {e}")))?;
        let tokens = tokens.as_primitive::<Int32Type>();
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        for row in 0..lists.len() {
            let range = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
            if lists.is_null(row) || range.is_empty() {
                output.empty += 1;
                continue;
            }
            if tokens.slice(range.start, range.len()).null_count() > 0 {
                return Err(failed(
                    "has a NULL among its tokens; leave such rows out of the corpus".to_owned(),
                ));
            }
            // Offsets are 32 bits wide, and so is a length.
            self.lengths.push(range.len() as i32);
            tokens.values()[range]
                .iter()
                .for_each(|t| bytes.extend_from_slice(&t.to_le_bytes()));
        }
        output.append(&format!("{}.bin", self.prefix), bytes);
        Ok(())
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        output.close(&format!("{}.bin", self.prefix), Vec::new());
        output.close(&format!("{}.idx", self.prefix), self.index());
        Ok(())
    }
}
