//! A build: from a `CREATE CORPUS` or `REFRESH CORPUS` to one more version, or to a reason why there is none.
//!
//! ```text
//! plan ─ views that it needs (steps) ─ same as the last version? ─ shards (step, resumable by split)
//!      ─ corpus expectations over the staged shards ─ manifest ─ Delta commit ─ catalogue
//! ```
//! Everything before the Delta commit leaves files that no version knows; everything after it is repeated until it
//! has happened. A build that stops anywhere is found again by what it computes: the definition, the inputs, the
//! logical time.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use corpusmill_corpus::Manifest;
use corpusmill_operators::{Receipt, failpoint, with_sources};
use corpusmill_sql::{CreateCorpus, HistoryCall, RunTime, Session, SqlError, Statement};
use corpusmill_traces::Span;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;

use crate::catalog::{BuildEnd, BuildRow, NewBuild};
use crate::corpus_plan::{CorpusPlan, ShardTarget};
use crate::error::{CoordinatorError, Result};
use crate::events::Event;
use crate::inputs::{Inputs, digest, inputs_of, plan_digest, uses_run_time};
use crate::layout::{corpus_folder, staging_folder};
use crate::objects::HistoryFiles;
use crate::publish::CorpusLog;
use crate::report::{BuildReport, BuildState, StepReport};
use crate::workspace::{Workspace, end};

mod finish;
mod gate;
mod graphs;
mod history;
mod manifest;
mod pending;
mod rows_step;
mod schema_change;
pub(crate) mod views;

pub(crate) use gate::as_report;
pub(crate) use manifest::files_of;

/// Name of the last step of every build.
const SHARDS: &str = "shards";

/// What a statement asks of a build.
#[derive(Debug, Clone, Default)]
pub(crate) struct BuildRequest {
    /// Nothing is reused: neither views nor the fact that the inputs are the same.
    pub(crate) full: bool,
    /// Any change of the schema is fine.
    pub(crate) replace: bool,
    /// The logical time, when the statement gives one.
    pub(crate) as_of: Option<DateTime<Utc>>,
}

/// One build while it runs.
pub(crate) struct Build<'a> {
    workspace: &'a Workspace,
    session: &'a Session,
    statement: &'a Statement,
    request: BuildRequest,
    began: Instant,
    log: CorpusLog,
    /// The newest version of ours.
    base: Option<Manifest>,
    /// Another writer committed on top of it: the table does not hold what `base` says.
    foreign: bool,
}

/// A build whose plan is made and whose place in the catalogue is known.
struct Planned {
    plan: CorpusPlan,
    physical: Arc<dyn ExecutionPlan>,
    inputs: Inputs,
    fingerprint: String,
    functions: Vec<(String, String)>,
    /// Steps before the shards: views, graphs, and what is added to the history.
    before: Vec<StepReport>,
    /// How many steps there are in all.
    steps: usize,
    /// What the query compares with the history of the corpus itself, until that is added to it.
    history_call: Option<HistoryCall>,
    /// The history that the new version has.
    history: Vec<HistoryFiles>,
    logical: DateTime<Utc>,
    resumed: Option<BuildRow>,
}

impl<'a> Build<'a> {
    /// Looks at what is there before a build of `corpus`.
    ///
    /// # Errors
    /// When the table of the corpus cannot be read, or its newest version is not ours and the request is not for a
    /// full build, which replaces it.
    pub(crate) async fn new(
        workspace: &'a Workspace,
        session: &'a Session,
        statement: &'a Statement,
        corpus: &str,
        request: BuildRequest,
    ) -> Result<Build<'a>> {
        let layout = &workspace.layout;
        let prefix = layout.warehouse().corpus_root(corpus)?;
        let folder = layout.folder(&corpus_folder(corpus));
        let log = CorpusLog::open(corpus, Arc::clone(layout.store()), &prefix, folder.url()).await?;
        let base = match log.version() {
            Some(_) => layout.warehouse().newest(corpus).await?,
            None => None,
        };
        let foreign = log.version() != base.as_ref().map(|base| base.version);
        match (log.version(), &base) {
            // Says who committed what, and what to do.
            (Some(version), Some(_)) if foreign && !request.full => {
                layout.warehouse().manifest(corpus, version).await?;
            }
            (Some(_), None) => {
                return Err(CoordinatorError::Object(format!(
                    "{}: {} holds a Delta table that corpusmill did not make: move it away, or give the corpus another name",
                    statement.location(),
                    folder.url()
                )));
            }
            _ => {}
        }
        Ok(Self {
            workspace,
            session,
            statement,
            request,
            began: Instant::now(),
            log,
            base,
            foreign,
        })
    }

    /// Runs the build to its end.
    ///
    /// # Errors
    /// What made it fail; the catalogue knows it too, and nothing is published.
    pub(crate) async fn run(self, corpus: &CreateCorpus) -> Result<BuildReport> {
        let objects = Arc::clone(&self.workspace.objects);
        let result = self.run_to_end(corpus).await;
        objects.end_history();
        result
    }

    async fn run_to_end(mut self, corpus: &CreateCorpus) -> Result<BuildReport> {
        let mut planned = self.plan(corpus).await?;
        if let Some(report) = self.nothing_to_do(&planned).await? {
            return Ok(report);
        }
        let id = match &planned.resumed {
            Some(row) => {
                self.workspace.catalog.resume_build(&row.id).await?;
                row.id.clone()
            }
            None => self.begin(&planned).await?,
        };
        self.workspace.event(Event::BuildStarted {
            object: corpus.name.clone(),
            build: id.clone(),
            steps: planned.steps,
            resumed: planned.resumed.is_some(),
        });
        let span = Span::build(&id).with("object", &corpus.name);
        let result = self.steps(&mut planned, &id).await;
        let result = result.map_err(|error| error.of_build(&corpus.name, &id));
        end(span, &result);
        if let Err(error) = &result {
            let (state, text) = match error {
                CoordinatorError::Cancelled => (BuildState::Cancelled, None),
                other => (BuildState::Failed, Some(with_sources(other))),
            };
            let expectations = self.workspace.take_evidence();
            let end = BuildEnd {
                error: text,
                expectations,
                ..BuildEnd::default()
            };
            self.workspace.catalog.end_build(&id, state, &end).await?;
        }
        result
    }

    /// Plans at the time of the build that was stopped, if there is one; at the present otherwise.
    async fn plan(&mut self, corpus: &CreateCorpus) -> Result<Planned> {
        let stopped = self.stopped(corpus).await?;
        let now = self.request.as_of.or(self.workspace.as_of).unwrap_or_else(Utc::now);
        let logical = match &stopped {
            Some(row) => DateTime::from_timestamp_millis(row.logical_ms).unwrap_or(now),
            None => now,
        };
        let mut planned = self.plan_at(corpus, logical, false).await?;
        match stopped {
            Some(row) if row.fingerprint == planned.fingerprint => planned.resumed = Some(row),
            // What was stopped read other inputs: this is a new build, at its own time.
            Some(_) if logical != now => planned = self.plan_at(corpus, now, false).await?,
            _ => {}
        }
        Ok(planned)
    }

    /// The newest build of the corpus, if it did not end in a version and computed the same statement.
    async fn stopped(&self, corpus: &CreateCorpus) -> Result<Option<BuildRow>> {
        let newest = self.workspace.catalog.builds_of(&corpus.name).await?.into_iter().next();
        let asked = self
            .request
            .as_of
            .or(self.workspace.as_of)
            .map(|time| time.timestamp_millis());
        Ok(newest.filter(|row| {
            let open = matches!(
                row.state,
                BuildState::Running | BuildState::Cancelled | BuildState::Failed
            );
            open && row.sql_digest == digest(&self.statement.text.text)
                && asked.is_none_or(|asked| asked == row.logical_ms)
        }))
    }

    /// Plans at a logical time; with `dry`, views that are not up to date stay as they are.
    async fn plan_at(&mut self, corpus: &CreateCorpus, logical: DateTime<Utc>, dry: bool) -> Result<Planned> {
        self.session.set_run_time(RunTime::at(logical))?;
        let objects = &self.workspace.objects;
        let history = self
            .base
            .as_ref()
            .map(HistoryFiles::of)
            .transpose()?
            .unwrap_or_default();
        objects.begin_history(&corpus.name, &history, false).await?;
        objects.take_seen();
        let first = CorpusPlan::new(self.session, self.statement, corpus, &[]).await?;
        let mut seen = objects.take_seen();
        let mode = views::Mode {
            full: self.request.full,
            dry,
        };
        let views = views::freshen(self.workspace, self.session, &seen.views, logical, mode).await?;
        // Planned again when a view has new files: the plan names them.
        let plan = if !dry && views.iter().any(|step| !step.reused) {
            CorpusPlan::new(self.session, self.statement, corpus, &[]).await?
        } else {
            first
        };
        schema_change::check(&plan, self.base.as_ref(), self.request.replace)?;
        let all: Vec<u32> = (0..plan.options.shards).collect();
        let annotated = plan.annotated(self.session, &all).await?;
        // The conditions were planned beside the query: together they are what the corpus depends on.
        seen.add(objects.take_seen());
        let physical = self.physical(&annotated).await?;
        let inputs = inputs_of(&physical);
        let mut parts = vec![inputs.fingerprint.clone(), layout_digest(&plan)];
        parts.extend(seen.digests());
        if uses_run_time(&annotated)? {
            parts.push(logical.timestamp_millis().to_string());
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let fingerprint = plan_digest(&annotated, &parts);
        let history_call = history::own_call(&plan.history, &corpus.name)?;
        let steps = views.len() + history_call.as_ref().map_or(0, |_| history::STEPS) + 1;
        Ok(Planned {
            plan,
            physical,
            inputs,
            fingerprint,
            functions: seen.functions.into_iter().collect(),
            before: views,
            steps,
            history_call,
            history: vec![],
            logical,
            resumed: None,
        })
    }

    async fn physical(&self, plan: &datafusion::logical_expr::LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        match self.session.context().state().create_physical_plan(plan).await {
            Ok(physical) => Ok(physical),
            Err(error) => Err(self.explain(error, plan).await),
        }
    }

    async fn explain(
        &self,
        error: datafusion::error::DataFusionError,
        plan: &datafusion::logical_expr::LogicalPlan,
    ) -> CoordinatorError {
        match CoordinatorError::engine(&self.place(), self.workspace.location(), error) {
            CoordinatorError::Sql(SqlError::Engine(error)) => {
                CoordinatorError::Sql(self.session.explain_error(error, plan).await)
            }
            other => other,
        }
    }

    fn place(&self) -> String {
        self.statement.place()
    }

    /// The same definition over the same inputs made the version that is there.
    async fn nothing_to_do(&self, planned: &Planned) -> Result<Option<BuildReport>> {
        let Some(base) = &self.base else { return Ok(None) };
        if self.request.full || planned.resumed.is_some() {
            return Ok(None);
        }
        // A version that was rolled back to has another build, so that it never counts as made by these inputs.
        let made = self.made(&base.corpus, base.version, &planned.fingerprint).await?;
        if base.sql != *self.statement.text.text || !made {
            return Ok(None);
        }
        let note = format!(
            "nothing changed: definition and inputs are those of version {}; REFRESH CORPUS {} FULL runs it again",
            base.version, base.corpus
        );
        let id = self.begin(planned).await?;
        let report = self.report(planned, &id, base, BuildState::Unchanged, vec![], Some(note));
        self.end(&report).await?;
        Ok(Some(report))
    }

    async fn begin(&self, planned: &Planned) -> Result<String> {
        let id = new_build_id();
        let new = NewBuild {
            id: id.clone(),
            object: planned.plan.corpus.name.clone(),
            kind: CORPUS,
            sql: self.statement.text.text.to_string(),
            sql_digest: digest(&self.statement.text.text),
            fingerprint: planned.fingerprint.clone(),
            logical_ms: planned.logical.timestamp_millis(),
        };
        self.workspace.catalog.begin_build(&new).await?;
        Ok(id)
    }

    async fn steps(&mut self, planned: &mut Planned, id: &str) -> Result<BuildReport> {
        if let Some(version) = self.log.version_of(id).await? {
            // It was stopped between its commit and the catalogue.
            let manifest = self
                .workspace
                .layout
                .warehouse()
                .manifest(&planned.plan.corpus.name, version)
                .await?;
            return self
                .finish(planned, id, &manifest, BuildState::Committed, vec![], None)
                .await;
        }
        self.prepare(planned, id).await?;
        let (receipts, step) = self.shards(planned, id).await?;
        self.workspace
            .catalog
            .commit_step(id, planned.before.len() as u32, &step)
            .await?;
        let mut steps = planned.before.clone();
        steps.push(step);
        let expectations = gate::judge(self, planned, id, &receipts).await?;
        let mut manifest = manifest::assemble(self, planned, id, &receipts, &steps, expectations)?;
        if let Some(base) = &self.base
            && !self.foreign
            && manifest::same_version(base, &manifest)
        {
            let note = format!(
                "no row changed: the digest is that of version {}, which stays the newest",
                base.version
            );
            self.discard(&manifest).await?;
            let base = base.clone();
            return self
                .finish(planned, id, &base, BuildState::Unchanged, steps, Some(note))
                .await;
        }
        self.publish(planned, id, &mut manifest).await?;
        self.finish(planned, id, &manifest, BuildState::Committed, steps, None)
            .await
    }

    /// Makes the shards that have no receipt yet, and takes one receipt for each.
    async fn shards(&self, planned: &Planned, id: &str) -> Result<(Vec<Receipt>, StepReport)> {
        let began = Instant::now();
        let layout = &self.workspace.layout;
        let staging = format!("{}/{SHARDS}", staging_folder(id));
        let staged = layout.path(&staging);
        let splits = planned.plan.options.shards;
        let done = self.receipts(&staged).await?;
        let missing: Vec<u32> = (0..splits).filter(|split| !done.contains_key(split)).collect();
        self.workspace.event(Event::StepStarted {
            build: id.to_owned(),
            step: SHARDS.to_owned(),
            number: planned.before.len() + 1,
            of: planned.before.len() + 1,
            splits: missing.len(),
            splits_done: done.len(),
        });
        let reused = missing.is_empty();
        if !reused {
            let target = ShardTarget {
                corpus: layout.folder(&corpus_folder(&planned.plan.corpus.name)),
                staging: layout.folder(&staging),
                build: id.to_owned(),
                step: SHARDS.to_owned(),
                splits: missing,
            };
            self.run_shards(planned, id, target).await?;
        }
        let taken = self.receipts(&staged).await?;
        failpoint::hit("step-done");
        if let Some(missing) = (0..splits).find(|split| !taken.contains_key(split)) {
            return Err(CoordinatorError::Invalid(format!(
                "{}: shard {missing} has no receipt although its step ended; run the statement again",
                self.place()
            )));
        }
        let receipts: Vec<Receipt> = taken.into_values().collect();
        let step = StepReport {
            name: SHARDS.to_owned(),
            reused,
            splits,
            rows_in: receipts.iter().map(|r| r.rows_in).sum(),
            rows_out: receipts.iter().map(|r| r.rows_out).sum(),
            bytes: receipts.iter().map(|r| r.bytes).sum(),
            elapsed: began.elapsed(),
        };
        self.workspace.step_finished(id, &step);
        Ok((receipts, step))
    }

    async fn receipts(&self, folder: &object_store::path::Path) -> Result<std::collections::BTreeMap<u32, Receipt>> {
        Receipt::collect(self.workspace.layout.store(), folder)
            .await
            .map_err(|error| CoordinatorError::engine(&self.place(), self.workspace.location(), error.into()))
    }

    async fn run_shards(&self, planned: &Planned, id: &str, target: ShardTarget) -> Result<()> {
        let all = target.splits.len() == planned.plan.options.shards as usize;
        let logical = planned.plan.annotated(self.session, &target.splits).await?;
        let physical = if all {
            Arc::clone(&planned.physical)
        } else {
            self.physical(&logical).await?
        };
        let state = self.session.context().state();
        let partitions = state.config().target_partitions();
        let sink = planned.plan.sink(physical, target, partitions)?;
        let context: Arc<TaskContext> = state.task_ctx();
        let step = self.runner_step(planned, id, SHARDS);
        match self.workspace.run_step(context, &step, sink).await {
            Ok(_) => Ok(()),
            Err(CoordinatorError::Sql(SqlError::Engine(error))) => Err(self.explain(error, &logical).await),
            Err(other) => Err(other),
        }
    }
}

/// What decides the bytes of the shards beside their rows.
fn layout_digest(plan: &CorpusPlan) -> String {
    let corpus = &plan.corpus;
    digest(&format!(
        "key {:?} partition {:?} options {:?} format {}",
        corpus.primary_key,
        corpus.partitioned_by,
        plan.options,
        corpusmill_corpus::MANIFEST_FORMAT
    ))
}

/// What the catalogue calls builds of corpora; those of views and hash lists are called after them.
pub(crate) const CORPUS: &str = "corpus";

/// Ids sort by time; twenty letters and digits.
pub(crate) fn new_build_id() -> String {
    let id = uuid::Uuid::now_v7().simple().to_string();
    format!("{}{}", &id[..12], &id[24..])
}
