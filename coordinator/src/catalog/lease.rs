//! Who leads: the holder of a lease, one row that it renews by the server's clock.
//!
//! ```text
//!   candidate ─ waits until the lease has run out ─► term + 1 ─► leads, renews at every third of the lease
//!                                                                  │ no renewal in four fifths of it
//!                                                                  └─► `lost`: everything stops, before the next may lead
//! ```
//! A process that was stopped and goes on may believe that it leads when it does not: every write of the catalogue is
//! held against the term in the row, in the same transaction ([`Catalog::write_under`]).

use std::time::Duration;

use sqlx::Row as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Catalog;
use crate::error::Result;

/// Pause between two tries to renew when the server is away.
const RETRY: Duration = Duration::from_millis(200);
/// How often a candidate looks whether the lease has run out.
const LOOK: Duration = Duration::from_millis(500);

/// A process that wants to lead.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Where it can be asked, or what a person calls it.
    pub(crate) address: String,
    /// How long the lease lasts without renewal.
    pub(crate) length: Duration,
}

/// What the row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Where it can be asked.
    pub(crate) address: String,
    /// When its lease runs out, by the server's clock.
    pub(crate) expires_ms: i64,
    /// The server's clock.
    pub(crate) now_ms: i64,
}

/// The right to lead, renewed until it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Grows with every leader.
    pub(crate) term: i64,
    /// Cancelled when the lease cannot be renewed any more.
    pub(crate) lost: CancellationToken,
    catalog: Catalog,
    pub(super) renewing: JoinHandle<()>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
        self.lost.cancel();
    }
}

impl Lease {
    /// Gives the lead back, so that the next one need not wait.
    pub(crate) async fn release(&self) {
        self.renewing.abort();
        self.lost.cancel();
        let sql = "UPDATE leases SET expires_ms = 0 WHERE name = 'leader' AND term = $1";
        let released = sqlx::query(sql).bind(self.term).execute(&self.catalog.pool);
        // A server that does not hear this lets the lease run out.
        let _ = tokio::time::timeout(RETRY * 5, released).await;
    }
}

impl Catalog {
    /// Who leads, if the lease has not run out.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub(crate) async fn leader(&self) -> Result<Option<Leader>> {
        let sql = format!(
            "SELECT address, expires_ms, {} AS now_ms FROM leases WHERE name = 'leader'",
            self.location.now()
        );
        let rows = self.rows(|| sqlx::query(sqlx::AssertSqlSafe(sql.clone()))).await?;
        let leader = |row: &sqlx::any::AnyRow| -> Result<Leader, sqlx::Error> {
            Ok(Leader {
                address: row.try_get("address")?,
                expires_ms: row.try_get("expires_ms")?,
                now_ms: row.try_get("now_ms")?,
            })
        };
        let found = rows.first().map(leader).transpose().map_err(|e| self.fail(e))?;
        Ok(found.filter(|leader| leader.expires_ms > leader.now_ms))
    }

    /// Takes the lead when nobody has it.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub(crate) async fn try_lead(&self, candidate: &Candidate) -> Result<Option<Lease>> {
        if self.leader().await?.is_some() {
            return Ok(None);
        }
        let now = self.location.now();
        let sql = format!(
            "INSERT INTO leases (name, term, holder, address, expires_ms) VALUES ('leader', 1, $1, $2, {now} + $3)
             ON CONFLICT (name) DO UPDATE SET term = leases.term + 1, holder = excluded.holder,
               address = excluded.address, expires_ms = excluded.expires_ms
             WHERE leases.expires_ms <= {now} OR leases.holder = excluded.holder RETURNING term"
        );
        // Known to this try only, so that it finds itself when the answer was lost.
        let holder = uuid::Uuid::new_v4().to_string();
        let length = millis(candidate.length);
        let began = Instant::now();
        let taken = self.rows(|| {
            let query = sqlx::query(sqlx::AssertSqlSafe(sql.clone()));
            query.bind(&holder).bind(&candidate.address).bind(length)
        });
        let Some(row) = taken.await?.into_iter().next() else {
            return Ok(None);
        };
        let term = row.try_get("term").map_err(|e| self.fail(e))?;
        let lost = CancellationToken::new();
        let renewing = renew(self.clone(), term, candidate.length, began, lost.clone());
        Ok(Some(Lease {
            term,
            lost,
            catalog: self.clone(),
            renewing: tokio::spawn(renewing),
        }))
    }

    /// Waits until this process leads; `told` hears who does so meanwhile, `None` when nobody can be asked.
    pub(crate) async fn campaign(&self, candidate: &Candidate, told: impl Fn(Option<&Leader>)) -> Lease {
        let mut warned = false;
        loop {
            match self.try_lead(candidate).await {
                Ok(Some(lease)) => return lease,
                Ok(None) => {
                    warned = false;
                    told(self.leader().await.ok().flatten().as_ref());
                }
                Err(error) => {
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(%error, "the catalogue does not say who leads; asks again");
                    }
                    told(None);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn extend(&self, term: i64, length: Duration) -> Result<bool, sqlx::Error> {
        let now = self.location.now();
        let sql = format!(
            "UPDATE leases SET expires_ms = {now} + $1 WHERE name = 'leader' AND term = $2 AND expires_ms > {now}"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(millis(length)).bind(term);
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }
}

/// Renews the lease that was asked for at `asked`, until that fails for too long.
async fn renew(catalog: Catalog, term: i64, length: Duration, mut asked: Instant, lost: CancellationToken) {
    let mut pause = length / 3;
    let why = loop {
        let until = asked + length * 4 / 5;
        tokio::time::sleep_until(until.min(Instant::now() + pause)).await;
        let now = Instant::now();
        if now >= until {
            break "it could not be renewed in time".to_owned();
        }
        match tokio::time::timeout_at(until, catalog.extend(term, length)).await {
            Ok(Ok(true)) => (asked, pause) = (now, length / 3),
            Ok(Ok(false)) => break "another process leads".to_owned(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease cannot be renewed; tries again");
                pause = RETRY;
            }
            Err(_) => break "the catalogue did not answer in time".to_owned(),
        }
    };
    tracing::warn!(term, reason = %why, "the lead is lost");
    lost.cancel();
}

fn millis(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}
