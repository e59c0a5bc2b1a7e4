//! The trainer's reads: posted, waited for by event, completed in any order.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, oneshot};

use super::ffi;
use super::path::{Endpoint, Path};
use super::verbs::{Completion, Completions, Domain, Local, QueuePair, Registration, Remote};
use crate::link::{Ending, within};
use crate::pool::{Body, Memory, Pool, PoolSlot};
use crate::region::{Region, whole_pages};
use crate::ring::{HEADER_BYTES, Header, Layout};
use crate::transport::{Arrival, ImportContext};
use crate::{Descriptor, Error, Refusal, Result};

/// How long the device may take to flush what was under way when a session ended.
const FLUSH: Duration = Duration::from_secs(2);

/// The worker's ring as the device sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ring {
    pub(super) address: u64,
    pub(super) key: u32,
}

/// A read that the device may still write for.
struct UnderWay {
    slot: PoolSlot,
    descriptor: Descriptor,
    done: oneshot::Sender<Result<Arrival>>,
}

#[derive(Default)]
struct Table {
    reads: HashMap<u64, UnderWay>,
    next: u64,
    /// Set when the session is over: nothing is posted any more.
    closed: bool,
}

/// All that a trainer's session needs.
pub(super) struct Reads {
    // in this order: the device stops with its queue pair, then slots, registrations and memory may go
    pair: QueuePair,
    completions: Arc<Completions>,
    table: Mutex<Table>,
    slots: Registration,
    headers: Registration,
    header_region: Arc<Region>,
    pool: Arc<Pool>,
    under_way: Semaphore,
    ring: Ring,
    layout: Layout,
    piece_bytes: u32,
    ending: Arc<Ending>,
    transfer: Duration,
}

impl Reads {
    /// Registers the trainer's slots and connects a queue pair; also gives the answer for the worker.
    pub(super) fn new(context: ImportContext, theirs: Endpoint, ring: Ring) -> Result<(Arc<Self>, Bytes)> {
        let path = Path::find()?;
        let layout = context.layout;
        let piece_bytes = path.message_bytes_max().max(HEADER_BYTES as u32);
        let requests_a_read = layout.slot_bytes.div_ceil(piece_bytes.into()) as u32 + 1;
        let fits = (path.limits.requests / requests_a_read).min(path.limits.completions);
        if fits == 0 {
            let (wanted, limit) = (requests_a_read.into(), path.limits.requests.into());
            return Err(Error::OverLimit {
                what: "work requests of one read",
                wanted,
                limit,
            });
        }
        let outstanding = context.outstanding.clamp(1, fits);
        let domain = Domain::new(path.context())?;
        // a failed read completes twice: where it failed, and flushed
        let completions = Completions::new(path.context(), outstanding * requests_a_read)?;
        let pool = Pool::new(
            context.memory,
            Layout {
                slots: context.slots,
                slot_bytes: layout.slot_bytes,
            },
        )?;
        let slots = register_pool(&domain, &pool)?;
        let header_region = Arc::new(Region::private(whole_pages(context.slots as usize * HEADER_BYTES))?);
        let headers = register(&domain, &header_region)?;
        let pair = QueuePair::new(&domain, &completions, outstanding * requests_a_read)?;
        path.initialise(&pair, 0)?;
        let ours = path.endpoint(&pair)?;
        path.connect(&pair, &ours, &theirs)?;
        let mut reply = BytesMut::new();
        ours.encode(&mut reply);
        let reads = Self {
            pair,
            completions,
            table: Mutex::default(),
            slots,
            headers,
            header_region,
            pool,
            under_way: Semaphore::new(outstanding as usize),
            ring,
            layout,
            piece_bytes,
            ending: context.ending,
            transfer: context.timeouts.transfer,
        };
        Ok((Arc::new(reads), reply.freeze()))
    }

    /// Starts the task that takes completions; it ends with the session.
    pub(super) fn reap(self: &Arc<Self>) -> Result<()> {
        let channel = Channel(Arc::clone(&self.completions));
        // SAFETY: the descriptor is the completion channel's, open and the same as long as `channel` holds it.
        let channel = unsafe { AsyncFd::register_with_interest(channel, Interest::READABLE) };
        let channel = channel.map_err(|e| Error::io("waiting for a completion channel", e.into()))?;
        self.completions.arm()?;
        let reads = Arc::clone(self);
        tokio::spawn(async move {
            let ending = Arc::clone(&reads.ending);
            if let Ok(error) = ending.unless(reads.take_until_failure(&channel)).await {
                ending.fail(&error);
            }
            reads.flush(&channel).await;
        });
        Ok(())
    }

    /// Reads a body into one of the trainer's slots.
    pub(super) async fn read(&self, descriptor: &Descriptor) -> Result<Arrival> {
        let slot = self.ending.unless(self.pool.acquire()).await?;
        let _permit = self.ending.unless(self.under_way.acquire()).await?;
        let arrival = self.post(slot, descriptor)?;
        let work = async { arrival.await.map_err(|_| self.ending.error())? };
        let outcome = self.ending.unless(within("an RDMA read", self.transfer, work)).await?;
        if let Err(Error::Timeout { .. }) = &outcome {
            // the device may still write to the slot, which stays in the table until the session's end
            self.ending.lose("an RDMA read did not complete in time");
        }
        outcome
    }

    fn post(&self, slot: PoolSlot, descriptor: &Descriptor) -> Result<oneshot::Receiver<Result<Arrival>>> {
        let chain = self.chain(&slot, descriptor);
        let (done, arrival) = oneshot::channel();
        let mut table = self.lock();
        if table.closed {
            return Err(self.ending.error());
        }
        let id = table.next;
        table.next += 1;
        table.reads.insert(
            id,
            UnderWay {
                slot,
                descriptor: descriptor.clone(),
                done,
            },
        );
        // SAFETY: the slot stays in the table, lent to nobody, until its completion is taken; its header's place belongs
        // to the slot; both registrations live as long as the queue pair.
        if let Err(error) = unsafe { self.pair.post_reads(id, &chain) } {
            // what of the chain was taken is unknown: the slot stays in the table until the queue pair is gone
            self.ending.fail(&error);
            return Err(error);
        }
        Ok(arrival)
    }

    /// The body in pieces that the port can carry, then the header.
    fn chain(&self, slot: &PoolSlot, descriptor: &Descriptor) -> Vec<(Local, Remote)> {
        let body = self.ring.address + self.layout.body(descriptor.slot) as u64 + descriptor.offset;
        let into = self.pool_address() + slot.start() as u64;
        let mut chain = Vec::with_capacity(2);
        let mut at = 0;
        while at < descriptor.length {
            // a piece is at most `piece_bytes`, a u32
            let length = (descriptor.length - at).min(self.piece_bytes.into()) as u32;
            let local = Local {
                address: into + at,
                key: self.slots.local_key(),
            };
            chain.push((
                local,
                Remote {
                    address: body + at,
                    length,
                    key: self.ring.key,
                },
            ));
            at += u64::from(length);
        }
        let place = self.header_region.address() + header_place(slot) as u64;
        let local = Local {
            address: place,
            key: self.headers.local_key(),
        };
        let address = self.ring.address + self.layout.header(descriptor.slot) as u64;
        chain.push((
            local,
            Remote {
                address,
                length: HEADER_BYTES as u32,
                key: self.ring.key,
            },
        ));
        chain
    }

    fn pool_address(&self) -> u64 {
        match &self.pool.memory {
            Memory::Host(region) => region.address(),
            Memory::Device { address, .. } => *address,
        }
    }

    /// Hands completions to those who wait, until one fails.
    async fn take_until_failure(&self, channel: &AsyncFd<Channel>) -> Error {
        loop {
            // armed before the queue is emptied, so that nothing completes unseen in between
            match self.drain() {
                Err(error) => return error,
                Ok(Some((status, vendor))) => {
                    return Error::lost(
                        &self.ending.peer,
                        format!("an RDMA read failed: {status} ({vendor:#x})"),
                    );
                }
                Ok(None) => {}
            }
            if let Err(error) = self.event(channel).await {
                return error;
            }
        }
    }

    /// Waits for an event and arms the queue for the next.
    async fn event(&self, channel: &AsyncFd<Channel>) -> Result<()> {
        loop {
            let mut ready = channel
                .readable()
                .await
                .map_err(|e| Error::io("waiting for RDMA completions", e))?;
            // the descriptor is emptied, so the next event makes it readable anew
            ready.clear_ready();
            if self.completions.take_events() > 0 {
                return self.completions.arm();
            }
        }
    }

    /// Empties the queue; gives the first failure.
    fn drain(&self) -> Result<Option<(String, u32)>> {
        let mut first = None;
        loop {
            let completions = self.completions.poll()?;
            if completions.is_empty() {
                return Ok(first);
            }
            for Completion { id, failure } in completions {
                let done = self.lock().reads.remove(&id);
                if let Some(read) = done {
                    self.finish(read, failure.as_ref());
                }
                first = first.or(failure);
            }
        }
    }

    fn finish(&self, read: UnderWay, failure: Option<&(String, u32)>) {
        let UnderWay { slot, descriptor, done } = read;
        let outcome = match failure {
            Some((status, vendor)) => Err(Error::Rdma {
                seq: descriptor.seq,
                status: status.clone(),
                vendor: *vendor,
            }),
            None => self.arrived(slot, descriptor),
        };
        // nobody listens where the pull was dropped: the slot is free again
        done.send(outcome).ok();
    }

    fn arrived(&self, slot: PoolSlot, descriptor: Descriptor) -> Result<Arrival> {
        let found = Header::load(&self.header_region, header_place(&slot));
        let Descriptor {
            session,
            seq,
            generation,
            length,
            ..
        } = descriptor;
        if found
            != (Header {
                session,
                generation,
                seq,
            })
        {
            let detail = format!("the slot holds generation {}, sequence {}", found.generation, found.seq);
            return Err(descriptor.refused(Refusal::StaleGeneration, detail));
        }
        let body = Body::own(slot, seq, length as usize, descriptor.metadata);
        Ok(Arrival {
            body,
            xxh3: None,
            copied: true,
        })
    }

    /// After the session's end: has the device give up, and takes what it flushes, so that slots come back.
    async fn flush(&self, channel: &AsyncFd<Channel>) {
        self.lock().closed = true;
        if let Err(error) = Path::give_up(&self.pair) {
            tracing::debug!(%error, "queue pair not given up; it is destroyed anyway");
            return;
        }
        let emptied = async {
            while !self.lock().reads.is_empty() {
                if self.drain().is_err() || self.lock().reads.is_empty() || self.event(channel).await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(FLUSH, emptied).await.is_err() {
            tracing::debug!(
                peer = self.ending.peer,
                "reads not flushed in time; their slots go with the session"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn header_place(slot: &PoolSlot) -> usize {
    slot.slot as usize * HEADER_BYTES
}

fn register_pool(domain: &Arc<Domain>, pool: &Arc<Pool>) -> Result<Registration> {
    let length = pool.layout.slots as usize * pool.layout.slot_bytes as usize;
    match &pool.memory {
        Memory::Host(region) => {
            let owner: Arc<dyn Send + Sync> = Arc::clone(pool) as _;
            domain.register(region.address(), length, ffi::IBV_ACCESS_LOCAL_WRITE, owner)
        }
        Memory::Device { fd, offset, address } => {
            let fd = fd
                .try_clone()
                .map_err(|e| Error::io("duplicating a dmabuf's descriptor", e))?;
            domain.register_dmabuf(fd, *offset, length, *address)
        }
    }
}

fn register(domain: &Arc<Domain>, region: &Arc<Region>) -> Result<Registration> {
    let owner: Arc<dyn Send + Sync> = Arc::clone(region) as _;
    domain.register(region.address(), region.length(), ffi::IBV_ACCESS_LOCAL_WRITE, owner)
}

/// The completion channel as something to wait for.
struct Channel(Arc<Completions>);

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd()
    }
}
