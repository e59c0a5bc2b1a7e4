//! `TRIGGER ON UPDATE`: a corpus is built when what it reads has changed.

use std::collections::BTreeSet;

use corpusmill_sql::{CreateCorpus, Schedule, Session, Statement, StatementKind};

use super::Scheduled;
use crate::build::{Build, BuildRequest};
use crate::coordinator::Coordinator;
use crate::error::{CoordinatorError, Result};
use crate::statements;
use crate::workspace::Workspace;

/// What a refresh of `scheduled` would be made of, as a digest; `None` when the newest version was made of just that.
///
/// # Errors
/// When its definition does not plan, or its inputs cannot be listed.
pub(crate) async fn changed(coordinator: &Coordinator, scheduled: &Scheduled) -> Result<Option<String>> {
    let (workspace, session) = (coordinator.workspace(), coordinator.session()?);
    let definition = statements::corpus_definition(workspace, &scheduled.name).await?;
    let StatementKind::CreateCorpus(corpus) = &definition.kind else {
        return Ok(None);
    };
    let build = Build::new(
        workspace,
        &session,
        &definition,
        &scheduled.name,
        BuildRequest::default(),
    )
    .await?;
    build.pending(corpus).await
}

/// Refuses a corpus whose trigger would set itself off, over other corpora with triggers.
///
/// # Errors
/// [`CoordinatorError::Invalid`] with the way round; when one of the definitions does not plan.
pub(crate) async fn check(
    workspace: &Workspace,
    session: &Session,
    statement: &Statement,
    corpus: &CreateCorpus,
) -> Result<()> {
    if corpus.schedule != Some(Schedule::OnUpdate) {
        return Ok(());
    }
    let mut ways = vec![(vec![corpus.name.clone()], reads(workspace, session, statement).await?)];
    let mut seen = BTreeSet::new();
    while let Some((way, read)) = ways.pop() {
        for name in read {
            let mut way = way.clone();
            way.push(name.clone());
            if name == corpus.name {
                return Err(CoordinatorError::Invalid(format!(
                    "corpus {}: TRIGGER ON UPDATE goes round in a circle ({}): give one of them a SCHEDULE instead",
                    corpus.name,
                    way.join(" reads ")
                )));
            }
            if !seen.insert(name.clone()) {
                continue;
            }
            let Ok(upstream) = statements::corpus_definition(workspace, &name).await else {
                continue;
            };
            if let StatementKind::CreateCorpus(of) = &upstream.kind
                && of.schedule == Some(Schedule::OnUpdate)
            {
                ways.push((way, reads(workspace, session, &upstream).await?));
            }
        }
    }
    Ok(())
}

/// The corpora whose newest version a definition reads.
async fn reads(workspace: &Workspace, session: &Session, statement: &Statement) -> Result<BTreeSet<String>> {
    workspace.objects.take_seen();
    // It may be compared with a history that its first version begins.
    workspace.objects.expect_corpora(true);
    let planned = session.plan(statement).await;
    workspace.objects.expect_corpora(false);
    planned?;
    Ok(workspace.objects.take_seen().corpora)
}
