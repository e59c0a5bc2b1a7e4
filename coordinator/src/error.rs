//! What can go wrong in a coordinator, by what a caller does about it.

use std::error::Error as StdError;
use std::path::PathBuf;

use corpusmill_corpus::{CorpusError, store_advice, store_message, store_retry};
use corpusmill_operators::{OperatorError, chain, is_spill_limit, short_of_memory, with_sources};
use corpusmill_proto::RemoteError;
use corpusmill_proto::control::FailureKind;
use corpusmill_sql::SqlError;
use datafusion::error::DataFusionError;
use deltalake_core::DeltaTableError;

/// The result of this crate.
pub type Result<T, E = CoordinatorError> = std::result::Result<T, E>;

/// An error of the coordinator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// Other machines could call and would not be asked who they are, or the credentials do not serve.
    #[error(transparent)]
    Access(#[from] corpusmill_access::AccessError),
    /// The statement is wrong, or its data is: says so at line and column.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// An expectation with the action FAIL BUILD did not hold: nothing was published.
    #[error(
        "corpus {corpus}: expectation `{expectation}` failed the build: {detail}; nothing was published (build {build}, see SHOW BUILDS)"
    )]
    ExpectationFailed {
        /// The corpus.
        corpus: String,
        /// The build that failed.
        build: String,
        /// Name of the constraint.
        expectation: String,
        /// The condition and what was observed.
        detail: String,
    },
    /// Rows cannot be written as a corpus: the data is wrong, or the statement is.
    #[error("{place}: {message}")]
    Operator {
        /// The statement: what was being built.
        place: String,
        /// What the operator said.
        message: String,
        /// Whether the step may succeed when it is run again.
        transient: bool,
        /// The engine's error around it.
        #[source]
        source: Box<DataFusionError>,
    },
    /// The engine failed while a statement ran.
    #[error("{place}: {source}")]
    Engine {
        /// The statement: where it stands, and its first words.
        place: String,
        /// What the engine says.
        #[source]
        source: SqlError,
    },
    /// An object exists, is missing, or cannot be changed that way.
    #[error("{0}")]
    Object(String),
    /// An option or a clause does not fit.
    #[error("{0}")]
    Invalid(String),
    /// Another process writes to the same home.
    #[error("{} is in use by another corpusmill process (pid {pid}): wait for it or stop it, or give another --home", home.display())]
    Locked {
        /// The home.
        home: PathBuf,
        /// The process that holds it; `unknown` where it did not say.
        pid: String,
    },
    /// Another writer committed to the same corpus first.
    #[error(
        "corpus {corpus}: another writer committed a version while this build ran (expected to publish version {version}): run the statement again"
    )]
    Conflict {
        /// The corpus.
        corpus: String,
        /// The version that this build wanted to make.
        version: u64,
    },
    /// Another process writes to the same catalogue.
    #[error("catalogue {catalog} is being written by {leader}: wait for it or stop it, or `corpusmill submit` to it")]
    Led {
        /// The catalogue.
        catalog: String,
        /// Its address, or what it calls itself.
        leader: String,
    },
    /// This process does not lead, or does so no longer: what it wanted to write was not written.
    #[error(
        "this process may not write to catalogue {catalog} any more, because another coordinator leads or the catalogue \
         was away for too long; run the same command again: it goes on from the last finished split"
    )]
    Deposed {
        /// The catalogue.
        catalog: String,
    },
    /// The catalogue was written by a newer corpusmill.
    #[error(
        "catalogue {catalog} was written by a newer corpusmill (its schema has migration {found}, this program knows up to {known}): use that version, or another catalogue"
    )]
    NewerCatalog {
        /// The catalogue.
        catalog: String,
        /// Its newest migration.
        found: i64,
        /// The newest that this program has.
        known: i64,
    },
    /// The catalogue cannot be read or written.
    #[error("catalogue {catalog}: {source}")]
    Catalog {
        /// The catalogue.
        catalog: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The server of the catalogue is away, or lets nobody in.
    #[error("catalogue {catalog}: {why}")]
    CatalogServer {
        /// The catalogue, without its password.
        catalog: String,
        /// What is wrong, and what to do.
        why: String,
        /// What the server or the system said.
        #[source]
        source: sqlx::Error,
    },
    /// The disk is full.
    #[error(
        "{place}: no space left on the device that holds {location}; free some space and run the same statement again: it goes on from the last finished split"
    )]
    DiskFull {
        /// The statement: what was being built.
        place: String,
        /// The folder that was written to.
        location: String,
    },
    /// An operator needs more memory than it may have, and cannot spill, or not so much.
    #[error("{place}: {holder} may not hold or spill so much: {message}; {fix}")]
    OutOfMemory {
        /// The statement: what was being built.
        place: String,
        /// The process.
        holder: String,
        /// What the engine says.
        message: String,
        /// What to do.
        fix: &'static str,
    },
    /// A person stopped the statement.
    #[error("stopped; run the same command to go on from the last finished split")]
    Cancelled,
    /// The workers, the scheduler or a coordinator elsewhere cannot be relied on at the moment.
    #[error("{0}")]
    Cluster(String),
    /// A script failed on a coordinator elsewhere.
    #[error("{message}")]
    Remote {
        /// What a caller does about it.
        kind: RemoteKind,
        /// What the error said there, with its causes.
        message: String,
    },
    /// The corpus format failed.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The Delta table cannot be read or written.
    #[error("{place}: Delta table: {}", delta_message(.source))]
    Delta {
        /// The corpus.
        place: String,
        /// Why.
        #[source]
        source: Box<DeltaTableError>,
    },
    /// Storage failed.
    #[error("cannot {action} {path}: {}", store_message(.source))]
    Store {
        /// What was tried: `read`, `write`, `list`.
        action: &'static str,
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// A file of the home cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Failures, by what the caller of a program does about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// The statement, its data or a machine is wrong.
    Other,
    /// An expectation failed the build; nothing was published.
    Expectation,
    /// A person stopped it.
    Cancelled,
    /// Somebody else is writing there; the same call may succeed later.
    Busy,
}

impl CoordinatorError {
    /// What the caller of a program does about it.
    #[must_use]
    pub fn kind(&self) -> RemoteKind {
        match self {
            Self::ExpectationFailed { .. } => RemoteKind::Expectation,
            Self::Cancelled => RemoteKind::Cancelled,
            Self::Locked { .. } | Self::Led { .. } | Self::Deposed { .. } | Self::Conflict { .. } => RemoteKind::Busy,
            Self::Remote { kind, .. } => *kind,
            _ => RemoteKind::Other,
        }
    }

    /// Whether the same call may succeed later, unchanged.
    #[must_use]
    pub fn retry(&self) -> bool {
        match self {
            Self::Access(error) => error.retry(),
            Self::Sql(error) => error.retry(),
            Self::Engine { source, .. } => source.retry(),
            Self::Operator { transient, .. } => *transient,
            Self::Corpus(error) => error.retry(),
            Self::Locked { .. } | Self::Led { .. } | Self::Deposed { .. } => true,
            Self::Conflict { .. } | Self::DiskFull { .. } | Self::Cancelled => true,
            Self::CatalogServer { source, .. } => matches!(source, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut),
            Self::Cluster(_) => true,
            Self::Remote { kind, .. } => *kind == RemoteKind::Busy,
            Self::Store { source, .. } => store_retry(source),
            _ => false,
        }
    }

    /// Puts an error of the engine in its place: ours are unpacked, a full disk is called so. `location` is what was
    /// written to when no object is named.
    pub(crate) fn engine(place: &str, location: &str, error: DataFusionError) -> Self {
        if is_disk_full(&error) {
            return Self::DiskFull {
                place: place.to_owned(),
                location: full_place(&error, location),
            };
        }
        if let Some(short) = short_of_memory(&error) {
            return Self::short(place, &short);
        }
        match find_operator(&error) {
            Some((message, transient)) => Self::Operator {
                place: place.to_owned(),
                message,
                transient,
                source: Box::new(error),
            },
            None => Self::Sql(SqlError::Engine(error)),
        }
    }

    /// A row that breaks an expectation with the action FAIL BUILD fails the build as a corpus expectation does.
    pub(crate) fn of_build(self, corpus: &str, build: &str) -> Self {
        let Self::Operator { source, .. } = &self else {
            return self;
        };
        match operator_in(source) {
            Some(OperatorError::Violation(broken)) => Self::ExpectationFailed {
                corpus: corpus.to_owned(),
                build: build.to_owned(),
                expectation: broken.expectation.clone(),
                detail: format!(
                    "{} row(s) of a batch break it, for example {}",
                    broken.rows, broken.examples
                ),
            },
            _ => self,
        }
    }

    /// The same for errors that are one of ours already; those that do not say yet where in the script they are, by
    /// `line`, get their place.
    pub(crate) fn at(self, place: &str, line: &str, location: &str) -> Self {
        let place = place.to_owned();
        let placed = |text: String| match text.starts_with(line) {
            true => text,
            false => format!("{line}: {text}"),
        };
        if is_disk_full(&self) {
            return Self::DiskFull {
                place,
                location: full_place(&self, location),
            };
        }
        if let Some(short) = short_of_memory(&self) {
            return Self::short(&place, &short);
        }
        match self {
            Self::Sql(source @ SqlError::Engine(_)) => Self::Engine { place, source },
            Self::Invalid(text) => Self::Invalid(placed(text)),
            Self::Object(text) => Self::Object(placed(text)),
            other => other,
        }
    }

    fn short(place: &str, message: &str) -> Self {
        Self::OutOfMemory {
            place: place.to_owned(),
            holder: "this process".to_owned(),
            message: message.to_owned(),
            fix: match is_spill_limit(message) {
                true => "raise --spill-limit, or --memory-limit so that less is spilled: neither changes a corpus",
                false => {
                    "raise --memory-limit, or lower --target-partitions or --batch-size: none of them changes a corpus"
                }
            },
        }
    }
}

impl From<DataFusionError> for CoordinatorError {
    fn from(error: DataFusionError) -> Self {
        Self::engine("statement", "the spill folder", error)
    }
}

impl From<RemoteError> for CoordinatorError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Cancelled => Self::Cancelled,
            RemoteError::Address { .. } => Self::Invalid(error.to_string()),
            RemoteError::Failed(failure) => Self::Remote {
                kind: match failure.kind() {
                    FailureKind::Unspecified => RemoteKind::Other,
                    FailureKind::Expectation => RemoteKind::Expectation,
                    FailureKind::Cancelled => RemoteKind::Cancelled,
                    FailureKind::Busy => RemoteKind::Busy,
                },
                message: failure.message,
            },
            other => Self::Cluster(other.to_string()),
        }
    }
}

/// What Delta says, or what can be done about the store that its log lies in.
fn delta_message(error: &DeltaTableError) -> String {
    store_advice(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Whether the operating system said ENOSPC (or EDQUOT) somewhere below `error`.
fn is_disk_full(error: &(dyn StdError + 'static)) -> bool {
    use std::io::ErrorKind;
    chain(error)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|io| matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

/// The object that could not be written, when a write of ours is below `error`.
fn object_in<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a str> {
    corpusmill_operators::object_in(error).or_else(|| {
        chain(error).find_map(|cause| match cause.downcast_ref::<CoordinatorError>()? {
            CoordinatorError::Store { path, .. } | CoordinatorError::Corpus(CorpusError::Store { path, .. }) => {
                Some(path.as_str())
            }
            _ => None,
        })
    })
}

/// The warehouse with the object in it, or what else was written to.
fn full_place(error: &(dyn StdError + 'static), location: &str) -> String {
    match object_in(error) {
        Some(object) => format!("{location} (writing {object})"),
        None => location.to_owned(),
    }
}

/// What an operator of ours said, when one is the cause of `error`, and whether a retry may help.
fn find_operator(error: &DataFusionError) -> Option<(String, bool)> {
    operator_in(error).map(|operator| (with_sources(operator), operator.retry()))
}

fn operator_in(error: &DataFusionError) -> Option<&OperatorError> {
    chain(error).find_map(|cause| cause.downcast_ref::<OperatorError>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_called_so_wherever_it_hides() {
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let store = object_store::Error::Generic {
            store: "local",
            source: Box::new(io),
        };
        let error = DataFusionError::from(OperatorError::Store {
            path: "x".into(),
            source: store,
        });
        let error = CoordinatorError::engine("CREATE CORPUS c", "/data", DataFusionError::Shared(error.into()));
        assert!(matches!(&error, CoordinatorError::DiskFull { .. }), "{error:?}");
        assert!(error.to_string().contains("CREATE CORPUS c") && error.to_string().contains("/data"));
    }

    #[test]
    fn an_operators_error_is_found_below_the_engines() {
        let inner = OperatorError::DuplicateKey {
            columns: "id".into(),
            examples: "(id = 1)".into(),
        };
        let error = DataFusionError::from(inner).context("while sorting");
        let error = CoordinatorError::engine("CREATE CORPUS c", "/data", error);
        assert!(
            error
                .to_string()
                .starts_with("CREATE CORPUS c: primary key (id) is not unique"),
            "{error}"
        );
        assert!(!error.retry());
    }
}
