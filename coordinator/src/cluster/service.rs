//! The control service: takes scripts, runs them one after the other, and tells whoever watches.

mod health;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::DateTime;
use corpusmill_access::{Credentials, may_listen};
use corpusmill_health::Health;
use corpusmill_proto::control::control_server::{Control, ControlServer};
use corpusmill_proto::control::{
    CancelReply, CancelRequest, DescribeReply, DescribeRequest, JoinReply, JoinRequest, ListKind, ListReply,
    ListRequest, Message, SubmitReply, SubmitRequest, WatchRequest,
};
use corpusmill_proto::{Asks, MESSAGE_BYTES_MAX, causes, server_tls};
use corpusmill_serve::Directory;
use futures::Stream;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::scheduler::{Cluster, ClusterOptions};
use super::scripts::{Script, ScriptEvents, ScriptSink};
use crate::coordinator::Coordinator;
use crate::error::{CoordinatorError, Result};
use crate::options::CoordinatorOptions;

/// Scripts that are remembered after their end.
const ENDED_MAX: usize = 100;
/// Scripts that may wait.
const QUEUED_MAX: usize = 1_000;
/// Partitions that plans are spread over, where nothing else is said: enough for some workers, few enough for one.
const TARGET_PARTITIONS: usize = 8;

/// How a coordinator serves a cluster.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where the control service listens. Port 0 for one of the system's choice.
    pub listen: SocketAddr,
    /// Where health and metrics are told. Nowhere when `None`.
    pub health: Option<SocketAddr>,
    /// What is shown to callers, and asked of them; needed beyond loopback.
    pub credentials: Option<Arc<Credentials>>,
    /// Catalogue and warehouse, and how plans are made; events, logical time and cancellation are each script's own.
    pub coordinator: CoordinatorOptions,
    /// The scheduler and its workers.
    pub cluster: ClusterOptions,
}

impl ServeOptions {
    /// Serves the home `home` on a port of the system's choice.
    #[must_use]
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            health: None,
            credentials: None,
            coordinator: CoordinatorOptions::new(home),
            cluster: ClusterOptions::default(),
        }
    }
}

/// Serves until `shutdown`: running scripts are then stopped cleanly. Calls `ready` with the address once it listens.
///
/// # Errors
/// [`CoordinatorError::Access`] when other machines could reach it without credentials, [`CoordinatorError::Cluster`] when
/// it cannot listen, and what the home cannot be opened with.
pub async fn serve(options: ServeOptions, shutdown: CancellationToken, ready: impl FnOnce(SocketAddr)) -> Result<()> {
    let credentials = options.credentials.as_ref();
    may_listen("the coordinator", options.listen.ip(), credentials.map(Arc::as_ref))?;
    let fail = |why: String| CoordinatorError::Cluster(format!("cannot listen on {}: {why}", options.listen));
    let listener = TcpListener::bind(options.listen)
        .await
        .map_err(|e| fail(e.to_string()))?;
    let address = listener.local_addr().map_err(|e| fail(e.to_string()))?;
    let cluster = Cluster::start(options.cluster.clone()).await?;
    let mut home = options.coordinator.clone();
    home.cluster = Some(Arc::clone(&cluster));
    home.target_partitions = home.target_partitions.or(Some(TARGET_PARTITIONS));
    // A home that cannot be used is told now, not to the first script.
    let opened = Coordinator::open(home.clone()).await?;
    let directory = Directory::new(whole_location(opened.warehouse().location()));
    let service = Arc::new(Service {
        home,
        cluster,
        scripts: Mutex::default(),
        turn: Semaphore::new(1),
        outcomes: health::Outcomes::default(),
        shutdown: shutdown.clone(),
    });
    let _health = match options.health {
        Some(address) => {
            let told = Health::serve(address, credentials.cloned(), service.clone()).await;
            Some(told.map_err(|e| CoordinatorError::Invalid(e.to_string()))?)
        }
        None => None,
    };
    let server = ControlServer::from_arc(Arc::new(Handle(Arc::clone(&service))))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let asks = Asks::new(credentials.map(Arc::as_ref));
    let server = tonic::service::interceptor::InterceptedService::new(server, asks.clone());
    let mut builder = Server::builder();
    if let Some(credentials) = credentials {
        builder = builder
            .tls_config(server_tls(credentials)?)
            .map_err(|e| fail(causes(&e)))?;
    }
    let running = builder
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(server)
        .add_service(directory.service(asks))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown.clone().cancelled_owned());
    ready(address);
    let served = running.await.map_err(|e| fail(e.to_string()));
    service.stop().await;
    served
}

/// A location that means the same in another process: workers have working folders of their own.
fn whole_location(location: &str) -> String {
    match std::path::absolute(location) {
        Ok(path) if !location.contains("://") => path.to_string_lossy().into_owned(),
        _ => location.to_owned(),
    }
}

/// What the calls share.
struct Service {
    home: CoordinatorOptions,
    cluster: Arc<Cluster>,
    scripts: Mutex<VecDeque<Arc<Script>>>,
    /// One script at a time, in the order in which they came.
    turn: Semaphore,
    outcomes: health::Outcomes,
    shutdown: CancellationToken,
}

/// The service as tonic wants it.
struct Handle(Arc<Service>);

impl Service {
    fn scripts(&self) -> MutexGuard<'_, VecDeque<Arc<Script>>> {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn script(&self, id: &str) -> Result<Arc<Script>, Status> {
        let found = self.scripts().iter().find(|script| script.id == id).cloned();
        found.ok_or_else(|| {
            Status::not_found(format!(
                "there is no script {id}: it ended long ago, or the coordinator was started again"
            ))
        })
    }

    /// Queues a script, and forgets the oldest that ended.
    fn queue(&self, origin: String) -> Result<Arc<Script>, Status> {
        let mut scripts = self.scripts();
        let waiting = scripts.iter().filter(|script| !script.has_ended()).count();
        if waiting >= QUEUED_MAX {
            return Err(Status::resource_exhausted(format!(
                "{QUEUED_MAX} scripts wait already; try again later"
            )));
        }
        while scripts.len() - waiting >= ENDED_MAX {
            let Some(oldest) = scripts.iter().position(|script| script.has_ended()) else {
                break;
            };
            scripts.remove(oldest);
        }
        let script = Script::new(uuid::Uuid::now_v7().simple().to_string(), origin);
        script.queued(waiting);
        scripts.push_back(Arc::clone(&script));
        Ok(script)
    }

    async fn run(&self, script: &Arc<Script>, request: SubmitRequest) -> Result<()> {
        let turn = tokio::select! {
            turn = self.turn.acquire() => turn,
            () = script.cancel.cancelled() => return Err(CoordinatorError::Cancelled),
        };
        let _turn = turn.map_err(|_| CoordinatorError::Cancelled)?;
        script.started();
        let options = CoordinatorOptions {
            events: Arc::new(ScriptEvents(Arc::clone(script))),
            cancel: script.cancel.clone(),
            as_of: request.as_of_ms.and_then(DateTime::from_timestamp_millis),
            base_dir: (!request.base_dir.is_empty()).then(|| PathBuf::from(&request.base_dir)),
            ..self.home.clone()
        };
        let coordinator = Coordinator::open(options).await?;
        let mut sink = ScriptSink(Arc::clone(script));
        coordinator.run_script(&request.text, &request.origin, &mut sink).await
    }

    /// Stops what runs, and waits for it.
    async fn stop(&self) {
        let scripts: Vec<_> = self.scripts().iter().cloned().collect();
        for script in &scripts {
            script.cancel.cancel();
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while scripts.iter().any(|script| !script.has_ended()) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn status(error: &CoordinatorError) -> Status {
    Status::unknown(corpusmill_operators::with_sources(error))
}

fn json(list: &impl Serialize) -> Result<String, Status> {
    serde_json::to_string(list).map_err(|e| Status::internal(e.to_string()))
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Control for Handle {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

    async fn join(&self, request: Request<JoinRequest>) -> Reply<JoinReply> {
        let request = request.into_inner();
        tracing::info!(worker = %request.name, vcores = request.vcores, "a worker joins");
        let address = self.0.cluster.address();
        Ok(Response::new(JoinReply {
            scheduler_host: address.ip().to_string(),
            scheduler_port: address.port().into(),
            heartbeat_seconds: self.0.cluster.options.heartbeat.as_secs().max(1),
        }))
    }

    async fn submit(&self, request: Request<SubmitRequest>) -> Reply<SubmitReply> {
        if self.0.shutdown.is_cancelled() {
            return Err(Status::unavailable("the coordinator is stopping"));
        }
        let request = request.into_inner();
        let script = self.0.queue(request.origin.clone())?;
        let (service, running) = (Arc::clone(&self.0), Arc::clone(&script));
        tokio::spawn(async move {
            let result = service.run(&running, request).await;
            if let Err(error) = &result {
                tracing::warn!(script = %running.id, origin = %running.origin, error = %error, "a script failed");
            }
            service.outcomes.count(&result);
            running.ended(&result);
        });
        Ok(Response::new(SubmitReply {
            script: script.id.clone(),
        }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Reply<Self::WatchStream> {
        let request = request.into_inner();
        let script = self.0.script(&request.script)?;
        let messages = futures::stream::unfold((script, request.from), |(script, from)| async move {
            let message = script.next(from).await?;
            let next = message.number + 1;
            Some((Ok(message), (script, next)))
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Reply<CancelReply> {
        let script = self.0.script(&request.into_inner().script)?;
        let running = !script.has_ended();
        script.cancel.cancel();
        Ok(Response::new(CancelReply { running }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Reply<ListReply> {
        let open = || Coordinator::open(self.0.home.clone());
        let json = match request.into_inner().kind() {
            ListKind::Unspecified => {
                let home = open().await.map_err(|e| status(&e))?;
                json(&home.corpora().await.map_err(|e| status(&e))?)?
            }
            ListKind::Builds => {
                let home = open().await.map_err(|e| status(&e))?;
                json(&home.builds().await.map_err(|e| status(&e))?)?
            }
            ListKind::Workers => json(&self.0.cluster.workers().await)?,
            ListKind::Scripts => json(&self.0.scripts().iter().map(|script| script.info()).collect::<Vec<_>>())?,
        };
        Ok(Response::new(ListReply { json }))
    }

    async fn describe(&self, request: Request<DescribeRequest>) -> Reply<DescribeReply> {
        let home = Coordinator::open(self.0.home.clone()).await.map_err(|e| status(&e))?;
        let manifest = home.show(&request.into_inner().corpus).await.map_err(|e| status(&e))?;
        let manifest = manifest.to_json().map_err(|e| status(&e.into()))?;
        let manifest = String::from_utf8(manifest.into()).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(DescribeReply { manifest }))
    }
}
