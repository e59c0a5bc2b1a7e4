//! A batch: the fields that exist already, those that are derived when asked for, and how Arrow sees them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{
    Array, ArrayData, ArrayRef, BooleanArray, FixedSizeListArray, Int32Array, Int64Array, RecordBatch, make_array,
};
use arrow::datatypes::{DataType, Field};

use crate::assemble::{Documents, Layout, tokens};
use crate::error::{BatchError, Result};
use crate::plan::nearest;
use crate::values::{Dtype, SlabPool, Values};

/// Token fields of packed plans, in the order in which they are listed.
const PACKED: [&str; 9] = [
    "input_ids",
    "position_ids",
    "doc_ids",
    "loss_mask",
    "cu_seqlens",
    "max_seqlen",
    "doc_pack",
    "doc_start",
    "doc_length",
];
/// Token fields of padded plans.
const PADDED: [&str; 3] = ["input_ids", "attention_mask", "lengths"];
/// Fields of every plan.
const ROWS: [&str; 3] = ["row_mask", "row_source", "row_slot"];

/// What all batches of a plan have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchShape {
    /// Whether there are token fields.
    pub tokens: bool,
    /// Tokens of a packed sequence; `None` for plans that pad.
    pub sequence_length: Option<usize>,
    /// Whether ids are 64-bit integers.
    pub wide_ids: bool,
    /// The plan's further columns, in its order.
    pub columns: Vec<String>,
    /// Values for NULLs and masked rows of number columns.
    pub fill: BTreeMap<String, f64>,
}

impl BatchShape {
    /// The fields of the plan's batches.
    #[must_use]
    pub fn fields(&self) -> Vec<String> {
        let tokens: &[&str] = match (self.tokens, self.sequence_length) {
            (false, _) => &[],
            (true, Some(_)) => &PACKED,
            (true, None) => &PADDED,
        };
        let columns = self.columns.iter().map(String::as_str);
        let names = tokens.iter().chain(&ROWS).copied().chain(columns);
        names.map(str::to_owned).collect()
    }
}

/// The fields that worker threads make before a batch is asked for.
#[derive(Clone, Debug)]
pub struct FieldSet(Vec<String>);

impl FieldSet {
    /// All fields of a plan's batches.
    #[must_use]
    pub fn all(shape: &BatchShape) -> Self {
        Self(shape.fields())
    }

    /// The named fields.
    ///
    /// # Errors
    /// Plan, naming the field that batches do not have and the nearest.
    pub fn of(shape: &BatchShape, wanted: Vec<String>) -> Result<Self> {
        let known = shape.fields();
        for name in &wanted {
            if !known.contains(name) {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                return Err(BatchError::Plan(format!(
                    "fields: batches have no `{name}`{}",
                    nearest(name, &known)
                )));
            }
        }
        Ok(Self(wanted))
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Makes the fields of the set that take work.
    ///
    /// # Errors
    /// None today.
    pub(crate) fn make_ahead(&self, batch: &BatchData) -> Result<()> {
        for name in &self.0 {
            batch.derived(name)?;
        }
        Ok(())
    }
}

/// What a rank gets in one step.
#[derive(Debug)]
pub struct BatchData {
    pub(crate) shape: Arc<BatchShape>,
    pub(crate) step: u64,
    pub(crate) layout: Layout,
    pub(crate) documents: Documents,
    pub(crate) input_ids: Option<Arc<Values>>,
    /// In the plan's order.
    pub(crate) columns: Vec<ArrayRef>,
    pub(crate) notes: Vec<String>,
    pub(crate) pool: Arc<SlabPool>,
    pub(crate) made: Mutex<HashMap<String, Arc<Values>>>,
}

impl BatchData {
    /// The step.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The documents or rows.
    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// What its batches have in common.
    #[must_use]
    pub fn shape(&self) -> &BatchShape {
        &self.shape
    }

    /// What is to be logged about the batch: blocks that arrived as mask.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A further column of the plan.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&ArrayRef> {
        let at = self.shape.columns.iter().position(|c| c == name)?;
        self.columns.get(at)
    }

    /// The longest segment of a packed batch, in tokens; `None` for other batches.
    #[must_use]
    pub fn longest_segment(&self) -> Option<i32> {
        let packed = self.shape.tokens && self.shape.sequence_length.is_some();
        packed.then(|| tokens::segment_bounds(&self.documents, self.layout).1)
    }

    /// Bytes of the arrays that exist.
    pub fn bytes(&self) -> usize {
        let made: usize = self
            .made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(|v| v.bytes())
            .sum();
        let columns: usize = self.columns.iter().map(|c| c.get_array_memory_size()).sum();
        // Eight vectors of about four bytes a document.
        made + columns + self.input_ids.as_ref().map_or(0, |v| v.bytes()) + self.documents.len() * 33
    }

    /// A token field or a field of rows, made once; `None` for columns and other names.
    ///
    /// # Errors
    /// None today.
    pub fn derived(&self, name: &str) -> Result<Option<Arc<Values>>> {
        if name == "input_ids" {
            return Ok(self.input_ids.clone());
        }
        if let Some(values) = self.made.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Some(values.clone()));
        }
        let Some(values) = self.make(name) else { return Ok(None) };
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), values.clone());
        Ok(Some(values))
    }

    fn make(&self, name: &str) -> Option<Arc<Values>> {
        let (docs, layout, pool) = (&self.documents, self.layout, &self.pool);
        let wide = self.shape.wide_ids;
        let has = |names: &[&str]| self.input_ids.is_some() && names.contains(&name);
        let ints = |items: &Vec<i32>| Values::of_vec(Dtype::I32, items.clone());
        let packed = self.shape.sequence_length.is_some();
        Some(match name {
            "row_mask" => Values::of_vec(Dtype::Bool, docs.delivered.clone()),
            "row_source" => ints(&docs.source),
            "row_slot" => Values::of_vec(Dtype::I64, docs.slot.clone()),
            _ if packed && !has(&PACKED) || !packed && !has(&PADDED) => return None,
            "position_ids" if wide => tokens::position_ids::<i64>(docs, layout, pool),
            "position_ids" => tokens::position_ids::<i32>(docs, layout, pool),
            "doc_ids" => tokens::doc_ids(docs, layout, pool),
            "loss_mask" => tokens::loss_mask(docs, layout, pool),
            "cu_seqlens" => Values::of_vec(Dtype::I32, tokens::segment_bounds(docs, layout).0),
            "doc_pack" => ints(&docs.pack),
            "doc_start" => ints(&docs.start),
            "doc_length" | "lengths" => ints(&docs.length),
            "attention_mask" if wide => tokens::attention_mask::<i64>(docs, layout, pool),
            "attention_mask" => tokens::attention_mask::<i32>(docs, layout, pool),
            _ => return None,
        })
    }

    /// The rows of the token fields as Arrow; the plan's columns too where a row is a sample.
    ///
    /// # Errors
    /// Arrow's.
    pub fn rows_as_arrow(&self) -> Result<RecordBatch> {
        let mut named: Vec<(String, ArrayRef)> = Vec::new();
        let packed = self.shape.sequence_length.is_some();
        if self.input_ids.is_some() {
            let fields: &[&str] = if packed { &PACKED[..4] } else { &PADDED };
            for name in fields {
                if let Some(values) = self.derived(name)? {
                    named.push(((*name).to_owned(), as_arrow(&values)?));
                }
            }
        }
        if packed {
            return RecordBatch::try_from_iter(named).map_err(BatchError::arrow("a batch as Arrow"));
        }
        named.extend(self.document_columns());
        RecordBatch::try_from_iter(named).map_err(BatchError::arrow("a batch as Arrow"))
    }

    fn document_columns(&self) -> Vec<(String, ArrayRef)> {
        let docs = &self.documents;
        let flags: BooleanArray = docs.delivered.iter().map(|d| Some(*d != 0)).collect();
        let mut named: Vec<(String, ArrayRef)> = vec![
            ("row_mask".into(), Arc::new(flags)),
            ("row_source".into(), Arc::new(Int32Array::from(docs.source.clone()))),
            ("row_slot".into(), Arc::new(Int64Array::from(docs.slot.clone()))),
        ];
        named.extend(self.shape.columns.iter().cloned().zip(self.columns.iter().cloned()));
        named
    }

    /// The documents as Arrow, with their places in the packs and the plan's columns.
    ///
    /// # Errors
    /// Arrow's.
    pub fn documents_as_arrow(&self) -> Result<RecordBatch> {
        let docs = &self.documents;
        let ints = |items: &Vec<i32>| Arc::new(Int32Array::from(items.clone())) as ArrayRef;
        let mut named: Vec<(String, ArrayRef)> = vec![
            ("doc_pack".into(), ints(&docs.pack)),
            ("doc_start".into(), ints(&docs.start)),
            ("doc_length".into(), ints(&docs.length)),
            ("doc_offset".into(), ints(&docs.offset)),
        ];
        named.extend(self.document_columns());
        RecordBatch::try_from_iter(named).map_err(BatchError::arrow("documents as Arrow"))
    }
}

/// Views values as an Arrow array over the same memory: [N] as primitive, [N, k] as fixed-size lists.
fn as_arrow(values: &Values) -> Result<ArrayRef> {
    let shape = values.shape();
    let failed = || BatchError::arrow("a field as Arrow");
    let data_type = match values.dtype() {
        Dtype::I64 => DataType::Int64,
        Dtype::I32 => DataType::Int32,
        Dtype::Bool => DataType::Boolean,
        other => return Err(BatchError::Plan(format!("no Arrow form for {other:?}"))),
    };
    let elements = shape.iter().product();
    let flat: ArrayRef = if data_type == DataType::Boolean {
        Arc::new(BooleanArray::from_iter(values.buffer().iter().map(|b| Some(*b != 0))))
    } else {
        let data = ArrayData::builder(data_type.clone())
            .len(elements)
            .add_buffer(values.buffer().clone());
        make_array(data.build().map_err(failed())?)
    };
    match shape[..] {
        [rows, width] => {
            let field = Arc::new(Field::new_list_field(data_type, false));
            let list = FixedSizeListArray::try_new_with_length(field, width as i32, flat, None, rows);
            Ok(Arc::new(list.map_err(failed())?))
        }
        _ => Ok(flat),
    }
}
