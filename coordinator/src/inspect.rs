//! Statements that show what is there: SHOW, DESCRIBE, EXPLAIN REFRESH.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use corpusmill_sql::{
    HashList, ObjectKind, ObjectRef, RefreshCorpus, RunTime, Session, Show, Signal, SqlError, Statement, StatementKind,
};
use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::memory::MemoryStream;

use crate::build::views::{self, Mode};
use crate::catalog::{BuildRow, ObjectRow, Space, rfc3339};
use crate::corpus_plan::CorpusPlan;
use crate::error::{CoordinatorError, Result};
use crate::events::Outcome;
use crate::inputs::{inputs_of, rows_expected};
use crate::maintenance;
use crate::names::nearest;
use crate::objects::CatalogObjects;
use crate::report::{BuildInfo, StepReport};
use crate::schedules::Scheduled;
use crate::statements::{self, schedule_text};
use crate::workspace::Workspace;

/// The logical time of statements: what the options say, or the present.
pub(crate) fn run_time(workspace: &Workspace) -> RunTime {
    RunTime::at(workspace.as_of.unwrap_or_else(Utc::now))
}

/// Reads `AS OF TIMESTAMP '…'`: RFC 3339, or a date with or without a time, in UTC.
///
/// # Errors
/// When it is none of these.
pub(crate) fn timestamp(text: &str) -> Result<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    for format in ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Ok(time.and_utc());
        }
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|day| day.and_time(NaiveTime::MIN).and_utc()).map_err(|_| {
        CoordinatorError::Invalid(format!(
            "AS OF TIMESTAMP '{text}' is not a time; write '2026-11-01 02:00:00' (UTC) or '2026-11-01T02:00:00+08:00'"
        ))
    })
}

/// A small table whose cells are text, numbers or truth values; all columns may be NULL.
pub(crate) struct Table {
    columns: Vec<(&'static str, ArrayRef)>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { columns: vec![] }
    }

    pub(crate) fn text<T: AsRef<str>>(
        mut self,
        name: &'static str,
        cells: impl IntoIterator<Item = Option<T>>,
    ) -> Self {
        self.columns
            .push((name, Arc::new(cells.into_iter().collect::<StringArray>())));
        self
    }

    fn number(mut self, name: &'static str, cells: impl IntoIterator<Item = Option<u64>>) -> Self {
        self.columns
            .push((name, Arc::new(cells.into_iter().collect::<UInt64Array>())));
        self
    }

    fn truth(mut self, name: &'static str, cells: impl IntoIterator<Item = bool>) -> Self {
        self.columns
            .push((name, Arc::new(cells.into_iter().map(Some).collect::<BooleanArray>())));
        self
    }

    pub(crate) fn rows(self) -> Result<Outcome> {
        let fields: Vec<Field> = self
            .columns
            .iter()
            .map(|(name, column): &(&str, ArrayRef)| {
                let kind: &DataType = datafusion::arrow::array::Array::data_type(column);
                Field::new(*name, kind.clone(), true)
            })
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let columns = self.columns.into_iter().map(|(_, column)| column).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(DataFusionError::from)?;
        Ok(Outcome::Rows(Box::pin(MemoryStream::try_new(
            vec![batch],
            schema,
            None,
        )?)))
    }
}

/// `SHOW …`
pub(crate) async fn show(workspace: &Workspace, show: Show) -> Result<Outcome> {
    match show {
        Show::Corpora => show_corpora(workspace).await,
        Show::Builds => show_builds(workspace).await,
        Show::Tables => show_objects(workspace, Space::Relation, &[ObjectKind::Table]).await,
        Show::Views => {
            show_objects(
                workspace,
                Space::Relation,
                &[ObjectKind::View, ObjectKind::MaterializedView],
            )
            .await
        }
        Show::Tokenizers => show_objects(workspace, Space::Tokenizer, &[ObjectKind::Tokenizer]).await,
        Show::Models => show_objects(workspace, Space::Model, &[ObjectKind::Model]).await,
        Show::Functions => show_objects(workspace, Space::Function, &[ObjectKind::Function]).await,
        Show::HashLists => show_hash_lists(workspace).await,
        Show::Schedules => show_schedules(workspace).await,
        Show::Runs => show_runs(workspace).await,
        other => Err(CoordinatorError::Invalid(format!(
            "SHOW {other:?}: this build has no such objects; they come with a later part"
        ))),
    }
}

async fn show_corpora(workspace: &Workspace) -> Result<Outcome> {
    let corpora = maintenance::corpora(workspace).await?;
    Table::new()
        .text("corpus", corpora.iter().map(|c| Some(&c.name)))
        .number("version", corpora.iter().map(|c| Some(c.version)))
        .number("rows", corpora.iter().map(|c| Some(c.rows)))
        .number("bytes", corpora.iter().map(|c| Some(c.bytes)))
        .number("shards", corpora.iter().map(|c| Some(c.shards as u64)))
        .text("created_at", corpora.iter().map(|c| Some(&c.created_at)))
        .text("digest", corpora.iter().map(|c| Some(&c.digest)))
        .text("schedule", corpora.iter().map(|c| c.schedule.as_ref()))
        .text("tags", corpora.iter().map(|c| Some(c.tags_text())))
        .rows()
}

async fn show_builds(workspace: &Workspace) -> Result<Outcome> {
    let builds = maintenance::builds(workspace).await?;
    let failed = |build: &BuildInfo| {
        let names = build.expectations.iter().filter(|e| !e.passed);
        let shown = names.map(|e| match (&e.observed, e.violations) {
            (Some(seen), _) => format!("{} (observed {seen})", e.name),
            (None, Some(rows)) => format!("{} ({rows} rows)", e.name),
            (None, None) => e.name.clone(),
        });
        let text = shown.collect::<Vec<_>>().join(", ");
        (!text.is_empty()).then_some(text)
    };
    Table::new()
        .text("build", builds.iter().map(|b| Some(&b.build)))
        .text("object", builds.iter().map(|b| Some(&b.object)))
        .text("state", builds.iter().map(|b| Some(b.state.as_str())))
        .number("version", builds.iter().map(|b| b.version))
        .number("rows", builds.iter().map(|b| b.rows))
        .number("bytes", builds.iter().map(|b| b.bytes))
        .text("logical_time", builds.iter().map(|b| Some(&b.logical_time)))
        .text("started_at", builds.iter().map(|b| Some(&b.started_at)))
        .text("finished_at", builds.iter().map(|b| b.finished_at.as_ref()))
        .text("violated", builds.iter().map(failed))
        .text("error", builds.iter().map(|b| b.error.as_ref()))
        .text("digest", builds.iter().map(|b| b.digest.as_ref()))
        .rows()
}

async fn show_objects(workspace: &Workspace, space: Space, kinds: &[ObjectKind]) -> Result<Outcome> {
    let mut objects = workspace.catalog.objects(space).await?;
    objects.retain(|object| kinds.iter().any(|kind| kind.words() == object.kind));
    objects_table(&objects)
}

fn objects_table(objects: &[ObjectRow]) -> Result<Outcome> {
    Table::new()
        .text("name", objects.iter().map(|o| Some(&o.name)))
        .text("kind", objects.iter().map(|o| Some(&o.kind)))
        .text("updated_at", objects.iter().map(|o| Some(rfc3339(o.updated_ms))))
        .text("origin", objects.iter().map(|o| Some(&o.origin)))
        .text("definition", objects.iter().map(|o| Some(&o.sql)))
        .rows()
}

/// The versions of all hash lists, the newest of each first, with what an index over them takes.
async fn show_hash_lists(workspace: &Workspace) -> Result<Outcome> {
    let mut rows: Vec<(String, BuildRow, Signal)> = Vec::new();
    for object in workspace.catalog.objects(Space::Relation).await? {
        if object.kind != ObjectKind::HashList.words() {
            continue;
        }
        for build in workspace.objects.hash_list_versions(&object.name).await? {
            let made = ObjectRow {
                sql: build.sql.clone(),
                ..object.clone()
            };
            if let StatementKind::CreateHashList(create) = CatalogObjects::statement(&made)?.kind {
                rows.push((object.name.clone(), build, create.signal));
            }
        }
    }
    let index_bytes = |row: &(String, BuildRow, Signal)| HashList::index_bytes(row.2, row.1.rows.unwrap_or(0));
    Table::new()
        .text("name", rows.iter().map(|r| Some(&r.0)))
        .number("version", rows.iter().map(|r| r.1.version))
        .text("signal", rows.iter().map(|r| Some(r.2.name())))
        .number("hashes", rows.iter().map(|r| r.1.rows))
        .number("bytes", rows.iter().map(|r| r.1.bytes))
        .number("index_bytes", rows.iter().map(index_bytes))
        .text("made_at", rows.iter().map(|r| r.1.finished_ms.map(rfc3339)))
        .text("definition", rows.iter().map(|r| Some(&r.1.sql)))
        .rows()
}

async fn show_schedules(workspace: &Workspace) -> Result<Outcome> {
    let mut rows = Vec::new();
    for object in workspace.catalog.objects(Space::Relation).await? {
        let Some(scheduled) = Scheduled::of(&object)? else {
            continue;
        };
        let StatementKind::CreateCorpus(corpus) = &scheduled.statement.kind else {
            continue;
        };
        let text = corpus.schedule.as_ref().map(schedule_text);
        let last = workspace.catalog.newest_run(&object.name).await?;
        let state = if scheduled.suspended { "suspended" } else { "active" };
        let next = scheduled.times.next(Utc::now()).filter(|_| !scheduled.suspended);
        rows.push((object.name, text, state, next, last));
    }
    Table::new()
        .text("corpus", rows.iter().map(|r| Some(&r.0)))
        .text("schedule", rows.iter().map(|r| r.1.as_ref()))
        .text("state", rows.iter().map(|r| Some(r.2)))
        .text(
            "next_run",
            rows.iter().map(|r| r.3.map(|time| rfc3339(time.timestamp_millis()))),
        )
        .text(
            "last_run",
            rows.iter().map(|r| r.4.as_ref().map(|run| rfc3339(run.logical_ms))),
        )
        .text(
            "last_state",
            rows.iter().map(|r| r.4.as_ref().map(|run| run.state.as_str())),
        )
        .text(
            "note",
            rows.iter().map(|r| r.4.as_ref().and_then(|run| run.note.as_ref())),
        )
        .rows()
}

async fn show_runs(workspace: &Workspace) -> Result<Outcome> {
    let runs = workspace.catalog.runs().await?;
    Table::new()
        .text("corpus", runs.iter().map(|r| Some(&r.corpus)))
        .text("logical_time", runs.iter().map(|r| Some(rfc3339(r.logical_ms))))
        .text("state", runs.iter().map(|r| Some(r.state.as_str())))
        .text("cause", runs.iter().map(|r| Some(&r.cause)))
        .number("attempts", runs.iter().map(|r| Some(u64::from(r.attempts))))
        .text("started_at", runs.iter().map(|r| r.started_ms.map(rfc3339)))
        .text("finished_at", runs.iter().map(|r| r.finished_ms.map(rfc3339)))
        .text("note", runs.iter().map(|r| r.note.as_ref()))
        .rows()
}

/// `DESCRIBE`: the columns of a relation, or the definition of a tokenizer, model or function.
pub(crate) async fn describe(
    workspace: &Workspace,
    session: &Session,
    statement: &Statement,
    object: &ObjectRef,
) -> Result<Outcome> {
    let space = match object.kind {
        Some(ObjectKind::Tokenizer) => Some(Space::Tokenizer),
        Some(ObjectKind::Model) => Some(Space::Model),
        Some(ObjectKind::Function) => Some(Space::Function),
        _ => None,
    };
    if let Some(space) = space {
        let found = workspace.catalog.object(space, &object.name).await?;
        let Some(found) = found else {
            let known = workspace.catalog.objects(space).await?;
            return Err(CoordinatorError::Object(format!(
                "there is no {} {}{}",
                object.kind.map_or("object", ObjectKind::words),
                object.name,
                nearest(&object.name, known.iter().map(|o| o.name.as_str()))
            )));
        };
        return objects_table(&[found]);
    }
    // A part of the name may need its quotes back: `c@3`.
    let quoted: Vec<String> = object
        .name
        .split('.')
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
        .collect();
    let query = format!("SELECT * FROM {}", quoted.join("."));
    let plan = session.plan_generated(&query, &statement.text).await?;
    let fields = plan.schema().fields();
    Table::new()
        .text("column", fields.iter().map(|f| Some(f.name())))
        .text("type", fields.iter().map(|f| Some(f.data_type().to_string())))
        .truth("nullable", fields.iter().map(|f| f.is_nullable()))
        .rows()
}

/// Step, action, location, files, bytes, rows: a row of `EXPLAIN REFRESH CORPUS`.
type ExplainLine = (String, String, Option<String>, Option<u64>, Option<u64>, Option<u64>);

fn view_line(step: &StepReport) -> ExplainLine {
    let action = if step.reused { "reuse" } else { "run" };
    let (bytes, rows) = (Some(step.bytes), Some(step.rows_out));
    (step.name.clone(), action.to_owned(), None, None, bytes, rows)
}

/// `EXPLAIN REFRESH CORPUS`: the steps, what each reads, and whether it has to run.
pub(crate) async fn explain_refresh(
    workspace: &Workspace,
    session: &Session,
    refresh: &RefreshCorpus,
) -> Result<Outcome> {
    let definition = statements::corpus_definition(workspace, &refresh.name).await?;
    let StatementKind::CreateCorpus(corpus) = &definition.kind else {
        return Err(CoordinatorError::Object(format!("{} is not a corpus", refresh.name)));
    };
    let time = match refresh.as_of.as_deref() {
        Some(text) => timestamp(text)?,
        None => run_time(workspace).start,
    };
    session.set_run_time(RunTime::at(time))?;
    workspace.objects.take_seen();
    let plan = CorpusPlan::new(session, &definition, corpus, &[]).await?;
    let seen = workspace.objects.take_seen();
    let mode = Mode {
        full: refresh.full,
        dry: true,
    };
    let views = views::freshen(workspace, session, &seen.views, time, mode).await?;
    let all: Vec<u32> = (0..plan.options.shards).collect();
    let logical = plan.annotated(session, &all).await?;
    let physical = session
        .context()
        .state()
        .create_physical_plan(&logical)
        .await
        .map_err(SqlError::Engine)?;
    let inputs = inputs_of(&physical);
    let rows = rows_expected(physical.as_ref());
    let mut lines: Vec<ExplainLine> = views.iter().map(view_line).collect();
    for source in &inputs.sources {
        lines.push((
            "shards".into(),
            "read".into(),
            Some(source.location.clone()),
            Some(source.files),
            Some(source.bytes),
            None,
        ));
    }
    let target = format!("{} shards for each partition value", plan.options.shards);
    lines.push(("shards".into(), "write".into(), Some(target), None, None, rows));
    let expectations = corpus.expectations.len();
    lines.push((
        "gate".into(),
        format!("{expectations} expectations"),
        None,
        None,
        None,
        None,
    ));
    session.set_run_time(run_time(workspace))?;
    Table::new()
        .text("step", lines.iter().map(|l| Some(&l.0)))
        .text("action", lines.iter().map(|l| Some(&l.1)))
        .text("location", lines.iter().map(|l| l.2.as_ref()))
        .number("files", lines.iter().map(|l| l.3))
        .number("bytes", lines.iter().map(|l| l.4))
        .number("rows", lines.iter().map(|l| l.5))
        .rows()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        let noon = "2026-11-01T12:00:00Z".parse::<DateTime<Utc>>().unwrap();
        for text in [
            "2026-11-01T12:00:00Z",
            "2026-11-01 12:00:00",
            "2026-11-01 12:00",
            "2026-11-01T20:00:00+08:00",
        ] {
            assert_eq!(timestamp(text).unwrap(), noon, "{text}");
        }
        assert_eq!(
            timestamp("2026-11-01").unwrap().to_rfc3339(),
            "2026-11-01T00:00:00+00:00"
        );
        assert!(timestamp("yesterday").unwrap_err().to_string().contains("yesterday"));
    }
}
