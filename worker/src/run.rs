//! The life of a worker.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_executor::executor_server::TERMINATING;
use corpusmill_access::{ClusterNetwork, Credentials, Front};
use corpusmill_health::Health;
use corpusmill_proto::Coordinators;
use corpusmill_proto::control::{JoinReply, JoinRequest};
use corpusmill_serve::{Desk, DeskOptions};
use tokio_util::sync::CancellationToken;

use crate::engine::StepEngine;
use crate::environment::Environment;
use crate::error::{Result, WorkerError};
use crate::flight;
use crate::folder::WorkFolder;
use crate::health::Part;
use crate::join::join;
use crate::lead;

/// Messages from and to the scheduler: a plan that names many files, or carries a tokenizer, is large.
const MESSAGE_BYTES_MAX: u32 = 256 << 20;
/// Time that running tasks have to end when the worker is told to stop.
const DRAIN: Duration = Duration::from_secs(60);
/// Tries at ports that are free on loopback and in the network.
const PORTS_TRIED: usize = 16;
/// Time that an executor has to end when another coordinator leads.
const LEAVE: Duration = Duration::from_secs(2);
/// How often it is looked whether an executor is registered.
const LOOK: Duration = Duration::from_millis(20);
/// Pause before an executor that stopped is started again.
const PAUSE: Duration = Duration::from_millis(200);

/// How a worker takes part.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Address of the coordinator's control service, such as `http://127.0.0.1:50050`; several with commas between
    /// them, of which one leads.
    pub coordinator: String,
    /// What the coordinator and trainers call it; no two workers of a coordinator share it.
    pub name: String,
    /// What is shown to callers and the coordinator, and asked of them; needed beyond loopback.
    pub credentials: Option<Arc<Credentials>>,
    /// The network in which it takes tasks, and serves shuffles and trainers; this machine only when `None`. Ports are
    /// the system's choice.
    pub network: Option<ClusterNetwork>,
    /// Port for trainers; 0 is one of the system's choice.
    pub stream_port: u16,
    /// Where trainers reach that port, where something between maps it to another address.
    pub stream_address: Option<SocketAddr>,
    /// Tasks side by side; the number of cores when `None`.
    pub vcores: Option<usize>,
    /// Bytes that all tasks together may hold before they spill; 70 % of the machine's memory when `None`.
    pub memory_limit_bytes: Option<u64>,
    /// Bytes that spilled rows may take at once; as many as the disk has when `None`.
    pub spill_limit_bytes: Option<u64>,
    /// Folder for shuffles and spilled rows; one in the system's temporary folder when `None`.
    pub work_dir: Option<PathBuf>,
    /// Folder for the decoded blocks that trainers are served from; `blocks` beside the shuffles when `None`.
    pub cache_dir: Option<PathBuf>,
    /// Bound of that folder, bytes.
    pub cache_bytes: u64,
    /// Bound of the slots that batches are handed over in, bytes.
    pub slots_bytes: u64,
    /// What it is good for, such as `gpu`: builds that ask for a label run where it is.
    pub labels: Vec<String>,
    /// Where health and metrics are told. Nowhere when `None`.
    pub health: Option<SocketAddr>,
    /// Where corpora and streams are served to clients of Arrow Flight; loopback. Nowhere when `None`.
    pub flight: Option<SocketAddr>,
}

impl WorkerOptions {
    /// A worker of the coordinator at `coordinator`, everything else left to the machine.
    #[must_use]
    pub fn new(coordinator: impl Into<String>) -> Self {
        Self {
            coordinator: coordinator.into(),
            name: format!("worker-{}", std::process::id()),
            credentials: None,
            network: None,
            stream_port: 0,
            stream_address: None,
            vcores: None,
            memory_limit_bytes: None,
            spill_limit_bytes: None,
            work_dir: None,
            cache_dir: None,
            cache_bytes: 64 << 30,
            slots_bytes: 4 << 30,
            labels: vec![],
            health: None,
            flight: None,
        }
    }
}

/// Works until `shutdown` (and the SIGTERM or SIGINT that comes with it): running tasks then end, or are handed back.
///
/// Joins again as a new executor whenever the old one stopped, for as long as it takes; `joined` is called each time.
///
/// # Errors
/// [`WorkerError::Refused`] when the coordinator is of another version or token, [`WorkerError::Access`] when other
/// machines could reach this one without credentials, [`WorkerError::Invalid`] when an option does not fit,
/// [`WorkerError::Folder`] when there is no place for shuffles.
pub async fn run(options: WorkerOptions, shutdown: CancellationToken, joined: impl Fn(&str)) -> Result<()> {
    let coordinators = Coordinators::new(&options.coordinator, options.credentials.as_ref()).map_err(|reason| {
        WorkerError::Invalid(format!(
            "`{}` is no address of a coordinator ({reason}); one looks like http://127.0.0.1:50050",
            options.coordinator
        ))
    })?;
    let base = options
        .work_dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join("corpusmill"));
    let folder = WorkFolder::create(&base)?;
    let members = options
        .network
        .as_ref()
        .map(|network| Arc::clone(network.credentials()));
    let environment = Environment::open(folder.path(), options.spill_limit_bytes, members)?;
    let part = Arc::new(Part::default());
    let _health = match options.health {
        Some(address) => {
            let told = Health::serve(address, options.credentials.clone(), part.clone()).await;
            Some(told.map_err(|e| WorkerError::Invalid(e.to_string()))?)
        }
        None => None,
    };
    let desk = Desk::open(desk_options(&options, &base)).await?;
    if let Some(address) = options.flight {
        if !address.ip().is_loopback() {
            return Err(WorkerError::Invalid(format!(
                "--flight {address}: Arrow Flight asks nobody who calls, so it is for this machine only; listen on 127.0.0.1"
            )));
        }
        flight::serve(address, desk.library(), shutdown.clone()).await?;
    }
    let serving = tokio::spawn(desk.run(shutdown.clone()));
    let ended = take_part(&options, coordinators, &environment, &folder, &part, &shutdown, joined).await;
    if ended.is_err() {
        serving.abort();
    }
    // Sessions end with the token, or were just given up.
    let _ = serving.await;
    ended
}

/// How the worker serves trainers; `base` is its folder for shuffles.
fn desk_options(options: &WorkerOptions, base: &Path) -> DeskOptions {
    let cache = options.cache_dir.clone().unwrap_or_else(|| base.join("blocks"));
    let host = options.network.as_ref().map(ClusterNetwork::address);
    DeskOptions {
        credentials: options.credentials.clone(),
        host: host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: options.stream_port,
        advertise: options.stream_address,
        cache_dir: Some(cache.to_string_lossy().into_owned()),
        cache_bytes: options.cache_bytes,
        slots_bytes: options.slots_bytes,
        ..DeskOptions::new(options.coordinator.clone(), options.name.clone())
    }
}

/// Runs tasks as one executor after another.
async fn take_part(
    options: &WorkerOptions,
    mut coordinators: Coordinators,
    environment: &Environment,
    folder: &WorkFolder,
    part: &Part,
    shutdown: &CancellationToken,
    joined: impl Fn(&str),
) -> Result<()> {
    let vcores = options.vcores.unwrap_or_else(cores);
    while !shutdown.is_cancelled() {
        let request = JoinRequest {
            name: options.name.clone(),
            vcores: vcores as u32,
            executor: uuid::Uuid::new_v4().to_string(),
            labels: options.labels.clone(),
        };
        let Some(reply) = join(&mut coordinators, &request, shutdown).await? else {
            break;
        };
        same_network(options, &reply)?;
        let (ports, _fronts) = ports(options.network.as_ref()).await?;
        let executor = executor(options, environment, folder, &reply, (&request.executor, vcores), ports)?;
        let id = executor.executor_id.clone();
        let (host, port) = (executor.bind_host.clone(), executor.grpc_port);
        // The flag belongs to the process, and the executor before this one raised it when it stopped.
        TERMINATING.store(false, Ordering::Release);
        tracing::info!(executor = %id, scheduler = %format!("{}:{}", reply.scheduler_host, reply.scheduler_port), "joins");
        // Ready from the first heartbeat on that the scheduler took: before that it may still turn the worker away.
        let health = executor.health.clone();
        let registered = async {
            while !health.is_ready() {
                tokio::time::sleep(LOOK).await;
            }
            joined(&id);
            part.joined(&id);
            std::future::pending::<()>().await;
        };
        let drained = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        let next = OnceLock::new();
        let left = async {
            let leader = lead::another_leads(&coordinators, reply.term).await;
            tracing::info!(executor = %id, %leader, "another coordinator leads");
            next.get_or_init(|| leader);
            lead::stop_executor(&host, port, &id).await;
            tokio::time::sleep(LEAVE).await;
        };
        tokio::select! {
            ended = start_executor_process(Arc::new(executor)) => match ended {
                Ok(()) => tracing::info!(executor = %id, "the executor stopped"),
                Err(error) => tracing::warn!(executor = %id, %error, "the executor stopped"),
            },
            () = drained => tracing::warn!("tasks did not end in time; the coordinator runs them elsewhere"),
            () = left => {}
            () = registered => {}
        }
        part.left();
        if let Some(leader) = next.get() {
            coordinators.turn_to(leader);
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.cancelled() => {}
        }
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn executor(
    options: &WorkerOptions,
    environment: &Environment,
    folder: &WorkFolder,
    reply: &JoinReply,
    (id, vcores): (&str, usize),
    [port, grpc_port]: [u16; 2],
) -> Result<ExecutorProcessConfig> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let reached = options.network.as_ref().map_or(loopback, ClusterNetwork::address);
    let id = id.to_owned();
    let work_dir = folder.path().join(&id);
    std::fs::create_dir_all(&work_dir).map_err(|source| WorkerError::Folder {
        path: work_dir.clone(),
        source,
    })?;
    let scheduler_port = u16::try_from(reply.scheduler_port)
        .map_err(|_| WorkerError::Invalid(format!("the coordinator names port {}", reply.scheduler_port)))?;
    let mut config = ExecutorProcessConfig {
        executor_id: id,
        bind_host: loopback.to_string(),
        external_host: Some(reached.to_string()),
        port,
        grpc_port,
        scheduler_host: reply.scheduler_host.clone(),
        scheduler_port,
        vcores,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(work_dir.to_string_lossy().into_owned()),
        executor_heartbeat_interval_seconds: reply.heartbeat_seconds.max(1),
        memory_pool_size: options.memory_limit_bytes,
        grpc_max_decoding_message_size: MESSAGE_BYTES_MAX,
        grpc_max_encoding_message_size: MESSAGE_BYTES_MAX,
        ..ExecutorProcessConfig::default()
    };
    let worker = format!("{} (work folder {})", options.name, folder.path().display());
    config.override_execution_engine = Some(Arc::new(StepEngine::new(&worker)));
    config.override_function_registry = Some(Arc::clone(&environment.functions));
    config.override_runtime_producer = Some(Arc::clone(&environment.runtime));
    config.override_config_producer = Some(Arc::clone(&environment.config));
    config.override_physical_codec = Some(environment.codec.clone());
    config
        .override_create_grpc_client_endpoint
        .clone_from(&environment.members);
    Ok(config)
}

/// Refuses a scheduler on the other side of a cluster's network: its tasks would never come.
fn same_network(options: &WorkerOptions, reply: &JoinReply) -> Result<()> {
    let host = &reply.scheduler_host;
    let alone = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let mend = match (&options.network, alone) {
        (None, false) => "start the worker with --cluster-network too",
        (Some(network), true) if !network.address().is_loopback() => "start the coordinator with --cluster-network too",
        _ => return Ok(()),
    };
    Err(WorkerError::Invalid(format!(
        "the coordinator's scheduler is on {host}, and this worker could not take its tasks: {mend}"
    )))
}

/// Two ports for the executor that nobody listens on, and what stands before them in the cluster's network.
///
/// Another process may take one before the executor does; it then stops, and the worker tries again with others.
async fn ports(network: Option<&ClusterNetwork>) -> Result<([u16; 2], Vec<Front>)> {
    let listen = || {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| Ok((listener.local_addr()?.port(), listener)))
    };
    let none = |error| WorkerError::Invalid(format!("no port is free on this machine: {error}"));
    let mut tried = 0;
    'others: loop {
        let ((first, one), (second, two)) = (listen().map_err(none)?, listen().map_err(none)?);
        drop((one, two));
        let mut fronts = Vec::new();
        for port in [first, second] {
            match network {
                None => {}
                Some(network) => match network.front(port).await {
                    Ok(front) => fronts.push(front),
                    Err(error) if error.retry() && tried < PORTS_TRIED => {
                        tried += 1;
                        continue 'others;
                    }
                    Err(error) => return Err(error.into()),
                },
            }
        }
        return Ok(([first, second], fronts));
    }
}
