//! The crate's one error type, and what a caller does about each case.

use std::{fmt, io};

use crate::Kind;

/// Why a descriptor was refused before or after its body was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The descriptor names another session than the one it was handed to.
    WrongSession,
    /// The sequence number was pulled already, or is being pulled.
    Replayed,
    /// The sequence number is further ahead than a session can be.
    OutOfWindow,
    /// The slot has been handed out again since, or never held that generation.
    StaleGeneration,
    /// The slot number, or `offset + length`, lies outside the ring.
    OutOfBounds,
    /// The descriptor's checksum is weaker than the session's.
    WeakChecksum,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongSession => "it belongs to another session",
            Self::Replayed => "its sequence number was pulled already",
            Self::OutOfWindow => "its sequence number is too far ahead",
            Self::StaleGeneration => "its slot holds another generation",
            Self::OutOfBounds => "it lies outside the ring",
            Self::WeakChecksum => "its checksum is weaker than the session's",
        })
    }
}

/// Everything that can go wrong between a worker and a trainer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This machine, or the peer's, cannot use the transport: use another, or do what the reason says.
    #[error("transport {kind} cannot be used: {reason}")]
    Unavailable {
        /// The transport.
        kind: Kind,
        /// What is missing, and the fix.
        reason: String,
    },
    /// The peer does not hold the token.
    #[error("{peer} does not hold this server's token; hand both sides the same one")]
    Unauthorized {
        /// The peer's address.
        peer: String,
    },
    /// The peer speaks another version of the frames.
    #[error("{peer} speaks frame version {theirs}, this side {ours}; run the same release on both")]
    Version {
        /// The peer's address.
        peer: String,
        /// This side's version.
        ours: u8,
        /// The peer's.
        theirs: u8,
    },
    /// The peer sent what the protocol does not allow; the session is over.
    #[error("{peer} broke the protocol: {what}")]
    Protocol {
        /// The peer's address.
        peer: String,
        /// What it sent and what was expected.
        what: String,
    },
    /// A descriptor was refused; the session goes on.
    #[error("descriptor of session {session:016x}, sequence {seq}, slot {slot} refused: {refusal} ({detail})")]
    Refused {
        /// Session in the descriptor.
        session: u64,
        /// Sequence number in the descriptor.
        seq: u64,
        /// Slot in the descriptor.
        slot: u32,
        /// The rule it broke.
        refusal: Refusal,
        /// Found against expected.
        detail: String,
    },
    /// A body's checksum differs; it was dropped, its sequence number can be pulled again.
    #[error("body of sequence {seq} is corrupt: xxh3 {found:016x}, its descriptor says {expected:016x}")]
    Corrupt {
        /// Sequence number in the descriptor.
        seq: u64,
        /// Checksum in the descriptor.
        expected: u64,
        /// Checksum of the bytes that arrived.
        found: u64,
    },
    /// The peer is gone, or silent for too long: go on with another.
    #[error("lost {peer}: {reason}")]
    PeerLost {
        /// The peer's address.
        peer: String,
        /// How that was noticed.
        reason: String,
    },
    /// The session was closed by this side, or ended by the peer as agreed.
    #[error("the session with {peer} is closed: {reason}")]
    Closed {
        /// The peer's address.
        peer: String,
        /// Who closed it and why.
        reason: String,
    },
    /// Something took longer than its limit.
    #[error("{what} took longer than {after_ms} ms")]
    Timeout {
        /// What was waited for.
        what: String,
        /// The limit, in milliseconds.
        after_ms: u64,
    },
    /// A configured limit would be passed.
    #[error("{what}: {wanted} wanted, the limit is {limit}")]
    OverLimit {
        /// The limit's name.
        what: &'static str,
        /// What was asked for.
        wanted: u64,
        /// The limit, or what is left of it.
        limit: u64,
    },
    /// Memory could not be mapped, sealed or registered.
    #[error("{what}: {source}; {fix}")]
    Memory {
        /// What was tried, with sizes in bytes.
        what: String,
        /// What to do about it.
        fix: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The device completed a read with an error; the queue pair is unusable and the session over.
    #[error("RDMA read of sequence {seq} failed: {status} (vendor code {vendor:#x})")]
    Rdma {
        /// Sequence number in the descriptor.
        seq: u64,
        /// The work completion's status in words.
        status: String,
        /// The device's own code.
        vendor: u32,
    },
    /// The credentials do not serve, or there is no randomness for secrets.
    #[error(transparent)]
    Access(#[from] corpusmill_access::AccessError),
    /// A socket or file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// Says whether the same work may succeed when tried again, with this peer or another.
    ///
    /// `Corrupt` is worth one more pull of the same descriptor; the others that are `true` want a new session.
    #[must_use]
    pub fn retry(&self) -> bool {
        match self {
            Self::Corrupt { .. }
            | Self::PeerLost { .. }
            | Self::Timeout { .. }
            | Self::OverLimit { .. }
            | Self::Rdma { .. }
            | Self::Io { .. } => true,
            Self::Unavailable { .. }
            | Self::Unauthorized { .. }
            | Self::Version { .. }
            | Self::Protocol { .. }
            | Self::Refused { .. }
            | Self::Closed { .. }
            | Self::Memory { .. } => false,
            Self::Access(error) => error.retry(),
        }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }

    pub(crate) fn protocol(peer: &str, what: impl Into<String>) -> Self {
        Self::Protocol {
            peer: peer.to_owned(),
            what: what.into(),
        }
    }

    pub(crate) fn lost(peer: &str, reason: impl Into<String>) -> Self {
        Self::PeerLost {
            peer: peer.to_owned(),
            reason: reason.into(),
        }
    }
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
