//! `jaccard(a, b)`: size of the intersection over size of the union.
//!
//! For two lists: of their distinct items. For two texts: of their distinct words, which are runs of letters and
//! digits in lower case. `Float64` from 0 to 1; two empty sides are 1, a NULL side gives NULL (Jaccard 1912).

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Float64Array, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::cast::as_list_array;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::text_function::strings;

pub(crate) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(Jaccard {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Jaccard {
    signature: Signature,
}

impl ScalarUDFImpl for Jaccard {
    fn name(&self) -> &str {
        "jaccard"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [a, b] = types else {
            return plan_err!("jaccard takes two arguments: two texts, or two lists");
        };
        match (item_type(a), item_type(b)) {
            (None, None) if is_text(a) && is_text(b) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            (Some(item), Some(_)) | (Some(item), None) | (None, Some(item))
                if *a == DataType::Null
                    || *b == DataType::Null
                    || (item_type(a).is_some() && item_type(b).is_some()) =>
            {
                let list = DataType::List(Arc::new(Field::new_list_field(item, true)));
                Ok(vec![list.clone(), list])
            }
            _ => plan_err!("jaccard takes two texts, or two lists, found {a} and {b}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [a, b] = arrays.as_slice() else {
            return plan_err!("jaccard takes two arguments");
        };
        let result = if matches!(a.data_type(), DataType::List(_)) {
            of_lists(a, b, rows)?
        } else {
            of_texts(&strings(a)?, &strings(b)?, rows)
        };
        if constant {
            let value = result.iter().next().flatten();
            return Ok(ColumnarValue::Scalar(ScalarValue::Float64(value)));
        }
        Ok(ColumnarValue::Array(Arc::new(result)))
    }
}

fn is_text(data_type: &DataType) -> bool {
    data_type.is_string() || *data_type == DataType::Null
}

fn item_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _) => Some(field.data_type().clone()),
        _ => None,
    }
}

fn share<T: Ord>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> f64 {
    let common = a.intersection(b).count();
    let all = a.len() + b.len() - common;
    if all == 0 {
        return 1.0;
    }
    common as f64 / all as f64
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

fn of_texts(a: &StringArray, b: &StringArray, rows: usize) -> Float64Array {
    (0..rows)
        .map(|row| (a.is_valid(row) && b.is_valid(row)).then(|| share(&words(a.value(row)), &words(b.value(row)))))
        .collect()
}

fn of_lists(a: &ArrayRef, b: &ArrayRef, rows: usize) -> Result<Float64Array> {
    let (a, b) = (as_list_array(a)?, as_list_array(b)?);
    let item = a.values().data_type().clone();
    let b_values = cast(b.values(), &item)?;
    let converter = RowConverter::new(vec![SortField::new(item)])?;
    let a_rows = converter.convert_columns(&[Arc::clone(a.values())])?;
    let b_rows = converter.convert_columns(&[b_values])?;
    let set = |list: &datafusion::arrow::array::ListArray, row: usize| {
        let offsets = list.value_offsets();
        let from = usize::try_from(offsets[row]).unwrap_or_default();
        let to = usize::try_from(offsets[row + 1]).unwrap_or_default();
        from..to
    };
    Ok((0..rows)
        .map(|row| {
            (a.is_valid(row) && b.is_valid(row)).then(|| {
                let a_set: BTreeSet<_> = set(a, row).map(|i| a_rows.row(i)).collect();
                let b_set: BTreeSet<_> = set(b, row).map(|i| b_rows.row(i)).collect();
                share(&a_set, &b_set)
            })
        })
        .collect())
}
