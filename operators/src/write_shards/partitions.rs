//! Cuts a batch by the values of its partition columns.

use std::collections::BTreeMap;

use corpusmill_corpus::partition_value;
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{partition, take_record_batch};
use datafusion::error::Result;

use crate::OperatorError;
use crate::screen::column;

/// Values of the partition columns of one file, as text; NULL is `None`.
pub(super) type PartitionValues = Vec<(String, Option<String>)>;

/// The rows of `batch` by the values of the columns `by`, in order of value; rows keep their order.
pub(super) fn by_value(batch: &RecordBatch, by: &[String]) -> Result<Vec<(PartitionValues, RecordBatch)>> {
    if by.is_empty() {
        return Ok(vec![(vec![], batch.clone())]);
    }
    let columns: Vec<ArrayRef> = by
        .iter()
        .map(|name| column(batch, name).cloned())
        .collect::<Result<_>>()?;
    let mut groups: BTreeMap<PartitionValues, Vec<u32>> = BTreeMap::new();
    // Runs of equal values are formatted once.
    for run in partition(&columns)?.ranges() {
        let values = by
            .iter()
            .zip(&columns)
            .map(|(name, column)| {
                let value = partition_value(name, column, run.start).map_err(OperatorError::from)?;
                Ok((name.clone(), value))
            })
            .collect::<Result<PartitionValues>>()?;
        groups
            .entry(values)
            .or_default()
            .extend(run.start as u32..run.end as u32);
    }
    if groups.len() == 1 {
        return Ok(groups.into_keys().map(|values| (values, batch.clone())).collect());
    }
    groups
        .into_iter()
        .map(|(values, rows)| Ok((values, take_record_batch(batch, &UInt32Array::from(rows))?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{AsArray as _, Int32Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Schema};

    use super::*;

    fn batch(split: Vec<Option<&str>>) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("split", DataType::Utf8, true),
            Field::new("id", DataType::Int32, false),
        ]);
        let ids: Int32Array = (0..split.len() as i32).collect();
        RecordBatch::try_new(
            Arc::new(schema),
            vec![Arc::new(StringArray::from(split)), Arc::new(ids)],
        )
        .unwrap()
    }

    #[test]
    fn rows_keep_their_order_inside_a_value() {
        let groups = by_value(
            &batch(vec![Some("train"), Some("test"), None, Some("train")]),
            &["split".into()],
        )
        .unwrap();
        let seen: Vec<(Option<String>, Vec<i32>)> = groups
            .into_iter()
            .map(|(mut v, b)| (v.remove(0).1, b.column(1).as_primitive::<Int32Type>().values().to_vec()))
            .collect();
        let expected: Vec<(Option<String>, Vec<i32>)> = vec![
            (None, vec![2]),
            (Some("test".into()), vec![1]),
            (Some("train".into()), vec![0, 3]),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn an_empty_string_is_refused_with_the_fix() {
        let error = by_value(&batch(vec![Some("")]), &["split".into()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("NULLIF(x, '')"), "{error}");
    }
}
