//! What keeps a process from listening or calling.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The result of this crate.
pub type Result<T, E = AccessError> = std::result::Result<T, E>;

/// Everything that can be wrong with credentials, networks and the streams made with them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// A file of the credentials cannot be read.
    #[error("cannot read the credentials {}: {source}; `corpusmill certs init DIR` makes a folder of them", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file of the credentials has something else in it.
    #[error("{} is not what it should be: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected, and what was found.
        reason: String,
    },
    /// The credentials have no certificate for this side of a connection.
    #[error(
        "the credentials in {} have no {name}.pem and {name}.key, which this process must show; copy them from where \
         `corpusmill certs init` made them", folder.display()
    )]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// `server` or `client`.
        name: &'static str,
    },
    /// Other machines could reach an address, and nobody would ask them who they are.
    #[error(
        "{what} may not listen on {address} without certificates: whoever reaches that port from another machine could \
         run code here. Make some with `corpusmill certs init certs --name {address}` (--name: what callers call this \
         machine) and start again with `--certs certs`, or listen on 127.0.0.1"
    )]
    Exposed {
        /// What would listen.
        what: &'static str,
        /// Where.
        address: IpAddr,
    },
    /// What was given is no network, or none that a cluster may use.
    #[error("--cluster-network {network}: {reason}; one looks like 10.1.0.0/16")]
    Network {
        /// What was given.
        network: String,
        /// Why not.
        reason: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Port {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no random bytes.
    #[error("the system's random source cannot be read: {0}")]
    Random(String),
}

impl AccessError {
    /// Whether the same may succeed later.
    #[must_use]
    pub fn retry(&self) -> bool {
        matches!(self, Self::Port { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}
