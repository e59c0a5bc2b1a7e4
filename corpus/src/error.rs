//! The one error type of this crate.

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

use crate::store::{store_message, store_retry};

/// Result of every fallible function of this crate.
pub type Result<T, E = CorpusError> = std::result::Result<T, E>;

/// What can go wrong with a corpus on disk; one variant per thing that a caller does about it.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The object store failed: the network, permissions, a full disk.
    #[error("cannot {action} {path}: {}", store_message(.source))]
    Store {
        /// What was being done ("read", "write", "list").
        action: &'static str,
        /// The object.
        path: String,
        /// The store's own error.
        source: object_store::Error,
    },
    /// Bytes on disk are not what was written: altered, truncated or gone.
    #[error("{path} is damaged ({place}): {found}; {fix}")]
    Corrupt {
        /// The object.
        path: String,
        /// Which part of it ("block 3 of 12, bytes 4096..9000").
        place: String,
        /// What was expected and what was found.
        found: String,
        /// What to do.
        fix: &'static str,
    },
    /// A file is not in a format that this release knows.
    #[error("{path}: {detail}")]
    Format {
        /// The object.
        path: String,
        /// What was expected, what was found.
        detail: String,
    },
    /// A corpus, version or column of that name does not exist.
    #[error("{what} `{name}` does not exist{hint}")]
    NotFound {
        /// The kind of thing.
        what: &'static str,
        /// The name that was given.
        name: String,
        /// What exists instead, starting with "; ", or nothing.
        hint: String,
    },
    /// A column's type or value cannot be stored in a corpus.
    #[error("column `{column}`: {detail}")]
    Column {
        /// The column.
        column: String,
        /// What was found, what was expected, the fix.
        detail: String,
    },
    /// A location or an option that a person gave is not usable.
    #[error("{what} `{given}`: {detail}")]
    Argument {
        /// The kind of argument.
        what: &'static str,
        /// As it was given.
        given: String,
        /// What was expected.
        detail: String,
    },
    /// Arrow refused an operation.
    #[error("{doing}: {source}")]
    Arrow {
        /// What was being done.
        doing: String,
        /// Arrow's own error.
        source: ArrowError,
    },
    /// Parquet refused to encode or decode.
    #[error("{path}: {source}")]
    Parquet {
        /// The file.
        path: String,
        /// Parquet's own error.
        source: ParquetError,
    },
}

/// What a person does about a file that is not what was written.
pub(crate) const RESTORE: &str =
    "restore the file from a copy, or rebuild the corpus (the digest of the manifest says whether it is the same)";

impl CorpusError {
    /// Says whether the same call may succeed later without anybody changing anything.
    pub fn retry(&self) -> bool {
        match self {
            Self::Store { source, .. } => store_retry(source),
            _ => false,
        }
    }

    /// Says whether stored bytes are damaged or missing, which a loader may treat as masked rows.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Parquet { .. } => true,
            Self::Store { source, .. } => matches!(source, object_store::Error::NotFound { .. }),
            _ => false,
        }
    }

    pub(crate) fn store(action: &'static str, path: impl ToString) -> impl FnOnce(object_store::Error) -> Self {
        let path = path.to_string();
        move |source| Self::Store { action, path, source }
    }

    pub(crate) fn arrow(doing: impl Into<String>) -> impl FnOnce(ArrowError) -> Self {
        let doing = doing.into();
        move |source| Self::Arrow { doing, source }
    }

    pub(crate) fn parquet(path: impl ToString) -> impl FnOnce(ParquetError) -> Self {
        let path = path.to_string();
        move |source| Self::Parquet { path, source }
    }

    pub(crate) fn format(path: impl ToString, detail: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_string(),
            detail: detail.into(),
        }
    }

    pub(crate) fn column(column: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Column {
            column: column.into(),
            detail: detail.into(),
        }
    }

    pub(crate) fn argument(what: &'static str, given: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Argument {
            what,
            given: given.into(),
            detail: detail.into(),
        }
    }
}
