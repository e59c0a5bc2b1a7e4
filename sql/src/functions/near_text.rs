//! What `near_duplicates` asks of a text: the bands that it is found by, and its similarity to another.
//!
//! - `near_bands(text, unit, ngram, bands, rows)` → `List<Struct<band: Int64, sketch: FixedSizeBinary(16)>>`
//! - `shingle_similarity(a, b [, unit [, ngram]])` → `Float64`: the exact Jaccard similarity of the sets of shingles
//! - `minhash(text [, unit [, ngram [, bands [, rows]]]])` → `FixedSizeList<UInt32>`
//!
//! All but the texts are constants; a NULL stands for what is usual.

use std::sync::Arc;

use corpusmill_kernels::minhash::{MinHash, band_list_type};
use corpusmill_kernels::shingles::{ShingleOptions, ShingleUnit, Shingler};
use datafusion::arrow::array::{Array, ArrayRef, Float64Array, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::text_function::{kernel_error, strings, text_type};

pub(crate) fn bands() -> ScalarUDF {
    NearText::udf(What::Bands)
}

pub(crate) fn similarity() -> ScalarUDF {
    NearText::udf(What::Similarity)
}

pub(crate) fn minhash() -> ScalarUDF {
    NearText::udf(What::Signature)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Bands,
    Similarity,
    Signature,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NearText {
    what: What,
    signature: Signature,
}

impl NearText {
    fn udf(what: What) -> ScalarUDF {
        ScalarUDF::new_from_impl(NearText {
            what,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    }

    fn texts(&self) -> usize {
        if self.what == What::Similarity { 2 } else { 1 }
    }

    fn usage(&self) -> &'static str {
        match self.what {
            What::Bands => "near_bands(text, unit, ngram, bands, rows)",
            What::Similarity => "shingle_similarity(a, b [, unit [, ngram]])",
            What::Signature => "minhash(text [, unit [, ngram [, bands [, rows]]]])",
        }
    }

    fn result_type(&self, options: &Options) -> Result<DataType> {
        Ok(match self.what {
            What::Bands => band_list_type(),
            What::Similarity => DataType::Float64,
            What::Signature => {
                let item = Arc::new(Field::new_list_field(DataType::UInt32, false));
                DataType::FixedSizeList(item, options.family()?.permutations() as i32)
            }
        })
    }
}

/// The constants of a call.
#[derive(Default)]
struct Options {
    unit: Option<String>,
    ngram: Option<i64>,
    bands: Option<i64>,
    rows: Option<i64>,
}

impl Options {
    fn read<'a>(values: impl Iterator<Item = Option<&'a ScalarValue>>, usage: &str) -> Result<Options> {
        let mut options = Options::default();
        for (place, value) in values.enumerate() {
            let Some(value) = value else {
                return plan_err!("all but the texts are constants in {usage}");
            };
            let slot = match place {
                0 => {
                    options.unit = value.try_as_str().flatten().map(str::to_owned);
                    continue;
                }
                1 => &mut options.ngram,
                2 => &mut options.bands,
                _ => &mut options.rows,
            };
            *slot = match value.cast_to(&DataType::Int64)? {
                ScalarValue::Int64(number) => number,
                _ => None,
            };
        }
        Ok(options)
    }

    fn shingles(&self) -> Result<ShingleOptions> {
        let unit: ShingleUnit = self.unit.as_deref().unwrap_or("auto").parse().map_err(kernel_error)?;
        ShingleOptions::new(unit, self.ngram).map_err(kernel_error)
    }

    fn family(&self) -> Result<MinHash> {
        let count = |value: Option<i64>, usual: usize| value.map_or(usual, |n| usize::try_from(n).unwrap_or(0));
        MinHash::new(count(self.bands, 20), count(self.rows, 5)).map_err(kernel_error)
    }
}

impl ScalarUDFImpl for NearText {
    fn name(&self) -> &str {
        match self.what {
            What::Bands => "near_bands",
            What::Similarity => "shingle_similarity",
            What::Signature => "minhash",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        self.result_type(&Options::default())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let constants = args.scalar_arguments.iter().skip(self.texts()).copied();
        let options = Options::read(constants, self.usage())?;
        options.shingles()?;
        Ok(Arc::new(Field::new(self.name(), self.result_type(&options)?, true)))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let most = match self.what {
            What::Similarity => 4,
            _ => 5,
        };
        if types.len() < self.texts() || types.len() > most {
            return plan_err!("{} takes {}", self.name(), self.usage());
        }
        let of = |(place, given): (usize, &DataType)| {
            if place < self.texts() {
                text_type(self.name(), given)
            } else if place == self.texts() {
                Ok(DataType::Utf8)
            } else {
                Ok(DataType::Int64)
            }
        };
        types.iter().enumerate().map(of).collect()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (texts, constants) = args.args.split_at(self.texts().min(args.args.len()));
        let constants = constants.iter().map(|value| match value {
            ColumnarValue::Scalar(scalar) => Some(scalar),
            ColumnarValue::Array(_) => None,
        });
        let options = Options::read(constants, self.usage())?;
        let constant = texts.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let texts: Vec<StringArray> = texts
            .iter()
            .map(|value| strings(&value.to_array(rows)?))
            .collect::<Result<_>>()?;
        let shingles = options.shingles()?;
        let result: ArrayRef = match (self.what, texts.as_slice()) {
            (What::Bands, [text]) => Arc::new(options.family()?.band_lists(text, shingles).map_err(kernel_error)?),
            (What::Signature, [text]) => Arc::new(options.family()?.signatures(text, shingles).map_err(kernel_error)?),
            (What::Similarity, [a, b]) => Arc::new(similarities(a, b, shingles)),
            _ => return exec_err!("{} takes {}", self.name(), self.usage()),
        };
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// Similarities of the texts of each row; 1 for equal texts, NULL where one is NULL.
fn similarities(a: &StringArray, b: &StringArray, options: ShingleOptions) -> Float64Array {
    let (mut left, mut right) = (Shingler::new(options), Shingler::new(options));
    let mut last: Option<&str> = None;
    (0..a.len())
        .map(|row| {
            if a.is_null(row) || b.is_null(row) {
                return None;
            }
            if a.value(row) == b.value(row) {
                return Some(1.0);
            }
            // Representatives come many times in a row.
            if last != Some(b.value(row)) {
                right.read(b.value(row));
                right.make_sets();
                last = Some(b.value(row));
            }
            left.read(a.value(row));
            left.make_sets();
            Some(left.similarity(&right))
        })
        .collect()
}
