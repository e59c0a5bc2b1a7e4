//! The trainer's part: batches in the order of steps, from whichever worker serves them.
//!
//! ```text
//!  coordinator ── workers, the preferred first ──▶ Known ─▶ reader: connect, pull, decode ─▶ queue ─▶ take()
//!                                                            │ lost, silent, refused
//!                                                            └─▶ the next worker, at the step that is wanted next
//! ```
//! The queue holds half of the session's slots. A consumer that keeps more batches than the rest can hold gets copies,
//! so that it never waits for itself.

mod follow;
mod reader;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corpusmill_access::Credentials;
use corpusmill_batches::{BatchData, BatchShape, SlabPool};
use corpusmill_proto::Coordinators;
use corpusmill_proto::stream::OpenRequest;
use corpusmill_transport::{Choice, Token, host_identity};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Result, ServeError};

use follow::{Known, follow};
use reader::Reader;

/// Events that are kept until somebody asks for them.
const EVENTS_MAX: usize = 100;
/// Free buffers for fields that the worker did not make.
const SLABS_MAX: usize = 8;

/// What a rank reads, and how.
#[derive(Debug, Clone)]
pub struct FeedOptions {
    /// The coordinator: `corpusmill://HOST:PORT`, or several: `corpusmill://HOST:PORT,HOST:PORT`.
    pub source: String,
    /// What is shown to the coordinator and the workers, and asked of them.
    pub credentials: Option<Arc<Credentials>>,
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
    /// The run of a live plan, whose log all ranks must follow.
    pub run: Option<String>,
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
        let coordinators = Coordinators::new(&options.source, options.credentials.as_ref());
        let coordinators = coordinators.map_err(|reason| ServeError::address(&options.source, reason))?;
        options.slots = options.slots.max(6);
        let (state, stop) = (Arc::new(State::default()), CancellationToken::new());
        let (sender, queue) = mpsc::channel(options.slots as usize / 2);
        let (known, servers) = watch::channel(Known::default());
        let source = options.source.clone();
        let request = open_request(&options)?;
        let following = follow(coordinators, request, known);
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
        plan_hash: match &options.run {
            Some(run) => format!("{} in run {run}", options.plan_hash),
            None => options.plan_hash.clone(),
        },
        host: host_identity(),
        reader: format!("process {} on {}, {}", std::process::id(), host.trim(), &id[..8]),
    })
}
