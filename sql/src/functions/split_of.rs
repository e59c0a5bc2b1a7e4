//! `split_of(component, salt, ratios)`: the split that a group falls into, by its hash alone.
//!
//! What `assign_split` is made of. A group keeps its split as long as salt and ratios stay, whatever other groups
//! come and go.

use std::sync::Arc;

use corpusmill_kernels::split::{Ratios, assign};
use datafusion::arrow::array::{Array, UInt64Array};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::cast::as_int64_array;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::text_function::{constant_text, kernel_error};

pub(crate) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(SplitOf {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SplitOf {
    signature: Signature,
}

impl ScalarUDFImpl for SplitOf {
    fn name(&self) -> &str {
        "split_of"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [_, _, _] => Ok(vec![DataType::Int64, DataType::Utf8, DataType::Utf8]),
            _ => plan_err!("split_of takes split_of(group, salt, ratios)"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [group, salt, ratios] = args.args.as_slice() else {
            return plan_err!("split_of takes three arguments");
        };
        let salt = constant_text("split_of", "salt", salt)?;
        let ratios: Ratios = constant_text("split_of", "ratios", ratios)?
            .parse()
            .map_err(kernel_error)?;
        let constant = matches!(group, ColumnarValue::Scalar(_));
        let group = group.clone().into_array(if constant { 1 } else { args.number_rows })?;
        // Ids are 63-bit hashes; as unsigned they keep their bits.
        let group: UInt64Array = as_int64_array(&group)?
            .iter()
            .map(|id| id.map(i64::cast_unsigned))
            .collect();
        let splits = assign(&group, &salt, &ratios);
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(
                splits.is_valid(0).then(|| splits.value(0).to_string()),
            )));
        }
        Ok(ColumnarValue::Array(Arc::new(splits)))
    }
}
