//! Arrays of a batch, handed to numpy without a copy.

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use corpusmill_batches::{Dtype, Values};
use pyo3::prelude::*;

use crate::ffi::{Exposed, fill_buffer};

/// An array of a batch as Python sees it: `numpy.asarray(t)` copies nothing.
#[pyclass(frozen, module = "corpusmill._native")]
#[derive(Debug)]
pub(crate) struct Tensor(pub(crate) Arc<Values>);

#[pymethods]
impl Tensor {
    #[getter]
    fn shape(&self) -> Vec<usize> {
        self.0.shape()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.0.bytes()
    }

    #[expect(unsafe_code, reason = "the slot's signature; the work and its reasons are in ffi.rs")]
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut pyo3::ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let values = &slf.get().0;
        let (shape, strides) = values.extents();
        let exposed = Exposed {
            data: values.buffer(),
            writable: true,
            item_bytes: values.dtype().bytes() as isize,
            format: format(values.dtype()),
            shape,
            strides,
        };
        fill_buffer(&exposed, slf.clone().into_any(), view, flags)
    }
}

/// Format character of Python's `struct` module (native size and order).
fn format(dtype: Dtype) -> &'static CStr {
    match dtype {
        Dtype::Bool => c"?",
        Dtype::I8 => c"b",
        Dtype::U8 => c"B",
        Dtype::I16 => c"h",
        Dtype::U16 => c"H",
        Dtype::I32 => c"i",
        Dtype::U32 => c"I",
        Dtype::I64 => c"q",
        Dtype::U64 => c"Q",
        Dtype::F16 => c"e",
        Dtype::F32 => c"f",
        Dtype::F64 => c"d",
    }
}
