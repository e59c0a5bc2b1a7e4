//! `content_hash(a, …)`: 128 bits that two rows share exactly when their values are the same.

use std::sync::Arc;

use corpusmill_corpus::value_digests;
use datafusion::arrow::array::{Array as _, ArrayRef, FixedSizeBinaryBuilder, Int64Array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

pub(crate) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(ContentHash::new("content_hash", Width::Bits128))
}

/// `content_id(a, …)` → `Int64`: the first 63 bits of the hash, as a cluster id; never negative.
pub(crate) fn content_id() -> ScalarUDF {
    ScalarUDF::new_from_impl(ContentHash::new("content_id", Width::Bits63))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Width {
    Bits128,
    Bits63,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ContentHash {
    name: &'static str,
    width: Width,
    signature: Signature,
}

impl ContentHash {
    fn new(name: &'static str, width: Width) -> Self {
        ContentHash {
            name,
            width,
            signature: Signature::variadic_any(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for ContentHash {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        if types.is_empty() {
            return plan_err!("{} takes one or more columns", self.name);
        }
        Ok(match self.width {
            Width::Bits128 => DataType::FixedSizeBinary(16),
            Width::Bits63 => DataType::Int64,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let columns: Vec<ArrayRef> = args
            .args
            .into_iter()
            .map(|value| value.into_array(rows))
            .collect::<Result<_>>()?;
        let hashes = hashes(&columns, rows)?;
        let result: ArrayRef = match self.width {
            Width::Bits128 => {
                let mut bytes = FixedSizeBinaryBuilder::with_capacity(rows, 16);
                for hash in hashes {
                    match hash {
                        Some(hash) => bytes.append_value(hash.to_be_bytes())?,
                        None => bytes.append_null(),
                    }
                }
                Arc::new(bytes.finish())
            }
            Width::Bits63 => Arc::new(hashes.map(|hash| hash.map(first_63_bits)).collect::<Int64Array>()),
        };
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// The digest of each row; `None` where every column is NULL.
fn hashes(columns: &[ArrayRef], rows: usize) -> Result<impl Iterator<Item = Option<u128>>> {
    let digests = value_digests(columns).map_err(|error| DataFusionError::External(Box::new(error)))?;
    let nulls: Vec<Option<NullBuffer>> = columns.iter().map(|column| column.logical_nulls()).collect();
    let all_null = move |row: usize| nulls.iter().all(|n| n.as_ref().is_some_and(|n| n.is_null(row)));
    Ok((0..rows)
        .zip(digests)
        .map(move |(row, digest)| (!all_null(row)).then_some(digest)))
}

fn first_63_bits(hash: u128) -> i64 {
    // 63 bits are never too many.
    (hash >> 65) as i64
}
