//! Bodies over TCP: a second connection per session, on the worker's one port.
//!
//! ```text
//!  trainer                                             worker
//!   pull ─▶ Read {request, slot, generation, …} ───────▶ reader task ─▶ bounded queue ─▶ writer task
//!   reader task: straight into the trainer's slot ◀───── Data {request, length} + body, one vectored write
//! ```
//! Requests are answered in their order, so several can be under way. The trainer hashes while the bytes are still
//! in the cache.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use corpusmill_access::{Credentials, Receiving, Sending, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use xxhash_rust::xxh3::Xxh3;

use crate::link::{Ending, Outbox, Timeouts, blocking, within};
use crate::pool::{Body, Pool, PoolSlot};
use crate::ring::{Layout, Reading, Ring};
use crate::transport::{Arrival, Export, ExportContext, Import, ImportContext, Transport};
use crate::wire::{self, Denial, Frame, HEADER_BYTES};
use crate::{Checksum, Descriptor, Error, Kind, Refusal, Result, handshake};

/// Requests that a worker takes from one connection before it stops reading.
const REQUESTS_MAX: usize = 64;
/// Connections that one session may open.
const CONNECTIONS_MAX: usize = 4;
/// Bytes read and hashed at a time: small enough to stay in the cache.
const PIECE_BYTES: usize = 256 << 10;
/// Wanted size of the socket's buffers: a few pieces, so that either side wakes up seldom.
const SOCKET_BYTES: u32 = 4 << 20;
/// Bytes of a `Data` frame: header, request, denial, length.
const DATA_BYTES: usize = HEADER_BYTES + 17;

/// The transport.
pub(crate) struct Tcp;

#[async_trait]
impl Transport for Tcp {
    fn probe(&self) -> Result<String> {
        Ok("TCP to the worker's port".to_owned())
    }

    async fn export(&self, context: ExportContext) -> Result<Arc<dyn Export>> {
        Ok(Arc::new(TcpExport {
            context,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }))
    }

    async fn import(&self, context: ImportContext) -> Result<Box<dyn Import>> {
        let layout = Layout {
            slots: context.slots,
            slot_bytes: context.layout.slot_bytes,
        };
        let memory = context.memory;
        let pool = blocking("making the trainer's slots", move || Pool::new(memory, layout)).await?;
        pool.host_only(Kind::Tcp)?;
        let peer = context.address.to_string();
        let stream = within("opening the data connection", context.timeouts.handshake, async {
            let mut stream = connect(context.address, context.credentials.as_deref()).await?;
            handshake::introduce(&mut stream, &peer, &context.secret, context.session).await?;
            Ok(stream)
        })
        .await?;
        let (input, output) = stream.into_split();
        let pending = Arc::new(Mutex::new(Pending::default()));
        let reader = Reader {
            input,
            pending: Arc::clone(&pending),
            timeouts: context.timeouts,
            in_body: false,
        };
        tokio::spawn(reader.run(Arc::clone(&context.ending)));
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        tokio::spawn(ask(
            output,
            queue,
            Arc::clone(&context.ending),
            context.timeouts.transfer,
        ));
        Ok(Box::new(TcpImport {
            pool,
            requests,
            pending,
            under_way: Semaphore::new(context.outstanding.max(1) as usize),
            ending: context.ending,
            timeouts: context.timeouts,
        }))
    }
}

/// Connects with the options that both kinds of connection have.
///
/// # Errors
/// `PeerLost` when nobody listens there, or nobody whose certificate is believed.
pub(crate) async fn connect(address: std::net::SocketAddr, credentials: Option<&Credentials>) -> Result<Stream> {
    let failed = |e| Error::lost(&address.to_string(), format!("it cannot be reached: {e}"));
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()
    } else {
        tokio::net::TcpSocket::new_v6()
    };
    let socket = socket.map_err(|e| Error::io("making a socket", e))?;
    // a wish: the system's limits may be lower
    socket.set_recv_buffer_size(SOCKET_BYTES).ok();
    let stream = socket.connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let stream = Stream::connect(stream, credentials).await;
    stream.map_err(|e| Error::lost(&address.to_string(), format!("no TLS with it: {e}")))
}

/// The worker's half.
struct TcpExport {
    context: ExportContext,
    connections: Arc<Semaphore>,
}

#[async_trait]
impl Export for TcpExport {
    fn offer(&self) -> Bytes {
        Bytes::new()
    }

    async fn attach(&self, _reply: &[u8]) -> Result<()> {
        Ok(())
    }

    fn connection(&self, stream: Stream) -> Result<()> {
        let ending = Arc::clone(&self.context.ending);
        let permit = Arc::clone(&self.connections).try_acquire_owned().map_err(|_| {
            Error::protocol(
                &ending.peer,
                format!("more than {CONNECTIONS_MAX} data connections of a session"),
            )
        })?;
        let (ring, timeouts) = (Arc::clone(&self.context.ring), self.context.timeouts);
        tokio::spawn(async move {
            let served = ending.unless(serve(stream, &ring, &ending.peer, timeouts)).await;
            if let Ok(Err(error)) = served {
                ending.fail(&error);
            }
            drop(permit);
        });
        Ok(())
    }
}

/// Answers the reads of one connection until it closes.
async fn serve(stream: Stream, ring: &Arc<Ring>, peer: &str, timeouts: Timeouts) -> Result<()> {
    let (input, output) = stream.into_split();
    let (queue, answers) = mpsc::channel(REQUESTS_MAX);
    let reading = async {
        let mut input = BufReader::new(input);
        loop {
            let frame = match wire::read_trusted(&mut input, peer).await {
                // whether the trainer left or died is for the control connection to say, once its frees are read
                Err(Error::PeerLost { .. }) => return Ok(()),
                frame => frame?,
            };
            match frame {
                Frame::Read {
                    request,
                    slot,
                    generation,
                    offset,
                    length,
                } => {
                    let reading = ring.read(slot, generation, offset, length);
                    if let Err(denial) = &reading {
                        tracing::warn!(peer, slot, generation, offset, length, ?denial, "read refused");
                    }
                    if queue.send((request, reading)).await.is_err() {
                        return Err(Error::lost(peer, "its data connection takes no more answers"));
                    }
                }
                other => return Err(handshake::unexpected(peer, "a read", other)),
            }
        }
    };
    // both ends of the queue end together: the first error ends the connection
    tokio::select! {
        result = reading => result,
        result = answer(output, answers, peer, timeouts) => result,
    }
}

type Answer = (u64, std::result::Result<Reading, Denial>);

async fn answer(
    mut output: Sending,
    mut answers: mpsc::Receiver<Answer>,
    peer: &str,
    timeouts: Timeouts,
) -> Result<()> {
    while let Some((request, reading)) = answers.recv().await {
        let (denial, length) = match &reading {
            Ok(reading) => (0, reading.len() as u64),
            Err(denial) => (*denial as u8, 0),
        };
        let mut head = BytesMut::with_capacity(DATA_BYTES);
        Frame::Data {
            request,
            denial,
            length,
        }
        .encode(&mut head);
        let body = reading.as_deref().unwrap_or_default();
        let mut sent = 0;
        while sent < head.len() + body.len() {
            let slices = [
                IoSlice::new(&head[sent.min(head.len())..]),
                IoSlice::new(&body[sent.saturating_sub(head.len())..]),
            ];
            match moved(peer, timeouts, output.write_vectored(&slices)).await? {
                0 => return Err(Error::lost(peer, "it closed the data connection")),
                count => sent += count,
            }
        }
        moved(peer, timeouts, output.flush()).await?;
    }
    Ok(())
}

/// What a write came to, unless nothing moves any more.
async fn moved<T>(peer: &str, timeouts: Timeouts, writing: impl Future<Output = io::Result<T>>) -> Result<T> {
    match timeout(timeouts.transfer, writing).await {
        Ok(done) => done.map_err(|error| wire::lost(peer, &error)),
        Err(_) => {
            let waited = timeouts.transfer.as_millis();
            Err(Error::lost(peer, format!("it took no byte of a body for {waited} ms")))
        }
    }
}

/// A read that was asked for.
struct Wanted {
    slot: PoolSlot,
    descriptor: Descriptor,
    hash: bool,
    done: oneshot::Sender<Result<Arrival>>,
}

#[derive(Default)]
struct Pending {
    wanted: HashMap<u64, Wanted>,
    next: u64,
    /// The data connection is gone.
    closed: bool,
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The trainer's half.
struct TcpImport {
    pool: Arc<Pool>,
    requests: mpsc::Sender<Frame>,
    pending: Arc<Mutex<Pending>>,
    under_way: Semaphore,
    ending: Arc<Ending>,
    timeouts: Timeouts,
}

/// Writes requests whole, whatever becomes of the pulls that wanted them.
async fn ask(mut output: Sending, mut requests: mpsc::Receiver<Frame>, ending: Arc<Ending>, limit: Duration) {
    let mut out = BytesMut::new();
    while let Ok(Some(frame)) = ending.unless(requests.recv()).await {
        frame.encode(&mut out);
        match ending.unless(timeout(limit, wire::write(&mut output, &out))).await {
            Ok(Ok(Ok(()))) => out.clear(),
            Ok(Ok(Err(error))) => return ending.fail(&wire::lost(&ending.peer, &error)),
            Ok(Err(_)) => return ending.lose(format!("it took no request for {} ms", limit.as_millis())),
            Err(_) => return,
        }
    }
}

#[async_trait]
impl Import for TcpImport {
    fn reply(&self) -> Bytes {
        Bytes::new()
    }

    async fn read(&self, descriptor: &Descriptor, hash: Checksum, _outbox: &Outbox) -> Result<Arrival> {
        let slot = self.ending.unless(self.pool.acquire()).await?;
        let _permit = self.ending.unless(self.under_way.acquire()).await?;
        let room = self
            .ending
            .unless(self.requests.reserve())
            .await?
            .map_err(|_| self.ending.error())?;
        // no wait between here and the request in its queue: a dropped pull leaves both or neither
        let (done, arrival) = oneshot::channel();
        let request = {
            let mut pending = lock(&self.pending);
            if pending.closed {
                self.ending.lose("its data connection is closed");
                return Err(self.ending.error());
            }
            let request = pending.next;
            pending.next += 1;
            let hash = hash == Checksum::Full;
            pending.wanted.insert(
                request,
                Wanted {
                    slot,
                    descriptor: descriptor.clone(),
                    hash,
                    done,
                },
            );
            request
        };
        let Descriptor {
            slot,
            generation,
            offset,
            length,
            ..
        } = *descriptor;
        room.send(Frame::Read {
            request,
            slot,
            generation,
            offset,
            length,
        });
        let work = async { arrival.await.map_err(|_| self.ending.error())? };
        let outcome = self
            .ending
            .unless(within("the transfer of a body", self.timeouts.transfer, work))
            .await?;
        if let Err(Error::Timeout { .. } | Error::PeerLost { .. }) = &outcome {
            // the connection's place is unknown now
            self.ending.lose("a body did not arrive in time");
        }
        outcome
    }
}

/// Reads the answers of one data connection into the slots that wait for them.
struct Reader {
    input: Receiving,
    pending: Arc<Mutex<Pending>>,
    timeouts: Timeouts,
    /// A body is being read: its request is pending no more, and not answered yet.
    in_body: bool,
}

impl Reader {
    async fn run(mut self, ending: Arc<Ending>) {
        let peer = ending.peer.clone();
        let outcome = ending
            .unless(async {
                loop {
                    if let Err(error) = self.next(&peer).await {
                        return error;
                    }
                }
            })
            .await;
        let mut pending = lock(&self.pending);
        pending.closed = true;
        if let Ok(error) = outcome {
            // with nothing asked for, the end may be the agreed one: the control connection says which
            if !(pending.wanted.is_empty() && !self.in_body && matches!(error, Error::PeerLost { .. })) {
                ending.fail(&error);
            }
        }
        pending.wanted.clear();
    }

    async fn next(&mut self, peer: &str) -> Result<()> {
        let frame = wire::read_frame(&mut self.input, peer, DATA_BYTES - HEADER_BYTES).await?;
        let Frame::Data {
            request,
            denial,
            length,
        } = frame
        else {
            return Err(handshake::unexpected(peer, "a body", frame));
        };
        let wanted = lock(&self.pending).wanted.remove(&request);
        let Some(mut wanted) = wanted else {
            return Err(Error::protocol(
                peer,
                format!("an answer to request {request}, which was not made"),
            ));
        };
        if denial != 0 {
            wanted.done.send(Err(refused(peer, &wanted.descriptor, denial))).ok();
            return Ok(());
        }
        if length != wanted.descriptor.length {
            let what = format!("{length} bytes where {} were asked for", wanted.descriptor.length);
            return Err(Error::protocol(peer, what));
        }
        self.in_body = true;
        let xxh3 = self.fill(peer, &mut wanted, length as usize).await?;
        self.in_body = false;
        let Descriptor { seq, metadata, .. } = wanted.descriptor;
        let body = Body::own(wanted.slot, seq, length as usize, metadata);
        // nobody listens where the pull was dropped: the body goes, and its slot is free again
        wanted
            .done
            .send(Ok(Arrival {
                body,
                xxh3,
                copied: true,
            }))
            .ok();
        Ok(())
    }

    async fn fill(&mut self, peer: &str, wanted: &mut Wanted, length: usize) -> Result<Option<u64>> {
        let mut hasher = wanted.hash.then(Xxh3::new);
        let into = wanted
            .slot
            .bytes_mut(length)
            .expect("the import was refused for device memory");
        let mut filled = 0;
        while filled < length {
            let end = if hasher.is_some() {
                length.min(filled + PIECE_BYTES)
            } else {
                length
            };
            let count = match timeout(self.timeouts.transfer, self.input.read(&mut into[filled..end])).await {
                Ok(Ok(0)) => return Err(Error::lost(peer, "it closed the connection in the middle of a body")),
                Ok(Ok(count)) => count,
                Ok(Err(error)) => return Err(wire::lost(peer, &error)),
                Err(_) => {
                    let waited = self.timeouts.transfer.as_millis();
                    return Err(Error::lost(peer, format!("it sent no byte of a body for {waited} ms")));
                }
            };
            if let Some(hasher) = &mut hasher {
                hasher.update(&into[filled..filled + count]);
            }
            filled += count;
        }
        Ok(hasher.map(|hasher| hasher.digest()))
    }
}

fn refused(peer: &str, descriptor: &Descriptor, code: u8) -> Error {
    let refusal = match wire::denial(code) {
        Some(Denial::StaleGeneration) => Refusal::StaleGeneration,
        Some(Denial::OutOfBounds) => Refusal::OutOfBounds,
        _ => return Error::protocol(peer, format!("a read refused with the unknown code {code}")),
    };
    descriptor.refused(refusal, format!("so says {peer}"))
}
