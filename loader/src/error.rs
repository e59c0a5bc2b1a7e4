//! Which Python exception says what went wrong.

use corpusmill_batches::{BatchError, ErrorKind, OpenPlan};
use corpusmill_proto::RemoteError;
use corpusmill_proto::control::FailureKind;
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
    /// A coordinator does not run a script to a good end.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Threads(std::io::Error),
}

/// Result of the loader's operations.
pub(crate) type Result<T, E = LoaderError> = std::result::Result<T, E>;

impl LoaderError {
    /// The class of `corpusmill.errors`; none stands for Python's `OSError`.
    fn class(&self) -> Option<&'static str> {
        let kind = match self {
            Self::Batches(e) => e.kind(),
            Self::Serve(e) => e.kind(),
            Self::Threads(_) => ErrorKind::Io,
            Self::Remote(e) => return Some(remote_class(e)),
        };
        Some(match kind {
            ErrorKind::Io => return None,
            ErrorKind::Plan => "PlanError",
            ErrorKind::NotFound => "NotFoundError",
            ErrorKind::State => "StateError",
            ErrorKind::Corrupt => "CorruptBlockError",
            ErrorKind::Fork => "ForkError",
            ErrorKind::Other => "CorpusmillError",
        })
    }

    fn message(&self) -> String {
        match self {
            Self::Batches(e) | Self::Serve(ServeError::Batch(e)) => e.with_causes(),
            other => other.to_string(),
        }
    }
}

fn remote_class(error: &RemoteError) -> &'static str {
    match error {
        RemoteError::Cancelled => "StoppedError",
        RemoteError::Failed(failure) => match failure.kind() {
            FailureKind::Unspecified => "ScriptError",
            FailureKind::Expectation => "ExpectationError",
            FailureKind::Cancelled => "StoppedError",
            FailureKind::Busy => "BusyError",
        },
        _ => "CoordinatorError",
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
        let Some(class) = e.class() else {
            return PyOSError::new_err(message);
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
