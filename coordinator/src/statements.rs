//! Statements that change what the catalogue knows.

use std::fmt::Write as _;

use corpusmill_sql::{
    AlterCorpus, AlterCorpusAction, CreateCorpus, CreateExternalTable, CreateFunction, CreateTokenizer, CreateView,
    DropObject, ObjectKind, Schedule, Session, Statement, StatementKind,
};
use serde::{Deserialize, Serialize};

use crate::build::{Build, BuildRequest, views};
use crate::catalog::{ObjectRow, Space, now_ms};
use crate::error::{CoordinatorError, Result};
use crate::events::Outcome;
use crate::inspect;
use crate::layout::{corpus_folder, staging_folder};
use crate::names::nearest;
use crate::objects::{CatalogObjects, load_tokenizer, resolve_paths};
use crate::schedules::triggers;
use crate::workspace::Workspace;

mod hash_list;
mod model;
mod rollback;

pub(crate) use hash_list::create_hash_list;
pub(crate) use model::create_model;

/// What ALTER CORPUS changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// SUSPEND SCHEDULE was said last.
    #[serde(default)]
    pub(crate) suspended: bool,
    /// When RESUME SCHEDULE was said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resumed_ms: Option<i64>,
    /// Options set.
    #[serde(default)]
    pub(crate) options: Vec<(String, String)>,
}

/// What to do about an object that exists under the name of the one to be made.
enum Existing {
    /// There is none, or it may be replaced.
    Make,
    /// It is there with the same definition, or the statement says that any will do.
    Keep(String),
}

async fn existing(
    workspace: &Workspace,
    space: Space,
    kind: ObjectKind,
    name: &str,
    statement: &Statement,
    (or_replace, if_not_exists): (bool, bool),
) -> Result<Existing> {
    let Some(object) = workspace.catalog.object(space, name).await? else {
        return Ok(Existing::Make);
    };
    if object.kind != kind.words() {
        return Err(CoordinatorError::Object(format!(
            "{}: {name} is a {} already; choose another name, or DROP {} {name}",
            statement.location(),
            object.kind,
            object.kind.to_uppercase()
        )));
    }
    let same = object.sql.trim() == statement.text.text.trim() && object.base_dir == base_dir(workspace);
    if same {
        return Ok(Existing::Keep(format!(
            "{} {name} is there already, with the same definition",
            kind.words()
        )));
    }
    if or_replace {
        return Ok(Existing::Make);
    }
    if if_not_exists {
        return Ok(Existing::Keep(format!(
            "{} {name} is there already, with another definition",
            kind.words()
        )));
    }
    Err(CoordinatorError::Object(format!(
        "{}: {} {name} is there already with another definition: write CREATE OR REPLACE {}, or DROP it first",
        statement.location(),
        kind.words(),
        kind.words().to_uppercase(),
    )))
}

fn base_dir(workspace: &Workspace) -> String {
    workspace.base_dir.to_string_lossy().into_owned()
}

async fn keep(workspace: &Workspace, space: Space, kind: ObjectKind, name: &str, statement: &Statement) -> Result<()> {
    let object = ObjectRow {
        name: name.to_owned(),
        kind: kind.words().to_owned(),
        sql: statement.text.text.to_string(),
        origin: statement.text.origin.to_string(),
        base_dir: base_dir(workspace),
        settings: "{}".to_owned(),
        updated_ms: now_ms(),
    };
    workspace.catalog.put_object(space, &object).await
}

fn made(kind: ObjectKind, name: &str) -> Outcome {
    Outcome::Message(format!("created {} {name}", kind.words()))
}

/// `CREATE TOKENIZER`: the file is read once to see that it is one.
pub(crate) async fn create_tokenizer(
    workspace: &Workspace,
    statement: &Statement,
    create: &CreateTokenizer,
) -> Result<Outcome> {
    let flags = (create.or_replace, create.if_not_exists);
    let (space, kind) = (Space::Tokenizer, ObjectKind::Tokenizer);
    if let Existing::Keep(why) = existing(workspace, space, kind, &create.name, statement, flags).await? {
        return Ok(Outcome::Message(why));
    }
    let mut resolved = statement.clone();
    resolve_paths(&mut resolved, &workspace.base_dir);
    if let StatementKind::CreateTokenizer(create) = &resolved.kind {
        load_tokenizer(create)
            .await
            .map_err(|error| CoordinatorError::Object(format!("{}: {error}", statement.location())))?;
    }
    keep(workspace, space, kind, &create.name, statement).await?;
    Ok(made(kind, &create.name))
}

/// `CREATE FUNCTION … LANGUAGE python`: the body is compiled once.
pub(crate) async fn create_function(
    workspace: &Workspace,
    session: &Session,
    statement: &Statement,
    create: &CreateFunction,
) -> Result<Outcome> {
    let flags = (create.or_replace, create.if_not_exists);
    let (space, kind) = (Space::Function, ObjectKind::Function);
    if let Existing::Keep(why) = existing(workspace, space, kind, &create.name, statement, flags).await? {
        return Ok(Outcome::Message(why));
    }
    session.check_function(create, &statement.text).await?;
    keep(workspace, space, kind, &create.name, statement).await?;
    Ok(made(kind, &create.name))
}

/// `CREATE EXTERNAL TABLE`: its files are opened once.
pub(crate) async fn create_table(
    workspace: &Workspace,
    session: &Session,
    statement: &Statement,
    create: &CreateExternalTable,
) -> Result<Outcome> {
    let flags = (create.or_replace, create.if_not_exists);
    let (space, kind) = (Space::Relation, ObjectKind::Table);
    if let Existing::Keep(why) = existing(workspace, space, kind, &create.name, statement, flags).await? {
        return Ok(Outcome::Message(why));
    }
    session.check_external_table(create, &statement.text).await?;
    keep(workspace, space, kind, &create.name, statement).await?;
    Ok(made(kind, &create.name))
}

/// `CREATE VIEW`: planned once.
pub(crate) async fn create_view(
    workspace: &Workspace,
    session: &Session,
    statement: &Statement,
    create: &CreateView,
) -> Result<Outcome> {
    let flags = (create.or_replace, create.if_not_exists);
    let (space, kind) = (Space::Relation, ObjectKind::View);
    if let Existing::Keep(why) = existing(workspace, space, kind, &create.name, statement, flags).await? {
        return Ok(Outcome::Message(why));
    }
    // A corpus that compares with its history through a view comes after it.
    workspace.objects.expect_corpora(true);
    let planned = session.plan(statement).await;
    workspace.objects.expect_corpora(false);
    planned?;
    keep(workspace, space, kind, &create.name, statement).await?;
    Ok(made(kind, &create.name))
}

/// `CREATE MATERIALIZED VIEW`: kept, and its step run, unless that is done.
pub(crate) async fn create_materialized_view(
    workspace: &Workspace,
    session: &Session,
    statement: &Statement,
    create: &CreateView,
) -> Result<Outcome> {
    let flags = (create.or_replace, create.if_not_exists);
    let (space, kind) = (Space::Relation, ObjectKind::MaterializedView);
    let before = existing(workspace, space, kind, &create.name, statement, flags).await?;
    if matches!(before, Existing::Make) {
        let plan = session.plan(statement).await?;
        session.check_reproducible(plan, &create.query)?;
        keep(workspace, space, kind, &create.name, statement).await?;
    }
    let time = inspect::run_time(workspace).start;
    let names = [create.name.clone()].into();
    let steps = views::freshen(workspace, session, &names, time, views::Mode::default()).await?;
    let mut text = match before {
        Existing::Make => format!("created {} {}", kind.words(), create.name),
        Existing::Keep(why) => why,
    };
    if let Some(step) = steps.last() {
        let what = if step.reused { "up to date" } else { "built" };
        // Writing to a String cannot fail.
        let _ = write!(text, ": {what}, {} rows", step.rows_out);
    }
    Ok(Outcome::Message(text))
}

/// `CREATE [OR REFRESH | OR REPLACE] CORPUS`.
pub(crate) async fn create_corpus(
    workspace: &Workspace,
    session: &Session,
    statement: &Statement,
    corpus: &CreateCorpus,
) -> Result<Outcome> {
    let object = workspace.catalog.object(Space::Relation, &corpus.name).await?;
    if let Some(object) = &object
        && object.kind != ObjectKind::Corpus.words()
    {
        return Err(CoordinatorError::Object(format!(
            "{}: {} is a {} already; choose another name for the corpus",
            statement.location(),
            corpus.name,
            object.kind
        )));
    }
    triggers::check(workspace, session, statement, corpus).await?;
    let versions = workspace.layout.warehouse().corpora().await?;
    let exists = versions.contains(&corpus.name);
    if exists && !corpus.or_refresh && !corpus.or_replace {
        return kept_corpus(workspace, statement, corpus, object.as_ref()).await;
    }
    let request = BuildRequest {
        full: false,
        replace: corpus.or_replace,
        as_of: None,
    };
    // What ALTER CORPUS set holds until the statement itself is another one.
    let same = object
        .filter(|object| object.sql.trim() == statement.text.text.trim() && object.base_dir == base_dir(workspace));
    let definition = match &same {
        Some(object) => with_settings(statement.clone(), object),
        None => statement.clone(),
    };
    let StatementKind::CreateCorpus(corpus) = &definition.kind else {
        return Err(no_corpus(workspace, &corpus.name).await);
    };
    let build = Build::new(workspace, session, &definition, &corpus.name, request).await?;
    let report = build.run(corpus).await?;
    if same.is_none() {
        keep(workspace, Space::Relation, ObjectKind::Corpus, &corpus.name, statement).await?;
    }
    Ok(Outcome::Build(Box::new(with_schedule(
        report,
        corpus.schedule.as_ref(),
    ))))
}

/// A definition with the options that ALTER CORPUS set in the place of its own.
fn with_settings(mut definition: Statement, object: &ObjectRow) -> Statement {
    let settings: Settings = serde_json::from_str(&object.settings).unwrap_or_default();
    if let StatementKind::CreateCorpus(corpus) = &mut definition.kind {
        corpus
            .options
            .retain(|(key, _)| !settings.options.iter().any(|(set, _)| set == key));
        corpus.options.extend(settings.options);
    }
    definition
}

/// A plain CREATE CORPUS over a corpus that is there: fine when a script is run again, an error otherwise.
async fn kept_corpus(
    workspace: &Workspace,
    statement: &Statement,
    corpus: &CreateCorpus,
    object: Option<&ObjectRow>,
) -> Result<Outcome> {
    let warehouse = workspace.layout.warehouse();
    let (_, version) = warehouse.resolve(&corpus.name).await?;
    let manifest = warehouse.manifest(&corpus.name, version).await?;
    let defined = object.map_or(manifest.sql.as_str(), |object| object.sql.as_str());
    if defined.trim() == statement.text.text.trim() {
        if object.is_none() {
            // The version was committed, and the process stopped before the catalogue knew.
            keep(workspace, Space::Relation, ObjectKind::Corpus, &corpus.name, statement).await?;
        }
        return Ok(Outcome::Message(format!(
            "corpus {} is there already, at version {version} and with the same definition; REFRESH CORPUS {} builds the next",
            corpus.name, corpus.name
        )));
    }
    if corpus.if_not_exists {
        return Ok(Outcome::Message(format!(
            "corpus {} is there already, at version {version}",
            corpus.name
        )));
    }
    Err(CoordinatorError::Object(format!(
        "{}: corpus {} is there already with another definition: write CREATE OR REFRESH CORPUS to build its next \
         version with this one (OR REPLACE when columns go away)",
        statement.location(),
        corpus.name
    )))
}

fn with_schedule(mut report: crate::BuildReport, schedule: Option<&Schedule>) -> crate::BuildReport {
    if let Some(schedule) = schedule {
        let kept = format!(
            "{} is kept; it runs under the coordinator of a cluster",
            schedule_text(schedule)
        );
        report.note = Some(match report.note.take() {
            Some(note) => format!("{note}; {kept}"),
            None => kept,
        });
    }
    report
}

/// A schedule as it is written.
pub(crate) fn schedule_text(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Cron { expression, time_zone } => {
            format!("SCHEDULE CRON '{expression}' AT TIME ZONE '{time_zone}'")
        }
        Schedule::Every { seconds } => format!("SCHEDULE EVERY {seconds} SECONDS"),
        Schedule::OnUpdate => "TRIGGER ON UPDATE".to_owned(),
    }
}

/// The statement that defines a corpus.
///
/// # Errors
/// When there is none of that name: says which is nearest.
pub(crate) async fn corpus_definition(workspace: &Workspace, name: &str) -> Result<Statement> {
    let object = workspace.catalog.object(Space::Relation, name).await?;
    let Some(object) = object.filter(|object| object.kind == ObjectKind::Corpus.words()) else {
        return Err(no_corpus(workspace, name).await);
    };
    Ok(with_settings(CatalogObjects::statement(&object)?, &object))
}

async fn no_corpus(workspace: &Workspace, name: &str) -> CoordinatorError {
    let objects = workspace.catalog.objects(Space::Relation).await.unwrap_or_default();
    let corpora = objects
        .iter()
        .filter(|o| o.kind == ObjectKind::Corpus.words())
        .map(|o| o.name.as_str());
    CoordinatorError::Object(format!("there is no corpus {name}{}", nearest(name, corpora)))
}

/// `ALTER CORPUS`.
pub(crate) async fn alter_corpus(workspace: &Workspace, alter: &AlterCorpus) -> Result<Outcome> {
    let name = &alter.name;
    match &alter.action {
        AlterCorpusAction::RollbackTo(version) => return rollback::to_version(workspace, name, *version).await,
        AlterCorpusAction::SetTag(tag, version) => return set_tag(workspace, name, tag, Some(*version)).await,
        AlterCorpusAction::DropTag(tag) => return set_tag(workspace, name, tag, None).await,
        _ => {}
    }
    let object = workspace.catalog.object(Space::Relation, name).await?;
    let Some(mut object) = object.filter(|object| object.kind == ObjectKind::Corpus.words()) else {
        return Err(no_corpus(workspace, name).await);
    };
    let mut settings: Settings = serde_json::from_str(&object.settings).unwrap_or_default();
    let text = match &alter.action {
        AlterCorpusAction::SuspendSchedule => {
            settings.suspended = true;
            format!("schedule of corpus {name} is suspended")
        }
        AlterCorpusAction::ResumeSchedule => {
            settings.suspended = false;
            settings.resumed_ms = Some(now_ms());
            format!("schedule of corpus {name} is resumed; it runs under the coordinator of a cluster")
        }
        AlterCorpusAction::Set(options) => {
            let statement = CatalogObjects::statement(&object)?;
            let StatementKind::CreateCorpus(mut corpus) = statement.kind else {
                return Err(no_corpus(workspace, name).await);
            };
            corpus.options = options.clone();
            crate::corpus_options::CorpusOptions::parse(&corpus)?;
            settings
                .options
                .retain(|(key, _)| !options.iter().any(|(new, _)| new == key));
            settings.options.extend(options.iter().cloned());
            format!("options of corpus {name} are set; its next build uses them")
        }
        AlterCorpusAction::RollbackTo(_) | AlterCorpusAction::SetTag(..) | AlterCorpusAction::DropTag(_) => {
            return Err(no_corpus(workspace, name).await);
        }
    };
    object.settings = serde_json::to_string(&settings)
        .map_err(|e| CoordinatorError::Invalid(format!("options of corpus {name}: {e}")))?;
    object.updated_ms = now_ms();
    workspace.catalog.put_object(Space::Relation, &object).await?;
    Ok(Outcome::Message(text))
}

/// `ALTER CORPUS … SET TAG`, `… DROP TAG`: what a loader finds under `corpus@tag`.
async fn set_tag(workspace: &Workspace, corpus: &str, tag: &str, version: Option<u64>) -> Result<Outcome> {
    workspace.layout.warehouse().set_tag(corpus, tag, version).await?;
    Ok(Outcome::Message(match version {
        Some(version) => format!("{corpus}@{tag} is version {version}"),
        None => format!("{corpus}@{tag} is no more"),
    }))
}

/// `DROP kind [IF EXISTS] name`. Dropping a corpus removes its versions: the log first, so that no reader finds half.
pub(crate) async fn drop_object(workspace: &Workspace, drop: &DropObject) -> Result<Outcome> {
    let space = match drop.kind {
        ObjectKind::Tokenizer => Space::Tokenizer,
        ObjectKind::Model => Space::Model,
        ObjectKind::Function => Space::Function,
        _ => Space::Relation,
    };
    let (kind, name) = (drop.kind.words(), &drop.name);
    let object = workspace.catalog.object(space, name).await?;
    if let Some(other) = object.as_ref().filter(|object| object.kind != kind) {
        return Err(CoordinatorError::Object(format!(
            "{name} is a {}, not a {kind}: write DROP {} {name}",
            other.kind,
            other.kind.to_uppercase()
        )));
    }
    let mut found = object.is_some();
    if drop.kind == ObjectKind::Corpus {
        found |= workspace.layout.warehouse().corpora().await?.contains(name);
    }
    if drop.kind == ObjectKind::Corpus && found {
        workspace
            .layout
            .remove(&format!("{}/_delta_log", corpus_folder(name)))
            .await?;
        workspace.layout.remove(&corpus_folder(name)).await?;
    }
    if drop.kind == ObjectKind::Corpus {
        // A build that was stopped has lost its files: nothing may go on from it.
        for build in workspace.catalog.builds_of(name).await? {
            workspace.layout.remove(&staging_folder(&build.id)).await?;
        }
        workspace.catalog.forget_builds(name).await?;
        workspace.catalog.forget_runs(name).await?;
    }
    if matches!(drop.kind, ObjectKind::MaterializedView | ObjectKind::HashList) && found {
        workspace.layout.remove(&format!("_views/{name}")).await?;
        workspace.catalog.forget_builds(name).await?;
    }
    workspace.catalog.drop_object(space, name).await?;
    if !found && !drop.if_exists {
        let objects = workspace.catalog.objects(space).await?;
        let names = objects
            .iter()
            .filter(|object| object.kind == kind)
            .map(|object| object.name.as_str());
        return Err(CoordinatorError::Object(format!(
            "there is no {kind} {name}{}",
            nearest(name, names)
        )));
    }
    let text = if found {
        format!("dropped {kind} {name}")
    } else {
        format!("there was no {kind} {name}")
    };
    Ok(Outcome::Message(text))
}
