//! Corpora that are built on time: what is due, what runs, what is tried again.
//!
//! ```text
//!   definitions ─► times: cron in a zone, every so often, when what is read has changed
//!        │ those after the newest run, up to now          catch-up, start deadline, overlap
//!        ▼
//!   runs (corpus, logical time)    queued ─► running ─► succeeded
//!        one for each, for ever      ▲          │ a transient error: later again
//!                                    └──────────┤
//!                                  skipped      └► failed ── so many in a row ──► the schedule is suspended
//! ```
//! Time is an argument everywhere, so that tests make it pass. Only the coordinator that leads does this, and every
//! write is made under its term.

mod policy;
mod times;
pub(crate) mod triggers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use corpusmill_sql::{ObjectKind, Statement, StatementKind};

use crate::catalog::{ObjectRow, RunRow, Space, rfc3339};
use crate::error::{CoordinatorError, Result};
use crate::objects::CatalogObjects;
use crate::report::RunState;
use crate::statements::Settings;
use crate::workspace::Workspace;

pub(crate) use policy::{OPTIONS, Policy};
pub(crate) use times::Times;

use policy::{Catchup, Overlap};

/// Moments of one schedule that are entered at once.
const MOST: usize = 10_000;

/// A trigger whose run failed sets off another one only so much later, while nothing else changes.
const REPEAT: TimeDelta = TimeDelta::minutes(10);

/// A corpus and its schedule.
#[derive(Debug, Clone)]
pub(crate) struct Scheduled {
    pub(crate) name: String,
    pub(crate) statement: Statement,
    pub(crate) times: Times,
    pub(crate) policy: Policy,
    pub(crate) suspended: bool,
    /// Moments before it are nobody's business: when it was made, or resumed.
    since: DateTime<Utc>,
}

impl Scheduled {
    /// The schedule of an object, if it is a corpus that has one.
    ///
    /// # Errors
    /// When its definition cannot be read, or its schedule means nothing.
    pub(crate) fn of(object: &ObjectRow) -> Result<Option<Self>> {
        if object.kind != ObjectKind::Corpus.words() {
            return Ok(None);
        }
        let statement = CatalogObjects::statement(object)?;
        let StatementKind::CreateCorpus(corpus) = &statement.kind else {
            return Ok(None);
        };
        let Some(schedule) = &corpus.schedule else {
            return Ok(None);
        };
        let settings: Settings = serde_json::from_str(&object.settings).unwrap_or_default();
        let mut options = corpus.options.clone();
        options.extend(settings.options);
        Ok(Some(Self {
            times: Times::of(schedule)?,
            policy: Policy::parse(&object.name, &options)?,
            suspended: settings.suspended,
            since: moment(settings.resumed_ms.unwrap_or(object.updated_ms)),
            name: object.name.clone(),
            statement,
        }))
    }
}

/// What is to be done now.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// Runs to be started.
    pub(crate) start: Vec<RunRow>,
    /// Runs to be stopped, because another takes their place.
    pub(crate) stop: Vec<RunRow>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum RunEnd {
    Succeeded,
    Failed {
        error: String,
        /// The same may succeed later.
        transient: bool,
    },
    /// Another took its place.
    Replaced,
}

/// The schedules of a catalogue, for the process that leads.
#[derive(Debug)]
pub(crate) struct Schedules {
    workspace: Arc<Workspace>,
    /// When this process began to look.
    began: DateTime<Utc>,
    /// What was read of an object when it was changed last.
    known: HashMap<String, (i64, Option<Arc<Scheduled>>)>,
}

impl Schedules {
    pub(crate) fn new(workspace: Arc<Workspace>, now: DateTime<Utc>) -> Self {
        Self {
            workspace,
            began: now,
            known: HashMap::new(),
        }
    }

    /// The corpora that have a schedule, by name. One that means nothing is told in the log, and left alone.
    pub(crate) async fn scheduled(&mut self) -> Result<Vec<Arc<Scheduled>>> {
        let objects = self.workspace.catalog.objects(Space::Relation).await?;
        let names: BTreeSet<&String> = objects.iter().map(|object| &object.name).collect();
        self.known.retain(|name, _| names.contains(name));
        let mut found = Vec::new();
        for object in &objects {
            let known = self.known.get(&object.name).filter(|(at, _)| *at == object.updated_ms);
            let scheduled = match known {
                Some((_, scheduled)) => scheduled.clone(),
                None => {
                    let read = Scheduled::of(object).unwrap_or_else(|error| {
                        tracing::warn!(corpus = object.name, %error, "the schedule is not kept");
                        None
                    });
                    let read = read.map(Arc::new);
                    self.known
                        .insert(object.name.clone(), (object.updated_ms, read.clone()));
                    read
                }
            };
            found.extend(scheduled);
        }
        Ok(found)
    }

    /// Enters the runs that are due at `now`, and gives those to be started and stopped.
    ///
    /// # Errors
    /// When the catalogue cannot be read or written.
    pub(crate) async fn due(&mut self, now: DateTime<Utc>) -> Result<Due> {
        let mut due = Due::default();
        let newest = self.workspace.catalog.newest_runs().await?;
        for scheduled in self.scheduled().await? {
            if !scheduled.suspended {
                let newest = newest.get(&scheduled.name).copied().map(moment);
                self.enter(&scheduled, newest, now, &mut due).await?;
            }
        }
        let mut open: BTreeMap<String, Vec<RunRow>> = BTreeMap::new();
        for run in self.workspace.catalog.open_runs().await? {
            open.entry(run.corpus.clone()).or_default().push(run);
        }
        for runs in open.into_values() {
            let running = runs.iter().any(|run| run.state == RunState::Running);
            // One after the other, the oldest first: also one that waits to be tried again keeps its place.
            let next = runs
                .into_iter()
                .next()
                .filter(|run| run.due_ms <= now.timestamp_millis());
            if let Some(run) = next.filter(|_| !running) {
                due.start.push(run);
            }
        }
        Ok(due)
    }

    /// Enters the runs of one schedule, whose newest run is of the moment `newest`.
    async fn enter(
        &self,
        scheduled: &Scheduled,
        newest: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
        due: &mut Due,
    ) -> Result<()> {
        let catalog = &self.workspace.catalog;
        let from = newest.map_or(scheduled.since, |newest| newest.max(scheduled.since));
        let passed = scheduled.times.between(from, now, MOST);
        let Some(last) = passed.last().copied() else {
            return Ok(());
        };
        let missed = passed.len() - 1;
        let earlier = (missed > 0).then(|| format!("{missed} earlier times were missed"));
        let policy = &scheduled.policy;
        match policy.catchup {
            Catchup::None if last < self.began => {
                let note = "it passed while no coordinator led, and catchup is none".to_owned();
                self.skip(scheduled, last, now, note).await?;
                return Ok(());
            }
            Catchup::None | Catchup::Latest => {
                self.enter_one(scheduled, last, now, earlier, due).await?;
            }
            Catchup::All => {
                let busy = catalog
                    .open_runs()
                    .await?
                    .iter()
                    .any(|run| run.corpus == scheduled.name);
                let (first, rest) = (passed[0], &passed[1..]);
                if busy {
                    self.enter_one(scheduled, first, now, None, due).await?;
                } else {
                    catalog.enter_run(&queued(&scheduled.name, first, "schedule")).await?;
                }
                // What is caught up with waits for its turn, whatever is done about runs that overlap.
                for time in rest {
                    catalog.enter_run(&queued(&scheduled.name, *time, "schedule")).await?;
                }
            }
        }
        Ok(())
    }

    /// Enters one run, as the policy says about those that are late, or overlap with others.
    async fn enter_one(
        &self,
        scheduled: &Scheduled,
        time: DateTime<Utc>,
        now: DateTime<Utc>,
        note: Option<String>,
        due: &mut Due,
    ) -> Result<()> {
        let catalog = &self.workspace.catalog;
        let policy = &scheduled.policy;
        let late = (now - time).to_std().unwrap_or_default();
        if let Some(deadline) = policy.start_deadline.filter(|deadline| late > *deadline) {
            let note = format!(
                "it was {} s late, and start_deadline is {} s",
                late.as_secs(),
                deadline.as_secs()
            );
            return self.skip(scheduled, time, now, note).await;
        }
        let open: Vec<RunRow> = catalog.open_runs().await?;
        let open = open.into_iter().filter(|run| run.corpus == scheduled.name);
        let open: Vec<RunRow> = open.collect();
        match (policy.overlap, open.first()) {
            (Overlap::Skip, Some(before)) => {
                let note = format!(
                    "the run of {} was not over, and overlap is skip",
                    rfc3339(before.logical_ms)
                );
                return self.skip(scheduled, time, now, note).await;
            }
            (Overlap::Replace, Some(_)) => {
                for run in open {
                    if run.state == RunState::Running {
                        due.stop.push(run);
                    } else {
                        self.ended(&run, RunEnd::Replaced, now).await?;
                    }
                }
            }
            (Overlap::Queue, _) | (_, None) => {}
        }
        let mut run = queued(&scheduled.name, time, "schedule");
        run.note = note;
        catalog.enter_run(&run).await.map(|_| ())
    }

    async fn skip(&self, scheduled: &Scheduled, time: DateTime<Utc>, now: DateTime<Utc>, note: String) -> Result<()> {
        tracing::warn!(corpus = scheduled.name, %time, note, "a run is skipped");
        let skipped = RunRow {
            state: RunState::Skipped,
            finished_ms: Some(now.timestamp_millis()),
            note: Some(note),
            ..queued(&scheduled.name, time, "schedule")
        };
        self.workspace.catalog.enter_run(&skipped).await.map(|_| ())
    }

    /// Enters a run of a corpus whose inputs have changed into what `cause` is the digest of.
    ///
    /// # Errors
    /// When the catalogue cannot be read or written.
    pub(crate) async fn triggered(&self, scheduled: &Scheduled, cause: &str, now: DateTime<Utc>) -> Result<()> {
        let catalog = &self.workspace.catalog;
        if let Some(newest) = catalog.newest_run(&scheduled.name).await? {
            let ended = newest
                .finished_ms
                .map(moment)
                .filter(|_| newest.state == RunState::Failed);
            let failed_just_now = newest.cause == cause && ended.is_some_and(|ended| now - ended < REPEAT);
            if failed_just_now || matches!(newest.state, RunState::Queued | RunState::Running) {
                return Ok(());
            }
        }
        catalog
            .enter_run(&queued(&scheduled.name, now, cause))
            .await
            .map(|_| ())
    }

    /// A run is started; gives it as it is now.
    ///
    /// # Errors
    /// When the catalogue cannot be written.
    pub(crate) async fn started(&self, run: &RunRow, now: DateTime<Utc>) -> Result<RunRow> {
        let run = RunRow {
            state: RunState::Running,
            attempts: run.attempts + 1,
            started_ms: Some(now.timestamp_millis()),
            ..run.clone()
        };
        self.workspace.catalog.keep_run(&run).await?;
        Ok(run)
    }

    /// A run ended: it is over, or is tried again later.
    ///
    /// # Errors
    /// When the catalogue cannot be read or written.
    pub(crate) async fn ended(&self, run: &RunRow, end: RunEnd, now: DateTime<Utc>) -> Result<()> {
        let catalog = &self.workspace.catalog;
        let object = catalog.object(Space::Relation, &run.corpus).await?;
        let scheduled = object.as_ref().map(Scheduled::of).transpose()?.flatten();
        let policy = scheduled.map(|scheduled| scheduled.policy).unwrap_or_default();
        let finished_ms = Some(now.timestamp_millis());
        let mut run = RunRow {
            finished_ms,
            ..run.clone()
        };
        match end {
            RunEnd::Succeeded => run.state = RunState::Succeeded,
            RunEnd::Replaced => {
                run.state = RunState::Skipped;
                run.note = Some("another run took its place: overlap is replace".to_owned());
            }
            RunEnd::Failed { error, transient } if transient && run.attempts <= policy.retries => {
                let pause = TimeDelta::from_std(policy.pause(run.attempts)).unwrap_or_default();
                run.state = RunState::Queued;
                run.due_ms = (now + pause).timestamp_millis();
                run.note = Some(error);
                tracing::warn!(
                    corpus = run.corpus,
                    note = run.note,
                    pause_s = pause.num_seconds(),
                    "a run is tried again"
                );
            }
            RunEnd::Failed { error, .. } => {
                run.state = RunState::Failed;
                tracing::warn!(corpus = run.corpus, %error, "a run failed");
                run.note = Some(error);
            }
        }
        catalog.keep_run(&run).await?;
        match object {
            Some(object) if run.state == RunState::Failed && policy.suspend_after > 0 => {
                self.suspend(object, policy.suspend_after, now).await
            }
            _ => Ok(()),
        }
    }

    /// Suspends a schedule whose newest runs have failed, `limit` of them in a row.
    async fn suspend(&self, mut object: ObjectRow, limit: u32, now: DateTime<Utc>) -> Result<()> {
        let runs = self.workspace.catalog.runs_of(&object.name).await?;
        let over = runs
            .iter()
            .filter(|run| matches!(run.state, RunState::Failed | RunState::Succeeded));
        let failed = over.take_while(|run| run.state == RunState::Failed).count();
        if failed < limit as usize {
            return Ok(());
        }
        tracing::warn!(corpus = object.name, failed, "the schedule is suspended");
        let mut settings: Settings = serde_json::from_str(&object.settings).unwrap_or_default();
        settings.suspended = true;
        object.settings = serde_json::to_string(&settings)
            .map_err(|e| CoordinatorError::Invalid(format!("options of corpus {}: {e}", object.name)))?;
        object.updated_ms = now.timestamp_millis();
        self.workspace.catalog.put_object(Space::Relation, &object).await
    }

    /// How long the run of a corpus may take.
    pub(crate) fn timeout(&self, corpus: &str) -> Option<Duration> {
        let (_, scheduled) = self.known.get(corpus)?;
        scheduled.as_ref()?.policy.timeout
    }
}

/// A run that waits.
pub(crate) fn queued(corpus: &str, time: DateTime<Utc>, cause: &str) -> RunRow {
    RunRow {
        corpus: corpus.to_owned(),
        logical_ms: time.timestamp_millis(),
        state: RunState::Queued,
        cause: cause.to_owned(),
        attempts: 0,
        due_ms: time.timestamp_millis(),
        started_ms: None,
        finished_ms: None,
        note: None,
    }
}

fn moment(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

#[cfg(test)]
mod tests;
