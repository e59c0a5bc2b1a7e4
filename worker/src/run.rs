//! The life of a worker.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_executor::executor_server::TERMINATING;
use corpusmill_health::Health;
use corpusmill_proto::Coordinators;
use corpusmill_proto::control::{JoinReply, JoinRequest};
use corpusmill_serve::{Desk, DeskOptions};
use tokio_util::sync::CancellationToken;

use crate::engine::StepEngine;
use crate::environment::Environment;
use crate::error::{Result, WorkerError};
use crate::folder::WorkFolder;
use crate::health::Part;
use crate::join::join;
use crate::lead;

/// Messages from and to the scheduler: a plan that names many files, or carries a tokenizer, is large.
const MESSAGE_BYTES_MAX: u32 = 256 << 20;
/// Time that running tasks have to end when the worker is told to stop.
const DRAIN: Duration = Duration::from_secs(60);
/// Time that an executor has to end when another coordinator leads.
const LEAVE: Duration = Duration::from_secs(2);
/// Pause before an executor that stopped is started again.
const PAUSE: Duration = Duration::from_millis(200);

/// How a worker takes part.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Address of the coordinator's control service, such as `http://127.0.0.1:50050`; several with commas between
    /// them, of which one leads.
    pub coordinator: String,
    /// What the coordinator's log calls it.
    pub name: String,
    /// Where it listens for tasks and serves shuffles; loopback. Ports are the system's choice.
    pub host: IpAddr,
    /// Tasks side by side; the number of cores when `None`.
    pub vcores: Option<usize>,
    /// Bytes that all tasks together may hold before they spill; 70 % of the machine's memory when `None`.
    pub memory_limit_bytes: Option<u64>,
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
    /// Where health and metrics are told; loopback. Nowhere when `None`.
    pub health: Option<SocketAddr>,
}

impl WorkerOptions {
    /// A worker of the coordinator at `coordinator`, everything else left to the machine.
    #[must_use]
    pub fn new(coordinator: impl Into<String>) -> Self {
        Self {
            coordinator: coordinator.into(),
            name: format!("worker-{}", std::process::id()),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            vcores: None,
            memory_limit_bytes: None,
            work_dir: None,
            cache_dir: None,
            cache_bytes: 64 << 30,
            slots_bytes: 4 << 30,
            labels: vec![],
            health: None,
        }
    }
}

/// Works until `shutdown` (and the SIGTERM or SIGINT that comes with it): running tasks then end, or are handed back.
///
/// Joins again as a new executor whenever the old one stopped, for as long as it takes; `joined` is called each time.
///
/// # Errors
/// [`WorkerError::Refused`] when the coordinator is of another version, [`WorkerError::Invalid`] when other machines
/// could reach this one or an option does not fit, [`WorkerError::Folder`] when there is no place for shuffles.
pub async fn run(options: WorkerOptions, shutdown: CancellationToken, joined: impl Fn(&str)) -> Result<()> {
    if !options.host.is_loopback() {
        return Err(WorkerError::Invalid(format!(
            "the worker may not listen on {}: its ports cannot ask who calls, and whoever reaches them could run code \
             here; listen on 127.0.0.1",
            options.host
        )));
    }
    let base = options
        .work_dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join("corpusmill"));
    let folder = WorkFolder::create(&base)?;
    let environment = Environment::open(folder.path())?;
    let part = Arc::new(Part::default());
    let _health = match options.health {
        Some(address) => {
            let told = Health::serve(address, part.clone()).await;
            Some(told.map_err(|e| WorkerError::Invalid(e.to_string()))?)
        }
        None => None,
    };
    let desk = Desk::open(desk_options(&options, &base)).await?;
    let serving = tokio::spawn(desk.run(shutdown.clone()));
    let ended = take_part(&options, &environment, &folder, &part, &shutdown, joined).await;
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
    DeskOptions {
        host: options.host,
        cache_dir: Some(cache.to_string_lossy().into_owned()),
        cache_bytes: options.cache_bytes,
        slots_bytes: options.slots_bytes,
        ..DeskOptions::new(options.coordinator.clone(), options.name.clone())
    }
}

/// Runs tasks as one executor after another.
async fn take_part(
    options: &WorkerOptions,
    environment: &Environment,
    folder: &WorkFolder,
    part: &Part,
    shutdown: &CancellationToken,
    joined: impl Fn(&str),
) -> Result<()> {
    let vcores = options.vcores.unwrap_or_else(cores);
    let mut coordinators = Coordinators::new(&options.coordinator);
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
        let executor = executor(options, environment, folder, &reply, (&request.executor, vcores))?;
        let id = executor.executor_id.clone();
        let (host, port) = (executor.bind_host.clone(), executor.grpc_port);
        // The flag belongs to the process, and the executor before this one raised it when it stopped.
        TERMINATING.store(false, Ordering::Release);
        tracing::info!(executor = %id, scheduler = %format!("{}:{}", reply.scheduler_host, reply.scheduler_port), "joins");
        joined(&id);
        part.joined(&id);
        let drained = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        let next = OnceLock::new();
        let left = async {
            let leader = lead::another_leads(&coordinators, reply.term).await?;
            tracing::info!(executor = %id, %leader, "another coordinator leads");
            next.get_or_init(|| leader);
            lead::stop_executor(&host, port, &id).await;
            tokio::time::sleep(LEAVE).await;
            Ok::<(), WorkerError>(())
        };
        tokio::select! {
            ended = start_executor_process(Arc::new(executor)) => match ended {
                Ok(()) => tracing::info!(executor = %id, "the executor stopped"),
                Err(error) => tracing::warn!(executor = %id, %error, "the executor stopped"),
            },
            () = drained => tracing::warn!("tasks did not end in time; the coordinator runs them elsewhere"),
            left = left => left?,
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
) -> Result<ExecutorProcessConfig> {
    let [port, grpc_port] = free_ports(options.host)?;
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
        bind_host: options.host.to_string(),
        external_host: Some(options.host.to_string()),
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
    Ok(config)
}

/// Two ports that nobody listens on. Another process may take one before the executor does; it then stops, and the
/// worker tries again with others.
fn free_ports(host: IpAddr) -> Result<[u16; 2]> {
    let listen = || TcpListener::bind((host, 0)).and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
    let none = |error| WorkerError::Invalid(format!("no port is free on {host}: {error}"));
    let ((first, one), (second, two)) = (listen().map_err(none)?, listen().map_err(none)?);
    drop((one, two));
    Ok([first, second])
}
