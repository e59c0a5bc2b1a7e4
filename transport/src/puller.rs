//! A session on the trainer: descriptors in, verified bodies out.

mod opening;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corpusmill_access::Credentials;
use tokio::sync::mpsc;

use crate::claims::{Claim, Claims};
use crate::handshake::unexpected;
use crate::link::{self, Ending, Outbox, Release, Timeouts, blocking};
use crate::pool::{Body, TrainerMemory};
use crate::ring::Layout;
use crate::transport::{Arrival, Import};
use crate::wire::Frame;
use crate::{Checksum, Choice, Descriptor, Error, Kind, Refusal, Result, Token};

use opening::{Granted, open};

/// What a trainer asks for.
#[derive(Debug)]
pub struct PullOptions {
    /// The secret shared with the worker.
    pub token: Token,
    /// What both sides show: connections are inside TLS then. Default: none.
    pub credentials: Option<Arc<Credentials>>,
    /// The transport. Default: `auto`.
    pub choice: Choice,
    /// Slots of the worker's ring that this session wants. Default 4.
    pub slots: u32,
    /// Bytes of a slot: the largest body. Default 16 MiB.
    pub slot_bytes: u64,
    /// Slots of the trainer's own, for the transports that copy (rdma, tcp). Default 4.
    pub own_slots: u32,
    /// Reads that may be under way at once. Default 4.
    pub outstanding: u32,
    /// Weakest checksum that is accepted. Default: what [`Kind::default_checksum`] says.
    pub checksum_least: Option<Checksum>,
    /// Sent along for the worker's application. At most 1 MiB.
    pub application: Bytes,
    /// Where bodies are read to. Default: host memory.
    pub memory: TrainerMemory,
    /// How long things may take.
    pub timeouts: Timeouts,
}

impl PullOptions {
    /// The defaults.
    #[must_use]
    pub fn new(token: Token) -> Self {
        Self {
            token,
            credentials: None,
            choice: Choice::Auto,
            slots: 4,
            slot_bytes: 16 << 20,
            own_slots: 4,
            outstanding: 4,
            checksum_least: None,
            application: Bytes::new(),
            memory: TrainerMemory::Host,
            timeouts: Timeouts::default(),
        }
    }
}

/// What a session has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PullStats {
    /// Bodies pulled and verified.
    pub pulled: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Descriptors refused and bodies found corrupt.
    pub refused: u64,
    /// Time spent in [`Puller::next`] waiting for descriptors, in microseconds.
    pub waited_us: u64,
}

#[derive(Debug, Default)]
struct Counters {
    pulled: AtomicU64,
    bytes: AtomicU64,
    refused: AtomicU64,
    waited_us: AtomicU64,
}

/// A worker's session, the trainer's half.
///
/// ```text
///  next().await ─▶ Descriptor ─▶ pull(&descriptor) ─▶ checks ─▶ read ─▶ xxh3 ─▶ Body ─▶ dropped: slots are free again
/// ```
/// Several pulls may run at once, in any order. Dropping the puller ends the session; bodies stay valid.
pub struct Puller {
    import: Box<dyn Import>,
    ending: Arc<Ending>,
    outbox: Outbox,
    descriptors: tokio::sync::Mutex<mpsc::Receiver<Descriptor>>,
    ended: Arc<AtomicBool>,
    claims: Mutex<Claims>,
    session: u64,
    layout: Layout,
    kind: Kind,
    checksum: Checksum,
    why: String,
    device: bool,
    counters: Counters,
    flush_limit: Duration,
}

impl std::fmt::Debug for Puller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Puller")
            .field("session", &self.session)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Puller {
    /// Opens a session with the worker at `address`.
    ///
    /// Under `auto`, a transport that fails while it is set up is left out and the next one tried; what was chosen and
    /// why is logged.
    ///
    /// # Errors
    /// `PeerLost` when nobody is there, `Unauthorized`, `Version`, `Unavailable` when a forced transport does not
    /// work, `OverLimit` when the worker has no room, `Memory`, `Timeout`, `Protocol`.
    pub async fn connect(address: SocketAddr, mut options: PullOptions) -> Result<Self> {
        let mut failed: Vec<Kind> = Vec::new();
        loop {
            let memory = match &options.memory {
                TrainerMemory::Host => TrainerMemory::Host,
                TrainerMemory::Dmabuf {
                    fd,
                    offset,
                    length,
                    address,
                } => TrainerMemory::Dmabuf {
                    fd: fd
                        .try_clone()
                        .map_err(|e| Error::io("duplicating a dmabuf's descriptor", e))?,
                    offset: *offset,
                    length: *length,
                    address: *address,
                },
            };
            let mut tried = None;
            match open(address, &options, memory, &failed, &mut tried).await {
                Ok(granted) => return Ok(Self::start(granted, &mut options)),
                Err(error) => match tried {
                    Some(kind) if options.choice == Choice::Auto && kind != Kind::Tcp && !failed.contains(&kind) => {
                        tracing::warn!(%address, %kind, %error, "transport not set up, trying the next");
                        failed.push(kind);
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    fn start(granted: Granted, options: &mut PullOptions) -> Self {
        let Granted {
            stream,
            import,
            ending,
            session,
            layout,
            kind,
            checksum,
            why,
        } = granted;
        // a worker can have no more than its slots on the way, each of them said once more after a failed pull
        let (queue, descriptors) = mpsc::channel(2 * layout.slots as usize);
        let (ended, peer) = (Arc::new(AtomicBool::new(false)), ending.peer.clone());
        let (all, over) = (Arc::clone(&ended), Arc::clone(&ending));
        let mut queue = Some(queue);
        let outbox = link::start(stream, &ending, options.timeouts, move |frame| match (frame, &queue) {
            (Frame::Descriptor(descriptor), Some(sender)) => sender
                .try_send(descriptor)
                .map_err(|_| Error::protocol(&peer, "more descriptors than the session's slots can have")),
            (Frame::End { .. }, Some(_)) => {
                all.store(true, Ordering::Release);
                over.complete();
                queue = None;
                Ok(())
            }
            (other, _) => Err(unexpected(&peer, "a descriptor", other)),
        });
        Self {
            import,
            ending,
            outbox,
            descriptors: tokio::sync::Mutex::new(descriptors),
            ended,
            claims: Mutex::new(Claims::new(layout.slots)),
            session,
            layout,
            kind,
            checksum,
            why,
            device: matches!(options.memory, TrainerMemory::Dmabuf { .. }),
            counters: Counters::default(),
            flush_limit: options.timeouts.silence,
        }
    }

    /// Number of the session, as in its descriptors.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The transport that was chosen.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Why that one: what the worker uses for it, and which were left out for what reason.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// What the session's checksums cover.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Slots of the worker's ring in this session.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.layout.slots
    }

    /// Bytes of a slot, whole pages.
    #[must_use]
    pub fn slot_bytes(&self) -> u64 {
        self.layout.slot_bytes
    }

    /// Waits for the worker's next descriptor; `None` when it has sent all. Cancel safe.
    ///
    /// # Errors
    /// The session's end, once the descriptors that came before it are taken.
    pub async fn next(&self) -> Result<Option<Descriptor>> {
        let started = Instant::now();
        let mut descriptors = self.descriptors.lock().await;
        let next = match descriptors.try_recv() {
            Ok(descriptor) => Ok(Some(descriptor)),
            Err(_) => match self.ending.unless(descriptors.recv()).await {
                Ok(Some(descriptor)) => Ok(Some(descriptor)),
                Ok(None) | Err(_) if self.ended.load(Ordering::Acquire) => Ok(None),
                Ok(None) => Err(self.ending.wait().await),
                Err(error) => Err(error),
            },
        };
        self.counters
            .waited_us
            .fetch_add(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        next
    }

    /// Checks a descriptor, reads its body, verifies it, and frees the worker's slot: at once where the body is a
    /// copy, when the body is dropped where it is the slot itself.
    ///
    /// Waits for one of the trainer's own slots, without a limit: that is the caller's back-pressure. A pull that is
    /// dropped, or finds the body corrupt, leaves the descriptor to be pulled again.
    ///
    /// # Errors
    /// `Refused` for a descriptor that breaks a rule (nothing else happens), `Corrupt` (worth one more try), `Timeout`,
    /// `Rdma`, or the session's end. Refusals and corrupt bodies are logged here, for whoever looks after the job.
    pub async fn pull(&self, descriptor: &Descriptor) -> Result<Body> {
        let outcome = self.attempt(descriptor).await;
        match &outcome {
            Ok(body) => {
                self.counters.pulled.fetch_add(1, Ordering::Relaxed);
                self.counters.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
            }
            Err(error @ (Error::Refused { .. } | Error::Corrupt { .. })) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(peer = self.ending.peer, kind = %self.kind, %error, "body refused");
            }
            Err(_) => {}
        }
        outcome
    }

    async fn attempt(&self, descriptor: &Descriptor) -> Result<Body> {
        self.check(descriptor)?;
        let claim = Claim::take(&self.claims, descriptor)?;
        let Arrival { body, xxh3, copied } = self.import.read(descriptor, self.checksum, &self.outbox).await?;
        let body = if self.device {
            body
        } else {
            verify(descriptor, body, xxh3).await?
        };
        claim.keep();
        body.accept();
        if copied {
            let Descriptor {
                slot, generation, seq, ..
            } = *descriptor;
            let release = Release::held(self.outbox.clone(), slot, generation, seq);
            release.arm();
        }
        Ok(body)
    }

    fn check(&self, descriptor: &Descriptor) -> Result<()> {
        if descriptor.session != self.session {
            let detail = format!("this is session {:016x}", self.session);
            return Err(descriptor.refused(Refusal::WrongSession, detail));
        }
        if !self
            .layout
            .contains(descriptor.slot, descriptor.offset, descriptor.length)
        {
            let Descriptor { offset, length, .. } = descriptor;
            let Layout { slots, slot_bytes } = self.layout;
            let detail = format!("offset {offset} and length {length} in {slots} slots of {slot_bytes} bytes");
            return Err(descriptor.refused(Refusal::OutOfBounds, detail));
        }
        if descriptor.checksum < self.checksum {
            let detail = format!("{:?} where the session has {:?}", descriptor.checksum, self.checksum);
            return Err(descriptor.refused(Refusal::WeakChecksum, detail));
        }
        Ok(())
    }

    /// Closes the session and waits, briefly, until the worker was sent the last frees.
    ///
    /// A process that leaves right after its last body calls this, or its worker takes it for lost: dropping the puller
    /// does the same, but waits for nothing. Bodies stay valid.
    pub async fn close(&self) {
        self.ending
            .close_and_flush("the trainer closed the session", self.flush_limit)
            .await;
    }

    /// Waits until the session is over and says how it ended. Cancel safe.
    pub async fn closed(&self) -> Error {
        self.ending.wait().await
    }

    /// What was pulled and refused, and how long descriptors were waited for.
    #[must_use]
    pub fn stats(&self) -> PullStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters {
            pulled,
            bytes,
            refused,
            waited_us,
        } = &self.counters;
        PullStats {
            pulled: of(pulled),
            bytes: of(bytes),
            refused: of(refused),
            waited_us: of(waited_us),
        }
    }
}

impl Drop for Puller {
    fn drop(&mut self) {
        self.ending.close("the trainer dropped the session");
    }
}

/// Compares a body's checksum with its descriptor's.
async fn verify(descriptor: &Descriptor, body: Body, known: Option<u64>) -> Result<Body> {
    let (checksum, expected, seq) = (descriptor.checksum, descriptor.xxh3, descriptor.seq);
    let found = match known {
        Some(found) => found,
        None if checksum == Checksum::Full && body.len() > Checksum::INLINE_BYTES_MAX => {
            let shared = body.clone();
            blocking("hashing a body", move || {
                Ok(checksum.of(shared.host().unwrap_or_default()))
            })
            .await?
        }
        None => checksum.of(body.host().unwrap_or_default()),
    };
    if found == expected {
        Ok(body)
    } else {
        Err(Error::Corrupt { seq, expected, found })
    }
}
