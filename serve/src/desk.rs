//! The worker's part: offers to serve, takes sessions in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::error::{Result, ServeError};
use crate::session;
use corpusmill_access::{Credentials, may_listen};
use corpusmill_batches::{BatchError, OpenPlan, Options, Surroundings};
use corpusmill_proto::stream::OfferRequest;
use corpusmill_proto::{Coordinators, broken_off};
use corpusmill_transport::{ServeOptions, Server, Token, host_identity};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// First and longest pause between two calls to the coordinator.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Largest slot that a trainer may ask for, bytes.
const SLOT_BYTES_MAX: u64 = 1 << 30;
/// Plans that stay open between sessions, so that a trainer that comes back finds its blocks.
const PLANS_MAX: usize = 8;

/// How a worker serves.
#[derive(Debug, Clone)]
pub struct DeskOptions {
    /// Address of the coordinator: `corpusmill://HOST:PORT` or `http://HOST:PORT`; several with commas between them.
    pub coordinator: String,
    /// What is shown to the coordinator and to trainers, and asked of them; needed beyond loopback.
    pub credentials: Option<Arc<Credentials>>,
    /// What the worker calls itself.
    pub name: String,
    /// Where trainers connect.
    pub host: IpAddr,
    /// The port there; 0 is one of the system's choice.
    pub port: u16,
    /// Where trainers reach it, where something between them maps its address to another.
    pub advertise: Option<SocketAddr>,
    /// Folder for decoded blocks, shared by all ranks and jobs; none are kept without.
    pub cache_dir: Option<String>,
    /// Bound of that folder, bytes. Default 64 GiB.
    pub cache_bytes: u64,
    /// Bound of the decoded blocks that a plan holds open, bytes. Default 1 GiB.
    pub memory_bytes: u64,
    /// Bound of all sessions' slots, bytes. Default 4 GiB.
    pub slots_bytes: u64,
    /// Batches that are assembled at once, over all sessions. Default: the machine's cores.
    pub lanes: usize,
}

impl DeskOptions {
    /// The defaults, on loopback, without a cache.
    #[must_use]
    pub fn new(coordinator: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            coordinator: coordinator.into(),
            credentials: None,
            name: name.into(),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            advertise: None,
            cache_dir: None,
            cache_bytes: 64 << 30,
            memory_bytes: 1 << 30,
            slots_bytes: 4 << 30,
            lanes: std::thread::available_parallelism().map_or(2, usize::from),
        }
    }
}

/// A worker's desk: where trainers are served.
#[derive(Debug)]
pub struct Desk {
    server: Server,
    token: Token,
    coordinators: Coordinators,
    shared: Arc<Library>,
}

/// What a worker serves from, whoever asks: the corpora of the coordinator's warehouse, and the plans that are open.
#[derive(Debug)]
pub struct Library {
    options: DeskOptions,
    /// Where the corpora are, once the coordinator has said it.
    warehouse: watch::Sender<Option<String>>,
    /// Plans by their arguments: the ranks of a plan share its blocks.
    plans: Mutex<Plans>,
    pub(crate) lanes: Arc<Semaphore>,
}

#[derive(Default)]
struct Plans {
    open: HashMap<String, Weak<OpenPlan>>,
    /// The last ones used, kept open.
    recent: Vec<Arc<OpenPlan>>,
}

impl std::fmt::Debug for Plans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plans")
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

impl Desk {
    /// Listens for trainers.
    ///
    /// # Errors
    /// Address for a coordinator that cannot be; Access when other machines could connect without credentials;
    /// Transport when there is no port.
    pub async fn open(options: DeskOptions) -> Result<Self> {
        may_listen(
            "a worker's port for trainers",
            options.host,
            options.credentials.as_deref(),
        )?;
        let coordinators = Coordinators::new(&options.coordinator, options.credentials.as_ref());
        let coordinators = coordinators.map_err(|reason| ServeError::address(&options.coordinator, reason))?;
        let token = Token::generate()?;
        let mut serving = ServeOptions::new(SocketAddr::new(options.host, options.port), token.clone());
        serving.credentials.clone_from(&options.credentials);
        serving.slot_bytes_max = SLOT_BYTES_MAX;
        serving.memory_bytes_max = options.slots_bytes;
        let server = Server::bind(serving).await?;
        let shared = Arc::new(Library {
            lanes: Arc::new(Semaphore::new(options.lanes.max(1))),
            options,
            warehouse: watch::Sender::new(None),
            plans: Mutex::default(),
        });
        Ok(Self {
            server,
            token,
            coordinators,
            shared,
        })
    }

    /// Where trainers connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What it serves from.
    #[must_use]
    pub fn library(&self) -> Arc<Library> {
        self.shared.clone()
    }

    /// Serves until `shutdown`; sessions then end, and trainers go on with another worker.
    pub async fn run(self, shutdown: CancellationToken) {
        let sessions = TaskTracker::new();
        let reached = self.shared.options.advertise.unwrap_or(self.address());
        let offering = offer(&self.shared, self.coordinators.clone(), reached, &self.token);
        let accepting = async {
            while let Ok(exporter) = self.server.accept().await {
                let (shared, stop) = (self.shared.clone(), shutdown.clone());
                sessions.spawn(async move {
                    tokio::select! {
                        () = session::run(&shared, &exporter) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        };
        tokio::select! {
            () = offering => {}
            () = accepting => {}
            () = shutdown.cancelled() => {}
        }
        sessions.close();
        sessions.wait().await;
    }
}

/// Offers to serve, again whenever the call ends, for ever.
async fn offer(shared: &Library, mut coordinators: Coordinators, address: SocketAddr, token: &Token) {
    let request = OfferRequest {
        worker: shared.options.name.clone(),
        address: address.to_string(),
        token: token.to_hex(),
        host: host_identity(),
    };
    let (mut pause, mut told) = (PAUSE, false);
    loop {
        let asked = coordinators.caller().clone();
        let ended = match asked.streams().await {
            Err(reason) => {
                coordinators.turn();
                reason
            }
            Ok(mut client) => match client.offer(request.clone()).await {
                Err(status) => {
                    coordinators.turn_after(&status);
                    broken_off(&status).unwrap_or_else(|| status.message().to_owned())
                }
                Ok(reply) => {
                    let mut replies = reply.into_inner();
                    while let Ok(Some(reply)) = replies.message().await {
                        tracing::info!(%address, warehouse = %reply.warehouse, "serves trainers");
                        shared.warehouse.send_replace(Some(reply.warehouse));
                        (pause, told) = (PAUSE, false);
                    }
                    coordinators.turn();
                    "the call ended".to_owned()
                }
            },
        };
        if !told {
            tracing::warn!(coordinator = asked.url(), reason = %ended, "not known to the coordinator as serving; tries again");
            told = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Library {
    /// Bounds the batches that are assembled at once, over all sessions.
    #[must_use]
    pub fn lanes(&self) -> Arc<Semaphore> {
        self.lanes.clone()
    }

    /// Where the corpora are; waits until the coordinator has said it once.
    pub async fn warehouse(&self) -> String {
        let mut warehouse = self.warehouse.subscribe();
        let known = warehouse.wait_for(Option::is_some).await;
        known.ok().and_then(|w| w.clone()).unwrap_or_default()
    }

    /// The plan of these arguments over the coordinator's warehouse; takes as long as a filter has to be worked out.
    ///
    /// # Errors
    /// Those of [`OpenPlan::open`].
    pub fn plan(&self, arguments: &str, warehouse: String) -> Result<Arc<OpenPlan>, BatchError> {
        let key = format!("{warehouse}\n{arguments}");
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let known = plans.open.get(&key).and_then(Weak::upgrade);
        let plan = match known {
            Some(plan) => plan,
            None => {
                // Opened under the lock: ranks that come together open their plan once.
                let surroundings = Surroundings {
                    warehouse,
                    cache_dir: self.options.cache_dir.clone(),
                    cache_bytes: self.options.cache_bytes,
                    memory_bytes: self.options.memory_bytes,
                };
                let plan = Arc::new(OpenPlan::open(Options::parse(arguments)?.within(surroundings))?);
                plans.open.retain(|_, plan| plan.strong_count() > 0);
                plans.open.insert(key, Arc::downgrade(&plan));
                plan
            }
        };
        plans.recent.retain(|p| !Arc::ptr_eq(p, &plan));
        plans.recent.push(plan.clone());
        if plans.recent.len() > PLANS_MAX {
            plans.recent.remove(0);
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corpusmill_transport::{Error, PullOptions, Puller};

    #[tokio::test]
    async fn a_trainer_without_the_token_is_refused_and_the_desk_goes_on() {
        // Nobody answers there: the desk serves those who hold its token all the same.
        let desk = Desk::open(DeskOptions::new("corpusmill://127.0.0.1:9", "w"))
            .await
            .unwrap();
        let (address, token) = (desk.address(), desk.token.clone());
        let stop = CancellationToken::new();
        let running = tokio::spawn(desk.run(stop.clone()));
        let options = |token| PullOptions {
            slot_bytes: 4096,
            ..PullOptions::new(token)
        };
        let refused = Puller::connect(address, options(Token::generate().unwrap())).await;
        assert!(matches!(refused, Err(Error::Unauthorized { .. })), "{refused:?}");
        let taken = Puller::connect(address, options(token)).await.unwrap();
        assert_eq!(taken.slots(), 4);
        stop.cancel();
        running.await.unwrap();
        assert!(taken.next().await.is_err(), "the session ends with its desk");
    }

    #[tokio::test]
    async fn slots_beyond_the_limit_are_refused_by_name() {
        let mut options = DeskOptions::new("corpusmill://127.0.0.1:9", "w");
        options.slots_bytes = 8 << 20;
        let desk = Desk::open(options).await.unwrap();
        let (address, token) = (desk.address(), desk.token.clone());
        let stop = CancellationToken::new();
        let running = tokio::spawn(desk.run(stop.clone()));
        let mut pulling = PullOptions::new(token);
        pulling.slot_bytes = 4 << 20;
        let refused = Puller::connect(address, pulling).await.unwrap_err();
        assert!(matches!(refused, Error::OverLimit { .. }), "{refused}");
        stop.cancel();
        running.await.unwrap();
    }
}
