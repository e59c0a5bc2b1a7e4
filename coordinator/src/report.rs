//! What a coordinator says about builds, corpora and files.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildState {
    /// Others come first; the reason is told as its error.
    Waiting,
    /// It runs, or was stopped and can go on.
    Running,
    /// It made a version.
    Committed,
    /// It made the rows that are there already, so that there is no new version.
    Unchanged,
    /// It failed; nothing was published.
    Failed,
    /// It was stopped by a person; the same statement goes on from there.
    Cancelled,
}

impl BuildState {
    /// Its name in the catalogue and in `SHOW BUILDS`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Committed => "committed",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Waiting,
            Self::Running,
            Self::Committed,
            Self::Unchanged,
            Self::Failed,
            Self::Cancelled,
        ]
        .into_iter()
        .find(|state| state.as_str() == name)
    }
}

/// What an expectation saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectationReport {
    /// Name of the constraint.
    pub name: String,
    /// `row` or `corpus`.
    pub scope: String,
    /// The condition as it was written.
    pub condition: String,
    /// `drop_row`, `quarantine_row`, `fail_build` or `warn`.
    pub action: String,
    /// It held (for rows: no row broke it).
    pub passed: bool,
    /// Rows that broke it, for row expectations.
    pub violations: Option<u64>,
    /// The value that the condition looked at, for corpus expectations: the left side of a comparison.
    pub observed: Option<String>,
}

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Name: `view NAME` or `shards`.
    pub name: String,
    /// It was taken over from an earlier run or build.
    pub reused: bool,
    /// Splits.
    pub splits: u32,
    /// Rows that came in.
    pub rows_in: u64,
    /// Rows written.
    pub rows_out: u64,
    /// Bytes written.
    pub bytes: u64,
    /// How long it ran in this process; zero when reused.
    pub elapsed: Duration,
}

/// What a build of a corpus did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildReport {
    /// Name of the corpus.
    pub corpus: String,
    /// Id of the build.
    pub build: String,
    /// How it ended.
    pub state: BuildState,
    /// The version that it made, or that is unchanged.
    pub version: u64,
    /// Rows of that version.
    pub rows: u64,
    /// Bytes of its shards.
    pub bytes: u64,
    /// Shard files.
    pub shards: usize,
    /// Digest of its rows, as hex.
    pub digest: String,
    /// Rows that came out of the query.
    pub rows_in: u64,
    /// Rows dropped, by expectation.
    pub drops: BTreeMap<String, u64>,
    /// Rows quarantined, by expectation.
    pub quarantined: BTreeMap<String, u64>,
    /// All expectations.
    pub expectations: Vec<ExpectationReport>,
    /// Steps, in order.
    pub steps: Vec<StepReport>,
    /// Wall time of this process.
    pub elapsed: Duration,
    /// It went on from an earlier run.
    pub resumed: bool,
    /// One line for a person, when there is something to add: why nothing changed, for example.
    pub note: Option<String>,
}

/// One line of `corpora`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CorpusInfo {
    /// Name.
    pub name: String,
    /// Latest version.
    pub version: u64,
    /// Rows of it.
    pub rows: u64,
    /// Bytes of its shards.
    pub bytes: u64,
    /// Shard files.
    pub shards: usize,
    /// When it was committed, RFC 3339.
    pub created_at: String,
    /// Digest of its rows.
    pub digest: String,
    /// Its SCHEDULE clause, as text; it runs under a coordinator of a cluster.
    pub schedule: Option<String>,
    /// Its tags, and the versions that they stand for.
    #[serde(default)]
    pub tags: BTreeMap<String, u64>,
}

impl CorpusInfo {
    /// The tags as text: `prod = 41, stage = 42`.
    #[must_use]
    pub fn tags_text(&self) -> String {
        let tags: Vec<String> = self
            .tags
            .iter()
            .map(|(tag, version)| format!("{tag} = {version}"))
            .collect();
        tags.join(", ")
    }
}

/// One line of `builds`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildInfo {
    /// Id of the build.
    pub build: String,
    /// Name of the corpus or materialised view.
    pub object: String,
    /// How it ended, or `running`.
    pub state: BuildState,
    /// The version that it made, or found unchanged.
    pub version: Option<u64>,
    /// Logical time, RFC 3339.
    pub logical_time: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// When it ended, RFC 3339.
    pub finished_at: Option<String>,
    /// Rows of the version.
    pub rows: Option<u64>,
    /// Bytes of the version.
    pub bytes: Option<u64>,
    /// Digest of the rows.
    pub digest: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// What the expectations saw, also when they failed the build.
    pub expectations: Vec<ExpectationReport>,
}

/// How far the run of a schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunState {
    /// It waits for its turn, or to be tried again.
    Queued,
    /// It is under way.
    Running,
    /// It made a version, or found that nothing has changed.
    Succeeded,
    /// It failed, and is not tried again.
    Failed,
    /// It was not started; its note says why.
    Skipped,
}

impl RunState {
    /// Its name in the catalogue and in `SHOW SCHEDULED RUNS`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// The state called `name`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [
            Self::Queued,
            Self::Running,
            Self::Succeeded,
            Self::Failed,
            Self::Skipped,
        ]
        .into_iter()
        .find(|state| state.as_str() == name)
    }
}

/// What `vacuum` removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VacuumReport {
    /// Files, relative to the warehouse.
    pub files: Vec<String>,
    /// Bytes of these files.
    pub bytes: u64,
    /// Nothing was removed: only asked.
    pub dry_run: bool,
}
