//! What stands before a port that cannot ask who calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::credentials::Credentials;
use crate::error::{AccessError, Result};
use crate::network::Network;
use crate::stream::Stream;

/// Connections at once: a worker has a few to each other one.
const CONNECTIONS_MAX: usize = 4096;
/// Bytes that are passed on at once.
const PIECE_BYTES: usize = 64 << 10;
/// Longest wait for a caller's certificate, and for the port behind.
const GREETING: Duration = Duration::from_secs(10);

/// Listens in a cluster's network, and passes on what comes from a member of the cluster to a port on loopback.
///
/// ```text
///  member ── mutual TLS ──► 10.1.0.5:4711 Front ── plain ──► 127.0.0.1:4711 Ballista
///  an address outside of the network: closed at once      no certificate of the authority: closed
/// ```
/// Dropping it closes the port and its connections.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    _open: DropGuard,
}

impl Front {
    /// Listens on `outside` for `inside`.
    pub(crate) async fn open(
        outside: SocketAddr,
        inside: SocketAddr,
        network: Network,
        credentials: Arc<Credentials>,
    ) -> Result<Self> {
        let fail = |source| AccessError::Port {
            address: outside,
            source,
        };
        let listener = TcpListener::bind(outside).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let open = CancellationToken::new();
        tokio::spawn(open.clone().run_until_cancelled_owned(accept(
            listener,
            inside,
            network,
            credentials,
            open.clone(),
        )));
        Ok(Self {
            address,
            _open: open.drop_guard(),
        })
    }

    /// Where members call.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(
    listener: TcpListener,
    inside: SocketAddr,
    network: Network,
    credentials: Arc<Credentials>,
    open: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // No more files, above all: others close some.
                tracing::warn!(%error, "a connection of the cluster was not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !network.contains(peer.ip()) {
            tracing::warn!(%peer, %network, "refused: it calls from outside of the cluster's network");
            continue;
        }
        let credentials = credentials.clone();
        tokio::spawn(open.clone().run_until_cancelled_owned(async move {
            if let Err(error) = pass(stream, inside, &credentials).await {
                tracing::warn!(%peer, %error, "refused, or broken off: a connection of the cluster");
            }
            drop(place);
        }));
    }
}

async fn pass(stream: TcpStream, inside: SocketAddr, credentials: &Credentials) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let greeting = async {
        let outer = Stream::accept(stream, Some(credentials)).await?;
        let inner = TcpStream::connect(inside).await?;
        inner.set_nodelay(true)?;
        Ok::<_, std::io::Error>((outer, inner))
    };
    let (mut outer, mut inner) = tokio::time::timeout(GREETING, greeting).await??;
    // How an open connection ends is for its two ends to say.
    if let Err(error) = copy_bidirectional_with_sizes(&mut outer, &mut inner, PIECE_BYTES, PIECE_BYTES).await {
        tracing::debug!(%error, "a connection of the cluster broke off");
    }
    Ok(())
}
