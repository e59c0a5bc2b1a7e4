//! The one error type of this crate.

use corpusmill_corpus::CorpusError;
use corpusmill_kernels::KernelError;

/// Why a model cannot be read or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file of the model cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The store's own error.
        source: object_store::Error,
    },
    /// The location is not one that can be read.
    #[error(transparent)]
    Location(#[from] CorpusError),
    /// A file, a setting or a tensor that the model must have is not there, or is not as it must be.
    #[error("{file}: {problem}; {fix}")]
    Unfit {
        /// The file in which it is missing.
        file: String,
        /// What was found and what was expected.
        problem: String,
        /// What to do about it.
        fix: String,
    },
    /// An option of the statement does not fit the model.
    #[error("{option} = '{value}': {problem}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it, and what would fit.
        problem: String,
    },
    /// The model's tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] KernelError),
    /// The threads that compute are gone.
    #[error("the encoder of model '{0}' stopped; the log of this process says why")]
    Stopped(String),
}

impl ModelError {
    /// Says whether the same call may succeed when it is made again: reading may, the rest depends on the files.
    #[must_use]
    pub fn retry(&self) -> bool {
        match self {
            Self::Read { source, .. } => !matches!(
                source,
                object_store::Error::NotFound { .. }
                    | object_store::Error::PermissionDenied { .. }
                    | object_store::Error::Unauthenticated { .. }
            ),
            Self::Location(error) => error.retry(),
            _ => false,
        }
    }

    pub(crate) fn unfit(file: &str, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Unfit {
            file: file.to_owned(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

/// Result of every fallible function of this crate.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
