//! Builds and their steps.

use chrono::{DateTime, SecondsFormat, Utc};
use corpusmill_operators::RowFile;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Catalog, now_ms};
use crate::error::Result;
use crate::report::{BuildInfo, BuildState, ExpectationReport, StepReport};

/// What a build is known by from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewBuild {
    /// Its id.
    pub(crate) id: String,
    /// The corpus, materialised view or hash list.
    pub(crate) object: String,
    /// `corpus`, `view` or `hash list`.
    pub(crate) kind: &'static str,
    /// The statement.
    pub(crate) sql: String,
    /// Digest of everything in the definition that the rows depend on.
    pub(crate) sql_digest: String,
    /// Digest of the inputs: files, sizes, times, versions.
    pub(crate) fingerprint: String,
    /// What `run_start()` gives.
    pub(crate) logical_ms: i64,
}

/// A build as the catalogue has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BuildRow {
    /// What it is known by.
    pub(crate) id: String,
    /// The corpus or materialised view.
    pub(crate) object: String,
    /// As in [`NewBuild`].
    pub(crate) kind: String,
    /// How it ended.
    pub(crate) state: BuildState,
    /// As in [`NewBuild`].
    pub(crate) sql: String,
    /// As in [`NewBuild`].
    pub(crate) sql_digest: String,
    /// As in [`NewBuild`].
    pub(crate) fingerprint: String,
    /// As in [`NewBuild`].
    pub(crate) logical_ms: i64,
    /// The version that it made.
    pub(crate) version: Option<u64>,
    /// When it began.
    pub(crate) started_ms: i64,
    /// When it ended.
    pub(crate) finished_ms: Option<i64>,
    /// Rows that it made.
    pub(crate) rows: Option<u64>,
    /// Bytes that it made.
    pub(crate) bytes: Option<u64>,
    /// Digest of the rows of a corpus.
    pub(crate) digest: Option<String>,
    /// Files of a materialised view.
    pub(crate) files: Vec<RowFile>,
    /// What the expectations saw.
    pub(crate) expectations: Vec<ExpectationReport>,
    /// Why it failed.
    pub(crate) error: Option<String>,
    /// The commit that it decided on, JSON, until its end is known.
    pub(crate) intent: Option<String>,
}

/// How a build ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct BuildEnd {
    /// The version that it made, or found unchanged.
    pub(crate) version: Option<u64>,
    /// Rows.
    pub(crate) rows: Option<u64>,
    /// Bytes.
    pub(crate) bytes: Option<u64>,
    /// Digest of the rows.
    pub(crate) digest: Option<String>,
    /// Files of a materialised view.
    pub(crate) files: Vec<RowFile>,
    /// What the expectations saw.
    pub(crate) expectations: Vec<ExpectationReport>,
    /// Why it failed.
    pub(crate) error: Option<String>,
}

const COLUMNS: &str = "id, object, kind, state, sql, sql_digest, fingerprint, logical_ms, version, started_ms, finished_ms, \
                       row_count, byte_count, digest, files, expectations, error, intent";

fn unsigned(value: Option<i64>) -> Option<u64> {
    value.and_then(|value| u64::try_from(value).ok())
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

fn to_json<T: Serialize>(value: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|e| sqlx::Error::Encode(Box::new(e)))
}

fn build(row: &AnyRow) -> Result<BuildRow, sqlx::Error> {
    let state: String = row.try_get("state")?;
    let files: Option<String> = row.try_get("files")?;
    Ok(BuildRow {
        id: row.try_get("id")?,
        object: row.try_get("object")?,
        kind: row.try_get("kind")?,
        state: BuildState::from_name(&state)
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown build state {state}").into()))?,
        sql: row.try_get("sql")?,
        sql_digest: row.try_get("sql_digest")?,
        fingerprint: row.try_get("fingerprint")?,
        logical_ms: row.try_get("logical_ms")?,
        version: unsigned(row.try_get("version")?),
        started_ms: row.try_get("started_ms")?,
        finished_ms: row.try_get("finished_ms")?,
        rows: unsigned(row.try_get("row_count")?),
        bytes: unsigned(row.try_get("byte_count")?),
        digest: row.try_get("digest")?,
        files: files.as_deref().map(json).transpose()?.unwrap_or_default(),
        expectations: json(&row.try_get::<String, _>("expectations")?)?,
        error: row.try_get("error")?,
        intent: row.try_get("intent")?,
    })
}

/// A time of the catalogue as RFC 3339, in UTC.
pub(crate) fn rfc3339(ms: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms)
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
        .unwrap_or_else(|| format!("{ms} ms"))
}

impl BuildRow {
    /// The build as `builds` shows it.
    pub(crate) fn info(self) -> BuildInfo {
        BuildInfo {
            build: self.id,
            object: self.object,
            state: self.state,
            version: self.version,
            logical_time: rfc3339(self.logical_ms),
            started_at: rfc3339(self.started_ms),
            finished_at: self.finished_ms.map(rfc3339),
            rows: self.rows,
            bytes: self.bytes,
            digest: self.digest,
            error: self.error,
            expectations: self.expectations,
        }
    }
}

impl Catalog {
    async fn builds_where(&self, rest: &str, object: Option<&str>) -> Result<Vec<BuildRow>> {
        let sql = format!("SELECT {COLUMNS} FROM builds {rest}");
        let rows = self.rows(|| {
            let query = sqlx::query(sqlx::AssertSqlSafe(sql.clone()));
            match object {
                Some(object) => query.bind(object),
                None => query,
            }
        });
        rows.await?
            .iter()
            .map(build)
            .collect::<Result<_, _>>()
            .map_err(|e| self.fail(e))
    }

    /// All builds, newest first.
    pub(crate) async fn builds(&self) -> Result<Vec<BuildRow>> {
        self.builds_where("ORDER BY started_ms DESC, id DESC", None).await
    }

    /// Builds of one object, newest first.
    pub(crate) async fn builds_of(&self, object: &str) -> Result<Vec<BuildRow>> {
        self.builds_where("WHERE object = $1 ORDER BY started_ms DESC, id DESC", Some(object))
            .await
    }

    /// Enters a build that begins.
    pub(crate) async fn begin_build(&self, new: &NewBuild) -> Result<()> {
        let started = now_ms();
        self.write(|| {
            let query = sqlx::query(
                "INSERT INTO builds (id, object, kind, state, sql, sql_digest, fingerprint, logical_ms, started_ms, expectations)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '[]') ON CONFLICT (id) DO NOTHING",
            );
            let query = query
                .bind(&new.id)
                .bind(&new.object)
                .bind(new.kind)
                .bind(BuildState::Running.as_str())
                .bind(&new.sql)
                .bind(&new.sql_digest)
                .bind(&new.fingerprint)
                .bind(new.logical_ms)
                .bind(started);
            vec![query]
        })
        .await
        .map(|_| ())
    }

    /// Marks a build that was stopped as running again.
    pub(crate) async fn resume_build(&self, id: &str) -> Result<()> {
        self.write(|| {
            let sql = "UPDATE builds SET state = $1, finished_ms = NULL, error = NULL WHERE id = $2";
            vec![sqlx::query(sql).bind(BuildState::Running.as_str()).bind(id)]
        })
        .await
        .map(|_| ())
    }

    /// Enters the commit that a build is about to make.
    pub(crate) async fn intend(&self, id: &str, intent: &str) -> Result<()> {
        self.write(|| {
            let sql = "UPDATE builds SET intent = $1 WHERE id = $2";
            vec![sqlx::query(sql).bind(intent).bind(id)]
        })
        .await
        .map(|_| ())
    }

    /// Enters how a build ended.
    pub(crate) async fn end_build(&self, id: &str, state: BuildState, end: &BuildEnd) -> Result<()> {
        let (expectations, files) = to_json(&end.expectations)
            .and_then(|expectations| Ok((expectations, to_json(&end.files)?)))
            .map_err(|e| self.fail(e))?;
        let signed = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok());
        let finished = now_ms();
        self.write(|| {
            let query = sqlx::query(
                "UPDATE builds SET state = $1, version = $2, finished_ms = $3, row_count = $4, byte_count = $5,
                   digest = $6, files = $7, expectations = $8, error = $9, intent = NULL WHERE id = $10",
            );
            let query = query
                .bind(state.as_str())
                .bind(signed(end.version))
                .bind(finished)
                .bind(signed(end.rows))
                .bind(signed(end.bytes))
                .bind(&end.digest)
                .bind(&files)
                .bind(&expectations)
                .bind(&end.error)
                .bind(id);
            vec![query]
        })
        .await
        .map(|_| ())
    }

    /// Forgets all builds of an object that is dropped.
    pub(crate) async fn forget_builds(&self, object: &str) -> Result<()> {
        self.write(|| {
            let statements = [
                "DELETE FROM steps WHERE build IN (SELECT id FROM builds WHERE object = $1)",
                "DELETE FROM builds WHERE object = $1",
            ];
            statements
                .into_iter()
                .map(|sql| sqlx::query(sql).bind(object))
                .collect()
        })
        .await
        .map(|_| ())
    }

    /// Commits a step of a build: it is not run again.
    pub(crate) async fn commit_step(&self, build: &str, seq: u32, report: &StepReport) -> Result<()> {
        let json = to_json(report).map_err(|e| self.fail(e))?;
        self.write(|| {
            let query = sqlx::query(
                "INSERT INTO steps (build, seq, name, report) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (build, seq) DO UPDATE SET name = excluded.name, report = excluded.report",
            );
            vec![query.bind(build).bind(i64::from(seq)).bind(&report.name).bind(&json)]
        })
        .await
        .map(|_| ())
    }
}
