//! Statements that wait for their turn.

use sqlx::Row as _;

use super::{Catalog, now_ms, rfc3339};
use crate::error::Result;
use crate::report::{BuildInfo, BuildState};

impl Catalog {
    /// Enters, or enters anew, why the build of `object` waits.
    pub(crate) async fn wait(&self, ticket: &str, object: &str, reason: &str) -> Result<()> {
        let since = now_ms();
        self.write(|| {
            let sql = "INSERT INTO waiting (ticket, object, reason, since_ms) VALUES ($1, $2, $3, $4)
                       ON CONFLICT (ticket) DO UPDATE SET reason = excluded.reason";
            vec![sqlx::query(sql).bind(ticket).bind(object).bind(reason).bind(since)]
        })
        .await
        .map(|_| ())
    }

    /// Forgets one that waits no longer.
    pub(crate) async fn wait_no_longer(&self, ticket: &str) -> Result<()> {
        self.write(|| vec![sqlx::query("DELETE FROM waiting WHERE ticket = $1").bind(ticket)])
            .await
            .map(|_| ())
    }

    /// Forgets all: those who waited are gone with the process that kept them waiting.
    pub(crate) async fn nobody_waits(&self) -> Result<()> {
        self.write(|| vec![sqlx::query("DELETE FROM waiting")])
            .await
            .map(|_| ())
    }

    /// Who waits, and why, the last to come first.
    pub(crate) async fn waiting(&self) -> Result<Vec<BuildInfo>> {
        let sql = "SELECT ticket, object, reason, since_ms FROM waiting ORDER BY since_ms DESC, ticket DESC";
        let rows = self.rows(|| sqlx::query(sql)).await?;
        let info = |row: &sqlx::any::AnyRow| -> Result<BuildInfo, sqlx::Error> {
            Ok(BuildInfo {
                build: row.try_get("ticket")?,
                object: row.try_get("object")?,
                state: BuildState::Waiting,
                version: None,
                logical_time: String::new(),
                started_at: rfc3339(row.try_get("since_ms")?),
                finished_at: None,
                rows: None,
                bytes: None,
                digest: None,
                error: Some(row.try_get("reason")?),
                expectations: vec![],
            })
        };
        rows.iter()
            .map(info)
            .collect::<Result<_, _>>()
            .map_err(|e| self.fail(e))
    }
}
