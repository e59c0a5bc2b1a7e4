//! Bodies by RDMA READ over a reliable connection (InfiniBand Architecture Specification 1.4, RC; RoCE v2).
//!
//! ```text
//!  trainer                                              worker
//!                         ◀── offer: queue pair, GID, ring's address and rkey ── registers the ring for remote reads
//!  registers its slots, queue pair to ready-to-send
//!   ── reply: queue pair, GID ──▶                                               queue pair to ready-to-send
//!  pull: READ body ▸ READ slot header (one chain, one completion)               its CPU does nothing
//!  completion channel ─▶ reaper task ─▶ header's generation matches? ─▶ body
//! ```
//! The header is read after the body, so a matching generation covers both. Nobody spins: the completion channel's
//! descriptor is waited for like a socket. The addresses and keys travel over the session's control connection.

#[expect(unsafe_code, reason = "calls libibverbs")]
pub(crate) mod device;
#[expect(unsafe_code, reason = "declares and loads libibverbs")]
mod ffi;
mod path;
#[expect(
    unsafe_code,
    reason = "lends registered memory to the device while a read is under way"
)]
mod reads;
#[expect(unsafe_code, reason = "calls libibverbs")]
mod verbs;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use corpusmill_access::Stream;

use self::path::{Endpoint, Path};
use self::reads::{Reads, Ring as RemoteRing};
use self::verbs::{Completions, Domain, QueuePair, Registration};
use crate::link::{Ending, Outbox, blocking};
use crate::ring::Ring;
use crate::transport::{Arrival, Export, ExportContext, Import, ImportContext, Transport};
use crate::{Checksum, Descriptor, Error, Result};

/// The transport.
pub(crate) struct Rdma;

#[async_trait]
impl Transport for Rdma {
    fn probe(&self) -> Result<String> {
        Path::find().map(|path| path.to_string())
    }

    async fn export(&self, context: ExportContext) -> Result<Arc<dyn Export>> {
        let ring = Arc::clone(&context.ring);
        blocking("registering a ring", move || {
            RdmaExport::new(&ring, Arc::clone(&context.ending)).map(|export| Arc::new(export) as Arc<dyn Export>)
        })
        .await
    }

    async fn import(&self, context: ImportContext) -> Result<Box<dyn Import>> {
        let (endpoint, ring) = decode_offer(&context.offer)
            .ok_or_else(|| Error::protocol(&context.ending.peer, "an RDMA offer that cannot be read"))?;
        let ending = Arc::clone(&context.ending);
        let (reads, reply) = blocking("setting up RDMA reads", move || Reads::new(context, endpoint, ring)).await?;
        reads.reap()?;
        Ok(Box::new(RdmaImport {
            reads,
            reply,
            _ending: ending,
        }))
    }
}

/// The worker's half.
struct RdmaExport {
    // in this order: no read is served once the queue pair is gone, then the memory may be let go
    pair: QueuePair,
    registration: Registration,
    path: Path,
    ours: Endpoint,
    ring: Arc<Ring>,
    ending: Arc<Ending>,
}

impl RdmaExport {
    fn new(ring: &Arc<Ring>, ending: Arc<Ending>) -> Result<Self> {
        let path = Path::find()?;
        let domain = Domain::new(path.context())?;
        let completions = Completions::new(path.context(), 1)?;
        let region = ring.region();
        let owner: Arc<dyn Send + Sync> = Arc::clone(ring) as _;
        let registration = domain.register(region.address(), region.length(), ffi::IBV_ACCESS_REMOTE_READ, owner)?;
        let pair = QueuePair::new(&domain, &completions, 1)?;
        path.initialise(&pair, ffi::IBV_ACCESS_REMOTE_READ)?;
        let ours = path.endpoint(&pair)?;
        Ok(Self {
            pair,
            registration,
            path,
            ours,
            ring: Arc::clone(ring),
            ending,
        })
    }
}

#[async_trait]
impl Export for RdmaExport {
    fn offer(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.ours.encode(&mut out);
        out.put_u64_le(self.ring.region().address());
        out.put_u32_le(self.registration.remote_key());
        out.freeze()
    }

    async fn attach(&self, reply: &[u8]) -> Result<()> {
        let theirs = Endpoint::decode(&mut &*reply)
            .ok_or_else(|| Error::protocol(&self.ending.peer, "an RDMA endpoint that cannot be read"))?;
        self.path.connect(&self.pair, &self.ours, &theirs)
    }

    fn connection(&self, _stream: Stream) -> Result<()> {
        Err(Error::protocol(
            &self.ending.peer,
            "a data connection, which rdma has not",
        ))
    }
}

fn decode_offer(offer: &[u8]) -> Option<(Endpoint, RemoteRing)> {
    let mut at = offer;
    let endpoint = Endpoint::decode(&mut at)?;
    let address = at.try_get_u64_le().ok()?;
    let key = at.try_get_u32_le().ok()?;
    Some((endpoint, RemoteRing { address, key }))
}

/// The trainer's half.
struct RdmaImport {
    reads: Arc<Reads>,
    reply: Bytes,
    _ending: Arc<Ending>,
}

#[async_trait]
impl Import for RdmaImport {
    fn reply(&self) -> Bytes {
        self.reply.clone()
    }

    async fn read(&self, descriptor: &Descriptor, _hash: Checksum, _outbox: &Outbox) -> Result<Arrival> {
        self.reads.read(descriptor).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn without_a_device_the_probe_says_what_is_missing_and_the_fix() {
        match Rdma.probe() {
            Ok(with) => assert!(with.contains("port"), "{with}"),
            Err(Error::Unavailable {
                kind: Kind::Rdma,
                reason,
            }) => {
                assert!(
                    reason.contains("install") || reason.contains("device") || reason.contains("port"),
                    "{reason}"
                );
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_short_offer_is_not_taken() {
        let mut out = BytesMut::new();
        let endpoint = Endpoint {
            number: 1,
            sequence: 2,
            lid: 3,
            gid: [4; 16],
            mtu: 5,
            ethernet: true,
            reads: 6,
        };
        endpoint.encode(&mut out);
        out.put_u64_le(7);
        out.put_u32_le(8);
        let (decoded, ring) = decode_offer(&out).unwrap();
        assert_eq!((decoded, ring.address, ring.key), (endpoint, 7, 8));
        for cut in 0..out.len() {
            assert!(decode_offer(&out[..cut]).is_none());
        }
    }
}
