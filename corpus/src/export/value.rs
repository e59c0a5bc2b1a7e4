//! Values of a row as JSON, as text, and lists of numbers as bytes.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::*;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Value};

use crate::error::{CorpusError, Result};

/// Formats dates and times by ISO 8601, decimals in full.
pub(super) fn text(array: &dyn Array, row: usize) -> Result<String> {
    let printing = || CorpusError::arrow(format!("printing a value of type {}", array.data_type()));
    if let DataType::Timestamp(unit, Some(_)) = array.data_type() {
        // Names of zones need a database; the offset of UTC does not.
        let target = DataType::Timestamp(*unit, Some("+00:00".into()));
        let one = arrow::compute::cast(&array.slice(row, 1), &target).map_err(printing())?;
        let formatted = ArrayFormatter::try_new(&one, &FormatOptions::default());
        return formatted.and_then(|f| f.value(0).try_to_string()).map_err(printing());
    }
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::default());
    let formatted = formatter.and_then(|f| f.value(row).try_to_string());
    formatted.map_err(printing())
}

/// Gives a value as JSON: NaN and infinities as null, decimals, dates and times as text, bytes as lists of numbers.
pub(super) fn json(array: &ArrayRef, row: usize) -> Result<Value> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let items = |values: ArrayRef| (0..values.len()).map(|i| json(&values, i)).collect::<Result<Vec<_>>>();
    Ok(match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        // The shortest text that reads back as the same single: widening would print digits that are not there.
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            value.to_string().parse::<f64>().map_or(Value::Null, Into::into)
        }
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).into(),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::Binary => array
            .as_binary::<i32>()
            .value(row)
            .iter()
            .map(|b| Value::from(*b))
            .collect(),
        DataType::List(_) => Value::Array(items(array.as_list::<i32>().value(row))?),
        DataType::FixedSizeList(_, _) => Value::Array(items(array.as_fixed_size_list().value(row))?),
        DataType::Struct(fields) => {
            let parts = array.as_struct();
            let part = |(i, f): (usize, &FieldRef)| Ok((f.name().clone(), json(parts.column(i), row)?));
            Value::Object(fields.iter().enumerate().map(part).collect::<Result<Map<_, _>>>()?)
        }
        DataType::Map(_, _) => {
            let entries = array.as_map().value(row);
            let entry = |i| {
                let key = match json(entries.column(0), i)? {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                Ok((key, json(entries.column(1), i)?))
            };
            Value::Object((0..entries.len()).map(entry).collect::<Result<Map<_, _>>>()?)
        }
        _ => Value::String(text(array, row)?),
    })
}

/// A list of numbers: numpy's name of their type, and their bytes, little-endian.
pub(super) struct Numbers {
    pub(super) bytes: Vec<u8>,
    pub(super) len: usize,
}

/// numpy's name of the type of a list's elements, if they are numbers.
pub(super) fn number_type(data_type: &DataType) -> Option<&'static str> {
    let (DataType::List(item) | DataType::FixedSizeList(item, _)) = data_type else {
        return None;
    };
    Some(match item.data_type() {
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        _ => return None,
    })
}

/// Gives a list of numbers of a row (empty for NULL).
///
/// # Errors
/// [`CorpusError::Column`] if an element is NULL.
pub(super) fn numbers(column: &str, array: &ArrayRef, row: usize) -> Result<Numbers> {
    if array.is_null(row) {
        return Ok(Numbers {
            bytes: Vec::new(),
            len: 0,
        });
    }
    let values = match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().value(row),
        _ => array.as_fixed_size_list().value(row),
    };
    if values.null_count() > 0 {
        let detail = "has a NULL inside a list, which this format cannot hold; replace it in the query";
        return Err(CorpusError::column(column, detail));
    }
    fn bytes<T: ArrowPrimitiveType>(values: &ArrayRef) -> Vec<u8> {
        let values: &ScalarBuffer<T::Native> = values.as_primitive::<T>().values();
        values.inner().as_slice().to_vec()
    }
    let bytes = match values.data_type() {
        DataType::Int8 => bytes::<Int8Type>(&values),
        DataType::Int16 => bytes::<Int16Type>(&values),
        DataType::Int32 => bytes::<Int32Type>(&values),
        DataType::Int64 => bytes::<Int64Type>(&values),
        DataType::Float32 => bytes::<Float32Type>(&values),
        DataType::Float64 => bytes::<Float64Type>(&values),
        other => {
            return Err(CorpusError::column(
                column,
                format!("is a list of {other}, not of numbers"),
            ));
        }
    };
    Ok(Numbers {
        bytes,
        len: values.len(),
    })
}
