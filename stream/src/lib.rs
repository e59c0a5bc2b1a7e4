//! The order of samples in training, as a pure function of (plan, step): no IO, no threads, no buffers.
//!
//! ```text
//!  PlanSpec ── hash = identity            Lengths, Selection (from the loader: memory maps, filters)
//!      │                                        │
//!      ▼                                        ▼
//!  mix     turn t        → (stratum, k-th draw of it)        exact prefix counts, weights that change
//!  order   k-th draw     → ordinal in the epoch              keyed bijections over blocks and windows
//!  select  ordinal       → slot (row of the version)         filter and class, rank/select
//!  group   turns g·G ..  → documents with their lengths      fixed groups of G turns
//!  pack    documents     → packs                             best fit decreasing, inside the group
//!  index   pack number   → (group, pack in it)               cumulative counts, lazily, persistable
//!  plan    step          → the next `global_batch` packs     rank r of w takes a contiguous share
//! ```
//! Nothing of a step survives it, so a [`State`] is a few numbers, the same on every rank and for every world
//! size that divides the global batch. A log beside the plan ([`Log`]) masks rows and changes weights from a
//! group on that no rank has entered; it never moves a row that was already placed.
//!
//! A *stratum* is what is drawn from: a source, or one class of it where the source is balanced by a column.
//! A *turn* is a place in the mixed sequence of draws. A *slot* is the number of a row in a corpus version.
//!
//! ```
//! use corpusmill_stream::{LongDocuments, Plan, PlanSpec, Shape, SourceSpec, State};
//! # fn main() -> Result<(), corpusmill_stream::Error> {
//! let posts = SourceSpec::new("posts", "mod_text", 41, 10_000);
//! let shape = Shape::Packed { sequence_length: 512, long: LongDocuments::Split };
//! let spec = PlanSpec::new(vec![posts], 42, 16, shape);
//! let lengths = std::sync::Arc::new(vec![(0..10_000).map(|row| 20 + row % 300).collect()]);
//!
//! let plan = Plan::new(spec.clone(), lengths.clone())?;
//! let batch = plan.rank_slice(7, 1, 4)?.expect("the plan is endless");
//! assert_eq!(batch.len(), 4);
//! assert!(batch.packs().all(|pack| pack.iter().map(|piece| piece.length).sum::<u32>() <= 512));
//!
//! // Another process goes on from the state, at another world size.
//! let state = State::from_json(&plan.state(8)?.to_json())?;
//! let resumed = Plan::new(spec, lengths)?;
//! assert_eq!(resumed.resume(&state)?, 8);
//! assert_eq!(resumed.rank_slice(8, 0, 2)?, plan.rank_slice(8, 0, 2)?);
//! # Ok(())
//! # }
//! ```
//! To add a way to order rows, add a variant to [`OrderSpec`] and its arm in `order.rs`. To add a shape of
//! batches, add a variant to [`Shape`] and its arm in `group.rs`. To add a change that can reach a running job,
//! add a variant to [`Change`] and say in `log.rs` when it takes effect. Each of them changes what a plan hash
//! covers: `tests/plan/golden.rs` fails when the numbers of an existing format move.

mod bijection;
mod error;
mod group;
mod index;
mod key;
mod lengths;
mod log;
mod mix;
mod order;
mod pack;
mod plan;
mod schedule;
mod selection;
mod spec;
mod state;
mod step;
mod strata;

pub use bijection::Bijection;
pub use error::{Error, Result};
pub use lengths::{Lengths, LengthsError, Unmeasured};
pub use log::{Change, Entry, Log, MaskReason};
pub use pack::{best_fit, suggested_group_turns};
pub use plan::Plan;
pub use selection::Selection;
pub use spec::{
    Balance, Class, Filter, LastBatch, LongDocuments, OrderSpec, Passes, PlanSpec, Shape, SourceSpec, Start, Until,
    WeightChange,
};
pub use state::State;
pub use step::{Counts, Piece, StepPlan};
pub use strata::SourceRows;
