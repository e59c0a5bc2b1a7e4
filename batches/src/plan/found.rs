//! What a scan for a filter and for classes finds, and its form on disk.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use corpusmill_stream::Selection;

use crate::error::{BatchError, Result};
use crate::filter::Predicate;
use crate::source::BlockPlace;

use super::rows::ClassRows;

/// More classes than this are no classes but a key.
const CLASSES_MAX: usize = 1000;

/// What a scan has found so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RowsFound {
    /// A bit for each slot that passes the filter.
    pub(crate) words: Vec<u64>,
    /// Slots that pass, ascending, by class.
    pub(crate) by_class: BTreeMap<String, Vec<u64>>,
}

impl RowsFound {
    pub(crate) fn new(slots: u64) -> Self {
        Self {
            words: vec![0; slots.div_ceil(64) as usize],
            by_class: BTreeMap::new(),
        }
    }

    fn pass(&mut self, slot: u64) {
        self.words[(slot / 64) as usize] |= 1 << (slot % 64);
    }

    pub(crate) fn pass_all(&mut self, place: &BlockPlace) {
        for slot in place.first_slot..place.first_slot + place.rows {
            self.pass(slot);
        }
    }

    pub(crate) fn add(
        &mut self,
        place: &BlockPlace,
        batch: &RecordBatch,
        predicate: Option<&Predicate>,
        class_column: Option<&str>,
    ) -> Result<()> {
        let passes = match predicate {
            Some(predicate) => predicate.evaluate(batch)?,
            None => BooleanArray::from(vec![true; batch.num_rows()]),
        };
        let classes = match class_column.and_then(|c| batch.column_by_name(c).map(|a| (c, a))) {
            Some((name, array)) => {
                Some(cast(array, &DataType::Utf8).map_err(BatchError::arrow(format!("balance on `{name}`")))?)
            }
            None => None,
        };
        for row in 0..batch.num_rows() {
            if !(passes.is_valid(row) && passes.value(row)) {
                continue;
            }
            let slot = place.first_slot + row as u64;
            self.pass(slot);
            if let Some(classes) = classes
                .as_ref()
                .map(|c| c.as_string::<i32>())
                .filter(|c| c.is_valid(row))
            {
                let value = classes.value(row);
                let known = self.by_class.len();
                match self.by_class.get_mut(value) {
                    Some(slots) => slots.push(slot),
                    None if known == CLASSES_MAX => {
                        let column = class_column.unwrap_or_default();
                        return Err(BatchError::Plan(format!(
                            "balance: column `{column}` has more than {CLASSES_MAX} values: it tells rows apart, \
                             not classes"
                        )));
                    }
                    None => drop(self.by_class.insert(value.to_owned(), vec![slot])),
                }
            }
        }
        Ok(())
    }

    /// The classes with their weights: equal ones if none are given, else those that are given.
    pub(crate) fn classes(&mut self, slots: u64, weights: &BTreeMap<String, f64>) -> Vec<ClassRows> {
        let weight = |value: &str| {
            if weights.is_empty() {
                Some(1.0)
            } else {
                weights.get(value).copied()
            }
        };
        std::mem::take(&mut self.by_class)
            .into_iter()
            .filter_map(|(value, rows)| {
                let weight = weight(&value)?;
                Some(ClassRows {
                    weight,
                    rows: Selection::from_sorted(slots, rows),
                    value,
                })
            })
            .collect()
    }
}

impl RowsFound {
    /// Little-endian: the words, number of classes, then of each: length of the value, the value, number of slots, the
    /// slots. Numbers are 64-bit.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let word = |n: u64| n.to_le_bytes();
        bytes.extend(self.words.iter().flat_map(|w| w.to_le_bytes()));
        bytes.extend(word(self.by_class.len() as u64));
        for (value, slots) in &self.by_class {
            bytes.extend(word(value.len() as u64));
            bytes.extend(value.as_bytes());
            bytes.extend(word(slots.len() as u64));
            bytes.extend(slots.iter().flat_map(|s| s.to_le_bytes()));
        }
        bytes
    }

    /// Reads what `to_bytes` wrote for a version of `slots` slots; `None` if it is anything else.
    pub(crate) fn from_bytes(mut bytes: &[u8], slots: u64) -> Option<Self> {
        fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Option<&'a [u8]> {
            let (head, rest) = bytes.split_at_checked(usize::try_from(count).ok()?)?;
            *bytes = rest;
            Some(head)
        }
        fn word(bytes: &mut &[u8]) -> Option<u64> {
            take(bytes, 8)?.try_into().ok().map(u64::from_le_bytes)
        }
        fn words(bytes: &mut &[u8], count: u64) -> Option<Vec<u64>> {
            let (words, _) = take(bytes, count.checked_mul(8)?)?.as_chunks::<8>();
            Some(words.iter().map(|w| u64::from_le_bytes(*w)).collect())
        }
        let bits = words(&mut bytes, slots.div_ceil(64))?;
        let mut by_class = BTreeMap::new();
        for _ in 0..word(&mut bytes)? {
            let length = word(&mut bytes)?;
            let value = String::from_utf8(take(&mut bytes, length)?.to_vec()).ok()?;
            let count = word(&mut bytes)?;
            let rows = words(&mut bytes, count)?;
            if !rows.windows(2).all(|w| w[0] < w[1]) || rows.last().is_some_and(|last| *last >= slots) {
                return None;
            }
            by_class.insert(value, rows);
        }
        bytes.is_empty().then_some(Self { words: bits, by_class })
    }
}
