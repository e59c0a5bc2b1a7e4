//! Versions of a corpus: one Delta commit each.
//!
//! A commit is decided on in the catalogue first, under the lead, and carried out then. Whoever leads next carries out
//! what was decided on and is not done, before anything else: a process that was stopped in between, and goes on when
//! it leads no more, can commit only what is committed already.
//!
//! A commit is made against the snapshot that was checked, without delta-rs' own retries: whatever another writer
//! did in between makes it fail, and nothing is published. The commit carries a transaction named after the build,
//! whose version is the version of the corpus: a build that was stopped after its commit finds it there.

use std::collections::HashMap;
use std::sync::Arc;

use corpusmill_corpus::{Manifest, ShardFile};
use corpusmill_operators::failpoint;
use datafusion::arrow::datatypes::Schema;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake_core::kernel::{Action, Add, MetadataExt as _, Remove, StructType, Transaction, new_metadata};
use deltalake_core::logstore::{StorageConfig, default_logstore};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::{DeltaTable, DeltaTableError};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::error::{CoordinatorError, Result};
use crate::layout::corpus_folder;
use crate::workspace::Workspace;

/// Manifests are reached through the log, and old versions stay readable: nothing may clean either up.
const TABLE_PROPERTIES: [(&str, &str); 3] = [
    ("delta.enableExpiredLogCleanup", "false"),
    ("delta.logRetentionDuration", "interval 36500 days"),
    ("delta.deletedFileRetentionDuration", "interval 36500 days"),
];

/// The Delta log of one corpus.
pub(crate) struct CorpusLog {
    corpus: String,
    table: DeltaTable,
    exists: bool,
}

/// What becomes the next version.
pub(crate) struct Publication<'a> {
    /// Id of the build.
    pub(crate) build: &'a str,
    /// The version that was current when the build began; `None` before the first.
    pub(crate) base: Option<u64>,
    /// That version is another writer's: what the table holds goes, whoever put it there.
    pub(crate) foreign: bool,
    /// All shards of the new version.
    pub(crate) add: &'a [ShardFile],
    /// All shards of the version before.
    pub(crate) remove: &'a [ShardFile],
    /// Columns of the corpus, partition columns included.
    pub(crate) schema: &'a Schema,
    /// The schema or the partition columns differ from those of the version before.
    pub(crate) new_schema: bool,
    /// Partition columns.
    pub(crate) partition_by: &'a [String],
    /// Path of the manifest in the corpus' folder.
    pub(crate) manifest: &'a str,
    /// Time of the commit, milliseconds since the epoch.
    pub(crate) time_ms: i64,
}

/// What the catalogue keeps of a publication: with the manifests in storage it is enough to commit it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Intent {
    base: Option<u64>,
    foreign: bool,
    new_schema: bool,
    manifest: String,
    time_ms: i64,
}

impl Intent {
    /// Decides on a publication, and carries it out; gives the version.
    ///
    /// # Errors
    /// [`CoordinatorError::Deposed`] when this process may not decide, and those of [`CorpusLog::commit`].
    pub(crate) async fn publish(
        workspace: &Workspace,
        log: &mut CorpusLog,
        publication: &Publication<'_>,
    ) -> Result<u64> {
        let intent = Self {
            base: publication.base,
            foreign: publication.foreign,
            new_schema: publication.new_schema,
            manifest: publication.manifest.to_owned(),
            time_ms: publication.time_ms,
        };
        let json = serde_json::to_string(&intent)
            .map_err(|e| CoordinatorError::Invalid(format!("a commit cannot be written as JSON: {e}")))?;
        workspace.catalog.intend(publication.build, &json).await?;
        failpoint::hit("decided");
        log.commit(publication).await
    }

    /// Carries out what the process before decided on for `build`; gives the version.
    ///
    /// # Errors
    /// When a manifest cannot be read, and those of [`CorpusLog::commit`].
    pub(crate) async fn carry_out(workspace: &Workspace, log: &mut CorpusLog, build: &str, json: &str) -> Result<u64> {
        let intent: Self = serde_json::from_str(json).map_err(|e| {
            CoordinatorError::Invalid(format!(
                "build {build}: the catalogue holds a commit that cannot be read: {e}"
            ))
        })?;
        let layout = &workspace.layout;
        let object = layout.path(&format!("{}/{}", corpus_folder(&log.corpus), intent.manifest));
        let fail = |source| CoordinatorError::Store {
            action: "read",
            path: object.to_string(),
            source,
        };
        let read = layout.store().get(&object).await.map_err(fail)?;
        let manifest = Manifest::from_json(object.as_ref(), &read.bytes().await.map_err(fail)?)?;
        let remove = match intent.base {
            Some(base) if !intent.foreign => layout.warehouse().manifest(&log.corpus, base).await?.shard_files,
            _ => vec![],
        };
        let publication = Publication {
            build,
            base: intent.base,
            foreign: intent.foreign,
            add: &manifest.shard_files,
            remove: &remove,
            schema: &manifest.schema(),
            new_schema: intent.new_schema,
            partition_by: &manifest.partition_by,
            manifest: &intent.manifest,
            time_ms: intent.time_ms,
        };
        log.commit(&publication).await
    }
}

impl CorpusLog {
    /// Opens the log in the folder `prefix` of `store`; `url` is that folder's URL.
    ///
    /// # Errors
    /// [`CoordinatorError::Delta`] when there is a log and it cannot be read.
    pub(crate) async fn open(corpus: &str, store: Arc<dyn ObjectStore>, prefix: &Path, url: &Url) -> Result<Self> {
        let inside = Arc::new(PrefixStore::new(Arc::clone(&store), prefix.clone()));
        let log = default_logstore(inside, store, url, &StorageConfig::default());
        let mut this = Self {
            corpus: corpus.to_owned(),
            table: DeltaTable::new(log),
            exists: false,
        };
        this.reload().await?;
        Ok(this)
    }

    /// Reads the newest state of the log.
    pub(crate) async fn reload(&mut self) -> Result<()> {
        let log = self.table.log_store();
        self.exists = log.is_delta_table_location().await.map_err(|e| self.fail(e))?;
        if self.exists {
            self.table.load().await.map_err(|e| self.fail(e))?;
        }
        Ok(())
    }

    /// The newest version, if there is one.
    pub(crate) fn version(&self) -> Option<u64> {
        if self.exists { self.table.version() } else { None }
    }

    /// The version that `build` made, if its commit is in the log.
    pub(crate) async fn version_of(&self, build: &str) -> Result<Option<u64>> {
        if !self.exists {
            return Ok(None);
        }
        let state = self.table.snapshot().map_err(|e| self.fail(e))?;
        let log = self.table.log_store();
        let version = state
            .snapshot()
            .transaction_version(log.as_ref(), application(build))
            .await;
        let version = version.map_err(|e| self.fail(e))?;
        Ok(version.and_then(|version| u64::try_from(version).ok()))
    }

    /// Commits the next version, unless `publication.build` did so before; gives the version.
    ///
    /// # Errors
    /// [`CoordinatorError::Conflict`] when the newest version is not `publication.base`, or another writer commits
    /// at the same time.
    pub(crate) async fn commit(&mut self, publication: &Publication<'_>) -> Result<u64> {
        self.reload().await?;
        if let Some(version) = self.version_of(publication.build).await? {
            return Ok(version);
        }
        let next = publication.base.map_or(0, |base| base + 1);
        let corpus = self.corpus.clone();
        let conflict = move || CoordinatorError::Conflict {
            corpus: corpus.clone(),
            version: next,
        };
        if self.version() != publication.base {
            return Err(conflict());
        }
        let made = match publication.base {
            None => self.create(publication, next).await,
            Some(_) => self.append(publication, next).await,
        };
        if made.is_err() && self.reload().await.is_ok() {
            // The answer to a commit that had been made may be lost: the repeated one then finds its own.
            if let Some(version) = self.version_of(publication.build).await? {
                return Ok(version);
            }
        }
        match made {
            Ok(version) if version == next => Ok(version),
            Ok(_) => Err(conflict()),
            Err(error) if is_conflict(&error) => Err(conflict()),
            Err(error) => Err(self.fail(error)),
        }
    }

    async fn create(&self, publication: &Publication<'_>, next: u64) -> Result<u64, DeltaTableError> {
        let table = CreateBuilder::new()
            .with_log_store(self.table.log_store())
            .with_table_name(&self.corpus)
            .with_columns(delta_schema(publication.schema)?.fields().cloned())
            .with_partition_columns(publication.partition_by)
            .with_configuration(TABLE_PROPERTIES.map(|(key, value)| (key, Some(value))))
            .with_save_mode(SaveMode::ErrorIfExists)
            .with_actions(adds(publication))
            .with_commit_properties(
                CommitProperties::default()
                    .with_max_retries(0)
                    .with_metadata(commit_info(publication))
                    .with_application_transaction(transaction(publication, next)),
            )
            .await?;
        Ok(table.version().unwrap_or(0))
    }

    async fn append(&self, publication: &Publication<'_>, next: u64) -> Result<u64, DeltaTableError> {
        let state = self.table.snapshot()?;
        let mut actions = Vec::new();
        if publication.new_schema {
            let metadata = new_metadata(
                &delta_schema(publication.schema)?,
                publication.partition_by,
                TABLE_PROPERTIES,
            )?
            .with_table_id(state.metadata().id().to_owned())?
            .with_name(self.corpus.clone())?;
            actions.push(Action::Metadata(metadata));
        }
        if publication.foreign {
            let files = state.log_data();
            actions.extend(files.iter().map(|file| Action::Remove(file.remove_action(true))));
        } else {
            actions.extend(removes(publication));
        }
        actions.extend(adds(publication));
        let operation = DeltaOperation::Write {
            mode: SaveMode::Overwrite,
            partition_by: Some(publication.partition_by.to_vec()),
            predicate: None,
        };
        let properties = CommitProperties::default()
            .with_max_retries(0)
            .with_metadata(commit_info(publication))
            .with_application_transaction(transaction(publication, next));
        let commit = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(state), self.table.log_store(), operation)
            .await?;
        Ok(commit.version())
    }

    fn fail(&self, source: DeltaTableError) -> CoordinatorError {
        CoordinatorError::Delta {
            place: format!("corpus {}", self.corpus),
            source: Box::new(source),
        }
    }
}

fn application(build: &str) -> String {
    format!("corpusmill:{build}")
}

fn transaction(publication: &Publication<'_>, next: u64) -> Transaction {
    let version = i64::try_from(next).unwrap_or(i64::MAX);
    Transaction::new_with_last_update(application(publication.build), version, Some(publication.time_ms))
}

fn commit_info(publication: &Publication<'_>) -> [(String, serde_json::Value); 1] {
    [(
        "corpusmill".to_owned(),
        serde_json::json!({ "manifest": publication.manifest }),
    )]
}

fn delta_schema(schema: &Schema) -> Result<StructType, DeltaTableError> {
    schema
        .try_into_kernel()
        .map_err(|e| DeltaTableError::Arrow { source: e })
}

fn values(file: &ShardFile) -> HashMap<String, Option<String>> {
    file.partition.iter().cloned().collect()
}

fn adds<'a>(publication: &'a Publication<'_>) -> impl Iterator<Item = Action> + 'a {
    publication.add.iter().map(|file| {
        Action::Add(Add {
            path: file.path.clone(),
            partition_values: values(file),
            size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
            modification_time: publication.time_ms,
            data_change: true,
            stats: Some(file.delta_stats()),
            ..Add::default()
        })
    })
}

fn removes<'a>(publication: &'a Publication<'_>) -> impl Iterator<Item = Action> + 'a {
    let kept = |file: &&ShardFile| !publication.add.iter().any(|added| added.path == file.path);
    publication.remove.iter().filter(kept).map(|file| {
        Action::Remove(Remove {
            path: file.path.clone(),
            data_change: true,
            deletion_timestamp: Some(publication.time_ms),
            extended_file_metadata: Some(true),
            partition_values: Some(values(file)),
            size: i64::try_from(file.bytes).ok(),
            ..Remove::default()
        })
    })
}

fn is_conflict(error: &DeltaTableError) -> bool {
    matches!(
        error,
        DeltaTableError::VersionAlreadyExists(_)
            | DeltaTableError::Transaction {
                source: TransactionError::CommitConflict(_) | TransactionError::MaxCommitAttempts(_)
            }
    )
}
