//! Who may call: the certificates and the token of a folder, and what stands before ports that cannot ask by themselves.
//!
//! ```text
//!  --certs DIR ─► Credentials ─┬─ token            proven or shown with every call
//!                              ├─ Stream           a connection: plain on loopback, mutual TLS with credentials
//!                              └─ PEM              for tonic, which makes its own TLS
//!  --cluster-network CIDR ─► ClusterNetwork ─► Front ─► a port of Ballista on 127.0.0.1
//! ```
//! [`may_listen`] is the one rule: beyond loopback nobody listens without credentials. Whoever has credentials speaks
//! TLS with them, whatever the scheme of an address says, so that a token never crosses a wire in the clear.

mod credentials;
mod error;
mod front;
mod listen;
mod network;
mod stream;
mod token;

pub use credentials::{CERTS_VARIABLE, Credentials, Identity, MEMBER_NAME};
pub use error::{AccessError, Result};
pub use front::Front;
pub use listen::may_listen;
pub use network::{ClusterNetwork, Network};
pub use stream::{Receiving, Sending, Stream};
pub use token::{SECRET_BYTES, Token, random};
