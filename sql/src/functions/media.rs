//! What functions over the bytes of pictures, videos and sound have in common: arguments, results of many bytes.

use corpusmill_kernels::KernelError;
use datafusion::arrow::array::{ArrayRef, BinaryArray, BinaryBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::cast::as_binary_array;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, Signature, Volatility};

use super::text_function::{kernel_error, text_type};

/// A signature of arguments with these names, of which the last ones may be left out.
pub(crate) fn named(names: &[&str]) -> Signature {
    Signature::user_defined(Volatility::Immutable)
        .with_parameter_names(names.to_vec())
        .expect("each argument has a name of its own")
}

/// The types that a call is read with: bytes first, then those of the arguments that are given.
pub(crate) fn coerced(
    function: &str,
    usage: &str,
    given: &[DataType],
    required: usize,
    rest: &[DataType],
) -> Result<Vec<DataType>> {
    match given.split_first() {
        Some((bytes, others))
            if (bytes.is_binary() || bytes.is_null()) && (required..=rest.len()).contains(&others.len()) =>
        {
            let types = rest.iter().zip(others).map(|(wanted, given)| match wanted {
                // A cast of NULL would hide from the planner that it is a constant.
                DataType::Utf8 if given.is_null() => Ok(DataType::Null),
                DataType::Utf8 => text_type(function, given),
                wanted => Ok(wanted.clone()),
            });
            std::iter::once(Ok(DataType::Binary)).chain(types).collect()
        }
        _ => plan_err!("{function} is called as {usage}; bytes are such as read_blob's content"),
    }
}

/// Runs a function over whole columns: once where all arguments are constants.
pub(crate) fn over_columns(
    args: &ScalarFunctionArgs,
    run: impl FnOnce(&[ArrayRef]) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    let constant = args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
    let rows = if constant { 1 } else { args.number_rows };
    let columns = args
        .args
        .iter()
        .map(|value| value.to_array(rows))
        .collect::<Result<Vec<ArrayRef>>>()?;
    let result = run(&columns)?;
    match constant {
        true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)),
        false => Ok(ColumnarValue::Array(result)),
    }
}

/// The first column: files.
pub(crate) fn files(columns: &[ArrayRef]) -> Result<BinaryArray> {
    match columns.first() {
        Some(bytes) => Ok(as_binary_array(&cast(bytes, &DataType::Binary)?)?.clone()),
        None => exec_err!("a function over bytes was given none"),
    }
}

/// A constant number, or what holds when it is left out or NULL.
pub(crate) fn constant_number(
    function: &str,
    argument: &str,
    value: Option<&ColumnarValue>,
    default: f64,
) -> Result<f64> {
    match value {
        None => Ok(default),
        Some(ColumnarValue::Scalar(value)) => match value.cast_to(&DataType::Float64)? {
            ScalarValue::Float64(number) => Ok(number.unwrap_or(default)),
            other => exec_err!("{argument} of {function} is a number, found {other}"),
        },
        Some(ColumnarValue::Array(_)) => exec_err!("{argument} of {function} is a constant number"),
    }
}

/// Builds a column of files, as long as their bytes fit one.
pub(crate) struct Files {
    function: &'static str,
    rows: usize,
    bytes: usize,
    files: BinaryBuilder,
}

impl Files {
    pub(crate) fn new(function: &'static str, rows: usize) -> Files {
        Files {
            function,
            rows,
            bytes: 0,
            files: BinaryBuilder::new(),
        }
    }

    pub(crate) fn push(&mut self, file: Option<&[u8]>) -> Result<()> {
        self.bytes += file.map_or(0, <[u8]>::len);
        if i32::try_from(self.bytes).is_err() {
            return Err(kernel_error(KernelError::TooLarge {
                function: self.function,
                rows: self.rows,
            }));
        }
        self.files.append_option(file);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> BinaryArray {
        self.files.finish()
    }
}
