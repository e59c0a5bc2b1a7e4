//! Runs a script, statement by statement.

use corpusmill_sql::{ObjectKind, RefreshCorpus, Session, SqlError, Statement, StatementKind, parse_script};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt as _;

use crate::build::{Build, BuildRequest};
use crate::coordinator::Coordinator;
use crate::error::{CoordinatorError, Result};
use crate::events::{Event, Outcome, Sink};
use crate::objects::resolve_paths;
use crate::workspace::Workspace;
use crate::{inspect, procedures, statements};

/// Runs all statements of `text`; nothing runs when one of them does not parse.
pub(crate) async fn run(coordinator: &Coordinator, text: &str, origin: &str, sink: &mut dyn Sink) -> Result<()> {
    let mut parsed = parse_script(text, origin)?;
    let session = coordinator.session()?;
    let workspace = coordinator.workspace();
    if workspace.elsewhere {
        // Relative paths are those of whoever sent the script, not of this process.
        parsed
            .iter_mut()
            .for_each(|statement| resolve_paths(statement, &workspace.base_dir));
    }
    session.set_run_time(inspect::run_time(workspace))?;
    for (index, statement) in parsed.iter().enumerate() {
        if workspace.cancel.is_cancelled() {
            return Err(CoordinatorError::Cancelled);
        }
        workspace.event(Event::Statement {
            number: index + 1,
            of: parsed.len(),
            line: statement.position().line as usize,
            summary: statement.summary(),
        });
        let (place, location) = (statement.place(), statement.location());
        let deliver = async {
            let outcome = execute(coordinator, &session, statement).await?;
            sink.outcome(outcome).await
        };
        let result = tokio::select! {
            result = deliver => result,
            // Builds stop by themselves, cleanly; this is for queries, which have nothing to keep.
            () = stopped(workspace, statement) => Err(CoordinatorError::Cancelled),
        };
        result.map_err(|error| error.at(&place, &location, workspace.location()))?;
    }
    Ok(())
}

/// Ends when the script is cancelled, if the statement is one that may be dropped anywhere.
async fn stopped(workspace: &crate::workspace::Workspace, statement: &Statement) {
    let droppable = matches!(
        statement.kind,
        StatementKind::Query(_) | StatementKind::Explain(_) | StatementKind::CopyTo(_)
    );
    if droppable {
        workspace.cancel.cancelled().await;
    } else {
        std::future::pending::<()>().await;
    }
}

async fn execute(coordinator: &Coordinator, session: &Session, statement: &Statement) -> Result<Outcome> {
    let workspace = coordinator.workspace();
    let writes = !matches!(
        statement.kind,
        StatementKind::Query(_)
            | StatementKind::Explain(_)
            | StatementKind::ExplainRefresh(_)
            | StatementKind::Show(_)
            | StatementKind::Describe(_)
            | StatementKind::Set(_)
            | StatementKind::CopyTo(_)
    );
    if writes {
        coordinator.become_writer().await?;
    }
    let _turn = match changes(statement) {
        Some(object) => Some(workspace.turn(object).await?),
        None => None,
    };
    match &statement.kind {
        StatementKind::CreateTokenizer(create) => statements::create_tokenizer(workspace, statement, create).await,
        StatementKind::CreateModel(create) => statements::create_model(workspace, statement, create).await,
        StatementKind::CreateHashList(list) => statements::create_hash_list(workspace, session, statement, list).await,
        StatementKind::CreateFunction(create) => {
            statements::create_function(workspace, session, statement, create).await
        }
        StatementKind::CreateExternalTable(create) => {
            statements::create_table(workspace, session, statement, create).await
        }
        StatementKind::CreateView(create) => statements::create_view(workspace, session, statement, create).await,
        StatementKind::CreateMaterializedView(create) => {
            statements::create_materialized_view(workspace, session, statement, create).await
        }
        StatementKind::CreateCorpus(corpus) => {
            let outcome = statements::create_corpus(workspace, session, statement, corpus).await;
            session.set_run_time(inspect::run_time(workspace))?;
            outcome
        }
        StatementKind::RefreshCorpus(refresh) => {
            let outcome = refresh_corpus(workspace, session, refresh).await;
            session.set_run_time(inspect::run_time(workspace))?;
            outcome
        }
        StatementKind::ExplainRefresh(refresh) => inspect::explain_refresh(workspace, session, refresh).await,
        StatementKind::AlterCorpus(alter) => statements::alter_corpus(workspace, alter).await,
        StatementKind::Drop(drop) => statements::drop_object(workspace, drop).await,
        StatementKind::Show(show) => inspect::show(workspace, *show).await,
        StatementKind::Describe(object) => inspect::describe(workspace, session, statement, object).await,
        StatementKind::Query(_) | StatementKind::Explain(_) | StatementKind::CopyTo(_) => {
            Ok(Outcome::Rows(rows(session, statement).await?))
        }
        StatementKind::Set(_) => {
            let plan = session.plan(statement).await?;
            session
                .context()
                .execute_logical_plan(plan)
                .await
                .map_err(SqlError::Engine)?;
            Ok(Outcome::Message(statement.summary()))
        }
        StatementKind::Call(call) => procedures::call(workspace, statement, call).await,
        _ => unsupported(statement, &statement.summary()),
    }
}

fn unsupported(statement: &Statement, what: &str) -> Result<Outcome> {
    Err(CoordinatorError::Invalid(format!(
        "{}: {what} is not supported by this build",
        statement.location()
    )))
}

/// The corpus or materialised view whose rows a statement makes or removes: one statement at a time does that.
fn changes(statement: &Statement) -> Option<&str> {
    match &statement.kind {
        StatementKind::CreateMaterializedView(view) => Some(&view.name),
        StatementKind::CreateCorpus(corpus) => Some(&corpus.name),
        StatementKind::RefreshCorpus(refresh) => Some(&refresh.name),
        StatementKind::AlterCorpus(alter) => Some(&alter.name),
        StatementKind::Drop(drop) if matches!(drop.kind, ObjectKind::Corpus | ObjectKind::MaterializedView) => {
            Some(&drop.name)
        }
        _ => None,
    }
}

/// `REFRESH CORPUS`, by the definition that the catalogue keeps.
async fn refresh_corpus(workspace: &Workspace, session: &Session, refresh: &RefreshCorpus) -> Result<Outcome> {
    let definition = statements::corpus_definition(workspace, &refresh.name).await?;
    let StatementKind::CreateCorpus(corpus) = &definition.kind else {
        return Err(CoordinatorError::Object(format!("{} is not a corpus", refresh.name)));
    };
    let request = BuildRequest {
        full: refresh.full,
        replace: false,
        as_of: refresh.as_of.as_deref().map(inspect::timestamp).transpose()?,
    };
    let build = Build::new(workspace, session, &definition, &refresh.name, request).await?;
    Ok(Outcome::Build(Box::new(build.run(corpus).await?)))
}

/// The rows of a query; an error in the middle says which file, row and column it came from.
async fn rows(session: &Session, statement: &Statement) -> Result<SendableRecordBatchStream> {
    let plan = session.plan(statement).await?;
    let run = async {
        session
            .context()
            .execute_logical_plan(plan.clone())
            .await?
            .execute_stream()
            .await
    };
    let stream = match run.await {
        Ok(stream) => stream,
        Err(error) => return Err(session.explain_error(error, &plan).await.into()),
    };
    let schema = stream.schema();
    let session = session.clone();
    let explained = stream.then(move |batch| {
        let (session, plan) = (session.clone(), plan.clone());
        async move {
            match batch {
                Ok(batch) => Ok(batch),
                Err(error) => Err(session.explain_error(error, &plan).await.into()),
            }
        }
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, explained)))
}
