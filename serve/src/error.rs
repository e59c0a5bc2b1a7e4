//! What can go wrong between a worker and a trainer.

use corpusmill_batches::{BatchError, ErrorKind};

/// The result of this crate.
pub type Result<T, E = ServeError> = std::result::Result<T, E>;

/// Everything that serving reports, a variant for each thing that a caller does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address of a coordinator is none.
    #[error(
        "source: `{source_url}` is no address of a coordinator ({reason}); one looks like corpusmill://127.0.0.1:50050"
    )]
    Address {
        /// What was given.
        source_url: String,
        /// Why it is none.
        reason: String,
    },
    /// The coordinator does not take this caller: another plan, world size, version, or a rank that is taken.
    #[error("the coordinator at {url} refuses: {reason}")]
    Refused {
        /// Address of the coordinator.
        url: String,
        /// Why, in its words.
        reason: String,
    },
    /// Nobody could serve a step in time.
    #[error("step {step}: no worker served it within {after_s} s: {reason}")]
    Nobody {
        /// The step.
        step: u64,
        /// How long it was tried, in seconds.
        after_s: u64,
        /// The last thing that went wrong.
        reason: String,
    },
    /// A worker could not make a batch; trying again is of no use.
    #[error("worker {worker}, step {step}: {message}")]
    Failed {
        /// The worker.
        worker: String,
        /// The step.
        step: u64,
        /// What a trainer does about it.
        kind: ErrorKind,
        /// What the worker says.
        message: String,
    },
    /// Bytes that are no batch of this plan, or a plan that cannot be opened.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Other machines could connect and would not be asked who they are, or the credentials do not serve.
    #[error(transparent)]
    Access(#[from] corpusmill_access::AccessError),
    /// A transport failed.
    #[error(transparent)]
    Transport(#[from] corpusmill_transport::Error),
    /// The other side does not speak as agreed.
    #[error("{0}")]
    Protocol(String),
}

impl ServeError {
    /// An address that is none.
    pub(crate) fn address(source_url: &str, reason: String) -> Self {
        Self::Address {
            source_url: source_url.to_owned(),
            reason,
        }
    }

    /// Whether the same may succeed later, with this worker or another.
    #[must_use]
    pub fn retry(&self) -> bool {
        match self {
            Self::Transport(e) => e.retry() || matches!(e, corpusmill_transport::Error::Closed { .. }),
            Self::Batch(e) => e.retry(),
            Self::Access(e) => e.retry(),
            Self::Nobody { .. } => true,
            Self::Address { .. } | Self::Refused { .. } | Self::Failed { .. } | Self::Protocol(_) => false,
        }
    }

    /// What a trainer is told.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Batch(e) => e.kind(),
            Self::Failed { kind, .. } => *kind,
            Self::Address { .. } | Self::Refused { .. } | Self::Access(_) => ErrorKind::Plan,
            Self::Nobody { .. } | Self::Transport(_) => ErrorKind::Io,
            Self::Protocol(_) => ErrorKind::Other,
        }
    }
}
