//! Token ids of decoded blocks, in as few bytes as they fit.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt16Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Int32Type, UInt16Type};

/// Token ids of a block: in two bytes where all of them fit, which halves what is written, mapped and kept open.
#[derive(Debug)]
pub(super) enum Ids {
    Narrow(ScalarBuffer<u16>),
    Wide(ScalarBuffer<i32>),
}

impl Ids {
    /// The values of a list column that `narrowed` gave; `None` for any other.
    pub(super) fn of(values: &ArrayRef) -> Option<Self> {
        Some(match values.as_primitive_opt::<UInt16Type>() {
            Some(narrow) => Self::Narrow(narrow.values().clone()),
            None => Self::Wide(values.as_primitive_opt::<Int32Type>()?.values().clone()),
        })
    }

    /// Those of a range; none where it reaches beyond the last.
    pub(super) fn get(&self, range: Range<usize>) -> Option<IdRun<'_>> {
        match self {
            Self::Narrow(ids) => ids.get(range).map(IdRun::Narrow),
            Self::Wide(ids) => ids.get(range).map(IdRun::Wide),
        }
    }
}

/// Token ids of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IdRun<'a> {
    Narrow(&'a [u16]),
    Wide(&'a [i32]),
}

impl IdRun<'_> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Narrow(ids) => ids.len(),
            Self::Wide(ids) => ids.len(),
        }
    }

    /// Those of a range; none where it reaches beyond the last.
    pub(crate) fn get(&self, range: Range<usize>) -> Option<Self> {
        match self {
            Self::Narrow(ids) => ids.get(range).map(Self::Narrow),
            Self::Wide(ids) => ids.get(range).map(Self::Wide),
        }
    }
}

/// Brings `List<Int32>` to `List<UInt16>` where every id fits.
pub(super) fn narrowed(lists: ArrayRef) -> ArrayRef {
    let list = lists.as_list::<i32>();
    let ids = list.values().as_primitive::<Int32Type>().values();
    // Negative ids have the high bits set too. A fold without a way out is what the compiler vectorises.
    let is_narrow = ids.iter().fold(0u32, |all, id| all | *id as u32) <= u32::from(u16::MAX);
    if !is_narrow {
        return lists;
    }
    let narrow: Vec<u16> = ids.iter().map(|id| *id as u16).collect();
    let field = Arc::new(Field::new_list_field(DataType::UInt16, true));
    let values = Arc::new(UInt16Array::from(narrow));
    match ListArray::try_new(field, list.offsets().clone(), values, list.nulls().cloned()) {
        Ok(narrow) => Arc::new(narrow),
        Err(_) => lists,
    }
}
