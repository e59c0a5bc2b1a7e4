//! The one module with `unsafe`: the buffer protocol and the Arrow C data interface.
//!
//! Nothing outside needs to know how these work; each function states what it relies on.
#![expect(
    unsafe_code,
    reason = "CPython's buffer protocol and Arrow's C structs have no safe form"
)]

use std::ffi::{CStr, c_int, c_void};

use arrow::array::{Array, RecordBatch, StructArray};
use arrow::buffer::Buffer;
use arrow::datatypes::Schema;
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, to_ffi};
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi as py_ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};

/// Memory that a Python object exposes: where it is and how it is laid out. The pointers must stay valid as long as
/// the exporting object lives, which is why they come from that object's own fields.
pub(crate) struct Exposed<'a> {
    pub(crate) data: &'a Buffer,
    pub(crate) writable: bool,
    pub(crate) item_bytes: isize,
    pub(crate) format: &'static CStr,
    /// Elements along each axis.
    pub(crate) shape: &'a [isize],
    /// Bytes from one element to the next along each axis (C order).
    pub(crate) strides: &'a [isize],
}

/// Fills `view` for CPython's `PyObject_GetBuffer`.
///
/// # Errors
/// `BufferError` when a writable view of read-only memory is asked for, or `view` is null.
pub(crate) fn fill_buffer(
    exposed: &Exposed<'_>,
    owner: Bound<'_, PyAny>,
    view: *mut py_ffi::Py_buffer,
    flags: c_int,
) -> PyResult<()> {
    if view.is_null() {
        return Err(PyBufferError::new_err("the view is null"));
    }
    if flags & py_ffi::PyBUF_WRITABLE == py_ffi::PyBUF_WRITABLE && !exposed.writable {
        return Err(PyBufferError::new_err(
            "these values are a read-only view of a mapped file: copy them first",
        ));
    }
    let wants = |flag: c_int| flags & flag == flag;
    // SAFETY: CPython passes a valid, writable Py_buffer. `owner` is the object that owns data, shape and strides, and
    // the view holds a reference to it until it is released, so all pointers outlive the view.
    unsafe {
        (*view).buf = exposed.data.as_ptr().cast_mut().cast::<c_void>();
        (*view).len = exposed.shape.iter().product::<isize>() * exposed.item_bytes;
        (*view).readonly = c_int::from(!exposed.writable);
        (*view).itemsize = exposed.item_bytes;
        (*view).format = if wants(py_ffi::PyBUF_FORMAT) {
            exposed.format.as_ptr().cast_mut()
        } else {
            std::ptr::null_mut()
        };
        (*view).ndim = exposed.shape.len() as c_int;
        (*view).shape = if wants(py_ffi::PyBUF_ND) {
            exposed.shape.as_ptr().cast_mut()
        } else {
            std::ptr::null_mut()
        };
        (*view).strides = if wants(py_ffi::PyBUF_STRIDES) {
            exposed.strides.as_ptr().cast_mut()
        } else {
            std::ptr::null_mut()
        };
        (*view).suboffsets = std::ptr::null_mut();
        (*view).internal = std::ptr::null_mut();
        (*view).obj = owner.into_ptr();
    }
    Ok(())
}

/// Exports a record batch by the Arrow PyCapsule interface.
///
/// Returns the pair (`arrow_schema` capsule, `arrow_array` capsule) of a struct array.
///
/// # Errors
/// `ValueError` for a type that the C data interface cannot carry.
pub(crate) fn export_batch<'py>(py: Python<'py>, batch: &RecordBatch) -> PyResult<Bound<'py, PyTuple>> {
    let schema = export_schema(py, batch.schema_ref())?;
    let (array, _) = to_ffi(&StructArray::from(batch.clone()).to_data()).map_err(arrow_error)?;
    let array: FFI_ArrowArray = array;
    let array = PyCapsule::new_with_value(py, array, c"arrow_array")?;
    PyTuple::new(py, [schema.into_any(), array.into_any()])
}

/// Exports a schema by the Arrow PyCapsule interface.
///
/// # Errors
/// `ValueError` for a type that the C data interface cannot carry.
pub(crate) fn export_schema<'py>(py: Python<'py>, schema: &Schema) -> PyResult<Bound<'py, PyCapsule>> {
    let schema = FFI_ArrowSchema::try_from(schema).map_err(arrow_error)?;
    PyCapsule::new_with_value(py, schema, c"arrow_schema")
}

fn arrow_error(e: arrow::error::ArrowError) -> PyErr {
    PyValueError::new_err(format!("Arrow C data interface: {e}"))
}

/// Reads all batches of any object with `__arrow_c_stream__` (pyarrow and polars tables, DuckDB relations).
///
/// # Errors
/// `ValueError` for an object without that method, or one whose stream fails.
#[cfg(feature = "fixtures")]
pub(crate) fn import_batches(value: &Bound<'_, PyAny>) -> PyResult<Vec<RecordBatch>> {
    use arrow::ffi_stream::{ArrowArrayStreamReader, FFI_ArrowArrayStream};
    let capsule = value.call_method0("__arrow_c_stream__")?;
    let capsule = capsule.cast::<PyCapsule>()?;
    let stream = capsule
        .pointer_checked(Some(c"arrow_array_stream"))?
        .cast::<FFI_ArrowArrayStream>();
    // SAFETY: the capsule's name was checked, so the pointer is an ArrowArrayStream. `from_raw` moves it out and marks
    // the original as released, which the capsule's destructor honours.
    let stream = unsafe { FFI_ArrowArrayStream::from_raw(stream.as_ptr()) };
    let reader = ArrowArrayStreamReader::try_new(stream).map_err(arrow_error)?;
    reader.collect::<Result<_, _>>().map_err(arrow_error)
}
