//! `embed` with the model that it computes with.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, FixedSizeListArray, Float32Array, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::cast::as_string_array;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::encoder::{Encoded, ModelSpec, encoders};
use crate::{OperatorError, Predict};

/// `embed('name', text)`: the values of a model for a text, `FixedSizeList<Float32>`, `NULL` for `NULL`.
///
/// The name is only for those who read the plan. In a projection it becomes the operator [`Predict`]; elsewhere it computes batch by batch, and the thread waits.
#[derive(Debug, Clone)]
pub struct ModelFunction {
    spec: Arc<ModelSpec>,
    signature: Signature,
}

impl ModelFunction {
    /// Its name.
    pub const NAME: &'static str = "embed";

    /// The function of a model.
    #[must_use]
    pub fn udf(spec: Arc<ModelSpec>) -> ScalarUDF {
        ScalarUDF::new_from_impl(Self {
            spec,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    }

    /// Looks through the engine's wrapper.
    #[must_use]
    pub fn of(function: &ScalarUDF) -> Option<&Self> {
        (function.inner().as_ref() as &dyn std::any::Any).downcast_ref()
    }

    /// The model.
    #[must_use]
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }
}

/// The type of a model's values.
#[must_use]
pub fn model_values_type(width: usize) -> DataType {
    DataType::FixedSizeList(Arc::new(item()), i32::try_from(width).unwrap_or(i32::MAX))
}

fn item() -> Field {
    Field::new_list_field(DataType::Float32, false)
}

/// Puts the values of some texts into an array; `NULL` where the text is.
pub(crate) fn values_array(spec: &ModelSpec, texts: &StringArray, encoded: Encoded) -> Result<ArrayRef> {
    let DataType::FixedSizeList(field, width) = model_values_type(spec.width) else {
        return plan_err!("a model's values are a list");
    };
    let values = Arc::new(Float32Array::from(encoded.values));
    Ok(Arc::new(FixedSizeListArray::try_new(
        field,
        width,
        values,
        texts.nulls().cloned(),
    )?))
}

/// A text column of any of the engine's string types.
pub(crate) fn text_array(column: &ArrayRef) -> Result<StringArray> {
    match column.data_type() {
        DataType::Utf8 => Ok(as_string_array(column)?.clone()),
        _ => Ok(as_string_array(&cast(column, &DataType::Utf8)?)?.clone()),
    }
}

impl PartialEq for ModelFunction {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}

impl Eq for ModelFunction {}

impl Hash for ModelFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.spec.digest.hash(state);
    }
}

impl ScalarUDFImpl for ModelFunction {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(model_values_type(self.spec.width))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [
                _,
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null,
            ] => Ok(vec![DataType::Utf8, DataType::Utf8]),
            [_, other] => plan_err!("embed takes a text, found {other}"),
            _ => plan_err!("embed takes two arguments: embed('name of a model', text)"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [_, input] = args.args.as_slice() else {
            return plan_err!("embed takes two arguments: embed('name of a model', text)");
        };
        let texts = match input {
            ColumnarValue::Array(column) => text_array(column)?,
            ColumnarValue::Scalar(text) => text_array(&text.to_array_of_size(1)?)?,
        };
        let spec = &self.spec;
        let run = async {
            let encoder = encoders()?
                .open(spec)
                .await
                .map_err(|e| OperatorError::model(spec, e))?;
            encoder
                .encode(texts.clone())
                .await
                .map_err(|e| OperatorError::model(spec, e))
        };
        let values = values_array(spec, &texts, Predict::wait(run)?)?;
        match input {
            ColumnarValue::Array(_) => Ok(ColumnarValue::Array(values)),
            ColumnarValue::Scalar(_) => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?)),
        }
    }
}
