//! Execution plans of corpusmill: what DataFusion lacks for writing a corpus, kept thin.
//!
//! An operator here moves rows and counts them; compute over arrays lives in `kernels`, file formats in `corpus`,
//! and the decision that a step is complete in `coordinator`. Every operator has a codec, so that the same plan
//! runs in this process or on a worker.
//!
//! ```text
//!   the corpus' query
//!        │  + _hash, _shard, _verdict, _warn_…           (a projection that the coordinator adds)
//!   Screen            takes dropped rows out, turns them into counts per shard and reason; NULL keys are errors
//!        │
//!   RepartitionExec   hash(_shard)         SortExec   (_shard, _class, _hash, key)      both DataFusion's, both spill
//!        │
//!   WriteShards       duplicate keys are errors; one writer per partition value; quarantine files
//!        │
//!   one row = one Receipt (also put into the staging folder: `SPLIT.ATTEMPT.json`)
//! ```
//! A materialised step ends in [`WriteRows`] instead: one Parquet file for each partition of its input.
//!
//! [`Predict`] runs models over text columns; the models themselves are in the crate `models`, behind [`Encoders`].
//!
//! To add an operator: one file with the plan node (`name.rs`), one arm in `codec.rs`, a round trip in its tests.

mod codec;
mod destination;
mod encoder;
mod error;
pub mod failpoint;
mod key_functions;
mod model_function;
mod predict;
mod predict_rule;
mod receipt;
mod rows_file;
mod screen;
mod task_failure;
mod write_rows;
mod write_shards;

#[cfg(test)]
mod tests;

pub use codec::OperatorCodec;
pub use destination::Destination;
pub use encoder::{
    Encoded, Encoder, EncoderError, Encoders, ModelSource, ModelSpec, ModelTask, encoders, install_encoders,
};
pub use error::{OperatorError, Violation};
pub use key_functions::{key_hash_udf, key_shard_udf};
pub use model_function::{ModelFunction, model_values_type};
pub use predict::{Predict, Prediction};
pub use predict_rule::PlanPredictions;
pub use receipt::{Receipt, RowFile};
pub use screen::{CLASS, COUNT, HASH, REASON, Reason, ReasonAction, SHARD, Screen, ScreenSpec, VERDICT, warn_column};
pub use task_failure::{
    FailureCause, TaskFailure, causes, chain, is_spill_limit, object_in, short_of_memory, with_sources,
};
pub use write_rows::{RowSink, WriteRows};
pub use write_shards::{ShardSink, WriteShards};
