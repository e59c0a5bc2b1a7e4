//! `CREATE HASH LIST`.

use corpusmill_sql::{CreateHashList, HashList, ObjectKind, Session, Statement};

use super::{Existing, existing, keep};
use crate::build::views;
use crate::catalog::Space;
use crate::error::Result;
use crate::events::Outcome;
use crate::inspect;
use crate::objects::resolve_paths;
use crate::workspace::Workspace;

/// `CREATE HASH LIST`: kept, and its next version made unless its entries would be the same; all of it or nothing.
pub(crate) async fn create_hash_list(
    workspace: &Workspace,
    session: &Session,
    statement: &Statement,
    create: &CreateHashList,
) -> Result<Outcome> {
    let flags = (create.or_replace, create.if_not_exists);
    let (space, kind, name) = (Space::Relation, ObjectKind::HashList, &create.name);
    let before = existing(workspace, space, kind, name, statement, flags).await?;
    let replaced = workspace.catalog.object(space, name).await?;
    if matches!(before, Existing::Make) {
        let mut resolved = statement.clone();
        resolve_paths(&mut resolved, &workspace.base_dir);
        session.plan(&resolved).await?;
        keep(workspace, space, kind, name, statement).await?;
    }
    let time = inspect::run_time(workspace).start;
    let names = [name.clone()].into();
    let made = views::freshen(workspace, session, &names, time, views::Mode::default()).await;
    if made.is_err() && matches!(before, Existing::Make) {
        // Without its first version a list is nothing, and a version belongs to the definition that made it.
        match replaced {
            Some(object) => workspace.catalog.put_object(space, &object).await?,
            None => {
                workspace.catalog.drop_object(space, name).await?;
            }
        }
    }
    let steps = made?;
    let list = workspace.objects.hash_list_of(name).await?;
    let version = list.as_ref().map_or(0, |list| list.version);
    let hashes = list.as_ref().map_or(0, |list| list.hashes());
    let memory = match HashList::index_bytes(create.signal, hashes) {
        Some(bytes) => format!("; {} MiB in each process that looks hashes up", bytes.div_ceil(1 << 20)),
        None => String::new(),
    };
    let what = match steps.last() {
        Some(step) if step.reused => "is up to date at",
        _ => "is at",
    };
    Ok(Outcome::Message(format!(
        "hash list {name} {what} version {version}: {hashes} hashes{memory}"
    )))
}
