//! The worker's port: introductions, limits, sessions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::choose::{reason_of, skipped_in_words};
use crate::exporter::{Exporter, Freed};
use crate::handshake::{self, Introduction, send, unexpected};
use crate::link::{self, Ending, Timeouts, blocking, within};
use crate::ring::{Layout, Ring};
use crate::transport::{self, Export, ExportContext};
use crate::wire::{Denial, Frame, read_trusted};
use crate::{Checksum, Error, Kind, Result, Token};
use corpusmill_access::{Credentials, Stream, random};

/// Connections that may be in their handshake at once.
const GREETINGS_MAX: usize = 64;
/// Sessions that may wait to be accepted.
const WAITING_MAX: usize = 16;
/// Unit of the memory limit.
const MEMORY_UNIT_BYTES: u64 = 1 << 20;

/// What a worker allows.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The secret shared with the trainers.
    pub token: Token,
    /// What both sides show: connections are inside TLS then. Default: none.
    pub credentials: Option<Arc<Credentials>>,
    /// Transports that may be used. Default: all.
    pub kinds: Vec<Kind>,
    /// Most slots a session gets; a trainer that asks for more gets this many. Default 16.
    pub slots_max: u32,
    /// Largest slot, in bytes; a trainer that asks for more is refused. Default 64 MiB.
    pub slot_bytes_max: u64,
    /// Memory of all rings together, in bytes, counted in whole MiB a session. Default 4 GiB.
    pub memory_bytes_max: u64,
    /// Most sessions at once. Default 64.
    pub sessions_max: usize,
    /// What checksums cover. Default: what [`Kind::default_checksum`] says.
    pub checksum: Option<Checksum>,
    /// How long things may take.
    pub timeouts: Timeouts,
}

impl ServeOptions {
    /// The defaults, on `listen`.
    #[must_use]
    pub fn new(listen: SocketAddr, token: Token) -> Self {
        Self {
            listen,
            token,
            credentials: None,
            kinds: Kind::ALL.to_vec(),
            slots_max: 16,
            slot_bytes_max: 64 << 20,
            memory_bytes_max: 4 << 30,
            sessions_max: 64,
            checksum: None,
            timeouts: Timeouts::default(),
        }
    }
}

/// A worker's server: trainers connect to it, [`Server::accept`] yields their sessions. Dropping it stops listening;
/// sessions that were accepted go on.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    sessions: tokio::sync::Mutex<mpsc::Receiver<Exporter>>,
    _listening: DropGuard,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// `Io` when the address cannot be bound, `OverLimit` for limits that allow no session.
    pub async fn bind(options: ServeOptions) -> Result<Self> {
        Layout::new(options.slots_max, options.slot_bytes_max)?;
        let listen = options.listen;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|e| Error::io(format!("listening on {listen}"), e))?;
        let address = listener
            .local_addr()
            .map_err(|e| Error::io("reading the address listened on", e))?;
        let (arrived, sessions) = mpsc::channel(WAITING_MAX);
        let stop = CancellationToken::new();
        let units = (options.memory_bytes_max / MEMORY_UNIT_BYTES).min(Semaphore::MAX_PERMITS as u64) as usize;
        let door = Arc::new(Door {
            memory: Arc::new(Semaphore::new(units)),
            sessions: Arc::new(Semaphore::new(options.sessions_max)),
            open: Mutex::default(),
            options,
        });
        let listening = stop.clone().drop_guard();
        tokio::spawn(async move {
            tokio::select! {
                () = listen_for(listener, door, arrived, stop.clone()) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Self {
            address,
            sessions: tokio::sync::Mutex::new(sessions),
            _listening: listening,
        })
    }

    /// The address that trainers connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the next session; peers without the token, or beyond a limit, never get this far. Cancel safe.
    ///
    /// # Errors
    /// `Closed` when the listener has stopped.
    pub async fn accept(&self) -> Result<Exporter> {
        let closed = || Error::Closed {
            peer: self.address.to_string(),
            reason: "it stopped listening".to_owned(),
        };
        self.sessions.lock().await.recv().await.ok_or_else(closed)
    }
}

/// What all connections of a server share.
struct Door {
    options: ServeOptions,
    memory: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    open: Mutex<HashMap<u64, Entry>>,
}

/// An open session, as its further connections find it.
struct Entry {
    secret: Token,
    export: Weak<dyn Export>,
}

/// Keeps a session findable; dropped with its exporter.
pub(crate) struct Registered {
    door: Arc<Door>,
    session: u64,
    _count: tokio::sync::OwnedSemaphorePermit,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.door
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.session);
    }
}

async fn listen_for(listener: TcpListener, door: Arc<Door>, arrived: mpsc::Sender<Exporter>, stop: CancellationToken) {
    let greetings = Arc::new(Semaphore::new(GREETINGS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&greetings).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                // out of descriptors, say: others must close first
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (door, arrived, stop) = (Arc::clone(&door), arrived.clone(), stop.clone());
        tokio::spawn(async move {
            let peer = peer.to_string();
            let greeted = tokio::select! {
                greeted = greet(stream, &peer, &door, &arrived) => greeted,
                () = stop.cancelled() => return,
            };
            if let Err(error) = greeted {
                tracing::warn!(peer, %error, "connection refused");
            }
            drop(permit);
        });
    }
}

/// Finds out who connects, and opens a session or passes a further connection to its own.
async fn greet(stream: TcpStream, peer: &str, door: &Arc<Door>, arrived: &mpsc::Sender<Exporter>) -> Result<()> {
    stream
        .set_nodelay(true)
        .map_err(|e| Error::io("setting TCP_NODELAY", e))?;
    let limit = door.options.timeouts.handshake;
    let mut stream = within("a trainer's TLS", limit, async {
        let stream = Stream::accept(stream, door.options.credentials.as_deref()).await;
        stream.map_err(|e| Error::lost(peer, format!("no TLS with it: {e}")))
    })
    .await?;
    let (session, introduction) = within("a trainer's handshake", limit, async {
        handshake::receive(&mut stream, peer, |session| door.token_of(session)).await
    })
    .await?;
    if session != 0 {
        return door.pass_on(session, stream, peer);
    }
    let exporter = match within(
        "opening a session",
        limit * 2,
        open(&mut stream, peer, door, introduction),
    )
    .await
    {
        Ok(opening) => opening.start(stream),
        Err(error) => {
            within("saying why not", limit, send(&mut stream, peer, &why_not(&error)))
                .await
                .ok();
            return Err(error);
        }
    };
    tracing::info!(peer, session = exporter.session(), kind = %exporter.kind, "session open");
    arrived.try_send(exporter).map_err(|_| Error::OverLimit {
        what: "sessions waiting to be accepted",
        wanted: WAITING_MAX as u64 + 1,
        limit: WAITING_MAX as u64,
    })
}

impl Door {
    fn token_of(&self, session: u64) -> Result<Token> {
        if session == 0 {
            return Ok(self.options.token.clone());
        }
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // a secret nobody holds: an unknown session looks like a wrong token
        open.get(&session)
            .map_or_else(|| Ok(Token::generate()?), |entry| Ok(entry.secret.clone()))
    }

    fn pass_on(&self, session: u64, stream: Stream, peer: &str) -> Result<()> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let export = open.get(&session).and_then(|entry| entry.export.upgrade());
        drop(open);
        let gone = || Error::protocol(peer, format!("a connection for session {session:016x}, which is over"));
        export.ok_or_else(gone)?.connection(stream)
    }
}

/// A session that the trainer has attached to, before its control connection changes hands.
struct Opening {
    ring: Arc<Ring>,
    export: Arc<dyn Export>,
    registered: Registered,
    ending: Arc<Ending>,
    kind: Kind,
    checksum: Checksum,
    application: Bytes,
    timeouts: Timeouts,
}

async fn open(stream: &mut Stream, peer: &str, door: &Arc<Door>, introduction: Introduction) -> Result<Opening> {
    let (host, kinds, slots, slot_bytes, application) = match read_trusted(stream, peer).await? {
        Frame::Open {
            host,
            kinds,
            slots,
            slot_bytes,
            application,
        } => (host, kinds, slots, slot_bytes, application),
        other => return Err(unexpected(peer, "the opening of a session", other)),
    };
    let options = &door.options;
    let reserving = Arc::clone(door);
    let (ring, count) = blocking("making a ring", move || reserve(&reserving, slots, slot_bytes)).await?;
    let ending = Ending::new(peer);
    let context = || ExportContext {
        ring: Arc::clone(&ring),
        secret: introduction.secret.clone(),
        ending: Arc::clone(&ending),
        timeouts: options.timeouts,
    };
    let (kind, export, why) = choose(&kinds, host == introduction.host, &options.kinds, context).await?;
    let checksum = options.checksum.unwrap_or(kind.default_checksum());
    let session = ring.session;
    let entry = Entry {
        secret: introduction.secret.clone(),
        export: Arc::downgrade(&export),
    };
    door.open
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(session, entry);
    let registered = Registered {
        door: Arc::clone(door),
        session,
        _count: count,
    };
    let accept = Frame::Accept {
        session,
        kind: kind.code(),
        checksum: checksum.code(),
        slots: ring.layout.slots,
        slot_bytes: ring.layout.slot_bytes,
        why: why.into(),
        offer: export.offer(),
    };
    send(stream, peer, &accept).await?;
    let reply = match read_trusted(stream, peer).await? {
        Frame::Attach { reply } => reply,
        other => return Err(unexpected(peer, "an answer to the offer", other)),
    };
    export.attach(&reply).await?;
    send(stream, peer, &Frame::Ready).await?;
    let timeouts = options.timeouts;
    Ok(Opening {
        ring,
        export,
        registered,
        ending,
        kind,
        checksum,
        application,
        timeouts,
    })
}

/// Takes a session's share of the limits and makes its ring.
fn reserve(door: &Door, slots: u32, slot_bytes: u64) -> Result<(Arc<Ring>, tokio::sync::OwnedSemaphorePermit)> {
    let options = &door.options;
    if slot_bytes > options.slot_bytes_max {
        return Err(Error::OverLimit {
            what: "bytes a slot",
            wanted: slot_bytes,
            limit: options.slot_bytes_max,
        });
    }
    let layout = Layout::new(slots.clamp(1, options.slots_max), slot_bytes)?;
    let limit = options.sessions_max as u64;
    let count = Arc::clone(&door.sessions).try_acquire_owned();
    let count = count.map_err(|_| Error::OverLimit {
        what: "sessions",
        wanted: limit + 1,
        limit,
    })?;
    let units = (layout.length() as u64).div_ceil(MEMORY_UNIT_BYTES);
    let left = door.memory.available_permits() as u64 * MEMORY_UNIT_BYTES;
    let memory = u32::try_from(units)
        .ok()
        .and_then(|units| Arc::clone(&door.memory).try_acquire_many_owned(units).ok());
    let wanted = units * MEMORY_UNIT_BYTES;
    let memory = memory.ok_or(Error::OverLimit {
        what: "bytes of the worker's rings",
        wanted,
        limit: left,
    })?;
    let session = u64::from_le_bytes(random()?).max(1);
    Ok((Ring::new(session, layout, Some(memory))?, count))
}

/// Tries the trainer's transports in its order.
async fn choose(
    kinds: &[u8],
    same_host: bool,
    allowed: &[Kind],
    context: impl Fn() -> ExportContext,
) -> Result<(Kind, Arc<dyn Export>, String)> {
    let mut skipped = Vec::new();
    for kind in kinds.iter().filter_map(|code| Kind::from_code(*code)) {
        let reason = if !allowed.contains(&kind) {
            "the worker does not allow it".to_owned()
        } else if kind == Kind::Shm && !same_host {
            "the trainer is on another host or in another network namespace".to_owned()
        } else {
            let made = match transport::of(kind).probe() {
                Ok(with) => transport::of(kind).export(context()).await.map(|export| (export, with)),
                Err(error) => Err(error),
            };
            match made {
                Ok((export, with)) if skipped.is_empty() => return Ok((kind, export, with)),
                Ok((export, with)) => return Ok((kind, export, format!("{with}; {}", skipped_in_words(&skipped)))),
                Err(error) => format!("at the worker, {}", reason_of(&error)),
            }
        };
        skipped.push((kind, reason));
    }
    let kind = skipped.first().map_or(Kind::Tcp, |(kind, _)| *kind);
    Err(Error::Unavailable {
        kind,
        reason: skipped_in_words(&skipped),
    })
}

/// The refusal that a trainer is told.
fn why_not(error: &Error) -> Frame {
    match error {
        Error::OverLimit { wanted, limit, .. } => Frame::Denied {
            denial: Denial::OverLimit as u8,
            wanted: *wanted,
            limit: *limit,
            message: error.to_string().into(),
        },
        Error::Unavailable { reason, .. } => Frame::denied(Denial::Unavailable, reason),
        Error::Memory { .. } | Error::Io { .. } => Frame::denied(Denial::Unavailable, &error.to_string()),
        other => Frame::denied(Denial::Protocol, &other.to_string()),
    }
}

impl Opening {
    fn start(self, stream: Stream) -> Exporter {
        let Self {
            ring,
            export,
            registered,
            ending,
            kind,
            checksum,
            application,
            timeouts,
        } = self;
        let freed = Arc::new(Freed::default());
        let (held, told, peer) = (Arc::clone(&ring), Arc::clone(&freed), ending.peer.clone());
        let outbox = link::start(stream, &ending, timeouts, move |frame| match frame {
            Frame::Free { slot, generation, seq } => {
                if !held.release(slot, generation, seq) {
                    let what = format!("freed slot {slot}, generation {generation}, which it does not hold");
                    return Err(Error::protocol(&peer, what));
                }
                told.changed.notify_waiters();
                Ok(())
            }
            other => Err(unexpected(&peer, "a free", other)),
        });
        let (sent, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Exporter {
            _export: export,
            _registered: registered,
            ring,
            outbox,
            ending,
            freed,
            kind,
            checksum,
            application,
            sent,
            bytes,
        }
    }
}
