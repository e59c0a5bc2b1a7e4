//! What can go wrong in an operator.

use datafusion::error::DataFusionError;
use serde::{Deserialize, Serialize};

/// An error of an operator; it travels through DataFusion as `DataFusionError::External`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// Rows that would be kept have no key.
    #[error(
        "primary key ({columns}) is NULL in {rows} row(s) of a batch, for example {examples}; a key must not be NULL: \
         filter the rows out (WHERE … IS NOT NULL) or add an EXPECT (… IS NOT NULL) ON VIOLATION DROP ROW or QUARANTINE ROW"
    )]
    NullKey {
        /// The key columns, separated by commas.
        columns: String,
        /// Rows of the batch with a NULL key.
        rows: usize,
        /// A few of those rows.
        examples: String,
    },
    /// Two rows that would be kept have the same key.
    #[error(
        "primary key ({columns}) is not unique: {examples}; make the key longer, or keep one row each \
         (exact_duplicates(…) with EXPECT (dup_is_representative) ON VIOLATION DROP ROW, or QUALIFY row_number() … = 1)"
    )]
    DuplicateKey {
        /// The key columns, separated by commas.
        columns: String,
        /// A few keys that occur more than once.
        examples: String,
    },
    /// A row breaks an expectation whose action is FAIL BUILD.
    #[error("{0}")]
    Violation(Violation),
    /// A partition column has so many values that the shards would be tiny.
    #[error(
        "PARTITIONED BY ({columns}) gives more than {limit} partition values in one shard; partition by something coarser"
    )]
    TooManyPartitions {
        /// The partition columns, separated by commas.
        columns: String,
        /// The most values that are allowed.
        limit: usize,
    },
    /// Rows written to and read from an exchange differ; the step must be run again.
    #[error("step lost or doubled rows between operators: shard {shard} {detail}; run the step again")]
    Exchange {
        /// The shard that does not add up.
        shard: u32,
        /// What differs.
        detail: String,
    },
    /// The plan does not have the shape that this operator needs.
    #[error("plan of {operator} is malformed: {detail}")]
    Plan {
        /// The operator's name.
        operator: &'static str,
        /// What is missing.
        detail: String,
    },
    /// Storage failed.
    #[error("cannot write {path}")]
    Store {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// The corpus format failed.
    #[error(transparent)]
    Corpus(#[from] corpusmill_corpus::CorpusError),
    /// A model cannot be read or run.
    #[error("model {name}: {source}")]
    Model {
        /// Its name.
        name: String,
        /// Why.
        source: crate::encoder::EncoderError,
    },
    /// A receipt cannot be read.
    #[error("receipt {path} is unreadable; remove it and run the statement again")]
    Receipt {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Rows that break an expectation whose action is FAIL BUILD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("expectation `{expectation}` is not met by {rows} row(s) of a batch, for example {examples}")]
pub struct Violation {
    /// The name of the constraint.
    pub expectation: String,
    /// Rows of the batch that break it.
    pub rows: usize,
    /// A few of those rows.
    pub examples: String,
}

impl OperatorError {
    pub(crate) fn model(spec: &crate::ModelSpec, source: crate::encoder::EncoderError) -> Self {
        Self::Model {
            name: spec.source.name.clone(),
            source,
        }
    }

    /// Whether the same step may succeed when it is run again, unchanged.
    #[must_use]
    pub fn retry(&self) -> bool {
        match self {
            Self::Exchange { .. } => true,
            Self::Store { source, .. } => corpusmill_corpus::store_retry(source),
            Self::Corpus(error) => error.retry(),
            _ => false,
        }
    }
}

impl From<OperatorError> for DataFusionError {
    fn from(error: OperatorError) -> Self {
        Self::External(Box::new(error))
    }
}
