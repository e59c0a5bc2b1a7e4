//! Ballista's scheduler inside this process, and what is known of its workers.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_core::extension::EndpointOverrideFn;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use ballista_core::serde::protobuf::executor_status::Status;
use ballista_core::utils::{default_config_producer, default_session_builder};
use ballista_scheduler::cluster::{BallistaCluster, ClusterState, ClusterStateEvent, JobState};
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use ballista_scheduler::scheduler_server::SchedulerServer;
use corpusmill_access::{AccessError, ClusterNetwork, Front};
use corpusmill_proto::member_endpoint;
use corpusmill_sql::PlanCodec;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use super::ledger::{Ledger, Member};
use crate::error::{CoordinatorError, Result};

/// Messages between scheduler and workers: a plan that names many files, or carries a tokenizer, is large.
const MESSAGE_BYTES_MAX: u32 = 256 << 20;
/// Longest wait for a job that was stopped.
const SETTLE: Duration = Duration::from_secs(2);
/// Longest wait for a moment without jobs.
const QUIET: Duration = Duration::from_secs(30);
/// Names of lost workers that are remembered.
const LOST_NAMES: usize = 64;

/// How a cluster is run.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The network in which workers reach the scheduler and each other; this machine only when `None`.
    pub network: Option<ClusterNetwork>,
    /// The scheduler's port; 0 for one of the system's choice.
    pub port: u16,
    /// Time between two heartbeats of a worker.
    pub heartbeat: Duration,
    /// A worker that was not heard of for so long is lost.
    pub timeout: Duration,
    /// A job in which nothing runs for so long, although there are workers, is submitted again.
    pub stall: Duration,
    /// A job in which nothing ends for so long is submitted again, whatever runs.
    pub silence: Duration,
    /// Attempts at one step before the build fails.
    pub attempts: usize,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            network: None,
            port: 0,
            heartbeat: Duration::from_secs(2),
            timeout: Duration::from_secs(12),
            stall: Duration::from_secs(30),
            silence: Duration::from_secs(3_600),
            attempts: 12,
        }
    }
}

/// A worker that is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Id of its executor; another one after each restart.
    pub id: String,
    /// What it calls itself.
    pub name: String,
    /// Its host and port for tasks.
    pub address: String,
    /// Tasks that it runs side by side.
    pub vcores: u32,
    /// What it is good for.
    pub labels: Vec<String>,
    /// Seconds since it was last heard of.
    pub heard_seconds_ago: u64,
}

pub(super) type Server = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// A running scheduler, and the workers that are connected to it.
pub struct Cluster {
    pub(super) options: ClusterOptions,
    pub(super) server: Server,
    pub(super) jobs: Arc<dyn JobState>,
    workers: Arc<Ledger>,
    /// Where workers call; on loopback it is Ballista's own port.
    address: SocketAddr,
    _front: Option<Front>,
    losses: Arc<Losses>,
    /// Shared by the jobs that run; a whole one is a moment without any.
    running: RwLock<()>,
    /// A job ended badly, or a worker was lost, since vcores were last given back.
    forgetful: AtomicBool,
    serving: Vec<JoinHandle<()>>,
}

/// Workers that were lost since the scheduler began.
#[derive(Debug, Default)]
struct Losses {
    count: AtomicU64,
    names: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("address", &self.address)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for task in &self.serving {
            task.abort();
        }
    }
}

impl Cluster {
    /// Starts a scheduler.
    ///
    /// # Errors
    /// [`CoordinatorError::Cluster`] when it cannot listen there.
    pub async fn start(options: ClusterOptions) -> Result<Arc<Self>> {
        let port = options.port;
        let fail = |why: String| CoordinatorError::Cluster(format!("cannot start the scheduler on port {port}: {why}"));
        let (listener, front) = listen(&options).await.map_err(|e| fail(e.to_string()))?;
        let inside = listener.local_addr().map_err(|e| fail(e.to_string()))?;
        let address = front.as_ref().map_or(inside, Front::address);
        let ballista = BallistaCluster::new_memory(
            address.to_string(),
            Arc::new(default_session_builder),
            Arc::new(default_config_producer),
        );
        let (jobs, workers) = (ballista.job_state(), Arc::new(Ledger::over(ballista.cluster_state())));
        let ballista = BallistaCluster::new(Arc::clone(&workers) as Arc<dyn ClusterState>, Arc::clone(&jobs));
        let failed = |e: BallistaError| fail(e.to_string());
        let server: Server = create_scheduler(ballista, Arc::new(config(&options, address)))
            .await
            .map_err(failed)?;
        let losses = Arc::new(Losses::default());
        let mut events = server.cluster_state_events().await.map_err(failed)?;
        let counted = Arc::clone(&losses);
        let watching = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let ClusterStateEvent::RemovedExecutor { executor_id } = event {
                    counted.add(executor_id);
                }
            }
        });
        let service = server.clone();
        let serving = tokio::spawn(async move {
            if let Err(error) = start_grpc_service_with_listener(listener, service).await {
                tracing::error!(%error, "the scheduler's port is closed");
            }
        });
        let serving = vec![watching, serving];
        Ok(Arc::new(Self {
            options,
            server,
            jobs,
            workers,
            address,
            _front: front,
            losses,
            running: RwLock::default(),
            forgetful: AtomicBool::new(false),
            serving,
        }))
    }

    /// Where executors register.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The workers that were heard of lately, by id.
    pub async fn workers(&self) -> Vec<WorkerInfo> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut workers = Vec::new();
        let heard = self.workers.executor_heartbeats();
        let ids: BTreeSet<&String> = heard.keys().collect();
        for id in ids {
            let beat = &heard[id];
            let active = matches!(
                beat.status.as_ref().and_then(|s| s.status.as_ref()),
                Some(Status::Active(_))
            );
            let ago = now.saturating_sub(beat.timestamp);
            if !active || ago > self.options.timeout.as_secs() {
                continue;
            }
            if let Ok(known) = self.workers.get_executor_metadata(id).await {
                let member = self.workers.member(id);
                workers.push(WorkerInfo {
                    id: id.clone(),
                    name: member.name,
                    address: format!("{}:{}", known.host, known.grpc_port),
                    vcores: known.specification.vcores,
                    labels: member.labels.into_iter().collect(),
                    heard_seconds_ago: ago,
                });
            }
        }
        workers
    }

    /// Makes ready for one more job, which runs as long as it holds what is given back.
    ///
    /// What the scheduler believes to be in use is freed first, when no job runs. While others run nobody can tell what
    /// is in use: after a loss their end is waited for, but not for ever.
    ///
    /// # Errors
    /// [`CoordinatorError::Cluster`] when the scheduler refuses.
    pub(super) async fn settle(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let wait = if self.forgetful.load(Ordering::SeqCst) {
            QUIET
        } else {
            Duration::ZERO
        };
        if let Ok(_quiet) = tokio::time::timeout(wait, self.running.write()).await {
            let deadline = tokio::time::Instant::now() + SETTLE;
            while self.server.running_job_number() > 0 && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let refused = |e| CoordinatorError::Cluster(format!("the scheduler does not answer: {e}"));
            self.workers.settle().await.map_err(refused)?;
            self.forgetful.store(false, Ordering::SeqCst);
        }
        Ok(self.running.read().await)
    }

    /// The scheduler may have forgotten what is in use.
    pub(super) fn forgot(&self) {
        self.forgetful.store(true, Ordering::SeqCst);
    }

    /// The executor `executor` is about to register.
    pub(super) fn joins(&self, executor: &str, member: Member) {
        self.workers.joins(executor, member);
    }

    /// The job called `job` runs on workers with this label; on any, without one.
    pub(super) fn wants(&self, job: &str, label: Option<&str>) {
        self.workers.wants(job, label);
    }

    /// Whether a worker is there that may run what asks for `label`.
    pub(super) async fn has_worker(&self, label: Option<&str>) -> bool {
        let fits = |worker: &WorkerInfo| label.is_none_or(|label| self.workers.has(&worker.id, label));
        self.workers().await.iter().any(fits)
    }

    /// Workers lost so far.
    pub(super) fn losses(&self) -> u64 {
        self.losses.count.load(Ordering::SeqCst)
    }

    /// The worker that was lost last.
    pub(super) fn last_lost(&self) -> String {
        let names = self.losses.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.last().cloned().unwrap_or_else(|| "unknown".to_owned())
    }
}

impl Losses {
    fn add(&self, name: String) {
        tracing::warn!(worker = %name, "a worker is gone");
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= LOST_NAMES {
            names.remove(0);
        }
        names.push(name);
        self.count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Tries at a port that is free on loopback and in the network.
const PORTS_TRIED: usize = 16;

/// Ballista's port on loopback, and what stands before it in the cluster's network, at the same number.
async fn listen(options: &ClusterOptions) -> Result<(TcpListener, Option<Front>), AccessError> {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let fail = |source| AccessError::Port {
        address: wanted,
        source,
    };
    let mut tried = 0;
    loop {
        let listener = TcpListener::bind(wanted).await.map_err(fail)?;
        let Some(network) = &options.network else {
            return Ok((listener, None));
        };
        let port = listener.local_addr().map_err(fail)?.port();
        match network.front(port).await {
            Ok(front) => return Ok((listener, Some(front))),
            Err(error) if error.retry() && options.port == 0 && tried < PORTS_TRIED => tried += 1,
            Err(error) => return Err(error),
        }
    }
}

fn config(options: &ClusterOptions, address: SocketAddr) -> SchedulerConfig {
    let members = options.network.as_ref().map(|network| {
        let credentials = Arc::clone(network.credentials());
        Arc::new(move |endpoint: Endpoint| member_endpoint(&endpoint, &credentials)) as EndpointOverrideFn
    });
    let codec = PlanCodec::over(Arc::new(BallistaPhysicalExtensionCodec::default()));
    SchedulerConfig {
        external_host: address.ip().to_string(),
        bind_host: Ipv4Addr::LOCALHOST.to_string(),
        override_create_grpc_client_endpoint: members,
        bind_port: address.port(),
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        task_distribution: TaskDistributionPolicy::RoundRobin,
        executor_timeout_seconds: options.timeout.as_secs(),
        expire_dead_executor_interval_seconds: 1,
        // A build waits for workers as long as it takes.
        no_executors_grace_period_seconds: 365 * 24 * 3_600,
        executor_termination_grace_period: 0,
        // What failed is submitted again by the runner, which knows whether that is safe.
        task_max_failures: 1,
        stage_max_failures: 1,
        finished_job_data_clean_up_interval_seconds: 5,
        finished_job_state_clean_up_interval_seconds: 60,
        grpc_server_max_decoding_message_size: MESSAGE_BYTES_MAX,
        grpc_server_max_encoding_message_size: MESSAGE_BYTES_MAX,
        grpc_client_max_message_size: MESSAGE_BYTES_MAX,
        override_physical_codec: Some(Arc::new(codec)),
        disable_rest_api: true,
        ..SchedulerConfig::default()
    }
}
