//! How a body of bytes (an assembled batch, 1 to 64 MB) gets from a worker to a trainer: RDMA, shared memory or TCP
//! behind one trait, where **the trainer pulls**.
//!
//! ```text
//!  worker                                                             trainer
//!   Server::accept ─▶ Exporter                                         Puller::connect
//!     slot().await ─▶ Assembly: write                                     │
//!     publish ──────▶ Descriptor {session, seq, generation, slot, …} ───▶ next().await
//!        │                      control connection                        pull(&descriptor)
//!      ring of registered slots ◀──── rdma: RDMA READ · shm: the slot itself · tcp: own frames ──── checks, xxh3
//!        │                                                                │
//!     slot free again ◀──────────────── Free ─────────────────────────── Body (dropped: its slot is free again)
//! ```
//! The trainer exports no memory, so a late or hostile sender cannot write into a slot that is in use again;
//! back-pressure falls out of the slots on both sides. A worker uses a slot again only when it was freed, or when the
//! session's connection and registration are gone. A peer's death is noticed when its control connection closes, or
//! after `Timeouts::silence` when it is stopped; nothing is left behind in either case, and the survivor opens a
//! session with another peer.
//!
//! With credentials both connections of a session, control and tcp's data, are inside mutual TLS. Bodies over shm stay on
//! their machine: the ring is a memfd without a name, handed to whoever proves the session's secret. Bodies over rdma are
//! read in the clear: its queue pair and key come over the control connection, and the network is the limit.
//!
//! Unsafe code is in `region` (mapped memory), `shm` (passing a descriptor) and `rdma::ffi`, `rdma::verbs`.
//!
//! To add a transport: a file with its `Transport`, `Export` and `Import`, a variant of [`Kind`] with its name and code,
//! and a line in `transport::of`.

mod checksum;
mod choose;
mod claims;
mod descriptor;
pub mod doctor;
mod error;
mod exporter;
mod handshake;
mod host;
mod kind;
mod link;
#[expect(unsafe_code, reason = "lends slots of mapped memory, one owner each")]
mod pool;
mod puller;
mod rdma;
#[expect(unsafe_code, reason = "maps memory and lends slots of it")]
mod region;
#[expect(unsafe_code, reason = "lends slots of mapped memory, one owner each")]
mod ring;
mod server;
#[expect(unsafe_code, reason = "control messages of Unix sockets")]
mod shm;
mod tcp;
mod transport;
mod wire;

pub use checksum::Checksum;
pub use corpusmill_access::Token;
pub use descriptor::Descriptor;
pub use error::{Error, Refusal, Result};
pub use exporter::{ExportStats, Exporter};
pub use host::identity as host_identity;
pub use kind::{Choice, Kind};
pub use link::Timeouts;
pub use pool::{Body, DeviceRange, TrainerMemory};
pub use puller::{PullOptions, PullStats, Puller};
pub use ring::Assembly;
pub use server::{ServeOptions, Server};
