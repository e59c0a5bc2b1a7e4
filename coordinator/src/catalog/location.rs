//! Where a catalogue is: a file of the home, or a PostgreSQL server.

use std::fmt::{Display, Formatter};
use std::path::PathBuf;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyConnection, ConnectOptions as _, Executor as _};
use url::Url;

use crate::error::{CoordinatorError, Result};

/// A transaction that stands still for so long is rolled back by the server: a leader that was stopped in one must not
/// keep the next from taking over.
const PG_SESSION: &str = "SET idle_in_transaction_session_timeout = '5s'; SET lock_timeout = '20s'; \
                          SET application_name = 'corpusmill'";
/// Readers go on while a build writes, and a commit is on disk when it returns.
const SQLITE_SESSION: &str =
    "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON";

/// A file, or a database of a server.
#[derive(Clone)]
pub(crate) enum Location {
    /// SQLite.
    File(PathBuf),
    /// PostgreSQL; the URL may carry a password.
    Server(Url),
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "Location({self})")
    }
}

impl Display for Location {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => Display::fmt(&path.display(), f),
            Self::Server(url) => f.write_str(&without_password(url)),
        }
    }
}

/// A URL as it may be shown and kept. Of its parameters only the folder of a socket stays: others may be secrets too.
fn without_password(url: &Url) -> String {
    let mut shown = url.clone();
    // Fails for URLs that cannot have one.
    let _ = shown.set_password(None);
    let host = url.query_pairs().find(|(name, _)| name == "host");
    match host {
        Some((name, value)) => shown.set_query(Some(&format!("{name}={value}"))),
        None => shown.set_query(None),
    }
    shown.into()
}

impl Location {
    /// Reads what a person gave as `--catalog`.
    ///
    /// # Errors
    /// [`CoordinatorError::Invalid`] for anything but the URL of a PostgreSQL database.
    pub(crate) fn server(given: &str) -> Result<Self> {
        // What was given is not shown: it may hold a password wherever it is wrong.
        let refuse = |why: String| {
            CoordinatorError::Invalid(format!(
                "--catalog (CORPUSMILL_CATALOG): {why}; expected postgres://USER@HOST:PORT/DATABASE, or nothing for a file \
                 in the home"
            ))
        };
        let url = Url::parse(given.trim()).map_err(|e| refuse(e.to_string()))?;
        if !["postgres", "postgresql"].contains(&url.scheme()) {
            return Err(refuse(format!("a catalogue cannot be at {}://", url.scheme())));
        }
        if url.path().trim_matches('/').is_empty() {
            return Err(refuse("the name of the database is missing".to_owned()));
        }
        Ok(Self::Server(url))
    }

    /// Whether several processes can be pointed at it.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    /// What the driver connects to.
    pub(super) fn url(&self) -> Url {
        match self {
            Self::File(path) => SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true)
                .to_url_lossy(),
            Self::Server(url) => url.clone(),
        }
    }

    /// Sets up a fresh connection.
    pub(super) async fn prepare(&self, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let session = if self.is_server() { PG_SESSION } else { SQLITE_SESSION };
        for statement in session.split("; ") {
            connection.execute(statement).await?;
        }
        Ok(())
    }

    /// The present, in milliseconds since 1970, as an expression of the server's.
    pub(super) fn now(&self) -> &'static str {
        if self.is_server() {
            "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"
        } else {
            "CAST((julianday('now') - 2440587.5) * 86400000 AS BIGINT)"
        }
    }

    /// Says what a person can do about an error of the database.
    pub(super) fn explain(&self, source: sqlx::Error) -> CoordinatorError {
        let Self::Server(url) = self else {
            return CoordinatorError::Catalog {
                catalog: self.to_string(),
                source,
            };
        };
        let user = url.username();
        let database = url.path().trim_matches('/');
        let code = source.as_database_error().and_then(|e| e.code()).unwrap_or_default();
        let why = match (&source, &*code) {
            (_, "28P01" | "28000") => format!(
                "the server does not let `{user}` in: the password is wrong or missing (it is taken from the URL, \
                 PGPASSWORD or ~/.pgpass), or pg_hba.conf keeps this machine out"
            ),
            (_, "3D000") => format!("there is no database `{database}`: make it with `createdb {database}`"),
            (_, "42501") => format!("`{user}` may not do this: give it a database of its own, or CREATE on this one"),
            (_, "53300") => "the server has no connection left: raise its max_connections".to_owned(),
            (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Tls(_), _) | (_, "57P03") => {
                "no PostgreSQL server answers there: start it, or correct --catalog (CORPUSMILL_CATALOG)".to_owned()
            }
            _ => {
                return CoordinatorError::Catalog {
                    catalog: self.to_string(),
                    source,
                };
            }
        };
        CoordinatorError::CatalogServer {
            catalog: self.to_string(),
            why,
            source,
        }
    }
}

/// Whether the server was away or restarted, so that the same call may succeed in a moment.
pub(super) fn transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Protocol(_) => true,
        // Connection lost; shut down, starting up; an idle transaction was ended; a lock was not got in time.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("08") || code.starts_with("57P") || ["25P03", "55P03", "40001", "40P01"].contains(&&*code)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        let location =
            Location::server("postgres://mill:s3cret@db.example:5433/corpora?password=other&host=/run").unwrap();
        let shown = format!("{location} {location:?}");
        assert!(
            shown.contains("postgres://mill@db.example:5433/corpora?host=/run"),
            "{shown}"
        );
        assert!(!shown.contains("s3cret") && !shown.contains("other"), "{shown}");
        for wrong in ["postgres://mill:s3cret@db.example", "mysql://a:s3cret@b/c", "a:s3cret"] {
            let error = Location::server(wrong).unwrap_err().to_string();
            assert!(
                error.contains("postgres://USER@HOST") && !error.contains("s3cret"),
                "{error}"
            );
        }
    }
}
