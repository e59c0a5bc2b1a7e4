//! The control service: takes scripts, runs them, and tells whoever watches.

mod health;
mod leadership;
mod scheduled;

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
    CancelReply, CancelRequest, DescribeReply, DescribeRequest, JoinReply, JoinRequest, LeadReply, LeadRequest,
    ListKind, ListReply, ListRequest, Message, SubmitReply, SubmitRequest, WatchRequest,
};
use corpusmill_proto::{Asks, MESSAGE_BYTES_MAX, causes, server_tls};
use corpusmill_serve::Directory;
use futures::Stream;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::ledger::Member;
use super::scheduler::{Cluster, ClusterOptions};
use super::scripts::{Script, ScriptEvents, ScriptSink};
use crate::catalog::Candidate;
use crate::coordinator::Coordinator;
use crate::error::{CoordinatorError, Result};
use crate::home::Home;
use crate::options::CoordinatorOptions;
use leadership::{Lead, LeadsOnly};

/// Scripts that are remembered after their end.
const ENDED_MAX: usize = 100;
/// Scripts that may wait.
const QUEUED_MAX: usize = 1_000;
/// Scripts that run at a time: queries are answered here, beside builds and those that wait for their turn to build.
const SCRIPTS_MAX: usize = 64;
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
    /// Address that callers of another coordinator of the catalogue are sent to, such as `http://mill-0.mill:50050`;
    /// the one that it listens on when `None`.
    pub advertise: Option<String>,
    /// How long the lead lasts without renewal: the time in which another coordinator takes over, at most.
    pub lease: Duration,
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
            advertise: None,
            lease: Duration::from_secs(10),
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
    let mut for_scripts = options.coordinator.clone();
    for_scripts.cluster = Some(Arc::clone(&cluster));
    for_scripts.target_partitions = for_scripts.target_partitions.or(Some(TARGET_PARTITIONS));
    // A home that cannot be used is told now, not to the first script.
    let home = Home::open(&for_scripts).await?;
    let shared = home.catalog.location().is_server();
    home.campaign();
    let service = Arc::new(Service {
        directory: Directory::new(whole_location(home.layout.warehouse().location())),
        options: for_scripts,
        home,
        cluster,
        lead: watch::Sender::new(if shared { Lead::Elsewhere(None) } else { Lead::Here(0) }),
        scripts: Mutex::default(),
        running: Semaphore::new(SCRIPTS_MAX),
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
    let server = InterceptedService::new(server, asks.clone());
    let streams = InterceptedService::new(service.directory.service(asks), LeadsOnly(Arc::clone(&service)));
    let mut builder = Server::builder();
    if let Some(credentials) = credentials {
        builder = builder
            .tls_config(server_tls(credentials)?)
            .map_err(|e| fail(causes(&e)))?;
    }
    let running = builder
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(server)
        .add_service(streams)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown.clone().cancelled_owned());
    let candidate = Candidate {
        address: options.advertise.clone().unwrap_or_else(|| format!("http://{address}")),
        length: options.lease,
    };
    let leading = tokio::spawn(Arc::clone(&service).lead(candidate));
    ready(address);
    let served = running.await.map_err(|e| fail(e.to_string()));
    shutdown.cancel();
    // Scripts are stopped and the lead is given back before the process ends.
    let _ = leading.await;
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
    options: CoordinatorOptions,
    home: Arc<Home>,
    cluster: Arc<Cluster>,
    directory: Arc<Directory>,
    lead: watch::Sender<Lead>,
    scripts: Mutex<VecDeque<Arc<Script>>>,
    /// In the order in which they came.
    running: Semaphore,
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
        let open = scripts.iter().filter(|script| !script.has_ended()).count();
        if open >= QUEUED_MAX {
            return Err(Status::resource_exhausted(format!(
                "{QUEUED_MAX} scripts run or wait already; try again later"
            )));
        }
        while scripts.len() - open >= ENDED_MAX {
            let Some(oldest) = scripts.iter().position(|script| script.has_ended()) else {
                break;
            };
            scripts.remove(oldest);
        }
        let script = Script::new(uuid::Uuid::now_v7().simple().to_string(), origin);
        script.queued((open + 1).saturating_sub(SCRIPTS_MAX));
        scripts.push_back(Arc::clone(&script));
        Ok(script)
    }

    async fn run(&self, script: &Arc<Script>, request: SubmitRequest) -> Result<()> {
        let turn = tokio::select! {
            turn = self.running.acquire() => turn,
            () = script.cancel.cancelled() => return Err(CoordinatorError::Cancelled),
        };
        let _turn = turn.map_err(|_| CoordinatorError::Cancelled)?;
        script.started();
        let options = CoordinatorOptions {
            events: Arc::new(ScriptEvents(Arc::clone(script))),
            cancel: script.cancel.clone(),
            as_of: request.as_of_ms.and_then(DateTime::from_timestamp_millis),
            base_dir: (!request.base_dir.is_empty()).then(|| PathBuf::from(&request.base_dir)),
            ..self.options.clone()
        };
        let coordinator = Coordinator::over(Arc::clone(&self.home), options);
        let mut sink = ScriptSink(Arc::clone(script));
        coordinator.run_script(&request.text, &request.origin, &mut sink).await
    }

    /// A coordinator that looks at things.
    fn looking(&self) -> Coordinator {
        Coordinator::over(Arc::clone(&self.home), self.options.clone())
    }

    /// The term in which this coordinator leads.
    fn leads(&self) -> Result<u64, Status> {
        self.lead.borrow().check()
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

    async fn lead(&self, _: Request<LeadRequest>) -> Reply<LeadReply> {
        let reply = match &*self.0.lead.borrow() {
            Lead::Here(term) => LeadReply {
                here: true,
                term: *term,
                leader: String::new(),
            },
            Lead::Elsewhere(leader) => LeadReply {
                leader: leader.clone().unwrap_or_default(),
                ..LeadReply::default()
            },
        };
        Ok(Response::new(reply))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Reply<JoinReply> {
        let term = self.0.leads()?;
        let request = request.into_inner();
        tracing::info!(worker = %request.name, vcores = request.vcores, labels = ?request.labels, "a worker joins");
        let member = Member {
            name: request.name,
            labels: request.labels.into_iter().collect(),
        };
        self.0.cluster.joins(&request.executor, member);
        let address = self.0.cluster.address();
        Ok(Response::new(JoinReply {
            scheduler_host: address.ip().to_string(),
            scheduler_port: address.port().into(),
            heartbeat_seconds: self.0.cluster.options.heartbeat.as_secs().max(1),
            term,
        }))
    }

    async fn submit(&self, request: Request<SubmitRequest>) -> Reply<SubmitReply> {
        if self.0.shutdown.is_cancelled() {
            return Err(Status::unavailable("the coordinator is stopping"));
        }
        self.0.leads()?;
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
        self.0.leads()?;
        let request = request.into_inner();
        let script = self.0.script(&request.script)?;
        let results = !request.without_results;
        let messages = futures::stream::unfold((script, request.from), move |(script, from)| async move {
            let message = script.next(from, results).await?;
            let next = message.number + 1;
            Some((Ok(message), (script, next)))
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Reply<CancelReply> {
        self.0.leads()?;
        let script = self.0.script(&request.into_inner().script)?;
        let running = !script.has_ended();
        script.cancel.cancel();
        Ok(Response::new(CancelReply { running }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Reply<ListReply> {
        self.0.leads()?;
        let json = match request.into_inner().kind() {
            ListKind::Unspecified => json(&self.0.looking().corpora().await.map_err(|e| status(&e))?)?,
            ListKind::Builds => json(&self.0.looking().builds().await.map_err(|e| status(&e))?)?,
            ListKind::Workers => json(&self.0.cluster.workers().await)?,
            ListKind::Scripts => json(&self.0.scripts().iter().map(|script| script.info()).collect::<Vec<_>>())?,
        };
        Ok(Response::new(ListReply { json }))
    }

    async fn describe(&self, request: Request<DescribeRequest>) -> Reply<DescribeReply> {
        self.0.leads()?;
        let shown = self.0.looking();
        let manifest = shown.show(&request.into_inner().corpus).await.map_err(|e| status(&e))?;
        let manifest = manifest.to_json().map_err(|e| status(&e.into()))?;
        let manifest = String::from_utf8(manifest.into()).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(DescribeReply { manifest }))
    }
}
