//! Minimum, maximum and number of NULLs per column, as Delta's readers use them to skip files.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{cast, max, max_string, min, min_string};
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int64Type, TimeUnit};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Days, NaiveDate};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{CorpusError, Result};

/// Text statistics are cut to as many characters, as Delta's writers do.
const TEXT_CHARACTERS: usize = 32;

/// Statistics of one column of one shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ColumnStatistics {
    /// At most the smallest value; none for types without an order in JSON, or if all is NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Value>,
    /// At least the largest value; none as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Value>,
    /// Number of NULLs.
    pub nulls: u64,
}

/// Bounds while they are gathered, before they are cut and printed.
#[derive(Default)]
enum Bounds {
    #[default]
    None,
    Integer(i64, i64),
    Float(f64, f64),
    Text(String, String),
    /// Not comparable in JSON (NaN was seen): no bounds, whatever follows.
    Unusable,
}

/// Gathers the statistics of a shard, batch by batch.
#[derive(Default)]
pub(crate) struct StatisticsBuilder {
    columns: BTreeMap<String, (DataType, Bounds, u64)>,
}

impl StatisticsBuilder {
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            if field.data_type().is_nested() {
                continue;
            }
            let entry = self
                .columns
                .entry(field.name().clone())
                .or_insert_with(|| (field.data_type().clone(), Bounds::None, 0));
            entry.2 += array.logical_null_count() as u64;
            let seen = bounds(array).map_err(CorpusError::arrow(format!("statistics of `{}`", field.name())))?;
            entry.1 = std::mem::take(&mut entry.1).merge(seen);
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> BTreeMap<String, ColumnStatistics> {
        let print = |(name, (data_type, bounds, nulls)): (String, (DataType, Bounds, u64))| {
            let (min, max) = bounds.print(&data_type);
            (name, ColumnStatistics { min, max, nulls })
        };
        self.columns.into_iter().map(print).collect()
    }
}

fn bounds(array: &ArrayRef) -> Result<Bounds, arrow::error::ArrowError> {
    Ok(match array.data_type() {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Timestamp(_, _) => {
            let values = cast(array, &DataType::Int64)?;
            let values = values.as_primitive::<Int64Type>();
            min(values)
                .zip(max(values))
                .map_or(Bounds::None, |(a, b)| Bounds::Integer(a, b))
        }
        DataType::Date32 => {
            let values = array.as_primitive::<Date32Type>();
            min(values)
                .zip(max(values))
                .map_or(Bounds::None, |(a, b)| Bounds::Integer(a.into(), b.into()))
        }
        DataType::Float32 | DataType::Float64 => {
            let values = cast(array, &DataType::Float64)?;
            let values = values.as_primitive::<Float64Type>();
            if values.iter().flatten().any(|v| !v.is_finite()) {
                return Ok(Bounds::Unusable);
            }
            min(values)
                .zip(max(values))
                .map_or(Bounds::None, |(a, b)| Bounds::Float(a, b))
        }
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            let both = min_string(values).zip(max_string(values));
            both.map_or(Bounds::None, |(a, b)| Bounds::Text(a.to_owned(), b.to_owned()))
        }
        _ => Bounds::None,
    })
}

impl Bounds {
    fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unusable, _) | (_, Self::Unusable) => Self::Unusable,
            (Self::None, b) | (b, Self::None) => b,
            (Self::Integer(a, b), Self::Integer(c, d)) => Self::Integer(a.min(c), b.max(d)),
            (Self::Float(a, b), Self::Float(c, d)) => Self::Float(a.min(c), b.max(d)),
            (Self::Text(a, b), Self::Text(c, d)) => Self::Text(a.min(c), b.max(d)),
            // A column has one type, so that its bounds are of one kind.
            _ => Self::Unusable,
        }
    }

    fn print(self, data_type: &DataType) -> (Option<Value>, Option<Value>) {
        match (self, data_type) {
            (Self::Integer(a, b), DataType::Date32) => (day(a), day(b)),
            (Self::Integer(a, b), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
                (instant(a, zone.is_some()), instant(b, zone.is_some()))
            }
            (Self::Integer(a, b), _) => (Some(a.into()), Some(b.into())),
            (Self::Float(a, b), _) => (Some(a.into()), Some(b.into())),
            (Self::Text(a, b), _) => (Some(cut(&a).into()), upper_cut(&b).map(Into::into)),
            (Self::None | Self::Unusable, _) => (None, None),
        }
    }
}

fn day(days: i64) -> Option<Value> {
    let epoch = NaiveDate::default();
    let date = match u64::try_from(days) {
        Ok(after) => epoch.checked_add_days(Days::new(after)),
        Err(_) => epoch.checked_sub_days(Days::new(days.unsigned_abs())),
    };
    date.map(|d| d.format("%Y-%m-%d").to_string().into())
}

fn instant(microseconds: i64, utc: bool) -> Option<Value> {
    let format = if utc {
        "%Y-%m-%dT%H:%M:%S%.6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%S%.6f"
    };
    DateTime::from_timestamp_micros(microseconds).map(|t| t.format(format).to_string().into())
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARACTERS).collect()
}

/// A text of bounded length that is not below the given one: the largest character is put where it is cut.
fn upper_cut(text: &str) -> Option<String> {
    match text.chars().nth(TEXT_CHARACTERS) {
        None => Some(text.to_owned()),
        Some(char::MAX) => None,
        Some(_) => Some(cut(text) + &char::MAX.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::*;

    use super::*;

    fn of(array: ArrayRef) -> ColumnStatistics {
        let batch = RecordBatch::try_from_iter_with_nullable([("c", array, true)]).unwrap();
        let mut builder = StatisticsBuilder::default();
        builder.add(&batch.slice(0, 1)).unwrap();
        builder.add(&batch.slice(1, batch.num_rows() - 1)).unwrap();
        builder.finish().remove("c").unwrap()
    }

    #[test]
    fn bounds_hold_over_batches() {
        let s = of(Arc::new(Int32Array::from(vec![Some(3), None, Some(-7)])));
        assert_eq!((s.min, s.max, s.nulls), (Some((-7).into()), Some(3.into()), 1));
        let s = of(Arc::new(Date32Array::from(vec![-1, 19_000])));
        assert_eq!((s.min, s.max), (Some("1969-12-31".into()), Some("2022-01-08".into())));
        let micros = TimestampMicrosecondArray::from(vec![0, 1_700_000_000_123_456]).with_timezone("UTC");
        let s = of(Arc::new(micros));
        assert_eq!(s.max, Some("2023-11-14T22:13:20.123456Z".into()));
    }

    #[test]
    fn not_a_number_gives_no_bounds() {
        let s = of(Arc::new(Float32Array::from(vec![1.0, f32::NAN, 2.0])));
        assert_eq!((s.min, s.max), (None, None));
    }

    #[test]
    fn long_text_is_cut_to_a_bound_that_holds() {
        let long = "é".repeat(40);
        let s = of(Arc::new(StringArray::from(vec!["a", long.as_str()])));
        let max = s.max.unwrap().as_str().unwrap().to_owned();
        assert!(max >= long && max.chars().count() == 33, "{max}");
        assert_eq!(of(Arc::new(StringArray::from(vec![None::<&str>, None]))).nulls, 2);
    }
}
