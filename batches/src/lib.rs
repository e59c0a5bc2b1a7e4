//! Plans over corpora, and their batches: what a loader does in its own process, and a worker for the trainers it serves.
//!
//! ```text
//!  Options ──▶ plan/      arguments, sources, filter and classes ──▶ stream::Plan (order, mixing, packing)
//!                │        live/    the log of a plan with a run ──▶ (the same)          ledger   what runs have read
//!              assemble/  step ─▶ rows of a rank ─▶ blocks ─▶ token fields and columns, by memcpy
//!                │   ╲
//!              blocks/    open blocks ◀─ local Arrow files (mapped) ◀─ warehouse (checked, decoded)
//!                │
//!              batch      fields that exist, fields that are derived
//!                │
//!              prefetch   worker threads, ordered, bounded in bytes       wire   one slot of bytes, and back
//! ```
//! Unsafe code is in `blocks/map.rs` (memory maps of cached files).
//!
//! To add a token field, compute it in `assemble/tokens.rs` and list it in `batch.rs`. To add an argument of a plan,
//! add it to `plan/options.rs` and to `Plan` in Python. To add an operator of filters, see `filter.rs`.

mod assemble;
mod batch;
mod blocks;
mod error;
mod filter;
mod kept;
mod ledger;
mod live;
mod plan;
mod prefetch;
mod source;
mod values;
mod wire;

pub use assemble::columns::{Numbers, numbers};
pub use assemble::{Assembler, Documents, Layout};
pub use batch::{BatchData, BatchShape, FieldSet};
pub use blocks::{BlockCounters, ReadThreads, plain_type};
pub use error::{BatchError, ErrorKind, Result};
pub use filter::canonical_filter;
pub use ledger::{Ledger, RunInfo, Sighting, TakenDown};
pub use live::Span;
pub use plan::{Appended, LogEntry, OpenPlan, Options, RowsOfStep, Surroundings, nearest, worker_threads};
pub use prefetch::{Prefetcher, Produce};
pub use values::{Dtype, SlabPool, Values};
pub use wire::EncodedBatch;
