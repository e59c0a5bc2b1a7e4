//! What functions over one text column have in common: coercion of string types, constant options, errors.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use corpusmill_kernels::KernelError;
use datafusion::arrow::array::{Array, ArrayRef, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::cast::as_string_array;
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Computes a column from a text column and constant options.
pub(crate) type TextKernel = fn(&StringArray, &[&str]) -> Result<ArrayRef>;

/// The type of a function's result, given its options.
pub(crate) type TextType = fn(&[&str]) -> Result<DataType>;

/// A function `name(text, option, …)` whose options are constant strings.
#[derive(Debug, Clone)]
pub(crate) struct TextFunction {
    name: &'static str,
    signature: Signature,
    /// Names of the options with the value that holds when they are left out; `None` where they must be given.
    options: &'static [(&'static str, Option<&'static str>)],
    returns: TextType,
    kernel: TextKernel,
}

impl TextFunction {
    pub(crate) fn new(
        name: &'static str,
        options: &'static [(&'static str, Option<&'static str>)],
        returns: TextType,
        kernel: TextKernel,
    ) -> TextFunction {
        TextFunction {
            name,
            signature: Signature::user_defined(Volatility::Immutable),
            options,
            returns,
            kernel,
        }
    }

    pub(crate) fn into_udf(self) -> ScalarUDF {
        ScalarUDF::new_from_impl(self)
    }

    /// The options given, then the defaults of the others.
    fn options_given<'a>(&self, given: &[&'a str]) -> Result<Vec<&'a str>> {
        let mut options = given.to_vec();
        for (_, default) in self.options.iter().skip(given.len()) {
            match default {
                Some(default) => options.push(default),
                None => return plan_err!("{} takes {}", self.name, self.usage()),
            }
        }
        Ok(options)
    }

    fn usage(&self) -> String {
        let options: Vec<String> = self
            .options
            .iter()
            .map(|(name, default)| match default {
                Some(default) => format!("[, {name} = '{default}']"),
                None => format!(", {name}"),
            })
            .collect();
        format!("{}(text{})", self.name, options.concat())
    }
}

/// Functions are known by name: a session has one of each.
impl PartialEq for TextFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for TextFunction {}

impl Hash for TextFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for TextFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        (self.returns)(&self.options_given(&[])?)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let mut given = Vec::new();
        for ((option, _), value) in self.options.iter().zip(args.scalar_arguments.iter().skip(1)) {
            match value {
                Some(value) => given.push(constant_text(
                    self.name,
                    option,
                    &ColumnarValue::Scalar((*value).clone()),
                )?),
                None => return plan_err!("{option} of {} is a constant string in quotes", self.name),
            }
        }
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let data_type = (self.returns)(&self.options_given(&given)?)?;
        Ok(Arc::new(Field::new(self.name, data_type, true)))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.is_empty() || types.len() > 1 + self.options.len() {
            return plan_err!("{} takes {}", self.name, self.usage());
        }
        types.iter().map(|data_type| text_type(self.name, data_type)).collect()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let mut values = args.args.into_iter();
        let Some(text) = values.next() else {
            return plan_err!("{} takes {}", self.name, self.usage());
        };
        let given: Vec<String> = values
            .zip(self.options)
            .map(|(value, (option, _))| constant_text(self.name, option, &value))
            .collect::<Result<_>>()?;
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let options = self.options_given(&given)?;
        let scalar = matches!(text, ColumnarValue::Scalar(_));
        let text = text.into_array(if scalar { 1 } else { rows })?;
        let text = strings(&text)?;
        let result = (self.kernel)(&text, &options)?;
        if scalar {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?))
        } else {
            Ok(ColumnarValue::Array(result))
        }
    }
}

/// The type that a text argument is read as; an error that says what was expected for any other type.
pub(crate) fn text_type(function: &str, data_type: &DataType) -> Result<DataType> {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(data_type.clone()),
        DataType::Null => Ok(DataType::Utf8),
        DataType::Dictionary(_, values) if values.is_string() => Ok(DataType::Utf8),
        other => plan_err!("{function} takes text, found {other}; write CAST(… AS VARCHAR) if that is meant"),
    }
}

/// Any string column as `Utf8`.
pub(crate) fn strings(array: &ArrayRef) -> Result<StringArray> {
    let array: ArrayRef = if *array.data_type() == DataType::Utf8 {
        Arc::clone(array)
    } else {
        cast(array, &DataType::Utf8)?
    };
    Ok(as_string_array(&array)?.clone())
}

/// A constant option as text.
pub(crate) fn constant_text(function: &str, option: &str, value: &ColumnarValue) -> Result<String> {
    match value {
        ColumnarValue::Scalar(
            ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)),
        ) => Ok(text.clone()),
        ColumnarValue::Scalar(ScalarValue::Dictionary(_, inner)) => {
            constant_text(function, option, &ColumnarValue::Scalar(inner.as_ref().clone()))
        }
        ColumnarValue::Array(array) if array.len() == 1 => {
            let text = strings(array)?;
            Ok(text.value(0).to_string())
        }
        _ => exec_err!("{option} of {function} is a constant string in quotes"),
    }
}

/// Carries an error of a kernel through the engine.
pub(crate) fn kernel_error(error: KernelError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
