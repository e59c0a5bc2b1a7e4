//! Values of partition columns: as text, in paths, and back as Arrow arrays.

use arrow::array::{Array, ArrayRef, StringArray};
use arrow::compute::{CastOptions, cast, cast_with_options, take};
use arrow::datatypes::DataType;

use crate::error::{CorpusError, Result};

const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";

/// Gives the value of a partition column in a row, as text in Delta's form.
///
/// `array` holds strings, integers, booleans or dates; other types are no partition columns.
///
/// # Errors
/// [`CorpusError::Column`] for other types, and for the empty text, which Delta reads as NULL.
pub fn partition_value(column: &str, array: &dyn Array, row: usize) -> Result<Option<String>> {
    let value_type = match array.data_type() {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    let usable = value_type.is_integer()
        || matches!(value_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        || matches!(value_type, DataType::Boolean | DataType::Date32);
    if !usable {
        let detail =
            format!("cannot partition by {value_type}; partition by text, an integer, a boolean or a DATE (CAST it)");
        return Err(CorpusError::column(column, detail));
    }
    let text = cast(&array.slice(row, 1), &DataType::Utf8)
        .map_err(CorpusError::arrow(format!("partition column `{column}`")))?;
    let text = text
        .as_any()
        .downcast_ref::<StringArray>()
        .filter(|t| t.is_valid(0))
        .map(|t| t.value(0));
    if text == Some("") {
        let detail = "partition value '' would be read back as NULL by Delta; use NULLIF(x, '') or another value";
        return Err(CorpusError::column(column, detail));
    }
    Ok(text.map(str::to_owned))
}

/// Repeats the value of a partition column in an array of `data_type` with `rows` rows.
///
/// # Errors
/// [`CorpusError::Column`] if the text is not a value of that type.
pub fn partition_array(column: &str, value: Option<&str>, data_type: &DataType, rows: usize) -> Result<ArrayRef> {
    let Some(text) = value else {
        return Ok(arrow::array::new_null_array(data_type, rows));
    };
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let one = cast_with_options(&StringArray::from(vec![text]), data_type, &options)
        .map_err(|e| CorpusError::column(column, format!("partition value `{text}` is not {data_type}: {e}")))?;
    let indices = arrow::array::UInt32Array::from(vec![0; rows]);
    take(&one, &indices, None).map_err(CorpusError::arrow(format!("partition column `{column}`")))
}

/// Gives the key of a shard's object below the corpus's folder:
/// `split=train/g0-s0003-BUILD-ATTEMPT.parquet`.
///
/// Letters of a value that have a meaning in paths are percent-encoded, NULL is `__HIVE_DEFAULT_PARTITION__`, as in
/// Hive and Delta.
pub fn shard_path(
    partition: &[(String, Option<String>)],
    generation: u32,
    shard: u32,
    build: &str,
    attempt: &str,
) -> String {
    let mut path = String::new();
    for (column, value) in partition {
        let value = value.as_deref().map_or_else(|| NULL_FOLDER.to_owned(), escape);
        path.push_str(&format!("{}={value}/", escape(column)));
    }
    path.push_str(&format!("g{generation}-s{shard:04}-{build}-{attempt}.parquet"));
    path
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(b).to_string(),
            // A lone dot would be a folder of its own to the file system.
            b'.' if text != "." && text != ".." => ".".to_owned(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Date32Array, Float32Array, Int64Array};

    use super::*;

    #[test]
    fn values_come_back_as_they_went() {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("a/b c%"), None])),
            Arc::new(Int64Array::from(vec![Some(-3), None])),
            Arc::new(Date32Array::from(vec![Some(19_000), None])),
            Arc::new(arrow::array::BooleanArray::from(vec![Some(true), None])),
        ];
        for array in arrays {
            for row in 0..2 {
                let text = partition_value("p", &array, row).unwrap();
                let back = partition_array("p", text.as_deref(), array.data_type(), 3).unwrap();
                assert_eq!((back.len(), &back.slice(1, 1)), (3, &array.slice(row, 1)));
            }
        }
    }

    #[test]
    fn what_cannot_partition_says_so() {
        let e = partition_value("score", &Float32Array::from(vec![1.0]), 0).unwrap_err();
        assert!(e.to_string().contains("`score`: cannot partition by Float32"), "{e}");
        assert!(
            partition_value("p", &StringArray::from(vec![""]), 0)
                .unwrap_err()
                .to_string()
                .contains("NULLIF")
        );
        assert!(partition_array("p", Some("x"), &DataType::Int32, 1).is_err());
    }

    #[test]
    fn paths_are_escaped() {
        let partition = [("split".to_owned(), Some("a/b".to_owned())), ("l".to_owned(), None)];
        let path = shard_path(&partition, 2, 3, "b1", "x");
        assert_eq!(path, "split=a%2Fb/l=__HIVE_DEFAULT_PARTITION__/g2-s0003-b1-x.parquet");
        assert!(object_store::path::Path::parse(&path).is_ok());
    }
}
