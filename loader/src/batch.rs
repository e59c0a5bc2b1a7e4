//! A batch: the fields that exist already, those that are derived when asked for, and how Python and Arrow see them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Int32Array, Int64Array, RecordBatch,
    make_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::assemble::{Documents, Layout, columns, tokens};
use crate::blocks::plain_type;
use crate::error::{LoaderError, Result};
use crate::ffi::export_batch;
use crate::plan::{OpenPlan, nearest};
use crate::tensor::{Dtype, SlabPool, Tensor, Values};

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

/// The fields that worker threads make before a batch is asked for.
#[derive(Clone, Debug)]
pub(crate) struct FieldSet(Vec<String>);

impl FieldSet {
    /// All fields of a plan's batches.
    pub(crate) fn all(plan: &OpenPlan) -> Self {
        Self(field_names(plan))
    }

    /// The named fields.
    ///
    /// # Errors
    /// Plan, naming the field that batches do not have and the nearest.
    pub(crate) fn of(plan: &OpenPlan, wanted: Vec<String>) -> Result<Self> {
        let known = field_names(plan);
        for name in &wanted {
            if !known.contains(name) {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                return Err(LoaderError::Plan(format!(
                    "fields: batches have no `{name}`{}",
                    nearest(name, &known)
                )));
            }
        }
        Ok(Self(wanted))
    }

    /// Makes the fields of the set that take work.
    pub(crate) fn make_ahead(&self, batch: &BatchData) -> Result<()> {
        for name in &self.0 {
            batch.derived(name)?;
        }
        Ok(())
    }
}

/// The fields of a plan's batches.
fn field_names(plan: &OpenPlan) -> Vec<String> {
    let tokens: &[&str] = match (&plan.projection.tokens, plan.sequence_length()) {
        (None, _) => &[],
        (Some(_), Some(_)) => &PACKED,
        (Some(_), None) => &PADDED,
    };
    let columns = plan.projection.columns.iter().map(String::as_str);
    tokens
        .iter()
        .chain(&ROWS)
        .copied()
        .chain(columns)
        .map(str::to_owned)
        .collect()
}

/// What a rank gets in one step.
pub(crate) struct BatchData {
    plan: Arc<OpenPlan>,
    step: u64,
    layout: Layout,
    documents: Documents,
    input_ids: Option<Arc<Values>>,
    columns: Vec<ArrayRef>,
    notes: Vec<String>,
    pool: Arc<SlabPool>,
    made: Mutex<HashMap<String, Arc<Values>>>,
}

impl BatchData {
    /// Puts a batch together; `columns` are in the plan's order.
    #[expect(clippy::too_many_arguments, reason = "the parts of a batch, made in one place")]
    pub(crate) fn new(
        plan: Arc<OpenPlan>,
        step: u64,
        layout: Layout,
        documents: Documents,
        input_ids: Option<Arc<Values>>,
        columns: Vec<ArrayRef>,
        notes: Vec<String>,
        pool: Arc<SlabPool>,
    ) -> Self {
        Self {
            plan,
            step,
            layout,
            documents,
            input_ids,
            columns,
            notes,
            pool,
            made: Mutex::default(),
        }
    }

    /// The step.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// The documents or rows.
    pub(crate) fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Bytes of the arrays that exist.
    pub(crate) fn bytes(&self) -> usize {
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
    fn derived(&self, name: &str) -> Result<Option<Arc<Values>>> {
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
        let wide = self.plan.wide_ids();
        let has = |names: &[&str]| self.input_ids.is_some() && names.contains(&name);
        let ints = |items: &Vec<i32>| Values::of_vec(Dtype::I32, items.clone());
        let packed = self.plan.sequence_length().is_some();
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
    fn rows_as_arrow(&self) -> Result<RecordBatch> {
        let mut named: Vec<(String, ArrayRef)> = Vec::new();
        let packed = self.plan.sequence_length().is_some();
        if self.input_ids.is_some() {
            let fields: &[&str] = if packed { &PACKED[..4] } else { &PADDED };
            for name in fields {
                if let Some(values) = self.derived(name)? {
                    named.push(((*name).to_owned(), as_arrow(&values)?));
                }
            }
        }
        if packed {
            return RecordBatch::try_from_iter(named).map_err(LoaderError::arrow("a batch as Arrow"));
        }
        named.extend(self.document_columns());
        RecordBatch::try_from_iter(named).map_err(LoaderError::arrow("a batch as Arrow"))
    }

    fn document_columns(&self) -> Vec<(String, ArrayRef)> {
        let docs = &self.documents;
        let flags: BooleanArray = docs.delivered.iter().map(|d| Some(*d != 0)).collect();
        let mut named: Vec<(String, ArrayRef)> = vec![
            ("row_mask".into(), Arc::new(flags)),
            ("row_source".into(), Arc::new(Int32Array::from(docs.source.clone()))),
            ("row_slot".into(), Arc::new(Int64Array::from(docs.slot.clone()))),
        ];
        named.extend(
            self.plan
                .projection
                .columns
                .iter()
                .cloned()
                .zip(self.columns.iter().cloned()),
        );
        named
    }

    fn documents_as_arrow(&self) -> Result<RecordBatch> {
        let docs = &self.documents;
        let ints = |items: &Vec<i32>| Arc::new(Int32Array::from(items.clone())) as ArrayRef;
        let mut named: Vec<(String, ArrayRef)> = vec![
            ("doc_pack".into(), ints(&docs.pack)),
            ("doc_start".into(), ints(&docs.start)),
            ("doc_length".into(), ints(&docs.length)),
            ("doc_offset".into(), ints(&docs.offset)),
        ];
        named.extend(self.document_columns());
        RecordBatch::try_from_iter(named).map_err(LoaderError::arrow("documents as Arrow"))
    }
}

/// Views values as an Arrow array over the same memory: [N] as primitive, [N, k] as fixed-size lists.
fn as_arrow(values: &Values) -> Result<ArrayRef> {
    let shape = values.shape();
    let failed = || LoaderError::arrow("a field as Arrow");
    let data_type = match values.dtype() {
        Dtype::I64 => DataType::Int64,
        Dtype::I32 => DataType::Int32,
        Dtype::Bool => DataType::Boolean,
        other => return Err(LoaderError::Plan(format!("no Arrow form for {other:?}"))),
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

/// The native side of `corpusmill.Batch`.
#[pyclass(frozen, module = "corpusmill._native")]
pub(crate) struct Batch(pub(crate) BatchData);

#[pymethods]
impl Batch {
    #[getter]
    fn step(&self) -> u64 {
        self.0.step
    }

    /// The fields that the batch has.
    fn fields(&self) -> Vec<String> {
        field_names(&self.0.plan)
    }

    /// What is to be logged about this batch: blocks that arrived as mask.
    fn notes(&self) -> Vec<String> {
        self.0.notes.clone()
    }

    /// A field: `Tensor`, int, list of str or bytes, `("masked", values, valid)` or `("ragged", values, offsets)`.
    fn get<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let data = &self.0;
        if name == "max_seqlen" && data.input_ids.is_some() && data.plan.sequence_length().is_some() {
            let longest = py.detach(|| tokens::segment_bounds(&data.documents, data.layout).1);
            return Ok(longest.into_pyobject(py)?.into_any());
        }
        if let Some(values) = py.detach(|| data.derived(name))? {
            return Ok(Bound::new(py, Tensor(values))?.into_any());
        }
        match data.plan.projection.columns.iter().position(|c| c == name) {
            Some(at) => column(py, data, name, &data.columns[at]),
            None => {
                let names = self.fields();
                let known: Vec<&str> = names.iter().map(String::as_str).collect();
                let message = format!("this batch has no field `{name}`{}", nearest(name, &known));
                Err(pyo3::exceptions::PyKeyError::new_err(message))
            }
        }
    }

    /// The rows as a pair of Arrow capsules.
    fn arrow<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        export_batch(py, &self.0.rows_as_arrow()?)
    }

    /// The documents as a pair of Arrow capsules.
    fn documents<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        export_batch(py, &self.0.documents_as_arrow()?)
    }
}

/// Converts a column for Python; see the table in `corpusmill.Batch`.
fn column<'py>(py: Python<'py>, batch: &BatchData, name: &str, array: &ArrayRef) -> PyResult<Bound<'py, PyAny>> {
    let fill = batch.plan.options.fill.get(name).copied();
    python_values(py, name, array, &batch.documents.delivered, fill)
}

/// Converts a column of which every row is delivered.
///
/// # Errors
/// `PlanError` for a type without a numpy form.
pub(crate) fn plain_values<'py>(py: Python<'py>, name: &str, array: &ArrayRef) -> PyResult<Bound<'py, PyAny>> {
    let array = plain(name, array)?;
    python_values(py, name, &array, &vec![1; array.len()], None)
}

/// Casts views and dictionaries to the layouts that decoded blocks have.
fn plain(name: &str, array: &ArrayRef) -> Result<ArrayRef> {
    cast_with_options(
        array,
        &plain_type(array.data_type()),
        &CastOptions {
            safe: false,
            ..CastOptions::default()
        },
    )
    .map_err(LoaderError::arrow(format!("column `{name}`")))
}

fn python_values<'py>(
    py: Python<'py>,
    name: &str,
    array: &ArrayRef,
    delivered: &[u8],
    fill: Option<f64>,
) -> PyResult<Bound<'py, PyAny>> {
    if let Some(numbers) = columns::numbers(array, delivered, fill) {
        let values = Bound::new(py, Tensor(numbers.values))?.into_any();
        return match numbers.valid {
            None => Ok(values),
            Some(valid) => tagged(py, "masked", values, valid),
        };
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let to =
        |to: DataType| cast_with_options(array, &to, &strict).map_err(LoaderError::arrow(format!("column `{name}`")));
    match array.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => {
            let texts = to(DataType::LargeUtf8)?;
            let texts = texts.as_string::<i64>().iter().map(|t| t.map(|t| PyString::new(py, t)));
            Ok(PyList::new(py, texts.collect::<Vec<_>>())?.into_any())
        }
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
            let blobs = to(DataType::LargeBinary)?;
            let blobs = blobs.as_binary::<i64>().iter().map(|b| b.map(|b| PyBytes::new(py, b)));
            Ok(PyList::new(py, blobs.collect::<Vec<_>>())?.into_any())
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (first, last) = (list.value_offsets()[0], list.value_offsets()[list.len()]);
            let flat = list.values().slice(first as usize, (last - first) as usize);
            let all = vec![1u8; flat.len()];
            match columns::numbers(&flat, &all, fill) {
                Some(columns::Numbers { values, valid: None }) => {
                    let offsets: Vec<i64> = list.value_offsets().iter().map(|o| i64::from(o - first)).collect();
                    let values = Bound::new(py, Tensor(values))?.into_any();
                    tagged(py, "ragged", values, Values::of_vec(Dtype::I64, offsets))
                }
                _ => Err(no_python_form(name, array)),
            }
        }
        _ => Err(no_python_form(name, array)),
    }
}

fn tagged<'py>(
    py: Python<'py>,
    kind: &str,
    values: Bound<'py, PyAny>,
    second: Arc<Values>,
) -> PyResult<Bound<'py, PyAny>> {
    let kind = PyString::new(py, kind).into_any();
    let second = Bound::new(py, Tensor(second))?.into_any();
    Ok(PyTuple::new(py, [kind, values, second])?.into_any())
}

fn no_python_form(name: &str, array: &ArrayRef) -> PyErr {
    LoaderError::Plan(format!(
        "column `{name}` is {}, which has no numpy form: take it from batch.arrow() or batch.documents(), \
         or CAST it in the corpus",
        array.data_type()
    ))
    .into()
}
