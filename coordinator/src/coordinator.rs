//! The coordinator of one home.

use std::sync::Arc;
use std::time::Duration;

use ballista_core::extension::SessionConfigExt as _;
use corpusmill_corpus::{ExportFormat, ExportOptions, ExportReport, Manifest, VerifyReport};
use corpusmill_sql::{Session, SessionOptions, session};

use crate::error::{CoordinatorError, Result};
use crate::events::Sink;
use crate::home::{Home, Right};
use crate::maintenance;
use crate::options::CoordinatorOptions;
use crate::report::{BuildInfo, CorpusInfo, VacuumReport};
use crate::script;
use crate::workspace::Workspace;

/// Runs scripts over one home, and looks after what is in it.
#[derive(Debug)]
pub struct Coordinator {
    options: CoordinatorOptions,
    home: Arc<Home>,
    workspace: Workspace,
    right: tokio::sync::Mutex<Option<Arc<Right>>>,
    /// One script or vacuum at a time: a vacuum must not see half of a build.
    writing: tokio::sync::Mutex<()>,
}

impl Coordinator {
    /// Opens the home of `options`, and makes it when it is not there.
    ///
    /// # Errors
    /// [`CoordinatorError::Io`] when the folder cannot be made, [`CoordinatorError::Invalid`] when it has another
    /// warehouse or catalogue, [`CoordinatorError::NewerCatalog`] when a newer program wrote its catalogue,
    /// [`CoordinatorError::Catalog`] or [`CoordinatorError::CatalogServer`] when that cannot be read.
    pub async fn open(options: CoordinatorOptions) -> Result<Self> {
        let home = Home::open(&options).await?;
        Ok(Self::over(home, options))
    }

    /// A coordinator over a home that is open already.
    pub(crate) fn over(home: Arc<Home>, options: CoordinatorOptions) -> Self {
        let workspace = Workspace::new(&home, &options);
        Self {
            options,
            home,
            workspace,
            right: tokio::sync::Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Gives the right to write back, so that the next process need not wait until it has run out.
    pub async fn close(self) {
        if let Some(Right::Lease(lease)) = self.right.into_inner().and_then(Arc::into_inner) {
            lease.release().await;
        }
    }

    /// Runs the statements of `text` in order, and hands `sink` what each gives back; stops at the first error.
    ///
    /// `origin` names the text in error messages: a file name, or something like `<command line>`.
    ///
    /// # Errors
    /// What the first failing statement failed with; statements before it stay done.
    pub async fn run_script(&self, text: &str, origin: &str, sink: &mut dyn Sink) -> Result<()> {
        let _writing = self.writing.lock().await;
        let result = script::run(self, text, origin, sink).await;
        match (&result, self.right.lock().await.as_deref()) {
            (Err(CoordinatorError::Cancelled), Some(Right::Lease(lease))) if lease.lost.is_cancelled() => {
                Err(CoordinatorError::Deposed {
                    catalog: self.home.catalog.location().to_string(),
                })
            }
            _ => result,
        }
    }

    /// The corpora of the warehouse, by name.
    ///
    /// # Errors
    /// When the warehouse cannot be read.
    pub async fn corpora(&self) -> Result<Vec<CorpusInfo>> {
        maintenance::corpora(&self.workspace).await
    }

    /// All builds, newest first; before them those that wait for their turn.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub async fn builds(&self) -> Result<Vec<BuildInfo>> {
        maintenance::builds(&self.workspace).await
    }

    /// The manifest of `name`, `name@version` or `name@latest`.
    ///
    /// # Errors
    /// When there is no such corpus or version: says which there are.
    pub async fn show(&self, corpus: &str) -> Result<Manifest> {
        let warehouse = self.workspace.layout.warehouse();
        let (name, version) = warehouse.resolve(corpus).await?;
        Ok(warehouse.manifest(&name, version).await?)
    }

    /// Reads every byte of a version and recomputes checksums, digest, counts and keys.
    ///
    /// # Errors
    /// When the version cannot be read at all; what does not match is in the report.
    pub async fn verify(&self, corpus: &str) -> Result<VerifyReport> {
        maintenance::verify(&self.workspace, corpus).await
    }

    /// Removes files that no version and no running build knows, when they are older than `older_than`.
    ///
    /// # Errors
    /// [`crate::CoordinatorError::Locked`] when another process writes to this home.
    pub async fn vacuum(&self, older_than: Duration, dry_run: bool) -> Result<VacuumReport> {
        let _writing = self.writing.lock().await;
        if !dry_run {
            self.become_writer().await?;
        }
        maintenance::vacuum(&self.workspace, older_than, dry_run).await
    }

    /// Writes a version in the format of another tool; see `corpusmill_corpus::export`.
    ///
    /// # Errors
    /// When there is no such version, or it does not fit the format.
    pub async fn export(
        &self,
        corpus: &str,
        format: ExportFormat,
        to: &str,
        options: &ExportOptions,
    ) -> Result<ExportReport> {
        maintenance::export(&self.workspace, corpus, format, to, options).await
    }

    /// The warehouse of this home, for readers and for `corpusmill_corpus::export`.
    #[must_use]
    pub fn warehouse(&self) -> &corpusmill_corpus::Warehouse {
        self.workspace.layout.warehouse()
    }

    /// What statements share.
    pub(crate) fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Makes this process the writer of the home, until it ends or the coordinator is dropped. Builds that were
    /// stopped between their commit and the catalogue are ended first.
    pub(crate) async fn become_writer(&self) -> Result<()> {
        let mut held = self.right.lock().await;
        if held.is_some() {
            return Ok(());
        }
        let right = self.home.right(&self.workspace).await?;
        if let Right::Lease(lease) = &*right {
            self.workspace.catalog.write_under(lease);
            let (lost, cancel) = (lease.lost.clone(), self.workspace.cancel.clone());
            // Ends with the lease at the latest.
            tokio::spawn(async move {
                lost.cancelled().await;
                cancel.cancel();
            });
        }
        *held = Some(right);
        Ok(())
    }

    /// A session over the objects of this home.
    pub(crate) fn session(&self) -> Result<Session> {
        let defaults = SessionOptions::default();
        let spill = self.workspace.layout.home().join("spill");
        let options = SessionOptions {
            target_partitions: self.options.target_partitions.unwrap_or(defaults.target_partitions),
            batch_size: self.options.batch_size.unwrap_or(defaults.batch_size),
            memory_limit_bytes: self.options.memory_limit_bytes.or_else(half_of_memory),
            spill_dir: Some(self.options.spill_dir.clone().unwrap_or(spill)),
            spill_limit_bytes: self.options.spill_limit_bytes,
        };
        let objects = std::sync::Arc::clone(&self.workspace.objects);
        let session = session(&options, objects)?;
        if self.options.cluster.is_some() {
            // Joins and filters that need one process are left out of the plans of a cluster.
            let state = session.context().state_ref();
            let mut state = state.write();
            let config = state.config_mut();
            *config = config.clone().upgrade_for_ballista();
        }
        Ok(session)
    }
}

/// Half of the memory of the machine, or of the container: what plans may hold before they spill, unless a person says
/// otherwise.
fn half_of_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    // "max" where the group has no limit.
    let of_group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let of_group: Option<usize> = of_group.and_then(|text| text.trim().parse().ok());
    Some(of_group.unwrap_or(usize::MAX).min(kib * 1024) / 2)
}
