//! The trainer's part: batches in the order of steps, from whichever worker serves them.
//!
//! ```text
//!  coordinator ── workers, the preferred first ──▶ Known ─▶ reader: connect, pull, decode ─▶ queue ─▶ take()
//!                                                            │ lost, silent, refused
//!                                                            └─▶ the next worker, at the step that is wanted next
//! ```
//! The queue holds half of the session's slots. A consumer that keeps more batches than the rest can hold gets copies,
//! so that it never waits for itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::buffer::Buffer;
use bytes::Bytes;
use corpusmill_batches::{BatchData, BatchShape, SlabPool};
use corpusmill_proto::stream::delivery::What;
use corpusmill_proto::stream::{Delivery, OpenRequest, Read, Server};
use corpusmill_transport::{
    Body, Choice, Descriptor, Error as TransportError, PullOptions, Puller, Token, host_identity,
};
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Code;
use tonic::transport::Endpoint;

use crate::error::{Result, ServeError};
use crate::{delivery, link};

/// Pauses between two calls to the coordinator.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a rank may be taken by a process that is about to be gone.
const BUSY: Duration = Duration::from_secs(20);
/// A worker that failed is not asked again for so long, while there is another.
const AVOID: Duration = Duration::from_secs(10);
/// Pause before the only worker is asked again.
const AGAIN: Duration = Duration::from_millis(250);
/// A worker that has delivered and then delivers nothing for so long is left for another.
const STALL: Duration = Duration::from_secs(120);
/// Events that are kept until somebody asks for them.
const EVENTS_MAX: usize = 100;
/// Free buffers for fields that the worker did not make.
const SLABS_MAX: usize = 8;

/// What a rank reads, and how.
#[derive(Debug, Clone)]
pub struct FeedOptions {
    /// The coordinator: `corpusmill://HOST:PORT`.
    pub source: String,
    /// Name of the job: its ranks are checked against each other.
    pub job: String,
    /// This rank, from 0.
    pub rank: u32,
    /// Ranks of the job.
    pub world: u32,
    /// The plan's arguments, JSON, as [`corpusmill_batches::OpenPlan::arguments`] gives them.
    pub arguments: String,
    /// The plan's hash.
    pub plan_hash: String,
    /// What its batches have in common.
    pub shape: Arc<BatchShape>,
    /// Fields that the worker makes; all when there are none.
    pub fields: Vec<String>,
    /// The transport.
    pub transport: Choice,
    /// Slots of the session, at least 6.
    pub slots: u32,
    /// Bytes of a slot; grows when a batch does not fit.
    pub slot_bytes: u64,
    /// A step that nobody served for so long is an error.
    pub patience: Duration,
}

/// What a feed did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedStats {
    /// The transport of the last session; none before the first.
    pub transport: Option<String>,
    /// The worker of the last session.
    pub worker: Option<String>,
    /// Workers that were left for another, or asked again, after a failure.
    pub failovers: u64,
    /// Batches that were copied because the consumer kept many.
    pub copies: u64,
    /// Most bytes of bodies held at once.
    pub bytes_peak: u64,
}

#[derive(Debug, Default)]
struct State {
    session: Mutex<(Option<String>, Option<String>)>,
    events: Mutex<Vec<String>>,
    failovers: AtomicU64,
    copies: AtomicU64,
    bytes_peak: AtomicU64,
    /// Bodies that are alive, and their bytes.
    live: AtomicUsize,
    live_bytes: AtomicU64,
    /// Batches in the queue.
    queued: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn say(&self, event: String) {
        tracing::info!("{event}");
        let mut events = lock(&self.events);
        if events.len() < EVENTS_MAX {
            events.push(event);
        }
    }
}

/// A body that counts as alive until the last array over it is dropped.
struct Counted {
    bytes: Bytes,
    state: Arc<State>,
}

impl Counted {
    fn new(bytes: Bytes, state: &Arc<State>) -> Self {
        state.live.fetch_add(1, Ordering::Relaxed);
        let live = state.live_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
        state.bytes_peak.fetch_max(live, Ordering::Relaxed);
        let state = state.clone();
        Self { bytes, state }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.state.live.fetch_sub(1, Ordering::Relaxed);
        self.state
            .live_bytes
            .fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

/// A batch, and whether its body counts as alive; none behind the last step.
type Item = Result<Option<(BatchData, bool)>>;

/// One rank's batches from a given step on. Dropping it ends the session.
#[derive(Debug)]
pub struct Feed {
    queue: Mutex<mpsc::Receiver<Item>>,
    state: Arc<State>,
    source: String,
    /// The plan ended: that stays so for whoever asks again.
    ended: AtomicBool,
    _stop: DropGuard,
}

impl Feed {
    /// Starts reading at `step`, on the threads of `handle`.
    ///
    /// # Errors
    /// Address for a source that is none.
    pub fn start(handle: &Handle, mut options: FeedOptions, step: u64) -> Result<Self> {
        let endpoint = link::endpoint(&options.source)?;
        options.slots = options.slots.max(6);
        let (state, stop) = (Arc::new(State::default()), CancellationToken::new());
        let (sender, queue) = mpsc::channel(options.slots as usize / 2);
        let (known, servers) = watch::channel(Known::default());
        let source = options.source.clone();
        let request = open_request(&options)?;
        let following = follow(endpoint, request, known);
        let reader = Reader {
            options,
            state: state.clone(),
            servers,
            queue: sender,
            pool: SlabPool::new(SLABS_MAX),
            avoid: HashMap::new(),
            step,
            progress: Instant::now(),
        };
        let stopped = stop.clone();
        handle.spawn(async move {
            tokio::select! {
                () = reader.run() => {}
                () = following => {}
                () = stopped.cancelled() => {}
            }
        });
        Ok(Self {
            queue: Mutex::new(queue),
            state,
            source,
            ended: AtomicBool::new(false),
            _stop: stop.drop_guard(),
        })
    }

    /// Waits for the next batch; `None` behind the last step. Not to be called from an async task.
    ///
    /// # Errors
    /// The one that ended the feed; start another then.
    pub fn take(&self) -> Result<Option<BatchData>> {
        if self.ended.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let item = lock(&self.queue).blocking_recv();
        let over = || ServeError::Protocol(format!("the stream from {} is over", self.source));
        let Some((batch, counted)) = item.ok_or_else(over)?? else {
            self.ended.store(true, Ordering::Relaxed);
            return Ok(None);
        };
        if counted {
            self.state.queued.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(Some(batch))
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> FeedStats {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let (transport, worker) = lock(&self.state.session).clone();
        FeedStats {
            transport,
            worker,
            failovers: of(&self.state.failovers),
            copies: of(&self.state.copies),
            bytes_peak: of(&self.state.bytes_peak),
        }
    }

    /// What happened since the last call, for a log.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.state.events))
    }
}

fn open_request(options: &FeedOptions) -> Result<OpenRequest> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let id = Token::generate()?.to_hex();
    Ok(OpenRequest {
        job: options.job.clone(),
        rank: options.rank,
        world: options.world,
        plan_hash: options.plan_hash.clone(),
        host: host_identity(),
        reader: format!("process {} on {}, {}", std::process::id(), host.trim(), &id[..8]),
    })
}

/// What the coordinator said.
#[derive(Debug, Default)]
struct Known {
    servers: Vec<Server>,
    /// Why the rank is not taken in, for good.
    refused: Option<String>,
    /// Why nothing is known just now.
    trouble: Option<String>,
}

/// Keeps the rank's call to the coordinator open; never ends.
async fn follow(endpoint: Endpoint, request: OpenRequest, known: watch::Sender<Known>) {
    let mut pause = PAUSE;
    let mut busy_since = None;
    loop {
        let trouble = match link::connect(&endpoint).await {
            Err(reason) => format!("no coordinator answers at {}: {reason}", endpoint.uri()),
            Ok(mut client) => match client.open(request.clone()).await {
                Ok(replies) => {
                    let mut replies = replies.into_inner();
                    while let Ok(Some(reply)) = replies.message().await {
                        (pause, busy_since) = (PAUSE, None);
                        known.send_modify(|known| {
                            known.trouble = reply
                                .servers
                                .is_empty()
                                .then(|| format!("no worker serves at {}: start `corpusmill worker`", endpoint.uri()));
                            // The last ones are better than none, while a coordinator that was started again has none.
                            if !reply.servers.is_empty() {
                                known.servers = reply.servers;
                            }
                        });
                    }
                    format!("the coordinator at {} is gone", endpoint.uri())
                }
                Err(status) => {
                    let reason = status.message().to_owned();
                    let waited = busy_since.get_or_insert_with(Instant::now).elapsed();
                    let for_good = match status.code() {
                        Code::FailedPrecondition | Code::Unimplemented => true,
                        Code::AlreadyExists => waited > BUSY,
                        _ => false,
                    };
                    if for_good {
                        known.send_modify(|known| known.refused = Some(reason));
                        return std::future::pending().await;
                    }
                    reason
                }
            },
        };
        known.send_modify(|known| known.trouble = Some(trouble));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Reads one rank's steps.
struct Reader {
    options: FeedOptions,
    state: Arc<State>,
    servers: watch::Receiver<Known>,
    queue: mpsc::Sender<Item>,
    pool: Arc<SlabPool>,
    /// Workers that failed, and when.
    avoid: HashMap<String, Instant>,
    /// The step that is wanted next.
    step: u64,
    /// When something last arrived.
    progress: Instant,
}

/// How a session ended without an error.
enum Ended {
    /// The plan did.
    Plan,
    /// The consumer is gone.
    Consumer,
    /// A batch of so many bytes does not fit a slot.
    TooLarge(u64),
}

impl Reader {
    async fn run(mut self) {
        let mut reason = "no coordinator answered yet".to_owned();
        loop {
            let server = match self.choose(&mut reason).await {
                Ok(server) => server,
                Err(error) => return self.end(Err(error)).await,
            };
            match self.session(&server).await {
                Ok(Ended::Plan) => return self.end(Ok(None)).await,
                Ok(Ended::Consumer) => return,
                Ok(Ended::TooLarge(bytes)) => {
                    self.options.slot_bytes = bytes + bytes / 4;
                }
                Err(error) if error.retry() || matches!(error, ServeError::Transport(_)) => {
                    reason = format!("worker {}: {}", server.worker, link::causes(&error));
                    self.state.failovers.fetch_add(1, Ordering::Relaxed);
                    let step = self.step;
                    self.state
                        .say(format!("left a worker at step {step}, going on with another: {reason}"));
                    self.avoid.insert(server.address, Instant::now());
                }
                Err(error) => return self.end(Err(error)).await,
            }
        }
    }

    async fn end(self, last: Item) {
        // A consumer that is gone does not want to know.
        let _ = self.queue.send(last).await;
    }

    /// The best worker that did not fail just now, else the one whose failure is longest ago.
    async fn choose(&mut self, reason: &mut String) -> Result<Server> {
        loop {
            let best = {
                let known = self.servers.borrow_and_update();
                if let Some(refused) = &known.refused {
                    return Err(ServeError::Refused {
                        url: self.options.source.clone(),
                        reason: refused.clone(),
                    });
                }
                if let Some(trouble) = known.trouble.as_ref().filter(|_| known.servers.is_empty()) {
                    reason.clone_from(trouble);
                }
                let failed = |server: &&Server| self.avoid.get(&server.address).copied();
                let good = known
                    .servers
                    .iter()
                    .find(|s| failed(s).is_none_or(|at| at.elapsed() > AVOID));
                let good = good.map(|s| (s.clone(), Duration::ZERO));
                let oldest = known.servers.iter().min_by_key(failed);
                good.or_else(|| oldest.map(|s| (s.clone(), AGAIN)))
            };
            let left = self.options.patience.saturating_sub(self.progress.elapsed());
            if left.is_zero() {
                return Err(ServeError::Nobody {
                    step: self.step,
                    after_s: self.options.patience.as_secs(),
                    reason: reason.clone(),
                });
            }
            match best {
                Some((server, pause)) => {
                    tokio::time::sleep(pause).await;
                    return Ok(server);
                }
                // A change, or the end of patience.
                None => _ = tokio::time::timeout(left, self.servers.changed()).await,
            }
        }
    }

    /// Reads from one worker until it or the plan ends.
    async fn session(&mut self, server: &Server) -> Result<Ended> {
        let puller = self.connect(server).await?;
        let slots = puller.slots() as usize;
        let kept_max = slots.saturating_sub(self.options.slots as usize / 2 + 2).max(1);
        let mut began = false;
        loop {
            let descriptor = match began {
                true => tokio::time::timeout(STALL, puller.next())
                    .await
                    .map_err(|_| TransportError::Timeout {
                        what: "the next batch of a worker that has delivered before".to_owned(),
                        after_ms: STALL.as_millis() as u64,
                    })?,
                false => puller.next().await,
            };
            let Some(descriptor) = descriptor? else {
                return Err(TransportError::Closed {
                    peer: server.address.clone(),
                    reason: "the worker ended the stream".to_owned(),
                }
                .into());
            };
            let body = pull(&puller, &descriptor).await?;
            let delivery = Delivery::decode(&body.metadata()[..])
                .map_err(|e| ServeError::Protocol(format!("worker {}: {e}", server.worker)))?;
            if delivery.step != self.step {
                return Err(ServeError::Protocol(format!(
                    "worker {} delivers step {} where {} was next",
                    server.worker, delivery.step, self.step
                )));
            }
            match delivery.what {
                Some(What::Batch(header)) => {
                    let (buffer, counted) = self.buffer(body, kept_max);
                    let batch = BatchData::decode(&self.options.shape, &header, buffer, &self.pool)?;
                    if counted {
                        self.state.queued.fetch_add(1, Ordering::Relaxed);
                    }
                    if self.queue.send(Ok(Some((batch, counted)))).await.is_err() {
                        return Ok(Ended::Consumer);
                    }
                    self.step += 1;
                    self.progress = Instant::now();
                    began = true;
                }
                Some(What::End(_)) => return Ok(Ended::Plan),
                Some(What::TooLarge(large)) => return Ok(Ended::TooLarge(large.bytes)),
                Some(What::Failed(failed)) if failed.retry => {
                    return Err(TransportError::PeerLost {
                        peer: server.address.clone(),
                        reason: failed.message,
                    }
                    .into());
                }
                Some(What::Failed(failed)) => {
                    return Err(ServeError::Failed {
                        worker: server.worker.clone(),
                        step: self.step,
                        kind: delivery::kind(&failed),
                        message: failed.message,
                    });
                }
                None => {
                    return Err(ServeError::Protocol(format!(
                        "worker {} says something that this release does not know",
                        server.worker
                    )));
                }
            }
        }
    }

    async fn connect(&self, server: &Server) -> Result<Puller> {
        let options = &self.options;
        let strange = |what: String| ServeError::Protocol(format!("worker {}: {what}", server.worker));
        let address = server
            .address
            .parse()
            .map_err(|e| strange(format!("`{}`: {e}", server.address)))?;
        let read = Read {
            job: options.job.clone(),
            rank: options.rank,
            world: options.world,
            plan: options.arguments.clone(),
            plan_hash: options.plan_hash.clone(),
            step: self.step,
            fields: options.fields.clone(),
        };
        let mut pulling = PullOptions::new(server.token.parse().map_err(strange)?);
        pulling.choice = options.transport;
        pulling.slots = options.slots;
        pulling.own_slots = options.slots;
        pulling.slot_bytes = options.slot_bytes;
        pulling.application = read.encode_to_vec().into();
        let puller = Puller::connect(address, pulling).await?;
        let (step, rank) = (self.step, options.rank);
        self.state.say(format!(
            "rank {rank} reads from worker {} at {address} over {} from step {step} on ({})",
            server.worker,
            puller.kind(),
            puller.why()
        ));
        *lock(&self.state.session) = (Some(puller.kind().to_string()), Some(server.worker.clone()));
        Ok(puller)
    }

    /// The body as memory of a batch; a copy where the consumer keeps so many that the worker would get no slot back.
    fn buffer(&self, body: Body, kept_max: usize) -> (Buffer, bool) {
        let bytes = body.into_bytes().unwrap_or_default();
        let state = &self.state;
        let kept = state
            .live
            .load(Ordering::Relaxed)
            .saturating_sub(state.queued.load(Ordering::Relaxed));
        if kept > kept_max {
            state.copies.fetch_add(1, Ordering::Relaxed);
            return (Buffer::from_slice_ref(&bytes), false);
        }
        (Buffer::from(Bytes::from_owner(Counted::new(bytes, state))), true)
    }
}

/// Pulls a body, once more if it arrived corrupt.
async fn pull(puller: &Puller, descriptor: &Descriptor) -> Result<Body> {
    match puller.pull(descriptor).await {
        Err(TransportError::Corrupt { .. }) => Ok(puller.pull(descriptor).await?),
        other => Ok(other?),
    }
}
