//! `CREATE MODEL`.

use corpusmill_sql::{CreateModel, ObjectKind, Statement, StatementKind};

use super::{Existing, existing, keep, made};
use crate::catalog::Space;
use crate::error::{CoordinatorError, Result};
use crate::events::Outcome;
use crate::objects::{describe_model, resolve_paths};
use crate::workspace::Workspace;

/// `CREATE MODEL`: its files are read once to see that they are one, and that OUTPUT fits it.
pub(crate) async fn create_model(
    workspace: &Workspace,
    statement: &Statement,
    create: &CreateModel,
) -> Result<Outcome> {
    let flags = (create.or_replace, create.if_not_exists);
    let (space, kind) = (Space::Model, ObjectKind::Model);
    if let Existing::Keep(why) = existing(workspace, space, kind, &create.name, statement, flags).await? {
        return Ok(Outcome::Message(why));
    }
    let mut resolved = statement.clone();
    resolve_paths(&mut resolved, &workspace.base_dir);
    if let StatementKind::CreateModel(create) = &resolved.kind {
        describe_model(create)
            .await
            .map_err(|error| CoordinatorError::Object(format!("{}: {error}", statement.location())))?;
    }
    keep(workspace, space, kind, &create.name, statement).await?;
    Ok(made(kind, &create.name))
}
