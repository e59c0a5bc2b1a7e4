//! The native half of the Python package `corpusmill`: streams corpora into numpy, Arrow and PyTorch.
//!
//! ```text
//!  Plan(…) ──▶ plan       batches::OpenPlan
//!                │
//!  Loader(…) ─▶ loader    position and state of one rank
//!                │
//!              ahead      batches::Prefetcher in this process, or serve::Feed from workers
//!                │
//!              batch ──▶ tensor (buffer protocol) ──▶ numpy, torch        ffi: all `unsafe`
//!
//!  submit(…) ─▶ script    proto::Conversation with a coordinator
//! ```
//! The Python half (`python/corpusmill`) holds the classes that people see, their documentation and exceptions.
//!
//! To deliver another column type, add it to `python_values` in `batch.rs`.

mod ahead;
mod batch;
mod error;
mod ffi;
#[cfg(feature = "fixtures")]
mod fixtures;
mod loader;
mod plan;
mod script;
mod stats;
mod tensor;

use pyo3::prelude::*;

/// The module `corpusmill._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<plan::PyPlan>()?;
    module.add_class::<plan::Provenance>()?;
    module.add_class::<loader::PyLoader>()?;
    module.add_class::<batch::Batch>()?;
    module.add_class::<tensor::Tensor>()?;
    module.add_class::<script::PyScript>()?;
    #[cfg(feature = "fixtures")]
    fixtures::register(module)?;
    Ok(())
}
