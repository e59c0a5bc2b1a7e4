//! Columns beyond tokens: gathers the values of a batch's rows out of decoded blocks.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, PrimitiveArray, make_array, new_null_array,
};
use arrow::buffer::{Buffer, MutableBuffer, NullBuffer};
use arrow::compute::interleave;
use arrow::datatypes::{ArrowNativeType, ArrowPrimitiveType, DataType};
use arrow::downcast_primitive_array;

use crate::blocks::DecodedBlock;
use crate::error::{BatchError, Result};
use crate::values::{Dtype, Values};

use super::RowPlace;

/// Gathers column `number` of the plan's columns: one value a row, NULL for rows that are masked.
///
/// # Errors
/// Arrow's, naming the column.
pub(crate) fn gather(
    name: &str,
    data_type: &DataType,
    number: usize,
    places: &[RowPlace],
    blocks: &[Option<Arc<DecodedBlock>>],
) -> Result<ArrayRef> {
    let arrays: Vec<Option<&ArrayRef>> = blocks.iter().map(|b| b.as_ref().map(|b| &b.columns[number])).collect();
    if let DataType::FixedSizeList(_, width) = data_type
        && let Some(rows) = fixed_size_rows(data_type, *width, places, &arrays)
    {
        return Ok(rows);
    }
    // Masked rows are taken from an array of one NULL behind the blocks' arrays.
    let null = new_null_array(data_type, 1);
    let mut sources: Vec<&dyn Array> = arrays.iter().map(|a| a.map_or(null.as_ref(), |a| a.as_ref())).collect();
    sources.push(null.as_ref());
    let masked = (sources.len() - 1, 0);
    let indices: Vec<(usize, usize)> = places
        .iter()
        .map(|p| match p.block {
            Some(b) if arrays[b as usize].is_some() => (b as usize, p.row as usize),
            _ => masked,
        })
        .collect();
    if indices.is_empty() {
        return Ok(new_null_array(data_type, 0));
    }
    interleave(&sources, &indices).map_err(BatchError::arrow(format!("column `{name}`")))
}

/// Copies rows of fixed-size lists of numbers (embeddings) as runs of bytes; `None` where that does not apply.
fn fixed_size_rows(
    data_type: &DataType,
    width: i32,
    places: &[RowPlace],
    arrays: &[Option<&ArrayRef>],
) -> Option<ArrayRef> {
    let DataType::FixedSizeList(field, _) = data_type else {
        return None;
    };
    let item = Dtype::of(field.data_type()).filter(|d| *d != Dtype::Bool)?;
    let row_bytes = usize::try_from(width).ok()? * item.bytes();
    let mut sources = Vec::with_capacity(arrays.len());
    for array in arrays {
        let list = array.map(|a| a.as_fixed_size_list());
        if list.is_some_and(|l| l.values().null_count() > 0) {
            return None;
        }
        sources.push(match list {
            Some(list) => {
                let bytes = Values::of_array(list.values())?.buffer().clone();
                Some((list, bytes))
            }
            None => None,
        });
    }
    let mut out = MutableBuffer::from_len_zeroed(places.len() * row_bytes);
    let mut valid = Vec::with_capacity(places.len());
    for (place, to) in places.iter().zip(out.as_slice_mut().chunks_exact_mut(row_bytes.max(1))) {
        let source = place.block.and_then(|b| sources[b as usize].as_ref());
        let row = place.row as usize;
        match source {
            Some((list, bytes)) if list.is_valid(row) => {
                to.copy_from_slice(&bytes[row * row_bytes..(row + 1) * row_bytes]);
                valid.push(true);
            }
            _ => valid.push(false),
        }
    }
    if row_bytes == 0 {
        return None;
    }
    let child = arrow::array::ArrayData::builder(field.data_type().clone())
        .len(places.len() * width as usize)
        .add_buffer(out.into())
        .build()
        .ok()?;
    let nulls = Some(NullBuffer::from(valid)).filter(|n| n.null_count() > 0);
    FixedSizeListArray::try_new(field.clone(), width, make_array(child), nulls)
        .ok()
        .map(|a| Arc::new(a) as ArrayRef)
}

/// The values of a number column and, where NULLs remain, which are not.
pub struct Numbers {
    /// The values, [rows] or [rows, width].
    pub values: Arc<Values>,
    /// One byte an element, 1 for values; absent when every element is one.
    pub valid: Option<Arc<Values>>,
}

/// Turns a primitive, boolean or fixed-size-list column into numbers.
///
/// NULLs become `fill`, else NaN in float columns. Else those of masked rows become 0, and others are left to the
/// caller as invalid. `None` for a column that is none of these types.
pub fn numbers(array: &ArrayRef, delivered: &[u8], fill: Option<f64>) -> Option<Numbers> {
    let (flat, width) = match array.data_type() {
        DataType::FixedSizeList(_, width) => (
            array.as_fixed_size_list().values().clone(),
            Some(usize::try_from(*width).ok()?),
        ),
        _ => (array.clone(), None),
    };
    let dtype = Dtype::of(flat.data_type())?;
    let rows = array.len();
    let stride = width.unwrap_or(1);
    let shape: Vec<usize> = std::iter::once(rows).chain(width).collect();
    let is_null = |element: usize| flat.is_null(element) || array.is_null(element / stride.max(1));
    if array.null_count() == 0 && flat.null_count() == 0 {
        let values = Values::of_array(&flat)?;
        return Some(Numbers {
            values: Values::new(dtype, &shape, values.buffer().clone(), None),
            valid: None,
        });
    }
    let is_float = matches!(dtype, Dtype::F16 | Dtype::F32 | Dtype::F64);
    let filled_with = fill.or(is_float.then_some(f64::NAN)).unwrap_or(0.0);
    let nulls: Vec<bool> = (0..flat.len()).map(is_null).collect();
    let values = Values::new(dtype, &shape, filled(&flat, &nulls, filled_with)?, None);
    let open = fill.is_none()
        && !is_float
        && nulls
            .iter()
            .enumerate()
            .any(|(i, null)| *null && delivered[i / stride.max(1)] != 0);
    let valid = open.then(|| {
        let flags: Vec<u8> = nulls.iter().map(|null| u8::from(!null)).collect();
        Values::new(Dtype::Bool, &shape, Buffer::from_vec(flags), None)
    });
    Some(Numbers { values, valid })
}

/// Copies the values with `with` in the place of NULLs.
fn filled(flat: &ArrayRef, nulls: &[bool], with: f64) -> Option<Buffer> {
    fn primitive<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>, nulls: &[bool], with: T::Native) -> Buffer {
        let values = array
            .values()
            .iter()
            .zip(nulls)
            .map(|(v, null)| if *null { with } else { *v });
        Buffer::from_vec(values.collect::<Vec<T::Native>>())
    }
    if let Some(flags) = flat.as_boolean_opt() {
        let flags: &BooleanArray = flags;
        let bytes = flags
            .values()
            .iter()
            .zip(nulls)
            .map(|(v, null)| if *null { u8::from(with != 0.0) } else { v.into() });
        return Some(Buffer::from_vec(bytes.collect::<Vec<u8>>()));
    }
    let array = flat.as_ref();
    downcast_primitive_array!(
        array => {
            let with = cast_number(array, with);
            Some(primitive(array, nulls, with))
        },
        _ => None
    )
}

/// Converts the fill value to the column's own type, saturating as Rust's `as` does.
fn cast_number<T: ArrowPrimitiveType>(_: &PrimitiveArray<T>, value: f64) -> T::Native
where
    T::Native: ArrowNativeType,
{
    use arrow::array::Float64Array;
    use arrow::compute::{CastOptions, cast_with_options};
    let one: ArrayRef = Arc::new(Float64Array::from(vec![value]));
    let options = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    // Dates and timestamps are filled by their integers.
    let through = cast_with_options(&one, &DataType::Int64, &options).ok();
    let cast = cast_with_options(&one, &T::DATA_TYPE, &options)
        .ok()
        .or_else(|| through.and_then(|t| cast_with_options(&t, &T::DATA_TYPE, &options).ok()));
    cast.and_then(|c| c.as_primitive_opt::<T>().filter(|c| c.is_valid(0)).map(|c| c.value(0)))
        .unwrap_or_default()
}
