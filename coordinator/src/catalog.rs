//! The catalogue: objects by name, builds and their steps, in SQLite.
//!
//! The SQL is kept to what PostgreSQL takes too (placeholders `$1`, TEXT and BIGINT, `ON CONFLICT`), because a
//! cluster keeps the same tables there. Migrations only go forward; a catalogue that a newer program wrote is refused.

mod builds;
mod objects;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use crate::error::{CoordinatorError, Result};

pub(crate) use builds::{BuildEnd, BuildRow, NewBuild, rfc3339};
pub(crate) use objects::{ObjectRow, Space};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// A catalogue that is open.
#[derive(Debug, Clone)]
pub(crate) struct Catalog {
    path: PathBuf,
    pool: SqlitePool,
}

impl Catalog {
    /// Opens the catalogue at `path`, creating and migrating it as needed.
    ///
    /// # Errors
    /// [`CoordinatorError::NewerCatalog`] when a newer program wrote it, [`CoordinatorError::Catalog`] when it
    /// cannot be read.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            // Readers go on while a build writes, and a commit is on disk when it returns.
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let fail = |source| CoordinatorError::Catalog {
            path: path.to_owned(),
            source,
        };
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await
            .map_err(fail)?;
        let catalog = Self {
            path: path.to_owned(),
            pool,
        };
        catalog.migrate().await?;
        Ok(catalog)
    }

    async fn migrate(&self) -> Result<()> {
        let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        match MIGRATIONS.run(&self.pool).await {
            Ok(()) => Ok(()),
            Err(MigrateError::VersionMissing(found) | MigrateError::VersionTooNew(found, _)) => {
                Err(CoordinatorError::NewerCatalog {
                    path: self.path.clone(),
                    found,
                    known,
                })
            }
            Err(error) => Err(self.fail(sqlx::Error::Migrate(Box::new(error)))),
        }
    }

    fn fail(&self, source: sqlx::Error) -> CoordinatorError {
        CoordinatorError::Catalog {
            path: self.path.clone(),
            source,
        }
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_catalogue_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("catalog.sqlite");
        let catalog = Catalog::open(&path).await.unwrap();
        sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
             VALUES (9999, 'from the future', '2030-01-01', TRUE, x'00', 0)",
        )
        .execute(&catalog.pool)
        .await
        .unwrap();
        drop(catalog);
        let error = Catalog::open(&path).await.unwrap_err();
        assert!(
            matches!(error, CoordinatorError::NewerCatalog { found: 9999, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("catalog.sqlite"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_catalogue_is_named() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("catalog.sqlite");
        std::fs::write(
            &path,
            "this is not a database, and long enough to have a header of one hundred bytes or more, is it not?",
        )
        .unwrap();
        let error = Catalog::open(&path).await.unwrap_err();
        assert!(error.to_string().contains("catalog.sqlite"), "{error}");
    }
}
