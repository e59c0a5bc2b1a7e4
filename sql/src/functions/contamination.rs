//! What `contamination` asks of texts.
//!
//! - `word_grams(text, n)` → `List<Int64>`: a hash of each different n-gram of words
//! - `ngram_overlap(text, evaluation, n)` → `Struct<overlap: Float64, spans: List<Utf8>>`: the exact share of the
//!   evaluation text's n-grams that stand in the text, and the runs of words that they make up there
//!
//! `n` is a constant.

use std::sync::Arc;

use corpusmill_kernels::contamination::{overlap, word_grams};
use corpusmill_kernels::shingles::Shingler;
use datafusion::arrow::array::{
    Array, ArrayRef, Float64Builder, Int64Builder, ListBuilder, StringArray, StringBuilder, StructArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::text_function::{strings, text_type};

pub(crate) fn grams() -> ScalarUDF {
    Grams::udf("word_grams", 1)
}

pub(crate) fn ngram_overlap() -> ScalarUDF {
    Grams::udf("ngram_overlap", 2)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Grams {
    name: &'static str,
    texts: usize,
    signature: Signature,
}

fn overlap_fields() -> Fields {
    let spans = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    Fields::from(vec![
        Field::new("overlap", DataType::Float64, true),
        Field::new("spans", spans, true),
    ])
}

impl Grams {
    fn udf(name: &'static str, texts: usize) -> ScalarUDF {
        ScalarUDF::new_from_impl(Grams {
            name,
            texts,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    }
}

impl ScalarUDFImpl for Grams {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.texts {
            1 => DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true))),
            _ => DataType::Struct(overlap_fields()),
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.len() != self.texts + 1 {
            return plan_err!(
                "{} takes {} and the number of words of an n-gram",
                self.name,
                ["a text", "two texts"][self.texts - 1]
            );
        }
        let mut coerced = types[..self.texts]
            .iter()
            .map(|data_type| text_type(self.name, data_type))
            .collect::<Result<Vec<_>>>()?;
        coerced.push(DataType::Int64);
        Ok(coerced)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let n = match args.args.last() {
            Some(ColumnarValue::Scalar(ScalarValue::Int64(Some(n)))) => usize::try_from(*n).unwrap_or(0),
            _ => 0,
        };
        if n == 0 {
            return exec_err!("the number of words of {} is a constant from 1 on", self.name);
        }
        let texts = args.args[..self.texts]
            .iter()
            .map(|value| strings(&value.to_array(args.number_rows)?))
            .collect::<Result<Vec<StringArray>>>()?;
        Ok(ColumnarValue::Array(match texts.as_slice() {
            [text] => gram_lists(text, n),
            [text, evaluation] => overlaps(text, evaluation, n)?,
            _ => return exec_err!("{} was given a wrong number of texts", self.name),
        }))
    }
}

fn gram_lists(texts: &StringArray, n: usize) -> ArrayRef {
    let mut shingler = Shingler::new(word_grams(n));
    let mut lists = ListBuilder::new(Int64Builder::new());
    for text in texts {
        shingler.read(text.unwrap_or_default());
        shingler.make_sets();
        let grams = shingler.words().unwrap_or_default();
        grams.iter().for_each(|gram| lists.values().append_value(*gram as i64));
        lists.append(text.is_some());
    }
    Arc::new(lists.finish())
}

fn overlaps(texts: &StringArray, evaluations: &StringArray, n: usize) -> Result<ArrayRef> {
    let mut shares = Float64Builder::with_capacity(texts.len());
    let mut spans = ListBuilder::new(StringBuilder::new());
    let mut valid = Vec::with_capacity(texts.len());
    for pair in texts.iter().zip(evaluations) {
        let found = match pair {
            (Some(text), Some(evaluation)) => Some(overlap(text, evaluation, n)),
            _ => None,
        };
        valid.push(found.is_some());
        shares.append_option(found.as_ref().map(|found| found.share));
        let runs = found.iter().flat_map(|found| &found.spans);
        runs.for_each(|span| spans.values().append_value(span));
        spans.append(found.is_some());
    }
    let columns: Vec<ArrayRef> = vec![Arc::new(shares.finish()), Arc::new(spans.finish())];
    let nulls = Some(NullBuffer::from(valid));
    Ok(Arc::new(StructArray::try_new(overlap_fields(), columns, nulls)?))
}
