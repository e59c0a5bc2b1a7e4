//! Materialised views and hash lists: steps that are committed once and shared by every statement that reads them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use corpusmill_operators::with_sources;
use corpusmill_sql::{GraphCall, ObjectKind, RunTime, Session, SqlText, Statement, StatementKind};
use corpusmill_traces::Span;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _};

use super::graphs::Graphs;
use super::new_build_id;
use super::rows_step::RowsStep;
use crate::catalog::{BuildEnd, BuildRow, NewBuild, Space};
use crate::corpus_options::worker_label;
use crate::error::{CoordinatorError, Result};
use crate::inputs::{digest, inputs_of, plan_digest, rows_expected, uses_run_time};
use crate::layout::{staging_folder, view_folder};
use crate::objects::CatalogObjects;
use crate::report::{BuildState, StepReport};
use crate::workspace::{Workspace, end};

/// How views are brought up to date.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mode {
    /// Also those whose definition and inputs are the same.
    pub(crate) full: bool,
    /// Only says what would be done.
    pub(crate) dry: bool,
}

/// Brings the views `names`, and those that they read, up to date; gives one step for each, in the order in which
/// they depend on each other.
///
/// # Errors
/// When a view does not plan, or a step fails.
pub(crate) async fn freshen(
    workspace: &Workspace,
    session: &Session,
    names: &BTreeSet<String>,
    logical: DateTime<Utc>,
    mode: Mode,
) -> Result<Vec<StepReport>> {
    let mut walk = Walk {
        workspace,
        session,
        logical,
        mode,
        done: vec![],
        open: vec![],
    };
    for name in names {
        walk.visit(name).await?;
    }
    Ok(walk.done)
}

struct Walk<'a> {
    workspace: &'a Workspace,
    session: &'a Session,
    logical: DateTime<Utc>,
    mode: Mode,
    done: Vec<StepReport>,
    open: Vec<String>,
}

struct ViewPlan {
    graphs: Vec<GraphCall>,
    logical: LogicalPlan,
    physical: Arc<dyn ExecutionPlan>,
    fingerprint: String,
    sql_digest: String,
}

/// What is made of a statement, and read from files afterwards.
struct Made<'a> {
    kind: ObjectKind,
    name: &'a str,
    query: &'a SqlText,
    /// The workers that make it have this label.
    label: Option<String>,
}

impl<'a> Made<'a> {
    fn of(statement: &'a Statement) -> Option<Self> {
        match &statement.kind {
            StatementKind::CreateMaterializedView(view) => Some(Self {
                kind: ObjectKind::MaterializedView,
                name: &view.name,
                query: &view.query,
                label: worker_label(&view.options),
            }),
            StatementKind::CreateHashList(list) => Some(Self {
                kind: ObjectKind::HashList,
                name: &list.name,
                query: &statement.text,
                label: None,
            }),
            _ => None,
        }
    }

    /// The kind as steps and builds are called.
    fn word(&self) -> &'static str {
        match self.kind {
            ObjectKind::HashList => "hash list",
            _ => "view",
        }
    }

    fn step_name(&self) -> String {
        format!("{} {}", self.word(), self.name)
    }
}

impl Walk<'_> {
    /// Depth first: what a view reads is up to date before the view is planned.
    async fn visit(&mut self, name: &str) -> Result<()> {
        if self.open.iter().any(|open| open == name) {
            return Err(CoordinatorError::Invalid(format!(
                "materialized view {name} reads itself: {} → {name}",
                self.open.join(" → ")
            )));
        }
        let statement = self.definition(name).await?;
        let Some(made) = Made::of(&statement) else {
            return Err(CoordinatorError::Object(format!("{name} is not a materialized view")));
        };
        if self.done.iter().any(|step| step.name == made.step_name()) {
            return Ok(());
        }
        self.open.push(name.to_owned());
        self.workspace.objects.take_seen();
        self.session.plan(&statement).await?;
        let reads = self.workspace.objects.take_seen().views;
        for inner in reads.iter().filter(|inner| *inner != name) {
            Box::pin(self.visit(inner)).await?;
        }
        let step = self.step(&statement, &made).await?;
        self.done.push(step);
        self.open.pop();
        Ok(())
    }

    async fn definition(&self, name: &str) -> Result<Statement> {
        let object = self.workspace.catalog.object(Space::Relation, name).await?;
        let object = object.ok_or_else(|| CoordinatorError::Object(format!("there is no materialized view {name}")))?;
        CatalogObjects::statement(&object)
    }

    async fn step(&self, statement: &Statement, view: &Made<'_>) -> Result<StepReport> {
        // Two scripts that read a view bring it up to date once.
        let _alone = self.workspace.alone(view.name).await?;
        let plan = self.plan(statement, view).await?;
        let builds = self.workspace.catalog.builds_of(view.name).await?;
        let made = builds.into_iter().find(|row| row.state == BuildState::Committed);
        match made.filter(|row| row.fingerprint == plan.fingerprint && !self.mode.full) {
            Some(row) => {
                let step = reused(view, &row);
                if !self.mode.dry {
                    self.workspace.step_finished(&row.id, &step);
                }
                Ok(step)
            }
            None if self.mode.dry => Ok(expected(view, &plan.physical)),
            None => self.build(statement, view, plan).await,
        }
    }

    async fn plan(&self, statement: &Statement, view: &Made<'_>) -> Result<ViewPlan> {
        self.session.set_run_time(RunTime::at(self.logical))?;
        self.workspace.objects.take_seen();
        let planned = self.session.plan_for_build(statement, &[]).await?;
        if let Some(call) = planned.history.first() {
            return Err(CoordinatorError::Invalid(format!(
                "{} {} compares with history:{}, which grows with the versions of a corpus only: make the call in the query of corpus {}, or in a view that is not materialized",
                view.word(),
                view.name,
                call.corpus,
                call.corpus
            )));
        }
        let logical = self.session.check_reproducible(planned.plan, view.query)?;
        let seen = self.workspace.objects.take_seen();
        let physical = self.session.physical(&logical).await?;
        let mut parts = vec![inputs_of(&physical).fingerprint];
        parts.extend(seen.digests());
        if uses_run_time(&logical)? {
            parts.push(self.logical.timestamp_millis().to_string());
        }
        if view.kind == ObjectKind::HashList {
            // How near a match must be is part of a version, and not of its rows.
            parts.push(digest(&statement.text.text));
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let fingerprint = plan_digest(&logical, &parts);
        Ok(ViewPlan {
            graphs: planned.graphs,
            logical,
            physical,
            fingerprint,
            sql_digest: digest(&statement.text.text),
        })
    }

    async fn build(&self, statement: &Statement, view: &Made<'_>, plan: ViewPlan) -> Result<StepReport> {
        let id = new_build_id();
        let catalog = &self.workspace.catalog;
        catalog
            .begin_build(&NewBuild {
                id: id.clone(),
                object: view.name.to_owned(),
                kind: view.word(),
                sql: statement.text.text.to_string(),
                sql_digest: plan.sql_digest.clone(),
                fingerprint: plan.fingerprint.clone(),
                logical_ms: self.logical.timestamp_millis(),
            })
            .await?;
        let span = Span::build(&id).with("object", view.name);
        let written = self.write(statement, view, plan, &id).await;
        end(span, &written);
        match written {
            Ok((step, mut end)) => {
                end.version = self.next_version(view).await?;
                catalog.end_build(&id, BuildState::Committed, &end).await?;
                self.workspace.layout.remove(&staging_folder(&id)).await?;
                self.workspace.step_finished(&id, &step);
                Ok(step)
            }
            Err(error) => {
                let state = match error {
                    CoordinatorError::Cancelled => BuildState::Cancelled,
                    _ => BuildState::Failed,
                };
                let end = BuildEnd {
                    error: Some(with_sources(&error)),
                    ..BuildEnd::default()
                };
                catalog.end_build(&id, state, &end).await?;
                Err(error)
            }
        }
    }

    /// The version that the build in hand makes; views have none.
    async fn next_version(&self, view: &Made<'_>) -> Result<Option<u64>> {
        if view.kind != ObjectKind::HashList {
            return Ok(None);
        }
        let newest = self.workspace.objects.hash_list_versions(view.name).await?;
        Ok(Some(
            newest
                .first()
                .and_then(|build| build.version)
                .map_or(0, |version| version + 1),
        ))
    }

    /// Runs the view's plan.
    async fn write(
        &self,
        statement: &Statement,
        view: &Made<'_>,
        mut plan: ViewPlan,
        id: &str,
    ) -> Result<(StepReport, BuildEnd)> {
        let name = view.step_name();
        let step = self.workspace.step(id, &name, statement.place(), view.label.clone());
        let place = step.place.clone();
        let mut steps = self.done.len();
        let mut graphs = Graphs {
            workspace: self.workspace,
            session: self.session,
            step: step.clone(),
            query: view.query,
            prepared: vec![],
        };
        loop {
            let calls = std::mem::take(&mut plan.graphs);
            let (made, found) = graphs.decide(calls, usize::MAX, steps).await?;
            steps += made.len();
            if !found {
                break;
            }
            let again = self.session.plan_for_build(statement, &graphs.prepared).await?;
            plan.logical = self.session.check_reproducible(again.plan, view.query)?;
            plan.physical = self.session.physical(&plan.logical).await?;
            plan.graphs = again.graphs;
        }
        let rows = RowsStep {
            workspace: self.workspace,
            session: self.session,
            step,
            number: steps + 1,
            of: steps + 1,
            folder: view_folder(view.name, id),
            staging: format!("{}/rows", staging_folder(id)),
            logical: &plan.logical,
            physical: plan.physical,
        };
        let (report, files) = rows.run().await?;
        if view.kind == ObjectKind::HashList && report.rows_out == 0 {
            return Err(CoordinatorError::Invalid(format!(
                "{place}: there is no hash for list {}: its files are empty, or what is in them is of another signal",
                view.name
            )));
        }
        let end = BuildEnd {
            rows: Some(report.rows_out),
            bytes: Some(report.bytes),
            files,
            ..BuildEnd::default()
        };
        Ok((report, end))
    }
}

fn reused(view: &Made<'_>, row: &BuildRow) -> StepReport {
    let rows = row.rows.unwrap_or(0);
    StepReport {
        name: view.step_name(),
        reused: true,
        splits: row.files.len() as u32,
        rows_in: rows,
        rows_out: rows,
        bytes: row.bytes.unwrap_or(0),
        elapsed: Duration::ZERO,
    }
}

/// A step that would run, with what the sources' statistics say about it.
fn expected(view: &Made<'_>, plan: &Arc<dyn ExecutionPlan>) -> StepReport {
    let rows = rows_expected(plan.as_ref()).unwrap_or(0);
    StepReport {
        name: view.step_name(),
        reused: false,
        splits: plan.output_partitioning().partition_count() as u32,
        rows_in: rows,
        rows_out: rows,
        bytes: inputs_of(plan).sources.iter().map(|source| source.bytes).sum(),
        elapsed: Duration::ZERO,
    }
}
