//! The canonical encoding of values, version 1: one value, one byte string, whatever Arrow array it sits in.
//!
//! Keys are hashed and rows are digested over it, so it never changes; a change is a new version with its own golden
//! file. All numbers are little-endian. A value is a tag byte and a body:
//!
//! | tag | value | body |
//! |---|---|---|
//! | `00` | NULL | nothing |
//! | `01` | boolean | 1 byte, 0 or 1 |
//! | `02` | integer of any width, up to `i64::MAX` | `i64` |
//! | `03` | unsigned integer above `i64::MAX` | `u64` |
//! | `04` | float of any width | bits of the `f64`; `-0.0` as `0.0`, every NaN as `7ff8000000000000` |
//! | `05` | decimal of any width | `i8` scale, then the unscaled value in 32 bytes, two's complement |
//! | `06` | text or binary, any layout | `u64` length, the bytes |
//! | `07` | date | `i64` milliseconds since 1970-01-01 |
//! | `08` | time of day | `i64` nanoseconds |
//! | `09` | timestamp with a time zone (an instant: the zone's name has no part in it) | `i128` nanoseconds since 1970-01-01 UTC |
//! | `0a` | timestamp without a time zone | `i128` nanoseconds |
//! | `0b` | duration | `i128` nanoseconds |
//! | `0c` | list of any layout | `u64` length, then each element as a value |
//! | `0d` | list of numbers without NULL in it | kind (`01` signed, `02` unsigned, `04` float), bytes per element, `u64` length, the elements packed (floats canonicalised as above) |
//! | `0e` | struct | `u32` number of fields that are not NULL, then each as name id and value |
//! | `0f` | map | `u64` number of entries, then key and value of each, entries sorted by their encoded bytes |
//!
//! A *row* is, for each column that is not NULL in it, in the order of the schema: the column's *name id*
//! (`xxh3_64` of the UTF-8 name, 8 bytes) and the value. NULL columns leave no trace, so adding a nullable column
//! does not change the digest of older rows.
//! A *key* is the values of the key columns one after another, without names (NULL as `00`).

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, GenericListArray, MapArray, OffsetSizeTrait,
    PrimitiveArray, StructArray,
};
use arrow::compute::cast;
use arrow::datatypes::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{CorpusError, Result};

const _: () = assert!(
    cfg!(target_endian = "little"),
    "packed lists are copied from memory as they are"
);

/// Appends the canonical encoding of one row of an array to a buffer.
pub(crate) type Encoder = Box<dyn Fn(usize, &mut Vec<u8>) + Send + Sync>;

const NULL: u8 = 0x00;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const UNSIGNED: u8 = 0x03;
const FLOAT: u8 = 0x04;
const DECIMAL: u8 = 0x05;
const BYTES: u8 = 0x06;
const DATE: u8 = 0x07;
const TIME: u8 = 0x08;
const INSTANT: u8 = 0x09;
const LOCAL: u8 = 0x0a;
const DURATION: u8 = 0x0b;
const LIST: u8 = 0x0c;
const PACKED: u8 = 0x0d;
const STRUCT: u8 = 0x0e;
const MAP: u8 = 0x0f;

const SIGNED_ELEMENTS: u8 = 0x01;
const UNSIGNED_ELEMENTS: u8 = 0x02;
const FLOAT_ELEMENTS: u8 = 0x04;

/// The eight bytes that stand for a column's name in a row.
pub(crate) fn name_id(name: &str) -> [u8; 8] {
    xxh3_64(name.as_bytes()).to_le_bytes()
}

/// Builds the encoder of an array; `column` names it in errors.
pub(crate) fn encoder(column: &str, array: &ArrayRef) -> Result<Encoder> {
    let array = plain(column, array)?;
    let body = body_encoder(column, &array)?;
    Ok(match array.nulls().filter(|n| n.null_count() > 0).cloned() {
        None => body,
        Some(nulls) => Box::new(move |row, out| {
            if nulls.is_null(row) {
                out.push(NULL)
            } else {
                body(row, out)
            }
        }),
    })
}

/// Undoes dictionaries, run ends and list views, which are layouts and not values.
fn plain(column: &str, array: &ArrayRef) -> Result<ArrayRef> {
    let target = match array.data_type() {
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        DataType::RunEndEncoded(_, value) => value.data_type().clone(),
        DataType::ListView(item) => DataType::List(item.clone()),
        DataType::LargeListView(item) => DataType::LargeList(item.clone()),
        _ => return Ok(array.clone()),
    };
    cast(array, &target).map_err(CorpusError::arrow(format!(
        "column `{column}`: unpacking {}",
        array.data_type()
    )))
}

fn tagged(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(body);
}

fn float_bits(value: f64) -> u64 {
    if value.is_nan() {
        0x7ff8_0000_0000_0000
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.push(BYTES);
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value);
}

fn primitive<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    put: impl Fn(T::Native, &mut Vec<u8>) + Send + Sync + 'static,
) -> Encoder {
    let array: PrimitiveArray<T> = array.as_primitive::<T>().clone();
    Box::new(move |row, out| put(array.values()[row], out))
}

fn integer<T: ArrowPrimitiveType>(array: &ArrayRef) -> Encoder
where
    T::Native: Into<i64>,
{
    primitive::<T>(array, |v, out| tagged(out, INTEGER, &v.into().to_le_bytes()))
}

fn scaled<T: ArrowPrimitiveType>(array: &ArrayRef, tag: u8, nanoseconds: i128) -> Encoder
where
    T::Native: Into<i64>,
{
    primitive::<T>(array, move |v, out| {
        let value = i128::from(v.into()) * nanoseconds;
        if tag == TIME {
            // A time of day fits: 86,400 s are 8.64e13 ns. Values outside a day are wrapped, not refused.
            tagged(out, tag, &(value as i64).to_le_bytes());
        } else {
            tagged(out, tag, &value.to_le_bytes());
        }
    })
}

fn decimal<T: ArrowPrimitiveType>(array: &ArrayRef, scale: i8) -> Encoder
where
    T::Native: Into<arrow::datatypes::i256>,
{
    primitive::<T>(array, move |v, out| {
        out.push(DECIMAL);
        out.push(scale as u8);
        out.extend_from_slice(&v.into().to_le_bytes());
    })
}

fn nanoseconds(unit: &TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

/// The encoder for rows that are not NULL.
fn body_encoder(column: &str, array: &ArrayRef) -> Result<Encoder> {
    use DataType::*;
    Ok(match array.data_type() {
        Null => Box::new(|_, out| out.push(NULL)),
        Boolean => {
            let values: BooleanArray = array.as_boolean().clone();
            Box::new(move |row, out| tagged(out, BOOLEAN, &[u8::from(values.value(row))]))
        }
        Int8 => integer::<Int8Type>(array),
        Int16 => integer::<Int16Type>(array),
        Int32 => integer::<Int32Type>(array),
        Int64 => integer::<Int64Type>(array),
        UInt8 => integer::<UInt8Type>(array),
        UInt16 => integer::<UInt16Type>(array),
        UInt32 => integer::<UInt32Type>(array),
        UInt64 => primitive::<UInt64Type>(array, |v, out| {
            tagged(
                out,
                if i64::try_from(v).is_ok() { INTEGER } else { UNSIGNED },
                &v.to_le_bytes(),
            )
        }),
        Float16 => primitive::<Float16Type>(array, |v, out| {
            tagged(out, FLOAT, &float_bits(v.to_f64()).to_le_bytes())
        }),
        Float32 => primitive::<Float32Type>(array, |v, out| {
            tagged(out, FLOAT, &float_bits(f64::from(v)).to_le_bytes())
        }),
        Float64 => primitive::<Float64Type>(array, |v, out| tagged(out, FLOAT, &float_bits(v).to_le_bytes())),
        Decimal32(_, scale) => decimal::<Decimal32Type>(array, *scale),
        Decimal64(_, scale) => decimal::<Decimal64Type>(array, *scale),
        Decimal128(_, scale) => decimal::<Decimal128Type>(array, *scale),
        Decimal256(_, scale) => decimal::<Decimal256Type>(array, *scale),
        Date32 => primitive::<Date32Type>(array, |v, out| {
            tagged(out, DATE, &(i64::from(v) * 86_400_000).to_le_bytes())
        }),
        Date64 => primitive::<Date64Type>(array, |v, out| tagged(out, DATE, &v.to_le_bytes())),
        Time32(TimeUnit::Second) => scaled::<Time32SecondType>(array, TIME, 1_000_000_000),
        Time32(_) => scaled::<Time32MillisecondType>(array, TIME, 1_000_000),
        Time64(TimeUnit::Microsecond) => scaled::<Time64MicrosecondType>(array, TIME, 1_000),
        Time64(_) => scaled::<Time64NanosecondType>(array, TIME, 1),
        Timestamp(unit, zone) => timestamp(array, unit, if zone.is_some() { INSTANT } else { LOCAL }),
        Duration(unit) => duration(array, unit),
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => text(array),
        List(_) => list(column, array.as_list::<i32>())?,
        LargeList(_) => list(column, array.as_list::<i64>())?,
        FixedSizeList(_, size) => {
            let size = *size as usize;
            let inner = array.as_fixed_size_list().clone();
            let values = inner.values().clone();
            elements(column, &values, move |row| (inner.value_offset(row) as usize, size))?
        }
        Struct(_) => structure(column, array.as_struct())?,
        Map(_, _) => map(column, array.as_map())?,
        other => {
            return Err(CorpusError::column(
                column,
                format!("values of type {other} have no canonical encoding; CAST the column to VARCHAR or to a number"),
            ));
        }
    })
}

fn timestamp(array: &ArrayRef, unit: &TimeUnit, tag: u8) -> Encoder {
    let scale = nanoseconds(unit);
    match unit {
        TimeUnit::Second => scaled::<TimestampSecondType>(array, tag, scale),
        TimeUnit::Millisecond => scaled::<TimestampMillisecondType>(array, tag, scale),
        TimeUnit::Microsecond => scaled::<TimestampMicrosecondType>(array, tag, scale),
        TimeUnit::Nanosecond => scaled::<TimestampNanosecondType>(array, tag, scale),
    }
}

fn duration(array: &ArrayRef, unit: &TimeUnit) -> Encoder {
    let scale = nanoseconds(unit);
    match unit {
        TimeUnit::Second => scaled::<DurationSecondType>(array, DURATION, scale),
        TimeUnit::Millisecond => scaled::<DurationMillisecondType>(array, DURATION, scale),
        TimeUnit::Microsecond => scaled::<DurationMicrosecondType>(array, DURATION, scale),
        TimeUnit::Nanosecond => scaled::<DurationNanosecondType>(array, DURATION, scale),
    }
}

fn text(array: &ArrayRef) -> Encoder {
    macro_rules! over {
        ($array:expr) => {{
            let values = $array.clone();
            Box::new(move |row: usize, out: &mut Vec<u8>| bytes(out, values.value(row).as_ref()))
        }};
    }
    match array.data_type() {
        DataType::Utf8 => over!(array.as_string::<i32>()),
        DataType::LargeUtf8 => over!(array.as_string::<i64>()),
        DataType::Utf8View => over!(array.as_string_view()),
        DataType::Binary => over!(array.as_binary::<i32>()),
        DataType::LargeBinary => over!(array.as_binary::<i64>()),
        DataType::BinaryView => over!(array.as_binary_view()),
        _ => over!(array.as_fixed_size_binary()),
    }
}

fn list<O: OffsetSizeTrait>(column: &str, array: &GenericListArray<O>) -> Result<Encoder> {
    let offsets = array.offsets().clone();
    elements(column, array.values(), move |row| {
        let start = offsets[row].as_usize();
        (start, offsets[row + 1].as_usize() - start)
    })
}

/// Lists of every layout: `range` gives the first element and the number of elements of a row.
fn elements(
    column: &str,
    values: &ArrayRef,
    range: impl Fn(usize) -> (usize, usize) + Send + Sync + 'static,
) -> Result<Encoder> {
    let values = plain(column, values)?;
    let item = encoder(column, &values)?;
    let packed = packed(&values);
    let nulls = values.nulls().filter(|n| n.null_count() > 0).cloned();
    Ok(Box::new(move |row, out| {
        let (start, len) = range(row);
        let has_null = nulls.as_ref().is_some_and(|n| n.slice(start, len).null_count() > 0);
        match &packed {
            Some((kind, width, put)) if !has_null => {
                out.extend_from_slice(&[PACKED, *kind, *width]);
                out.extend_from_slice(&(len as u64).to_le_bytes());
                put(start, len, out);
            }
            _ => {
                tagged(out, LIST, &(len as u64).to_le_bytes());
                (start..start + len).for_each(|i| item(i, out));
            }
        }
    }))
}

/// Appends a range of elements without tags.
type PackedElements = Box<dyn Fn(usize, usize, &mut Vec<u8>) + Send + Sync>;

/// Kind, element width and copier of arrays whose elements are numbers.
fn packed(values: &ArrayRef) -> Option<(u8, u8, PackedElements)> {
    macro_rules! copied {
        ($kind:expr, $type:ty) => {{
            let values = values.as_primitive::<$type>().values().clone();
            let width = size_of::<<$type as ArrowPrimitiveType>::Native>() as u8;
            let put: PackedElements =
                Box::new(move |start, len, out| out.extend_from_slice(values[start..start + len].to_byte_slice()));
            Some(($kind, width, put))
        }};
    }
    match values.data_type() {
        DataType::Int8 => copied!(SIGNED_ELEMENTS, Int8Type),
        DataType::Int16 => copied!(SIGNED_ELEMENTS, Int16Type),
        DataType::Int32 => copied!(SIGNED_ELEMENTS, Int32Type),
        DataType::Int64 => copied!(SIGNED_ELEMENTS, Int64Type),
        DataType::UInt8 => copied!(UNSIGNED_ELEMENTS, UInt8Type),
        DataType::UInt16 => copied!(UNSIGNED_ELEMENTS, UInt16Type),
        DataType::UInt32 => copied!(UNSIGNED_ELEMENTS, UInt32Type),
        DataType::UInt64 => copied!(UNSIGNED_ELEMENTS, UInt64Type),
        DataType::Float32 => {
            let values = values.as_primitive::<Float32Type>().values().clone();
            Some((
                FLOAT_ELEMENTS,
                4,
                Box::new(move |start, len, out| {
                    for v in &values[start..start + len] {
                        let bits = if v.is_nan() {
                            0x7fc0_0000
                        } else if *v == 0.0 {
                            0
                        } else {
                            v.to_bits()
                        };
                        out.extend_from_slice(&bits.to_le_bytes());
                    }
                }),
            ))
        }
        DataType::Float64 => {
            let values = values.as_primitive::<Float64Type>().values().clone();
            Some((
                FLOAT_ELEMENTS,
                8,
                Box::new(move |start, len, out| {
                    values[start..start + len]
                        .iter()
                        .for_each(|v| out.extend_from_slice(&float_bits(*v).to_le_bytes()));
                }),
            ))
        }
        _ => None,
    }
}

fn structure(column: &str, array: &StructArray) -> Result<Encoder> {
    let fields = array
        .fields()
        .iter()
        .zip(array.columns())
        .map(|(field, values)| {
            let place = format!("{column}.{}", field.name());
            Ok((name_id(field.name()), values.logical_nulls(), encoder(&place, values)?))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Box::new(move |row, out| {
        let count_at = out.len() + 1;
        tagged(out, STRUCT, &0u32.to_le_bytes());
        let mut count = 0u32;
        for (id, nulls, encode) in &fields {
            if nulls.as_ref().is_none_or(|n| n.is_valid(row)) {
                count += 1;
                out.extend_from_slice(id);
                encode(row, out);
            }
        }
        out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
    }))
}

fn map(column: &str, array: &MapArray) -> Result<Encoder> {
    let keys = encoder(&format!("{column}.key"), array.keys())?;
    let values = encoder(&format!("{column}.value"), array.values())?;
    let offsets = Arc::new(array.offsets().clone());
    Ok(Box::new(move |row, out| {
        let range = offsets[row] as usize..offsets[row + 1] as usize;
        let mut entries: Vec<Vec<u8>> = range
            .map(|i| {
                let mut entry = Vec::new();
                keys(i, &mut entry);
                values(i, &mut entry);
                entry
            })
            .collect();
        entries.sort_unstable();
        tagged(out, MAP, &(entries.len() as u64).to_le_bytes());
        entries.iter().for_each(|entry| out.extend_from_slice(entry));
    }))
}
