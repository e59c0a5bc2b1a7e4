//! How a coordinator is opened.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::events::{Events, Silent};

/// Where a coordinator keeps its state, and how it runs plans.
#[derive(Debug, Clone)]
pub struct CoordinatorOptions {
    /// The folder of the catalogue; created when something is written.
    pub home: PathBuf,
    /// URL of a PostgreSQL database that holds the catalogue. `None` for the one that the home was used with before,
    /// a file in the home for a new home.
    pub catalog: Option<String>,
    /// Where the corpora are: a folder or the URL of one in an object store. `None` for the one that the home was made
    /// with, `HOME/warehouse` for a new home.
    pub warehouse: Option<String>,
    /// Partitions that plans are spread over; the number of cores when `None`. Never changes a corpus.
    pub target_partitions: Option<usize>,
    /// Rows in a batch between operators. Never changes a corpus.
    pub batch_size: Option<usize>,
    /// Bytes that plans may hold in memory before they spill; no limit when `None`. Never changes a corpus.
    pub memory_limit_bytes: Option<usize>,
    /// Where spilled rows go; `HOME/spill` when `None`.
    pub spill_dir: Option<PathBuf>,
    /// Bytes that spilled rows may take at once; as many as the disk has when `None`.
    pub spill_limit_bytes: Option<u64>,
    /// Logical time of the builds, what `run_start()` gives; the time of the call when `None`. A build that goes on
    /// after a stop keeps the time it began with.
    pub as_of: Option<DateTime<Utc>>,
    /// The folder that relative paths in statements start from; the folder of the process when `None`.
    pub base_dir: Option<PathBuf>,
    /// Statements that build at a time; scripts of a served coordinator wait for each other.
    pub builds_max: usize,
    /// The cluster that runs the steps of builds; this process runs them itself when `None`.
    pub cluster: Option<Arc<Cluster>>,
    /// Told what happens while it happens.
    pub events: Arc<dyn Events>,
    /// Stops a running statement cleanly.
    pub cancel: CancellationToken,
}

impl CoordinatorOptions {
    /// Options for the home `home`, everything else left to the machine.
    #[must_use]
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            catalog: None,
            warehouse: None,
            target_partitions: None,
            batch_size: None,
            memory_limit_bytes: None,
            spill_dir: None,
            spill_limit_bytes: None,
            as_of: None,
            base_dir: None,
            builds_max: 2,
            cluster: None,
            events: Arc::new(Silent),
            cancel: CancellationToken::new(),
        }
    }
}
