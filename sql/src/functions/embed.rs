//! `embed('model', text)` → `FixedSizeList<Float32>`.
//!
//! As registered it knows no model. While a statement is planned it gives the type of the model that is named; after
//! planning, `bind.rs` puts the function that carries the model in its place, and that becomes the operator `Predict`.

use std::sync::Arc;

use corpusmill_operators::{ModelFunction, ModelTask, model_values_type};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::text_function::text_type;
use crate::models::{self, Model};

/// Its name in SQL.
pub(crate) const NAME: &str = ModelFunction::NAME;

pub(crate) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(UnboundEmbed {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

/// The function without a model.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct UnboundEmbed {
    signature: Signature,
}

impl UnboundEmbed {
    /// Looks through the engine's wrapper.
    pub(crate) fn is(function: &ScalarUDF) -> bool {
        (function.inner().as_ref() as &dyn std::any::Any).is::<UnboundEmbed>()
    }
}

/// The model that a call names by its first argument.
pub(crate) fn model_of(name: Option<&ScalarValue>) -> Result<Arc<Model>> {
    let name = match name {
        Some(
            ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name)) | ScalarValue::LargeUtf8(Some(name)),
        ) => name,
        _ => return plan_err!("the first argument of embed is the name of a model in quotes: embed('model', text)"),
    };
    match models::named(name) {
        Some(model) if model.spec.source.task == ModelTask::Embedding => Ok(model),
        Some(_) => plan_err!(
            "model {name} is a classifier: use ML_PREDICT(TABLE t, MODEL {name}, DESCRIPTOR(column)) for its labels"
        ),
        None => plan_err!("embed names the model '{name}' where names are not looked up; call it in a query"),
    }
}

impl ScalarUDFImpl for UnboundEmbed {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("the type of embed depends on its model")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let model = model_of(args.scalar_arguments.first().copied().flatten())?;
        let values = model_values_type(model.spec.width);
        Ok(Arc::new(Field::new(NAME, values, true)))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [name, text] => Ok(vec![text_type(NAME, name)?, text_type(NAME, text)?]),
            _ => plan_err!("embed takes two arguments: embed('name of a model', text)"),
        }
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("embed was run without its model; plan the statement through the session")
    }
}
