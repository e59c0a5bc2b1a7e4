//! `ALTER CORPUS … ROLLBACK TO VERSION n`: one more version, with the files of version n.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use corpusmill_corpus::Manifest;
use corpusmill_sql::ObjectKind;
use object_store::ObjectStoreExt as _;

use crate::build::{as_report, new_build_id};
use crate::catalog::{BuildEnd, NewBuild, Space, now_ms};
use crate::error::{CoordinatorError, Result};
use crate::events::Outcome;
use crate::inputs::digest;
use crate::layout::corpus_folder;
use crate::publish::{CorpusLog, Intent, Publication};
use crate::report::{BuildReport, BuildState};
use crate::workspace::Workspace;

/// Commits a version of `corpus` that has the shards and the definition of `version`.
///
/// # Errors
/// When there is no such version, or another writer commits at the same time.
pub(super) async fn to_version(workspace: &Workspace, corpus: &str, version: u64) -> Result<Outcome> {
    let began = Instant::now();
    let layout = &workspace.layout;
    let warehouse = layout.warehouse();
    let (_, newest) = warehouse.resolve(corpus).await?;
    let base = warehouse.manifest(corpus, newest).await?;
    let mut manifest = warehouse.manifest(corpus, version).await?;
    if version == newest {
        return Ok(Outcome::Message(format!(
            "corpus {corpus} is at version {version} already"
        )));
    }
    let id = new_build_id();
    manifest.version = newest + 1;
    manifest.parent = Some(newest);
    manifest.build.clone_from(&id);
    manifest.created_at = chrono::DateTime::from_timestamp_millis(now_ms()).unwrap_or_else(Utc::now);
    workspace
        .catalog
        .begin_build(&NewBuild {
            id: id.clone(),
            object: corpus.to_owned(),
            kind: "corpus",
            sql: format!("ALTER CORPUS {corpus} ROLLBACK TO VERSION {version}"),
            // No definition computes this build, so that none takes it up again when it stops half-way.
            sql_digest: digest(&id),
            fingerprint: digest(&id),
            logical_ms: manifest.logical_time.timestamp_millis(),
        })
        .await?;
    let path = write_manifest(workspace, &manifest).await?;
    let folder = layout.folder(&corpus_folder(corpus));
    let prefix = warehouse.corpus_root(corpus)?;
    let mut log = CorpusLog::open(corpus, Arc::clone(layout.store()), &prefix, folder.url()).await?;
    let schema = manifest.schema();
    let publication = Publication {
        build: &id,
        base: Some(newest),
        add: &manifest.shard_files,
        foreign: false,
        remove: &base.shard_files,
        schema: &schema,
        new_schema: base.columns != manifest.columns || base.partition_by != manifest.partition_by,
        partition_by: &manifest.partition_by,
        manifest: &path,
        time_ms: now_ms(),
    };
    let made = Intent::publish(workspace, &mut log, &publication).await?;
    let note = format!("version {made} has the rows and the definition of version {version}");
    let report = BuildReport {
        elapsed: began.elapsed(),
        note: Some(note),
        ..report_of(&manifest, made)
    };
    let end = BuildEnd {
        version: Some(made),
        rows: Some(report.rows),
        bytes: Some(report.bytes),
        digest: Some(report.digest.clone()),
        expectations: report.expectations.clone(),
        ..BuildEnd::default()
    };
    workspace.catalog.end_build(&id, BuildState::Committed, &end).await?;
    restore_definition(workspace, corpus, &manifest.sql).await?;
    Ok(Outcome::Build(Box::new(report)))
}

/// Writes the manifest of a version that is about to be committed; gives its path in the corpus.
async fn write_manifest(workspace: &Workspace, manifest: &Manifest) -> Result<String> {
    let layout = &workspace.layout;
    let path = format!("_corpusmill/manifests/{}.json", manifest.build);
    let object = layout.path(&format!("{}/{path}", corpus_folder(&manifest.corpus)));
    let written = layout.store().put(&object, manifest.to_json()?.into()).await;
    written.map_err(|source| CoordinatorError::Store {
        action: "write",
        path: object.to_string(),
        source,
    })?;
    Ok(path)
}

/// What a build that gave `manifest` as version `made` reports.
fn report_of(manifest: &Manifest, made: u64) -> BuildReport {
    BuildReport {
        corpus: manifest.corpus.clone(),
        build: manifest.build.clone(),
        state: BuildState::Committed,
        version: made,
        rows: manifest.rows,
        bytes: manifest.bytes,
        shards: manifest.shard_files.len(),
        digest: manifest.digest.to_string(),
        rows_in: manifest.rows,
        drops: manifest.drops.clone(),
        quarantined: manifest.quarantined.clone(),
        expectations: manifest.expectations.iter().map(as_report).collect(),
        steps: vec![],
        elapsed: Duration::ZERO,
        resumed: false,
        note: None,
    }
}

/// REFRESH goes on with the definition of the version that is now the newest.
async fn restore_definition(workspace: &Workspace, corpus: &str, sql: &str) -> Result<()> {
    let object = workspace.catalog.object(Space::Relation, corpus).await?;
    if let Some(mut object) = object.filter(|object| object.kind == ObjectKind::Corpus.words())
        && object.sql != sql
    {
        sql.clone_into(&mut object.sql);
        object.updated_ms = now_ms();
        workspace.catalog.put_object(Space::Relation, &object).await?;
    }
    Ok(())
}
