//! What can go wrong when a plan is made, resumed or asked for a step.

use crate::lengths::LengthsError;

/// A [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong here. All but lengths is computed from what the caller hands in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The specification of a plan contradicts itself or is out of range.
    #[error("plan: {field}: {message}")]
    Spec {
        /// The field of the specification, as a path (`sources[1].shards`).
        field: String,
        /// What was found, what was expected, and the fix.
        message: String,
    },
    /// The rows that the loader selected are not those that the specification was made for.
    #[error("plan: rows of source '{source_name}': {message}")]
    Rows {
        /// The name of the source.
        source_name: String,
        /// What was found and what was expected.
        message: String,
    },
    /// A state was saved under another plan.
    #[error(
        "this state was saved under another plan ({found}, this plan is {expected}); they differ in: {parts}. \
         Make the plan with the same arguments, or start without the state"
    )]
    OtherPlan {
        /// The hash in the state.
        found: String,
        /// The hash of this plan.
        expected: String,
        /// The parts of the specification that differ, separated by commas.
        parts: String,
    },
    /// A state, index or log was written in a format that this release does not read.
    #[error("{what} has format {found}, this release reads format {supported}: use the release that wrote it")]
    Format {
        /// What was being read.
        what: &'static str,
        /// The format found in it.
        found: u32,
        /// The format that this release reads and writes.
        supported: u32,
    },
    /// A world size that does not divide the global batch, or a rank outside of it.
    #[error("rank {rank} of {world}: {message}")]
    World {
        /// The rank asked for.
        rank: u32,
        /// The world size asked for.
        world: u32,
        /// What was expected.
        message: String,
    },
    /// A state does not fit this plan or its log.
    #[error("state at step {step}: {message}")]
    State {
        /// The step in the state.
        step: u64,
        /// What was found and what was expected.
        message: String,
    },
    /// An entry of the log cannot be taken.
    #[error("plan log: {message}")]
    Log {
        /// What was found and what was expected.
        message: String,
    },
    /// The bytes of a group index are not one, are damaged, or belong to another plan.
    #[error("group index: {message}; delete it, it will be computed again")]
    Index {
        /// What was found and what was expected.
        message: String,
    },
    /// So many groups in a row gave nothing that no step can be made.
    #[error(
        "no document of {turns} draws from turn {turn} on fits a sequence of {sequence_length} tokens: \
         they are empty, or longer and the plan leaves long ones out. Use long = 'split' or a longer sequence"
    )]
    NothingToPack {
        /// The first turn of the groups without a pack.
        turn: u64,
        /// How many turns were tried.
        turns: u64,
        /// The length of a sequence, in tokens.
        sequence_length: u32,
    },
    /// The lengths of rows could not be read. Nothing was kept of them: the same step can be asked for again.
    #[error("the lengths of rows of source '{source_name}' could not be read")]
    Lengths {
        /// The name of the source.
        source_name: String,
        /// Why, in the words of whoever keeps them.
        #[source]
        source: LengthsError,
    },
    /// A JSON text is not what it should be.
    #[error("{what} is not valid JSON of its kind")]
    Json {
        /// What was being read or written.
        what: &'static str,
        /// The position and the reason.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Says whether the same call can succeed later: only where lengths could not be read, all else is computed.
    #[must_use]
    pub fn retry(&self) -> bool {
        matches!(self, Self::Lengths { .. })
    }

    pub(crate) fn spec(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Spec {
            field: field.into(),
            message: message.into(),
        }
    }
}
