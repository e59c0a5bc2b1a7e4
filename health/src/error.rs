//! What can go wrong.

use std::net::SocketAddr;

/// The result of this crate.
pub type Result<T, E = HealthError> = std::result::Result<T, E>;

/// Everything that keeps health from being told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealthError {
    /// Other machines could reach the address, and would not be asked who they are.
    #[error(transparent)]
    Access(#[from] corpusmill_access::AccessError),
    /// The system does not give the port.
    #[error("health and metrics cannot be on {address}: {source}; take another port, or 0 for one that is free")]
    Port {
        /// The address that was wanted.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

impl HealthError {
    /// Whether the same may succeed later.
    #[must_use]
    pub fn retry(&self) -> bool {
        matches!(self, Self::Port { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
    }
}
