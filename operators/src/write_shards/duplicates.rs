//! Finds rows with the same key among sorted rows, across batches.

use datafusion::arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch, make_comparator};
use datafusion::arrow::compute::{SortOptions, concat_batches};
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::error::Result;

use crate::OperatorError;
use crate::rows_file::examples;
use crate::screen::{HASH, column};

/// Remembers the last row of the batch before.
#[derive(Default)]
pub(super) struct Duplicates {
    last: Option<RecordBatch>,
}

impl Duplicates {
    /// Looks through `batch`, sorted by hash and key.
    ///
    /// # Errors
    /// [`OperatorError::DuplicateKey`], with a few of the keys that occur twice.
    pub(super) fn check(&mut self, batch: &RecordBatch, keys: &[String]) -> Result<()> {
        let joined = match self.last.take() {
            Some(last) => {
                let head = concat_batches(&batch.schema(), [&last, &batch.slice(0, 1)])?;
                self.refuse(&head, keys)?;
                batch
            }
            None => batch,
        };
        self.refuse(joined, keys)?;
        self.last = Some(batch.slice(batch.num_rows() - 1, 1));
        Ok(())
    }

    fn refuse(&self, batch: &RecordBatch, keys: &[String]) -> Result<()> {
        let hashes = column(batch, HASH)?.as_primitive::<UInt64Type>();
        let alike: Vec<usize> = (1..batch.num_rows())
            .filter(|i| hashes.value(*i) == hashes.value(i - 1))
            .collect();
        if alike.is_empty() {
            return Ok(());
        }
        let columns: Vec<&ArrayRef> = keys.iter().map(|key| column(batch, key)).collect::<Result<_>>()?;
        let same = columns
            .iter()
            .map(|c| make_comparator(c.as_ref() as &dyn Array, c.as_ref(), SortOptions::default()))
            .collect::<Result<Vec<_>, _>>()?;
        let twice: Vec<usize> = alike
            .into_iter()
            .filter(|i| same.iter().all(|compare| compare(*i, i - 1).is_eq()))
            .collect();
        if twice.is_empty() {
            return Ok(());
        }
        Err(OperatorError::DuplicateKey {
            columns: keys.join(", "),
            examples: examples(batch, &twice, keys),
        }
        .into())
    }
}
