//! The trait that every transport fills, once for each side, and the list of them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::link::{Ending, Outbox, Timeouts};
use crate::pool::{Body, TrainerMemory};
use crate::ring::{Layout, Ring};
use crate::{Checksum, Descriptor, Kind, Result, rdma, shm, tcp};
use corpusmill_access::{Credentials, Stream, Token};

/// What a worker's half of a session gets.
pub(crate) struct ExportContext {
    pub(crate) ring: Arc<Ring>,
    /// Secret of this session's further connections.
    pub(crate) secret: Token,
    pub(crate) ending: Arc<Ending>,
    pub(crate) timeouts: Timeouts,
}

/// What a trainer's half of a session gets.
pub(crate) struct ImportContext {
    /// The worker's control address.
    pub(crate) address: std::net::SocketAddr,
    /// What both sides show on its further connections.
    pub(crate) credentials: Option<Arc<Credentials>>,
    pub(crate) session: u64,
    pub(crate) secret: Token,
    pub(crate) layout: Layout,
    pub(crate) offer: Bytes,
    /// Reads that may be under way at once.
    pub(crate) outstanding: u32,
    /// Slots of the trainer's own, for the transports that copy.
    pub(crate) slots: u32,
    pub(crate) memory: TrainerMemory,
    pub(crate) ending: Arc<Ending>,
    pub(crate) timeouts: Timeouts,
}

/// A way for bodies to reach a trainer: one file each, and one line in [`of`].
#[async_trait]
pub(crate) trait Transport: Send + Sync {
    /// Says what it would use on this machine.
    ///
    /// # Errors
    /// `Unavailable` with what is missing and the fix.
    fn probe(&self) -> Result<String>;

    /// Makes a session's ring reachable for one trainer.
    async fn export(&self, context: ExportContext) -> Result<Arc<dyn Export>>;

    /// Reaches a worker's ring by its offer.
    async fn import(&self, context: ImportContext) -> Result<Box<dyn Import>>;
}

/// The worker's half. Dropping it cuts the trainer off: no read of the ring starts after that.
#[async_trait]
pub(crate) trait Export: Send + Sync {
    /// What the trainer needs to reach the ring.
    fn offer(&self) -> Bytes;

    /// Takes the trainer's answer; bodies may flow when this returns.
    async fn attach(&self, reply: &[u8]) -> Result<()>;

    /// Takes a further connection of the trainer's, already authenticated.
    ///
    /// # Errors
    /// `Protocol` where the transport has no such connections.
    fn connection(&self, stream: Stream) -> Result<()>;
}

/// A body that arrived, before its checksum is compared.
pub(crate) struct Arrival {
    pub(crate) body: Body,
    /// Its checksum, where the transport computed it on the way.
    pub(crate) xxh3: Option<u64>,
    /// Whether the body is a copy, so that the worker's slot can be freed at once.
    pub(crate) copied: bool,
}

/// The trainer's half.
#[async_trait]
pub(crate) trait Import: Send + Sync {
    /// The answer to the worker's offer.
    fn reply(&self) -> Bytes;

    /// Reads the body of a descriptor that was checked against the session. `hash` asks for its checksum where that
    /// can be had on the way. `outbox` is for transports whose bodies free the worker's slot themselves.
    ///
    /// Dropping the future leaves the session usable.
    async fn read(&self, descriptor: &Descriptor, hash: Checksum, outbox: &Outbox) -> Result<Arrival>;
}

/// The transport of a kind.
pub(crate) fn of(kind: Kind) -> &'static dyn Transport {
    match kind {
        Kind::Shm => &shm::Shm,
        Kind::Rdma => &rdma::Rdma,
        Kind::Tcp => &tcp::Tcp,
    }
}
