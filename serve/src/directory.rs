//! The coordinator's part: which workers serve, which ranks read.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corpusmill_proto::Asks;
use corpusmill_proto::stream::streams_server::{Streams, StreamsServer};
use corpusmill_proto::stream::{OfferReply, OfferRequest, OpenReply, OpenRequest, Server};
use futures::{Stream, StreamExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use crate::jobs::{Jobs, NotTaken, OpenRank};
use crate::ranking::preferred;

/// Workers that may offer to serve, and ranks that may read, at once.
const CALLS_MAX: usize = 65_536;
/// Workers that a rank is told of. More would be sent to every rank whenever any worker comes or goes.
const SERVERS_MAX: usize = 8;
/// How long the ranks of a job may take to open before the missing ones are named in the log.
const COMPLETE_WITHIN: Duration = Duration::from_secs(60);

/// Brings trainers and workers together. Holds nothing that outlives its calls: workers and ranks come again when the
/// coordinator was started again.
#[derive(Debug)]
pub struct Directory {
    warehouse: String,
    workers: Mutex<BTreeMap<u64, OfferRequest>>,
    /// Counts changes of `workers`.
    changes: watch::Sender<u64>,
    next: AtomicU64,
    jobs: Arc<Jobs>,
    /// Ends the calls that are open.
    dismissed: Mutex<CancellationToken>,
}

impl Directory {
    /// A directory without workers; `warehouse` is what they are told to read from.
    #[must_use]
    pub fn new(warehouse: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            warehouse: warehouse.into(),
            workers: Mutex::default(),
            changes: watch::Sender::new(0),
            next: AtomicU64::new(0),
            jobs: Arc::default(),
            dismissed: Mutex::default(),
        })
    }

    /// Ends all calls: workers and trainers then look for the coordinator that leads.
    pub fn dismiss(&self) {
        std::mem::take(&mut *self.dismissed.lock().unwrap_or_else(PoisonError::into_inner)).cancel();
    }

    /// Ends with the calls that are open now.
    fn open_calls(&self) -> impl Future<Output = ()> + Send + use<> {
        let dismissed = self.dismissed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        dismissed.cancelled_owned()
    }

    /// The service for tonic, for callers that say what is asked.
    #[must_use]
    pub fn service(self: &Arc<Self>, asks: Asks) -> InterceptedService<StreamsServer<Calls>, Asks> {
        InterceptedService::new(StreamsServer::new(Calls(self.clone())), asks)
    }

    /// Names of the workers that serve now.
    #[must_use]
    pub fn workers(&self) -> Vec<String> {
        self.lock().values().map(|w| w.worker.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, OfferRequest>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers(&self, request: &OpenRequest) -> OpenReply {
        let mut workers: Vec<OfferRequest> = self.lock().values().cloned().collect();
        preferred(&mut workers, &request.plan_hash, &request.host, |w| {
            (&w.worker, &w.host)
        });
        let server = |w: OfferRequest| Server {
            worker: w.worker,
            address: w.address,
            token: w.token,
        };
        OpenReply {
            servers: workers.into_iter().take(SERVERS_MAX).map(server).collect(),
        }
    }
}

/// A worker that serves; gone when its call ends.
struct Present {
    directory: Arc<Directory>,
    id: u64,
    worker: String,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.directory.lock().remove(&self.id);
        self.directory.changes.send_modify(|n| *n += 1);
        tracing::info!(worker = %self.worker, "a worker serves no more");
    }
}

/// A rank that reads; gone when its call ends.
struct Reading {
    rank: OpenRank,
    request: OpenRequest,
    directory: Arc<Directory>,
    changes: watch::Receiver<u64>,
    last: Option<OpenReply>,
}

impl Reading {
    /// The next answer that differs from the last.
    async fn next(mut self) -> Option<(Result<OpenReply, Status>, Self)> {
        loop {
            self.changes.borrow_and_update();
            let reply = self.directory.servers(&self.request);
            if self.last.as_ref() != Some(&reply) {
                self.last = Some(reply.clone());
                return Some((Ok(reply), self));
            }
            if self.changes.changed().await.is_err() {
                return None;
            }
        }
    }
}

/// The service as tonic wants it.
#[derive(Debug)]
pub struct Calls(Arc<Directory>);

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Streams for Calls {
    type OfferStream = Replies<OfferReply>;
    type OpenStream = Replies<OpenReply>;

    async fn offer(&self, request: Request<OfferRequest>) -> Result<Response<Self::OfferStream>, Status> {
        let (directory, request) = (self.0.clone(), request.into_inner());
        if request.address.parse::<std::net::SocketAddr>().is_err() {
            return Err(Status::invalid_argument(format!("`{}` is no address", request.address)));
        }
        if directory.lock().len() >= CALLS_MAX {
            return Err(Status::resource_exhausted(format!("{CALLS_MAX} workers serve already")));
        }
        let id = directory.next.fetch_add(1, Ordering::Relaxed);
        let worker = request.worker.clone();
        tracing::info!(%worker, address = %request.address, "a worker serves");
        directory.lock().insert(id, request);
        directory.changes.send_modify(|n| *n += 1);
        let warehouse = directory.warehouse.clone();
        let dismissed = directory.open_calls();
        let present = Present { directory, id, worker };
        // One answer, then silence for as long as the call lasts.
        let replies = futures::stream::unfold((present, Some(warehouse)), |(present, warehouse)| async move {
            match warehouse {
                Some(warehouse) => Some((Ok(OfferReply { warehouse }), (present, None))),
                None => std::future::pending().await,
            }
        });
        Ok(Response::new(Box::pin(replies.take_until(dismissed))))
    }

    async fn open(&self, request: Request<OpenRequest>) -> Result<Response<Self::OpenStream>, Status> {
        let (directory, request) = (self.0.clone(), request.into_inner());
        let (rank, is_first) = directory.jobs.open(&request).map_err(|e| match e {
            NotTaken::Refused(reason) => Status::failed_precondition(reason),
            NotTaken::Busy(reason) => Status::already_exists(reason),
        })?;
        tracing::info!(job = %request.job, rank = request.rank, world = request.world, reader = %request.reader, "reads");
        if is_first {
            tell_the_missing(directory.clone(), request.job.clone());
        }
        let dismissed = directory.open_calls();
        let reading = Reading {
            changes: directory.changes.subscribe(),
            directory,
            rank,
            request,
            last: None,
        };
        let replies = futures::stream::unfold(reading, Reading::next).take_until(dismissed);
        Ok(Response::new(Box::pin(replies)))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let OpenRequest { job, rank, .. } = &self.request;
        tracing::info!(%job, rank, open = ?self.rank, "reads no more");
    }
}

/// Names the ranks that did not open their stream although others of the job did.
fn tell_the_missing(directory: Arc<Directory>, job: String) {
    tokio::spawn(async move {
        tokio::time::sleep(COMPLETE_WITHIN).await;
        let (open, missing) = directory.jobs.missing(&job);
        if open > 0 && !missing.is_empty() {
            tracing::warn!(%job, open, ?missing, "ranks have not opened their stream: their share is not read");
        }
    });
}
