//! What `substring_duplicates` is made of.
//!
//! - `text_windows(text, length)` → `List<Struct<start: Int32, end: Int32, hash: FixedSizeBinary(16)>>`: every `length`
//!   characters in a row, with their place in bytes;
//! - `merged_spans(start, end)` → `List<Struct<start: Int32, end: Int32>>`: an aggregate, the spans that windows cover;
//! - `spans_share(spans, text)` → `Float64`: the share of the text's bytes in them.

use std::sync::Arc;

use corpusmill_kernels::windows::{merged, windows};
use datafusion::arrow::array::{
    Array, ArrayBuilder as _, ArrayRef, FixedSizeBinaryBuilder, Float64Array, Int32Array, Int32Builder, ListArray,
    StructArray,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::cast::{as_int32_array, as_list_array, as_struct_array};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

use super::text_function::{strings, text_type};

/// Longest text in bytes, and all windows of one batch: places have 32 bits.
const BYTES_MAX: usize = i32::MAX as usize;

pub(crate) fn of_text() -> ScalarUDF {
    Windows::udf(What::OfText)
}

pub(crate) fn share() -> ScalarUDF {
    Windows::udf(What::Share)
}

pub(crate) fn merged_spans() -> AggregateUDF {
    AggregateUDF::new_from_impl(MergedSpans {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

fn span_fields() -> Vec<Field> {
    ["start", "end"]
        .map(|name| Field::new(name, DataType::Int32, false))
        .to_vec()
}

fn window_fields() -> Fields {
    let mut fields = span_fields();
    fields.push(Field::new("hash", DataType::FixedSizeBinary(16), false));
    fields.into()
}

fn item(fields: Fields) -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(fields), true))
}

pub(crate) fn spans_type() -> DataType {
    DataType::List(item(span_fields().into()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    OfText,
    Share,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Windows {
    what: What,
    signature: Signature,
}

impl Windows {
    fn udf(what: What) -> ScalarUDF {
        ScalarUDF::new_from_impl(Windows {
            what,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    }
}

impl ScalarUDFImpl for Windows {
    fn name(&self) -> &str {
        match self.what {
            What::OfText => "text_windows",
            What::Share => "spans_share",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(match self.what {
            What::OfText => DataType::List(item(window_fields())),
            What::Share => DataType::Float64,
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match (self.what, types) {
            (What::OfText, [text, _]) => Ok(vec![text_type(self.name(), text)?, DataType::Int64]),
            (What::Share, [_, text]) => Ok(vec![spans_type(), text_type(self.name(), text)?]),
            _ => plan_err!("{} takes two arguments", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let result: ArrayRef = match (self.what, args.args.as_slice()) {
            (What::OfText, [text, ColumnarValue::Scalar(ScalarValue::Int64(Some(length)))]) if *length > 0 => {
                Arc::new(all_windows(&strings(&text.to_array(rows)?)?, *length as usize)?)
            }
            (What::OfText, _) => return plan_err!("the length of text_windows is a constant above 0"),
            (What::Share, [spans, text]) => {
                let texts = strings(&text.to_array(rows)?)?;
                Arc::new(shares(as_list_array(&spans.to_array(rows)?)?, &texts)?)
            }
            (What::Share, _) => return plan_err!("spans_share takes spans and a text"),
        };
        Ok(ColumnarValue::Array(result))
    }
}

fn all_windows(texts: &datafusion::arrow::array::StringArray, length: usize) -> Result<ListArray> {
    let (mut starts, mut ends) = (Int32Builder::new(), Int32Builder::new());
    let mut hashes = FixedSizeBinaryBuilder::new(16);
    let mut lengths = Vec::with_capacity(texts.len());
    for text in texts {
        let before = starts.len();
        for window in windows(text.unwrap_or_default(), length) {
            // A text of the engine is shorter than 2 GiB.
            starts.append_value(window.start as i32);
            ends.append_value(window.end as i32);
            hashes.append_value(window.hash.to_be_bytes())?;
        }
        lengths.push(starts.len() - before);
        if starts.len() > BYTES_MAX {
            return exec_err!(
                "the texts of one batch are too long: SET datafusion.execution.batch_size = 256 or leave long texts out"
            );
        }
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(starts.finish()),
        Arc::new(ends.finish()),
        Arc::new(hashes.finish()),
    ];
    let items = StructArray::try_new(window_fields(), columns, None)?;
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(ListArray::try_new(
        item(window_fields()),
        offsets,
        Arc::new(items),
        None,
    )?)
}

/// The places of a list of spans.
fn places(list: &ArrayRef) -> Result<Vec<(i32, i32)>> {
    let spans = as_struct_array(list)?;
    let (starts, ends) = (as_int32_array(spans.column(0))?, as_int32_array(spans.column(1))?);
    Ok(starts
        .values()
        .iter()
        .copied()
        .zip(ends.values().iter().copied())
        .collect())
}

fn shares(spans: &ListArray, texts: &datafusion::arrow::array::StringArray) -> Result<Float64Array> {
    let share = |(list, text): (Option<ArrayRef>, Option<&str>)| match (list, text) {
        (_, None) => Ok(None),
        (None, Some(_)) => Ok(Some(0.0)),
        (Some(list), Some(text)) => {
            let covered: i64 = places(&list)?.iter().map(|(start, end)| i64::from(end - start)).sum();
            Ok(Some(covered as f64 / text.len().max(1) as f64))
        }
    };
    spans.iter().zip(texts).map(share).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MergedSpans {
    signature: Signature,
}

impl AggregateUDFImpl for MergedSpans {
    fn name(&self) -> &str {
        "merged_spans"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(spans_type())
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [_, _] => Ok(vec![DataType::Int32; 2]),
            _ => plan_err!("merged_spans takes a start and an end"),
        }
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Spans::default()))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = format!("{}[spans]", args.name);
        Ok(vec![Arc::new(Field::new(name, spans_type(), true))])
    }
}

#[derive(Debug, Default)]
struct Spans {
    spans: Vec<(i32, i32)>,
    /// Spans that there were when they were merged last.
    merged: usize,
}

impl Spans {
    fn add(&mut self, spans: impl IntoIterator<Item = (i32, i32)>) {
        self.spans.extend(spans);
        // The windows of a text overlap: merged now and then they stay few.
        if self.spans.len() > 2 * self.merged + 64 {
            self.spans = merged(std::mem::take(&mut self.spans));
            self.merged = self.spans.len();
        }
    }

    fn list(&mut self) -> Result<ScalarValue> {
        self.spans = merged(std::mem::take(&mut self.spans));
        let column = |of: fn(&(i32, i32)) -> i32| -> ArrayRef {
            Arc::new(Int32Array::from_iter_values(self.spans.iter().map(of)))
        };
        let fields: Fields = span_fields().into();
        let items = StructArray::try_new(fields.clone(), vec![column(|span| span.0), column(|span| span.1)], None)?;
        let offsets = OffsetBuffer::from_lengths([items.len()]);
        let list = ListArray::try_new(item(fields), offsets, Arc::new(items), None)?;
        Ok(ScalarValue::List(Arc::new(list)))
    }
}

impl Accumulator for Spans {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (starts, ends) = (as_int32_array(&values[0])?, as_int32_array(&values[1])?);
        self.add(starts.iter().zip(ends).filter_map(|(start, end)| Some((start?, end?))));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for list in as_list_array(&states[0])?.iter().flatten() {
            self.add(places(&list)?);
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.list()?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.list()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.spans.capacity() * size_of::<(i32, i32)>()
    }
}
