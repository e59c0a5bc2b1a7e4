//! Which Python exception says what went wrong.

use corpusmill_batches::{BatchError, ErrorKind, OpenPlan};
use corpusmill_serve::ServeError;
use pyo3::exceptions::{PyImportError, PyOSError};
use pyo3::prelude::*;

/// Everything the loader reports.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoaderError {
    /// A plan or a batch that cannot be made.
    #[error(transparent)]
    Batches(#[from] BatchError),
    /// Workers do not serve the batch.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Result of the loader's operations.
pub(crate) type Result<T, E = LoaderError> = std::result::Result<T, E>;

impl LoaderError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Batches(e) => e.kind(),
            Self::Serve(e) => e.kind(),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Batches(e) | Self::Serve(ServeError::Batch(e)) => e.with_causes(),
            Self::Serve(e) => e.to_string(),
        }
    }
}

impl From<corpusmill_stream::Error> for LoaderError {
    fn from(e: corpusmill_stream::Error) -> Self {
        Self::Batches(e.into())
    }
}

impl From<LoaderError> for PyErr {
    fn from(e: LoaderError) -> PyErr {
        let message = e.message();
        let class = match e.kind() {
            ErrorKind::Io => return PyOSError::new_err(message),
            ErrorKind::Plan => "PlanError",
            ErrorKind::NotFound => "NotFoundError",
            ErrorKind::State => "StateError",
            ErrorKind::Corrupt => "CorruptBlockError",
            ErrorKind::Fork => "ForkError",
            ErrorKind::Other => "CorpusmillError",
        };
        // The classes live in Python, so that they can have built-in bases (ValueError, RuntimeError) as well.
        Python::attach(|py| {
            let made = py
                .import("corpusmill.errors")
                .and_then(|m| m.getattr(class))
                .and_then(|class| class.call1((message.as_str(),)));
            match made {
                Ok(instance) => PyErr::from_value(instance),
                Err(missing) => PyImportError::new_err(format!("{message} (and corpusmill.errors: {missing})")),
            }
        })
    }
}

/// Checks that this is the process that made the plan.
///
/// # Errors
/// Fork, with both process ids.
pub(crate) fn check_process(plan: &OpenPlan) -> Result<()> {
    Ok(plan.threads().check_process()?)
}
