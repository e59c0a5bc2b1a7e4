//! A batch as Python sees it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use corpusmill_batches::{BatchData, BatchError, Dtype, Numbers, Values, nearest, numbers, plain_type};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::error::{LoaderError, Result};
use crate::ffi::export_batch;
use crate::tensor::Tensor;

/// The native side of `corpusmill.Batch`.
#[pyclass(frozen, module = "corpusmill._native")]
pub(crate) struct Batch(pub(crate) BatchData);

#[pymethods]
impl Batch {
    #[getter]
    fn step(&self) -> u64 {
        self.0.step()
    }

    /// The fields that the batch has.
    fn fields(&self) -> Vec<String> {
        self.0.shape().fields()
    }

    /// What is to be logged about this batch: blocks that arrived as mask.
    fn notes(&self) -> Vec<String> {
        self.0.notes().to_vec()
    }

    /// A field: `Tensor`, int, list of str or bytes, `("masked", values, valid)` or `("ragged", values, offsets)`.
    fn get<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let data = &self.0;
        if name == "max_seqlen"
            && let Some(longest) = py.detach(|| data.longest_segment())
        {
            return Ok(longest.into_pyobject(py)?.into_any());
        }
        if let Some(values) = py.detach(|| data.derived(name)).map_err(LoaderError::from)? {
            return Ok(Bound::new(py, Tensor(values))?.into_any());
        }
        match data.column(name) {
            Some(values) => {
                let fill = data.shape().fill.get(name).copied();
                python_values(py, name, values, &data.documents().delivered, fill)
            }
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
        export_batch(py, &self.0.rows_as_arrow().map_err(LoaderError::from)?)
    }

    /// The documents as a pair of Arrow capsules.
    fn documents<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        export_batch(py, &self.0.documents_as_arrow().map_err(LoaderError::from)?)
    }
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
    .map_err(|e| BatchError::arrow(format!("column `{name}`"))(e).into())
}

fn python_values<'py>(
    py: Python<'py>,
    name: &str,
    array: &ArrayRef,
    delivered: &[u8],
    fill: Option<f64>,
) -> PyResult<Bound<'py, PyAny>> {
    if let Some(numbers) = numbers(array, delivered, fill) {
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
    let to = |to: DataType| {
        cast_with_options(array, &to, &strict)
            .map_err(|e| LoaderError::from(BatchError::arrow(format!("column `{name}`"))(e)))
    };
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
            match numbers(&flat, &all, fill) {
                Some(Numbers { values, valid: None }) => {
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
    LoaderError::from(BatchError::Plan(format!(
        "column `{name}` is {}, which has no numpy form: take it from batch.arrow() or batch.documents(), \
         or CAST it in the corpus",
        array.data_type()
    )))
    .into()
}
