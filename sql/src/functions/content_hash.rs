//! `content_hash(a, …)`: 128 bits that two rows share exactly when their values are the same.

use std::sync::Arc;

use corpusmill_kernels::content_hash;
use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::text_function::kernel_error;

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
        let hashes = content_hash(&columns).map_err(kernel_error)?;
        let result: ArrayRef = match self.width {
            Width::Bits128 => Arc::new(hashes),
            Width::Bits63 => {
                let ids: Int64Array = hashes.iter().map(|hash| hash.map(first_63_bits)).collect();
                Arc::new(ids)
            }
        };
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

fn first_63_bits(hash: &[u8]) -> i64 {
    let number = hash
        .iter()
        .take(8)
        .fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
    i64::try_from(number >> 1).unwrap_or(i64::MAX)
}
