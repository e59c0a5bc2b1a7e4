//! The native half of the Python package `corpusmill`: streams corpora into numpy, Arrow and PyTorch.
//!
//! ```text
//!  Plan(…) ──▶ plan/      arguments, sources, filter and classes ──▶ stream::Plan (order, mixing, packing)
//!                │
//!  Loader(…) ─▶ loader    position and state of one rank
//!                │
//!              prefetch   worker threads, ordered, bounded in bytes
//!                │
//!              assemble/  step ─▶ rows ─▶ blocks ─▶ token fields and columns, by memcpy
//!                │   ╲
//!              blocks/    open blocks ◀─ local Arrow files (mapped) ◀─ warehouse (checked, decoded)
//!                │
//!              batch ──▶ tensor (buffer protocol) ──▶ numpy, torch        ffi: all `unsafe`
//! ```
//! The Python half (`python/corpusmill`) holds the classes that people see, their documentation and exceptions.
//!
//! To add a token field, compute it in `assemble/tokens.rs` and list it in `batch.rs`. To add an argument of a plan,
//! add it to `plan/options.rs` and to `Plan` in Python. To add an operator of filters, see `filter.rs`. To deliver
//! another column type, add it to `python_values` in `batch.rs`.

mod assemble;
mod batch;
mod blocks;
mod error;
mod ffi;
mod filter;
#[cfg(feature = "fixtures")]
mod fixtures;
mod kept;
mod loader;
mod plan;
mod prefetch;
mod source;
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
    #[cfg(feature = "fixtures")]
    fixtures::register(module)?;
    Ok(())
}
