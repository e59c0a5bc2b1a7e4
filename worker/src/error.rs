//! What can go wrong in a worker.

use std::path::PathBuf;

/// The result of this crate.
pub type Result<T, E = WorkerError> = std::result::Result<T, E>;

/// An error that ends a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// An option does not fit.
    #[error("{0}")]
    Invalid(String),
    /// Other machines could call and would not be asked who they are, or the credentials do not serve.
    #[error(transparent)]
    Access(#[from] corpusmill_access::AccessError),
    /// The coordinator does not take this worker.
    #[error("the coordinator at {url} refuses this worker: {reason}")]
    Refused {
        /// Address of the coordinator.
        url: String,
        /// Why, in its words.
        reason: String,
    },
    /// The coordinator does not answer.
    #[error("no coordinator answers at {url}: {reason}")]
    Unreachable {
        /// Address of the coordinator.
        url: String,
        /// Why.
        reason: String,
    },
    /// The folder for shuffles and spilled rows cannot be used.
    #[error("cannot use the work folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Trainers cannot be served.
    #[error("cannot serve trainers: {0}")]
    Serve(#[from] corpusmill_serve::ServeError),
    /// The session cannot be opened.
    #[error(transparent)]
    Sql(#[from] corpusmill_sql::SqlError),
}

impl WorkerError {
    /// Whether the same call may succeed later, unchanged.
    #[must_use]
    pub fn retry(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Access(error) => error.retry(),
            _ => false,
        }
    }
}
