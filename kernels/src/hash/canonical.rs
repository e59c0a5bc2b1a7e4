//! The canonical encoding of one value, whatever array it lies in.

use arrow::array::*;
use arrow::datatypes::*;

use crate::error::{KernelError, Result};

// Tags are part of the hash and never reused.
const NULL: u8 = 0;
const BOOLEAN: u8 = 1;
const INTEGER: u8 = 2;
const LARGE_INTEGER: u8 = 3;
const FLOAT: u8 = 4;
const TEXT: u8 = 5;
const BINARY: u8 = 6;
const DATE: u8 = 7;
const TIMESTAMP: u8 = 8;
const INSTANT: u8 = 9;
const TIME: u8 = 10;
const DURATION: u8 = 11;
const INTERVAL: u8 = 12;
const DECIMAL: u8 = 13;
const LIST: u8 = 14;
const STRUCT: u8 = 15;

const NANOS_A_DAY: i128 = 86_400_000_000_000;

type Write<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

/// Writes the values of one column, one row at a time.
pub(super) struct ColumnEncoder<'a> {
    nulls: Option<arrow::buffer::NullBuffer>,
    write: Write<'a>,
}

impl<'a> ColumnEncoder<'a> {
    /// Prepares a column of any type but unions.
    pub(super) fn new(array: &'a dyn Array) -> Result<Self> {
        Ok(Self {
            nulls: array.logical_nulls(),
            write: writer(array)?,
        })
    }

    /// Appends the encoding of the value in `row`.
    pub(super) fn encode(&self, row: usize, out: &mut Vec<u8>) {
        if self.nulls.as_ref().is_some_and(|n| n.is_null(row)) {
            out.push(NULL);
        } else {
            (self.write)(row, out);
        }
    }
}

fn writer<'a>(array: &'a dyn Array) -> Result<Write<'a>> {
    use DataType as T;
    Ok(match array.data_type() {
        T::Null => Box::new(|_, out| out.push(NULL)),
        T::Boolean => {
            let a = array.as_boolean();
            Box::new(|row, out| out.extend([BOOLEAN, u8::from(a.value(row))]))
        }
        T::Int8 => integer::<Int8Type>(array),
        T::Int16 => integer::<Int16Type>(array),
        T::Int32 => integer::<Int32Type>(array),
        T::Int64 => integer::<Int64Type>(array),
        T::UInt8 => integer::<UInt8Type>(array),
        T::UInt16 => integer::<UInt16Type>(array),
        T::UInt32 => integer::<UInt32Type>(array),
        T::UInt64 => integer::<UInt64Type>(array),
        T::Float16 => float::<Float16Type>(array, |x| x.to_f64()),
        T::Float32 => float::<Float32Type>(array, f64::from),
        T::Float64 => float::<Float64Type>(array, |x| x),
        T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => {
            bytes(array)
        }
        T::Date32 | T::Date64 | T::Timestamp(..) | T::Time32(_) | T::Time64(_) | T::Duration(_) | T::Interval(_) => {
            temporal(array)
        }
        T::Decimal32(_, scale) => decimal::<Decimal32Type>(array, *scale, |x| i256::from_i128(x.into())),
        T::Decimal64(_, scale) => decimal::<Decimal64Type>(array, *scale, |x| i256::from_i128(x.into())),
        T::Decimal128(_, scale) => decimal::<Decimal128Type>(array, *scale, i256::from_i128),
        T::Decimal256(_, scale) => decimal::<Decimal256Type>(array, *scale, |x| x),
        T::List(_) | T::LargeList(_) | T::FixedSizeList(..) | T::ListView(_) | T::LargeListView(_) | T::Map(..) => {
            list(array)?
        }
        T::Struct(_) => structure(array.as_struct())?,
        T::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let values = ColumnEncoder::new(dictionary.values().as_ref())?;
            let keys = dictionary.normalized_keys();
            Box::new(move |row, out| values.encode(keys[row], out))
        }
        T::RunEndEncoded(ends, _) => match ends.data_type() {
            T::Int16 => runs::<Int16Type>(array)?,
            T::Int32 => runs::<Int32Type>(array)?,
            _ => runs::<Int64Type>(array)?,
        },
        T::Union(..) => {
            return Err(KernelError::UnsupportedType {
                function: "content_hash",
                data_type: array.data_type().clone(),
                fix: "cast it to a string or to a struct first",
            });
        }
    })
}

fn integer<'a, P>(array: &'a dyn Array) -> Write<'a>
where
    P: ArrowPrimitiveType,
    P::Native: Into<i128>,
{
    let a = array.as_primitive::<P>();
    Box::new(|row, out| {
        let value: i128 = a.value(row).into();
        match i64::try_from(value) {
            Ok(value) => tagged(out, INTEGER, &value.to_le_bytes()),
            Err(_) => tagged(out, LARGE_INTEGER, &(value as u64).to_le_bytes()),
        }
    })
}

fn float<'a, P: ArrowPrimitiveType>(array: &'a dyn Array, widen: fn(P::Native) -> f64) -> Write<'a> {
    let a = array.as_primitive::<P>();
    Box::new(move |row, out| {
        let value = widen(a.value(row));
        // Adding positive zero turns -0.0 into it, and changes nothing else.
        let canonical = if value.is_nan() { f64::NAN } else { value + 0.0 };
        tagged(out, FLOAT, &canonical.to_bits().to_le_bytes());
    })
}

fn bytes<'a>(array: &'a dyn Array) -> Write<'a> {
    fn with<'a>(tag: u8, value: impl Fn(usize) -> &'a [u8] + 'a) -> Write<'a> {
        Box::new(move |row, out| {
            let value = value(row);
            tagged(out, tag, &(value.len() as u64).to_le_bytes());
            out.extend_from_slice(value);
        })
    }
    match array.data_type() {
        DataType::Utf8 => with(TEXT, |row| array.as_string::<i32>().value(row).as_bytes()),
        DataType::LargeUtf8 => with(TEXT, |row| array.as_string::<i64>().value(row).as_bytes()),
        DataType::Utf8View => with(TEXT, |row| array.as_string_view().value(row).as_bytes()),
        DataType::Binary => with(BINARY, |row| array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => with(BINARY, |row| array.as_binary::<i64>().value(row)),
        DataType::BinaryView => with(BINARY, |row| array.as_binary_view().value(row)),
        _ => with(BINARY, |row| array.as_fixed_size_binary().value(row)),
    }
}

fn temporal<'a>(array: &'a dyn Array) -> Write<'a> {
    fn nanos<'a, P>(array: &'a dyn Array, tag: u8, unit: &TimeUnit) -> Write<'a>
    where
        P: ArrowPrimitiveType,
        P::Native: Into<i64>,
    {
        let a = array.as_primitive::<P>();
        let scale: i128 = match unit {
            TimeUnit::Second => 1_000_000_000,
            TimeUnit::Millisecond => 1_000_000,
            TimeUnit::Microsecond => 1_000,
            TimeUnit::Nanosecond => 1,
        };
        Box::new(move |row, out| {
            let value: i64 = a.value(row).into();
            tagged(out, tag, &(i128::from(value) * scale).to_le_bytes());
        })
    }
    use DataType as T;
    use TimeUnit as U;
    match array.data_type() {
        T::Date32 => {
            let a = array.as_primitive::<Date32Type>();
            Box::new(|row, out| tagged(out, DATE, &(i128::from(a.value(row)) * NANOS_A_DAY).to_le_bytes()))
        }
        T::Date64 => nanos::<Date64Type>(array, DATE, &U::Millisecond),
        T::Timestamp(unit, zone) => {
            let tag = if zone.is_some() { INSTANT } else { TIMESTAMP };
            match unit {
                U::Second => nanos::<TimestampSecondType>(array, tag, unit),
                U::Millisecond => nanos::<TimestampMillisecondType>(array, tag, unit),
                U::Microsecond => nanos::<TimestampMicrosecondType>(array, tag, unit),
                U::Nanosecond => nanos::<TimestampNanosecondType>(array, tag, unit),
            }
        }
        T::Time32(U::Second) => nanos::<Time32SecondType>(array, TIME, &U::Second),
        T::Time32(_) => nanos::<Time32MillisecondType>(array, TIME, &U::Millisecond),
        T::Time64(U::Microsecond) => nanos::<Time64MicrosecondType>(array, TIME, &U::Microsecond),
        T::Time64(_) => nanos::<Time64NanosecondType>(array, TIME, &U::Nanosecond),
        T::Duration(U::Second) => nanos::<DurationSecondType>(array, DURATION, &U::Second),
        T::Duration(U::Millisecond) => nanos::<DurationMillisecondType>(array, DURATION, &U::Millisecond),
        T::Duration(U::Microsecond) => nanos::<DurationMicrosecondType>(array, DURATION, &U::Microsecond),
        T::Duration(U::Nanosecond) => nanos::<DurationNanosecondType>(array, DURATION, &U::Nanosecond),
        _ => interval(array),
    }
}

fn interval<'a>(array: &'a dyn Array) -> Write<'a> {
    fn parts(out: &mut Vec<u8>, months: i32, days: i32, nanos: i64) {
        tagged(out, INTERVAL, &months.to_le_bytes());
        out.extend_from_slice(&days.to_le_bytes());
        out.extend_from_slice(&nanos.to_le_bytes());
    }
    match array.data_type() {
        DataType::Interval(IntervalUnit::YearMonth) => {
            let a = array.as_primitive::<IntervalYearMonthType>();
            Box::new(|row, out| parts(out, a.value(row), 0, 0))
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let a = array.as_primitive::<IntervalDayTimeType>();
            Box::new(|row, out| {
                let v = a.value(row);
                parts(out, 0, v.days, i64::from(v.milliseconds) * 1_000_000);
            })
        }
        _ => {
            let a = array.as_primitive::<IntervalMonthDayNanoType>();
            Box::new(|row, out| {
                let v = a.value(row);
                parts(out, v.months, v.days, v.nanoseconds);
            })
        }
    }
}

fn decimal<'a, P: ArrowPrimitiveType>(array: &'a dyn Array, scale: i8, widen: fn(P::Native) -> i256) -> Write<'a> {
    let a = array.as_primitive::<P>();
    Box::new(move |row, out| {
        let (mut value, mut scale) = (widen(a.value(row)), i16::from(scale));
        let ten = i256::from_i128(10);
        if value == i256::ZERO {
            scale = 0;
        } else {
            while let (Some(i256::ZERO), Some(shorter)) = (value.checked_rem(ten), value.checked_div(ten)) {
                value = shorter;
                scale -= 1;
            }
        }
        tagged(out, DECIMAL, &scale.to_le_bytes());
        out.extend_from_slice(&value.to_le_bytes());
    })
}

fn list<'a>(array: &'a dyn Array) -> Result<Write<'a>> {
    fn with<'a>(items: &'a ArrayRef, range: impl Fn(usize) -> (usize, usize) + 'a) -> Result<Write<'a>> {
        let items = ColumnEncoder::new(items.as_ref())?;
        Ok(Box::new(move |row, out| {
            let (start, len) = range(row);
            tagged(out, LIST, &(len as u64).to_le_bytes());
            (start..start + len).for_each(|i| items.encode(i, out));
        }))
    }
    fn offsets<'a, O: OffsetSizeTrait>(a: &'a GenericListArray<O>) -> Result<Write<'a>> {
        let at = |i: usize| a.value_offsets()[i].as_usize();
        with(a.values(), move |row| (at(row), at(row + 1) - at(row)))
    }
    fn views<'a, O: OffsetSizeTrait>(a: &'a GenericListViewArray<O>) -> Result<Write<'a>> {
        with(a.values(), |row| {
            (a.value_offset(row).as_usize(), a.value_size(row).as_usize())
        })
    }
    match array.data_type() {
        DataType::List(_) => offsets(array.as_list::<i32>()),
        DataType::LargeList(_) => offsets(array.as_list::<i64>()),
        DataType::ListView(_) => views(array.as_list_view::<i32>()),
        DataType::LargeListView(_) => views(array.as_list_view::<i64>()),
        DataType::FixedSizeList(..) => {
            let a = array.as_fixed_size_list();
            with(a.values(), |row| {
                (a.value_offset(row) as usize, a.value_length() as usize)
            })
        }
        _ => {
            let a = array.as_map();
            let entries = structure(a.entries())?;
            Ok(Box::new(move |row, out| {
                let (start, end) = (a.value_offsets()[row] as usize, a.value_offsets()[row + 1] as usize);
                tagged(out, LIST, &((end - start) as u64).to_le_bytes());
                (start..end).for_each(|i| entries(i, out));
            }))
        }
    }
}

fn structure<'a>(array: &'a StructArray) -> Result<Write<'a>> {
    let fields = array
        .columns()
        .iter()
        .map(|c| ColumnEncoder::new(c.as_ref()))
        .collect::<Result<Vec<_>>>()?;
    Ok(Box::new(move |row, out| {
        tagged(out, STRUCT, &(fields.len() as u64).to_le_bytes());
        fields.iter().for_each(|f| f.encode(row, out));
    }))
}

fn runs<'a, R: RunEndIndexType>(array: &'a dyn Array) -> Result<Write<'a>> {
    let a = array.as_run::<R>();
    let values = ColumnEncoder::new(a.values().as_ref())?;
    Ok(Box::new(move |row, out| values.encode(a.get_physical_index(row), out)))
}

fn tagged(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(body);
}
