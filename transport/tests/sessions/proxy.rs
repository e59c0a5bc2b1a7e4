//! A TCP proxy that spoils what passes through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What happens to the bytes from the worker to the trainer on connections that carry bodies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The byte at this place of all that passed is changed.
    Flip(u64),
    /// After so many bytes the connection is cut.
    Cut(u64),
    /// After so many bytes nothing passes any more, and nothing closes.
    Stall(u64),
    /// Every piece waits.
    Delay(Duration),
}

/// Starts a proxy to `worker`; gives its address.
pub(crate) async fn start(worker: SocketAddr, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // bytes of bodies so far, over all connections
    let passed = Arc::new(AtomicU64::new(0));
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(worker).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(pass(near_in, far_out, None));
            tokio::spawn(pass(far_in, near_out, Some((fault, Arc::clone(&passed)))));
        }
    });
    address
}

async fn pass(mut input: OwnedReadHalf, mut output: OwnedWriteHalf, fault: Option<(Fault, Arc<AtomicU64>)>) {
    let mut buffer = vec![0; 64 << 10];
    let mut own = 0;
    while let Ok(count @ 1..) = input.read(&mut buffer).await {
        let piece = &mut buffer[..count];
        own += count as u64;
        // a control connection carries some hundred bytes, a data connection bodies
        if let Some((fault, passed)) = fault.as_ref().filter(|_| own > 8192) {
            let before = passed.fetch_add(count as u64, Ordering::SeqCst);
            match *fault {
                Fault::Flip(at) if (before..before + count as u64).contains(&at) => {
                    piece[(at - before) as usize] ^= 0x40
                }
                Fault::Cut(at) if before >= at => return,
                Fault::Stall(at) if before >= at => std::future::pending().await,
                Fault::Delay(wait) => tokio::time::sleep(wait).await,
                _ => {}
            }
        }
        if output.write_all(piece).await.is_err() {
            return;
        }
    }
}
