//! Runs of schedules: one for each corpus and logical time.

use std::collections::HashMap;

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Bound, Catalog};
use crate::error::Result;
use crate::report::RunState;

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunRow {
    /// The corpus.
    pub(crate) corpus: String,
    /// What `run_start()` gives in it.
    pub(crate) logical_ms: i64,
    /// How far it is.
    pub(crate) state: RunState,
    /// Why it is there: `schedule`, `backfill`, or what changed, for a trigger.
    pub(crate) cause: String,
    /// Times that it was started.
    pub(crate) attempts: u32,
    /// It is not started before.
    pub(crate) due_ms: i64,
    /// When it was started last.
    pub(crate) started_ms: Option<i64>,
    /// When it ended.
    pub(crate) finished_ms: Option<i64>,
    /// Why it failed, was skipped or waits.
    pub(crate) note: Option<String>,
}

const COLUMNS: &str = "corpus, logical_ms, state, cause, attempts, due_ms, started_ms, finished_ms, note";
const OPEN: &str = "state IN ('queued', 'running')";

fn run(row: &AnyRow) -> Result<RunRow, sqlx::Error> {
    let state: String = row.try_get("state")?;
    let attempts: i64 = row.try_get("attempts")?;
    Ok(RunRow {
        corpus: row.try_get("corpus")?,
        logical_ms: row.try_get("logical_ms")?,
        state: RunState::from_name(&state)
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown state of a run {state}").into()))?,
        cause: row.try_get("cause")?,
        attempts: u32::try_from(attempts).unwrap_or(0),
        due_ms: row.try_get("due_ms")?,
        started_ms: row.try_get("started_ms")?,
        finished_ms: row.try_get("finished_ms")?,
        note: row.try_get("note")?,
    })
}

impl RunRow {
    fn bind<'q>(&'q self, query: Bound<'q>) -> Bound<'q> {
        query
            .bind(&self.corpus)
            .bind(self.logical_ms)
            .bind(self.state.as_str())
            .bind(&self.cause)
            .bind(i64::from(self.attempts))
            .bind(self.due_ms)
            .bind(self.started_ms)
            .bind(self.finished_ms)
            .bind(&self.note)
    }
}

impl Catalog {
    /// Enters a run, unless there is one of that corpus and time; gives whether there was none.
    pub(crate) async fn enter_run(&self, new: &RunRow) -> Result<bool> {
        let touched = self.write(|| {
            let sql =
                "INSERT INTO runs (corpus, logical_ms, state, cause, attempts, due_ms, started_ms, finished_ms, note)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (corpus, logical_ms) DO NOTHING";
            vec![new.bind(sqlx::query(sql))]
        });
        Ok(touched.await? > 0)
    }

    /// Keeps what became of a run.
    pub(crate) async fn keep_run(&self, run: &RunRow) -> Result<()> {
        self.write(|| {
            let sql = "UPDATE runs SET state = $3, cause = $4, attempts = $5, due_ms = $6, started_ms = $7,
                       finished_ms = $8, note = $9 WHERE corpus = $1 AND logical_ms = $2";
            vec![run.bind(sqlx::query(sql))]
        })
        .await
        .map(|_| ())
    }

    async fn runs_where(&self, rest: &str, corpus: Option<&str>) -> Result<Vec<RunRow>> {
        let sql = format!("SELECT {COLUMNS} FROM runs {rest}");
        let rows = self.rows(|| {
            let query = sqlx::query(sqlx::AssertSqlSafe(sql.clone()));
            match corpus {
                Some(corpus) => query.bind(corpus),
                None => query,
            }
        });
        let rows = rows.await?;
        let runs = rows.iter().map(run).collect::<Result<_, _>>();
        runs.map_err(|e| self.fail(e))
    }

    /// All runs, the newest logical time first.
    pub(crate) async fn runs(&self) -> Result<Vec<RunRow>> {
        self.runs_where("ORDER BY logical_ms DESC, corpus", None).await
    }

    /// Runs of a corpus, the newest logical time first.
    pub(crate) async fn runs_of(&self, corpus: &str) -> Result<Vec<RunRow>> {
        self.runs_where("WHERE corpus = $1 ORDER BY logical_ms DESC", Some(corpus))
            .await
    }

    /// The run of a corpus with the newest logical time.
    pub(crate) async fn newest_run(&self, corpus: &str) -> Result<Option<RunRow>> {
        let newest = "WHERE corpus = $1 ORDER BY logical_ms DESC LIMIT 1";
        Ok(self.runs_where(newest, Some(corpus)).await?.into_iter().next())
    }

    /// The newest logical time of each corpus that has runs.
    pub(crate) async fn newest_runs(&self) -> Result<HashMap<String, i64>> {
        let sql = "SELECT corpus, MAX(logical_ms) AS newest_ms FROM runs GROUP BY corpus";
        let rows = self.rows(|| sqlx::query(sql)).await?;
        let newest = rows
            .iter()
            .map(|row| Ok((row.try_get("corpus")?, row.try_get("newest_ms")?)));
        newest.collect::<Result<_, _>>().map_err(|e| self.fail(e))
    }

    /// Runs that wait or are under way, the oldest logical time first.
    pub(crate) async fn open_runs(&self) -> Result<Vec<RunRow>> {
        self.runs_where(&format!("WHERE {OPEN} ORDER BY logical_ms, corpus"), None)
            .await
    }

    /// Runs that were under way in a process that is gone wait again: their builds go on.
    pub(crate) async fn requeue_runs(&self) -> Result<()> {
        self.write(|| vec![sqlx::query("UPDATE runs SET state = 'queued' WHERE state = 'running'")])
            .await
            .map(|_| ())
    }

    /// Forgets the runs of a corpus.
    pub(crate) async fn forget_runs(&self, corpus: &str) -> Result<()> {
        self.write(|| vec![sqlx::query("DELETE FROM runs WHERE corpus = $1").bind(corpus)])
            .await
            .map(|_| ())
    }
}
