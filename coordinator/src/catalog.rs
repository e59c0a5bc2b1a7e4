//! The catalogue: objects by name, builds and their steps, who leads. In SQLite, or in PostgreSQL.
//!
//! ```text
//!   read  ─► rows ─────────────────────────────► again while the server is away, for a minute
//!   write ─► one transaction: [fence] statements ┘
//!                              └ the term under which this process leads, held against the row of the lease
//! ```
//! The SQL is what both databases take (placeholders `$1`, TEXT and BIGINT, `ON CONFLICT`), and every write can be
//! made twice: the answer to one may be lost. Migrations only go forward; a catalogue that a newer program wrote is
//! refused.

mod builds;
mod lease;
mod location;
mod objects;
mod runs;
mod waiting;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sqlx::any::{AnyArguments, AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AnyPool, ConnectOptions as _, Connection as _};
use tokio_util::sync::CancellationToken;

use crate::error::{CoordinatorError, Result};

pub(crate) use builds::{BuildEnd, BuildRow, NewBuild, rfc3339};
pub(crate) use lease::{Candidate, Lease};
pub(crate) use location::Location;
pub(crate) use objects::{ObjectRow, Space};
pub(crate) use runs::RunRow;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// A server that does not let anybody in for so long is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A server that is away is waited for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// One statement with its arguments.
type Bound<'q> = Query<'q, Any, AnyArguments>;

/// A catalogue that is open; clones are the same one, and write under the same term.
#[derive(Clone)]
pub(crate) struct Catalog {
    location: Location,
    pool: AnyPool,
    /// The term under which is written, for good: what begins under one term never ends under another.
    term: Arc<OnceLock<Term>>,
}

/// A lead, and its end.
#[derive(Clone)]
struct Term {
    number: i64,
    lost: CancellationToken,
}

impl std::fmt::Debug for Catalog {
    // The pool would show the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog")
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Opens the catalogue at `location`, creating and migrating it as needed.
    ///
    /// # Errors
    /// [`CoordinatorError::NewerCatalog`] when a newer program wrote it, [`CoordinatorError::CatalogServer`] when the
    /// server is away or lets nobody in, [`CoordinatorError::Catalog`] when it cannot be read.
    pub(crate) async fn open(location: Location) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let options = AnyConnectOptions::from_url(&location.url()).map_err(|e| location.explain(e))?;
        // Once without the pool, which waits for a server that is away and then does not say why.
        let first = tokio::time::timeout(CONNECT_TIMEOUT, AnyConnection::connect_with(&options)).await;
        let first = first.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
        // It ends by itself when the server does not hear this.
        let _ = first.map_err(|e| location.explain(e))?.close().await;
        let prepared = location.clone();
        let pool = AnyPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(move |connection, _| {
                let prepared = prepared.clone();
                Box::pin(async move { prepared.prepare(connection).await })
            })
            .connect_lazy_with(options);
        let catalog = Self {
            location,
            pool,
            term: Arc::default(),
        };
        catalog.migrate().await?;
        Ok(catalog)
    }

    /// The same catalogue, for somebody who may not write yet.
    #[must_use]
    pub(crate) fn reader(&self) -> Self {
        Self {
            term: Arc::default(),
            ..self.clone()
        }
    }

    /// From now on this one and its clones write under `lease`; the first counts.
    pub(crate) fn write_under(&self, lease: &Lease) {
        self.term.get_or_init(|| Term {
            number: lease.term,
            lost: lease.lost.clone(),
        });
    }

    /// Where it is.
    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    async fn migrate(&self) -> Result<()> {
        let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        match MIGRATIONS.run(&self.pool).await {
            Ok(()) => Ok(()),
            Err(MigrateError::VersionMissing(found) | MigrateError::VersionTooNew(found, _)) => {
                Err(CoordinatorError::NewerCatalog {
                    catalog: self.location.to_string(),
                    found,
                    known,
                })
            }
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => Err(self.fail(error)),
            Err(error) => Err(self.fail(sqlx::Error::Migrate(Box::new(error)))),
        }
    }

    /// What `name` is set to; the first to ask sets it to `value`.
    pub(crate) async fn settle(&self, name: &str, value: Option<&str>) -> Result<Option<String>> {
        use sqlx::Row as _;
        if let Some(value) = value {
            let sql = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
            self.patiently(|| async move { sqlx::query(sql).bind(name).bind(value).execute(&self.pool).await })
                .await?;
        }
        let rows = self.rows(|| sqlx::query("SELECT value FROM settings WHERE name = $1").bind(name));
        let rows = rows.await?;
        let value = rows.first().map(|row| row.try_get("value")).transpose();
        value.map_err(|e| self.fail(e))
    }

    /// The rows of a query.
    async fn rows<'q>(&self, query: impl Fn() -> Bound<'q> + Send + Sync) -> Result<Vec<AnyRow>> {
        self.patiently(|| {
            let query = query();
            async move { query.fetch_all(&self.pool).await }
        })
        .await
    }

    /// Carries statements out in one transaction, as long as the term lasts; gives the rows that the last one touched.
    ///
    /// # Errors
    /// [`CoordinatorError::Deposed`] when another process leads, or the lead was lost.
    async fn write<'q>(&self, statements: impl Fn() -> Vec<Bound<'q>> + Send + Sync) -> Result<u64> {
        let deposed = || CoordinatorError::Deposed {
            catalog: self.location.to_string(),
        };
        let term = match (self.location.is_server(), self.term.get()) {
            (true, None) => return Err(deposed()),
            (true, Some(term)) => Some(term.clone()),
            (false, _) => None,
        };
        let number = term.as_ref().map(|term| term.number);
        let over = async {
            match &term {
                Some(term) => term.lost.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = over => Err(deposed()),
            done = self.patiently(|| self.transaction(number, statements())) => done?.ok_or_else(deposed),
        }
    }

    /// One transaction; `None` when `term` is over.
    async fn transaction(&self, term: Option<i64>, statements: Vec<Bound<'_>>) -> Result<Option<u64>, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        if let Some(term) = term {
            // Shared, so that nobody takes the lead before the statements are committed.
            let fence = sqlx::query("SELECT term FROM leases WHERE name = 'leader' AND term = $1 FOR SHARE").bind(term);
            if fence.fetch_optional(&mut *transaction).await?.is_none() {
                transaction.rollback().await?;
                return Ok(None);
            }
        }
        let mut touched = 0;
        for statement in statements {
            touched = statement.execute(&mut *transaction).await?.rows_affected();
        }
        transaction.commit().await?;
        Ok(Some(touched))
    }

    /// Says whether this process may write.
    ///
    /// # Errors
    /// [`CoordinatorError::Deposed`] when it may not.
    pub(crate) async fn still_leads(&self) -> Result<()> {
        self.write(Vec::new).await.map(|_| ())
    }

    /// Calls again while the server is away.
    async fn patiently<T, F>(&self, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let began = Instant::now();
        loop {
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, call()).await;
            match answer.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut)) {
                Ok(value) => return Ok(value),
                Err(error)
                    if self.location.is_server() && location::transient(&error) && began.elapsed() < PATIENCE =>
                {
                    tracing::debug!(%error, "the catalogue does not answer; asks again");
                }
                Err(error) => return Err(self.fail(error)),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn fail(&self, source: sqlx::Error) -> CoordinatorError {
        self.location.explain(source)
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

#[cfg(test)]
mod tests;
