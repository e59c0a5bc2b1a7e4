//! Looks after what is in a home: lists, verifies, recovers and vacuums.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use corpusmill_corpus::{CorpusReader, ExportFormat, ExportOptions, ExportReport, Manifest, TAGS_FILE, VerifyReport};
use corpusmill_sql::{ObjectKind, StatementKind};
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use crate::admission::SetAside;
use crate::build::{CORPUS, files_of};
use crate::catalog::{BuildEnd, BuildRow, Space, now_ms, rfc3339};
use crate::error::{CoordinatorError, Result};
use crate::events::Event;
use crate::layout::{Layout, corpus_folder, staging_folder};
use crate::objects::{CatalogObjects, HistoryFiles};
use crate::publish::{CorpusLog, Intent};
use crate::report::{BuildInfo, BuildState, CorpusInfo, VacuumReport};
use crate::statements::schedule_text;
use crate::workspace::Workspace;

/// The builds that the catalogue knows, newest first; before them those that wait.
pub(crate) async fn builds(workspace: &Workspace) -> Result<Vec<BuildInfo>> {
    let mut all = workspace.catalog.waiting().await?;
    let builds = workspace.catalog.builds().await?;
    all.extend(builds.into_iter().map(|build| build.info()));
    Ok(all)
}

/// The corpora of the warehouse at their newest version.
pub(crate) async fn corpora(workspace: &Workspace) -> Result<Vec<CorpusInfo>> {
    let warehouse = workspace.layout.warehouse();
    let mut infos = Vec::new();
    for name in warehouse.corpora().await? {
        let Some(manifest) = warehouse.newest(&name).await? else {
            continue;
        };
        infos.push(CorpusInfo {
            schedule: schedule_of(workspace, &name).await?,
            tags: warehouse.tags(&name).await?,
            version: manifest.version,
            rows: manifest.rows,
            bytes: manifest.bytes,
            shards: manifest.shard_files.len(),
            created_at: rfc3339(manifest.created_at.timestamp_millis()),
            digest: manifest.digest.to_string(),
            name,
        });
    }
    Ok(infos)
}

async fn schedule_of(workspace: &Workspace, name: &str) -> Result<Option<String>> {
    let object = workspace.catalog.object(Space::Relation, name).await?;
    let Some(object) = object.filter(|object| object.kind == ObjectKind::Corpus.words()) else {
        return Ok(None);
    };
    match CatalogObjects::statement(&object)?.kind {
        StatementKind::CreateCorpus(corpus) => Ok(corpus.schedule.as_ref().map(schedule_text)),
        _ => Ok(None),
    }
}

/// Reads a version as a whole, and compares.
pub(crate) async fn verify(workspace: &Workspace, corpus: &str) -> Result<VerifyReport> {
    let warehouse = workspace.layout.warehouse();
    let (name, version) = warehouse.resolve(corpus).await?;
    let reader = CorpusReader::open(warehouse, &name, version).await?;
    let progress = reading(workspace, corpus, "verify", reader.manifest().rows);
    Ok(corpusmill_corpus::verify(&reader, progress).await?)
}

/// Writes a version in another tool's format.
pub(crate) async fn export(
    workspace: &Workspace,
    corpus: &str,
    format: ExportFormat,
    to: &str,
    options: &ExportOptions,
) -> Result<ExportReport> {
    let warehouse = workspace.layout.warehouse();
    let (name, version) = warehouse.resolve(corpus).await?;
    let reader = CorpusReader::open(warehouse, &name, version).await?;
    let progress = reading(workspace, corpus, "export", reader.manifest().rows);
    Ok(corpusmill_corpus::export(&reader, format, to, options, progress).await?)
}

/// Tells how far the reading of a version is, a few times a second at most.
fn reading<'a>(
    workspace: &'a Workspace,
    corpus: &'a str,
    step: &'static str,
    rows_expected: u64,
) -> impl FnMut(u64, u64) + use<'a> {
    let began = Instant::now();
    let mut told = None::<Instant>;
    move |rows_read, bytes_read| {
        if rows_read < rows_expected && told.is_some_and(|told| told.elapsed() < Duration::from_millis(250)) {
            return;
        }
        told = Some(Instant::now());
        workspace.event(Event::Progress {
            build: corpus.to_owned(),
            step: step.to_owned(),
            rows_read,
            rows_expected: Some(rows_expected),
            bytes_read,
            rows_written: 0,
            spilled_bytes: 0,
            splits_done: 0,
            tasks: None,
            elapsed: began.elapsed(),
        });
    }
}

/// Brings the catalogue up to date with what the process before left: commits that were decided on are carried out,
/// and builds that were committed are ended, as are those that cannot go on: a materialised view begins again.
///
/// A process that was stopped may wake up and commit what it had decided on: then it finds that done.
///
/// # Errors
/// When a log or the catalogue cannot be read or written.
pub(crate) async fn recover(workspace: &Workspace) -> Result<()> {
    let layout = &workspace.layout;
    workspace.catalog.nobody_waits().await?;
    workspace.catalog.requeue_runs().await?;
    let corpora = layout.warehouse().corpora().await?;
    for build in workspace.catalog.builds().await? {
        if build.state != BuildState::Running {
            continue;
        }
        if build.kind != CORPUS {
            let end = BuildEnd {
                error: Some("its process was stopped; what reads it builds it again".to_owned()),
                ..BuildEnd::default()
            };
            workspace.catalog.end_build(&build.id, BuildState::Failed, &end).await?;
            continue;
        }
        if !corpora.contains(&build.object) && build.intent.is_none() {
            continue;
        }
        let prefix = layout.warehouse().corpus_root(&build.object)?;
        let folder = layout.folder(&corpus_folder(&build.object));
        let mut log = CorpusLog::open(&build.object, Arc::clone(layout.store()), &prefix, folder.url()).await?;
        let version = match (log.version_of(&build.id).await?, &build.intent) {
            (Some(version), _) => version,
            (None, Some(intent)) => match Intent::carry_out(workspace, &mut log, &build.id, intent).await {
                Ok(version) => version,
                Err(error) if error.retry() && !matches!(error, CoordinatorError::Conflict { .. }) => {
                    return Err(error);
                }
                // Another writer was faster, or files are gone: it failed as it would have without the stop.
                Err(error) => {
                    tracing::warn!(build = build.id, %error, "a commit that was decided on cannot be made");
                    let end = BuildEnd {
                        error: Some(error.to_string()),
                        ..BuildEnd::default()
                    };
                    workspace.catalog.end_build(&build.id, BuildState::Failed, &end).await?;
                    continue;
                }
            },
            (None, None) => continue,
        };
        let manifest = layout.warehouse().manifest(&build.object, version).await?;
        let end = BuildEnd {
            version: Some(version),
            rows: Some(manifest.rows),
            bytes: Some(manifest.bytes),
            digest: Some(manifest.digest.to_string()),
            expectations: manifest.expectations.iter().map(crate::build::as_report).collect(),
            ..BuildEnd::default()
        };
        workspace
            .catalog
            .end_build(&build.id, BuildState::Committed, &end)
            .await?;
        layout.remove(&staging_folder(&build.id)).await?;
        tracing::info!(
            corpus = build.object,
            build = build.id,
            version,
            "the build is committed, although it was stopped"
        );
    }
    Ok(())
}

/// Removes what no version and no live build knows.
///
/// A build that did not end in a version is live while it is the newest of its object and younger than `older_than`:
/// the same statement may go on with it. Receipts go before the files that they name. What is being built is left alone
/// as a whole, and what is swept is not built meanwhile; what nobody has heard of yet has newer files than are swept.
pub(crate) async fn vacuum(workspace: &Workspace, older_than: Duration, dry_run: bool) -> Result<VacuumReport> {
    let age = i64::try_from(older_than.as_millis()).unwrap_or(i64::MAX);
    let oldest_kept_ms = now_ms().saturating_sub(age);
    let corpora = workspace.layout.warehouse().corpora().await?;
    let mut objects: BTreeSet<String> = corpora.iter().cloned().collect();
    objects.extend(workspace.catalog.builds().await?.into_iter().map(|build| build.object));
    let (aside, busy) = set_aside(workspace, objects);
    // Read again: whoever was about to build has built, or waits.
    let builds = workspace.catalog.builds().await?;
    let live: BTreeSet<String> = builds
        .iter()
        .filter(|build| {
            let open = !matches!(build.state, BuildState::Committed | BuildState::Unchanged);
            let newest = builds.iter().find(|other| other.object == build.object);
            let young = build.finished_ms.unwrap_or(build.started_ms) >= oldest_kept_ms;
            let resumable = open && young && newest.is_some_and(|newest| newest.id == build.id);
            resumable || busy.contains(&build.object)
        })
        .map(|build| build.id.clone())
        .collect();
    let mut sweep = Sweep {
        layout: &workspace.layout,
        live,
        oldest_kept_ms,
        dry_run,
        report: VacuumReport::default(),
    };
    sweep.report.dry_run = dry_run;
    sweep.folder("_staging", |_| false).await?;
    for corpus in corpora.into_iter().filter(|corpus| !busy.contains(corpus)) {
        let Some(known) = files_of_all_versions(workspace, &corpus).await? else {
            workspace.event(Event::Warning(format!(
                "corpus {corpus} has versions that corpusmill did not make: nothing of it is swept, so that none of \
                 their files is lost"
            )));
            continue;
        };
        sweep
            .folder(&corpus_folder(&corpus), |path| {
                path.starts_with("_delta_log/") || path == TAGS_FILE || known.contains(path)
            })
            .await?;
    }
    let mut current = current_views(&builds, oldest_kept_ms);
    current.extend(busy.iter().map(|object| format!("{object}/")));
    sweep
        .folder("_views", |path| {
            current.iter().any(|folder| path.starts_with(folder.as_str()))
        })
        .await?;
    drop(aside);
    if !dry_run {
        workspace
            .layout
            .remove_empty_folders(workspace.layout.warehouse().root());
    }
    Ok(sweep.report)
}

/// Keeps scripts from building `objects`; gives also those that are being built, and says so.
fn set_aside(workspace: &Workspace, objects: BTreeSet<String>) -> (Vec<SetAside>, BTreeSet<String>) {
    let mut aside = Vec::new();
    let mut busy = BTreeSet::new();
    for object in objects {
        match workspace.set_aside(&object) {
            Some(held) => aside.push(held),
            None => {
                workspace.event(Event::Warning(format!(
                    "{object} is being built: nothing of it is swept"
                )));
                busy.insert(object);
            }
        }
    }
    (aside, busy)
}

/// Folders below `_views` that are in use: the newest build of each view, and one that was the newest not long ago,
/// because a query may still read it; and every version of a hash list.
fn current_views(builds: &[BuildRow], oldest_kept_ms: i64) -> Vec<String> {
    let views: Vec<&BuildRow> = builds
        .iter()
        .filter(|b| b.state == BuildState::Committed && !b.files.is_empty())
        .collect();
    let in_use = |view: &&&BuildRow| {
        let newer = views
            .iter()
            .filter(|other| other.object == view.object && (other.started_ms, &other.id) > (view.started_ms, &view.id));
        newer
            .filter_map(|newer| newer.finished_ms)
            .all(|finished| finished >= oldest_kept_ms)
            || view.version.is_some()
    };
    views
        .iter()
        .filter(in_use)
        .map(|view| format!("{}/{}/", view.object, view.id))
        .collect()
}

/// The files that versions of a corpus name; `None` when another writer made one of the versions.
async fn files_of_all_versions(workspace: &Workspace, corpus: &str) -> Result<Option<BTreeSet<String>>> {
    let warehouse = workspace.layout.warehouse();
    let mut known = BTreeSet::new();
    for version in warehouse.versions(corpus).await? {
        let Some(path) = warehouse.version(corpus, version).await?.manifest else {
            return Ok(None);
        };
        known.insert(path);
        let manifest: Manifest = warehouse.manifest(corpus, version).await?;
        known.extend(files_of(&manifest));
        known.extend(HistoryFiles::of(&manifest)?.iter().flat_map(HistoryFiles::paths));
    }
    Ok(Some(known))
}

struct Sweep<'a> {
    layout: &'a Layout,
    live: BTreeSet<String>,
    oldest_kept_ms: i64,
    dry_run: bool,
    report: VacuumReport,
}

impl Sweep<'_> {
    /// Removes the old files below `folder` whose path in it `keep` does not want.
    async fn folder(&mut self, folder: &str, keep: impl Fn(&str) -> bool) -> Result<()> {
        let root = self.layout.path(folder);
        let fail = |source| CoordinatorError::Store {
            action: "list",
            path: root.to_string(),
            source,
        };
        let store = Arc::clone(self.layout.store());
        let objects: Vec<_> = store.list(Some(&root)).try_collect().await.map_err(fail)?;
        for object in objects {
            let whole = object.location.as_ref();
            let Some(inside) = whole
                .strip_prefix(root.as_ref())
                .map(|rest| rest.trim_start_matches('/'))
            else {
                continue;
            };
            let old = object.last_modified.timestamp_millis() < self.oldest_kept_ms;
            let live = self.live.iter().any(|build| inside.contains(build.as_str()));
            if !old || live || keep(inside) {
                continue;
            }
            self.take(&object.location, object.size, format!("{folder}/{inside}"))
                .await?;
        }
        self.unfinished_uploads(folder)
    }

    async fn take(&mut self, location: &Path, size: u64, shown: String) -> Result<()> {
        self.report.files.push(shown);
        self.report.bytes += size;
        if self.dry_run {
            return Ok(());
        }
        match self.layout.store().delete(location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(CoordinatorError::Store {
                action: "remove",
                path: location.to_string(),
                source,
            }),
        }
    }

    /// Uploads that a killed process left on a local disk (`name#1`), which the store does not list.
    fn unfinished_uploads(&mut self, folder: &str) -> Result<()> {
        let Some(root) = self.layout.local(folder) else {
            return Ok(());
        };
        let mut open = vec![root];
        while let Some(dir) = open.pop() {
            let Ok(entries) = std::fs::read_dir(&dir) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_dir() {
                    open.push(path);
                    continue;
                }
                let name = entry.file_name().to_string_lossy().into_owned();
                let part = name
                    .rsplit_once('#')
                    .is_some_and(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()));
                let live = self.live.iter().any(|build| name.contains(build.as_str()));
                let modified = meta.modified().ok().map(chrono::DateTime::<Utc>::from);
                let old = modified.is_some_and(|time| time.timestamp_millis() < self.oldest_kept_ms);
                if !part || live || !old {
                    continue;
                }
                self.report.files.push(path.display().to_string());
                self.report.bytes += meta.len();
                if !self.dry_run {
                    std::fs::remove_file(&path).map_err(|source| CoordinatorError::Io {
                        action: "remove",
                        path: path.clone(),
                        source,
                    })?;
                }
            }
        }
        Ok(())
    }
}
