//! What can go wrong in the loader, and which Python exception says so.

use pyo3::PyErr;
use pyo3::exceptions::{PyImportError, PyOSError};
use pyo3::prelude::*;

/// Everything the loader reports, a variant per thing that a trainer does about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoaderError {
    /// A plan, filter or option that cannot work as written. Python: `PlanError`.
    #[error("{0}")]
    Plan(String),
    /// A corpus, version or warehouse that is not there. Python: `NotFoundError`.
    #[error("{0}")]
    NotFound(String),
    /// A checkpoint that belongs to another plan or cannot be read. Python: `StateError`.
    #[error("{0}")]
    State(String),
    /// Stored bytes that are not what was written. Python: `CorruptBlockError`.
    #[error("{0}")]
    Corrupt(String),
    /// A loader used in a process forked from the one that made it. Python: `ForkError`.
    #[error(
        "this loader was made in process {made}, and is used in process {here} after a fork: threads do not survive \
         a fork. Use num_workers=0 (the loader has threads of its own), or make the Plan and the Loader inside the worker"
    )]
    Fork {
        /// Process id that made the loader.
        made: u32,
        /// Process id that uses it.
        here: u32,
    },
    /// A fault of the loader itself. Python: `CorpusmillError`.
    #[error("step {step}: the loader has a fault, please report it: {message}")]
    Panic {
        /// The step that was being made.
        step: u64,
        /// What the panic said.
        message: String,
    },
    /// Storage that cannot be read just now. Python: `OSError`.
    #[error("{context}: {source}")]
    Io {
        /// What was being read or written.
        context: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The corpus crate's error, other than the cases above.
    #[error(transparent)]
    Corpus(#[from] corpusmill_corpus::CorpusError),
    /// The stream crate's error, other than the cases above.
    #[error(transparent)]
    Stream(#[from] corpusmill_stream::Error),
    /// An Arrow operation that failed on data that the loader was given.
    #[error("{context}: {source}")]
    Arrow {
        /// What was being done, with the column.
        context: String,
        /// Arrow's error.
        #[source]
        source: arrow::error::ArrowError,
    },
}

/// Result of the loader's operations.
pub(crate) type Result<T, E = LoaderError> = std::result::Result<T, E>;

impl LoaderError {
    /// Says whether the same call may succeed later without a change: storage that did not answer.
    pub(crate) fn retry(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                use std::io::ErrorKind as K;
                matches!(
                    source.kind(),
                    K::Interrupted | K::TimedOut | K::WouldBlock | K::ConnectionReset
                )
            }
            Self::Corpus(e) => e.retry(),
            Self::Stream(e) => e.retry(),
            _ => false,
        }
    }

    /// Says whether stored bytes are damaged or missing: what `on_corrupt` is about.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt(_) => true,
            Self::Corpus(e) => e.is_damage(),
            _ => false,
        }
    }

    /// Wraps an I/O error with what was being done.
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }

    /// Wraps an Arrow error with what was being done.
    pub(crate) fn arrow(context: impl Into<String>) -> impl FnOnce(arrow::error::ArrowError) -> Self {
        let context = context.into();
        move |source| Self::Arrow { context, source }
    }

    /// The message, and those of the errors beneath it that it does not repeat itself.
    pub(crate) fn with_causes(&self) -> String {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(e) = cause {
            let text = e.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = e.source();
        }
        message
    }

    fn class(&self) -> &'static str {
        use corpusmill_stream::Error as Stream;
        match self {
            Self::Stream(Stream::Lengths { source, .. }) => {
                source.downcast_ref::<Self>().map_or("CorpusmillError", Self::class)
            }
            Self::Plan(_) => "PlanError",
            Self::NotFound(_) => "NotFoundError",
            Self::State(_) => "StateError",
            Self::Corrupt(_) => "CorruptBlockError",
            Self::Fork { .. } => "ForkError",
            Self::Corpus(e) if e.is_damage() => "CorruptBlockError",
            Self::Corpus(corpusmill_corpus::CorpusError::NotFound { .. }) => "NotFoundError",
            Self::Stream(Stream::OtherPlan { .. } | Stream::State { .. }) => "StateError",
            Self::Stream(_) => "PlanError",
            Self::Corpus(_) | Self::Arrow { .. } | Self::Io { .. } | Self::Panic { .. } => "CorpusmillError",
        }
    }
}

impl From<LoaderError> for PyErr {
    fn from(e: LoaderError) -> PyErr {
        let message = e.with_causes();
        if matches!(e, LoaderError::Io { .. }) {
            return PyOSError::new_err(message);
        }
        // The classes live in Python, so that they can have built-in bases (ValueError, RuntimeError) as well.
        Python::attach(|py| {
            let made = py
                .import("corpusmill.errors")
                .and_then(|m| m.getattr(e.class()))
                .and_then(|class| class.call1((message.as_str(),)));
            match made {
                Ok(instance) => PyErr::from_value(instance),
                Err(missing) => PyImportError::new_err(format!("{message} (and corpusmill.errors: {missing})")),
            }
        })
    }
}
