//! Who is there: both sides of a new connection prove that they hold the token before anything else is read.
//!
//! ```text
//! trainer                                    worker
//!   Hello {session, nonce t}           ──▶
//!                                      ◀──   Challenge {nonce w, HMAC(token, "worker", session, t, w), host}
//!   Proof {HMAC(token, "trainer", …)}  ──▶
//!                                      ◀──   Welcome, or Denied
//! ```
//! The nonces are fresh on both sides, so a recorded exchange is worth nothing, and the secret of a session's data
//! connections is derived from them and never sent.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::wire::{Denial, Frame, GREETING_BYTES_MAX, denial, read_frame};
use crate::{Error, Kind, Result, host};
use corpusmill_access::{Token, random};

/// What both sides know after a handshake.
pub(crate) struct Introduction {
    /// Secret of the session's further connections.
    pub(crate) secret: Token,
    /// The worker's host, as [`host::identity`] names it.
    pub(crate) host: Bytes,
}

/// Trainer's side. `session` is 0 for a control connection.
///
/// # Errors
/// `Unauthorized` when either proof is wrong, `Version`, `Protocol`, `PeerLost`.
pub(crate) async fn introduce<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    peer: &str,
    token: &Token,
    session: u64,
) -> Result<Introduction> {
    let ours = random()?;
    send(stream, peer, &Frame::Hello { session, nonce: ours }).await?;
    let (theirs, proof, host) = match read_frame(stream, peer, GREETING_BYTES_MAX).await? {
        Frame::Challenge { nonce, proof, host } => (nonce, proof, host),
        other => return Err(unexpected(peer, "a challenge", other)),
    };
    let parts = [&session.to_le_bytes()[..], &ours, &theirs];
    if !token.verify("worker", &parts, &proof) {
        return Err(Error::Unauthorized { peer: peer.to_owned() });
    }
    send(
        stream,
        peer,
        &Frame::Proof {
            proof: token.proof("trainer", &parts),
        },
    )
    .await?;
    match read_frame(stream, peer, GREETING_BYTES_MAX).await? {
        Frame::Welcome => Ok(Introduction {
            secret: token.derive("session", &parts),
            host,
        }),
        other => Err(unexpected(peer, "a welcome", other)),
    }
}

/// Worker's side. `tokens` gives the token of a session (0: the server's); an unknown session gets one that no
/// peer holds, so that it fails in the same place as a wrong token. Returns the session asked for.
///
/// # Errors
/// `Unauthorized`, `Version`, `Protocol`, `PeerLost`.
pub(crate) async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    peer: &str,
    tokens: impl Fn(u64) -> Result<Token> + Send,
) -> Result<(u64, Introduction)> {
    let (session, theirs) = match read_frame(stream, peer, GREETING_BYTES_MAX).await? {
        Frame::Hello { session, nonce } => (session, nonce),
        other => return Err(unexpected(peer, "a hello", other)),
    };
    let token = tokens(session)?;
    let ours = random()?;
    let parts = [&session.to_le_bytes()[..], &theirs, &ours];
    let host = Bytes::from(host::identity());
    let challenge = Frame::Challenge {
        nonce: ours,
        proof: token.proof("worker", &parts),
        host: host.clone(),
    };
    send(stream, peer, &challenge).await?;
    let proof = match read_frame(stream, peer, GREETING_BYTES_MAX).await? {
        Frame::Proof { proof } => proof,
        other => return Err(unexpected(peer, "a proof", other)),
    };
    if !token.verify("trainer", &parts, &proof) {
        // the peer may be gone already; the refusal is a courtesy
        send(
            stream,
            peer,
            &Frame::denied(Denial::Unauthorized, "the token is not this server's"),
        )
        .await
        .ok();
        return Err(Error::Unauthorized { peer: peer.to_owned() });
    }
    send(stream, peer, &Frame::Welcome).await?;
    Ok((
        session,
        Introduction {
            secret: token.derive("session", &parts),
            host,
        },
    ))
}

/// Writes one frame.
pub(crate) async fn send(stream: &mut (impl AsyncWrite + Unpin), peer: &str, frame: &Frame) -> Result<()> {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    crate::wire::write(stream, &out)
        .await
        .map_err(|e| crate::wire::lost(peer, &e))
}

/// Turns a frame that is not `wanted` into the error that it stands for.
pub(crate) fn unexpected(peer: &str, wanted: &str, frame: Frame) -> Error {
    match frame {
        Frame::Denied {
            denial: code,
            wanted,
            limit,
            message,
        } => {
            let message = String::from_utf8_lossy(&message).into_owned();
            match denial(code) {
                Some(Denial::Unauthorized) => Error::Unauthorized { peer: peer.to_owned() },
                Some(Denial::OverLimit) => Error::OverLimit {
                    what: "the worker's memory, slots or sessions",
                    wanted,
                    limit,
                },
                Some(Denial::Unavailable) => {
                    let kind = Kind::ALL.into_iter().find(|kind| message.starts_with(kind.name()));
                    Error::Unavailable {
                        kind: kind.unwrap_or(Kind::Tcp),
                        reason: format!("{peer} says: {message}"),
                    }
                }
                _ => Error::protocol(peer, format!("a refusal: {message}")),
            }
        }
        Frame::Close { message } => Error::Closed {
            peer: peer.to_owned(),
            reason: String::from_utf8_lossy(&message).into_owned(),
        },
        other => Error::protocol(peer, format!("{other:?} where {wanted} was expected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn meet(trainer: Token, worker: Token) -> (Result<Introduction>, Result<(u64, Introduction)>) {
        let (mut a, mut b) = tokio::io::duplex(1 << 16);
        let server = async {
            let result = receive(&mut b, "trainer", |_| Ok(worker.clone())).await;
            drop(b);
            result
        };
        let client = async {
            let result = introduce(&mut a, "worker", &trainer, 5).await;
            drop(a);
            result
        };
        tokio::join!(client, server)
    }

    #[tokio::test]
    async fn both_sides_derive_the_same_secret_and_a_new_one_each_time() {
        let token = Token::generate().unwrap();
        let (a, b) = meet(token.clone(), token.clone()).await;
        let (a, (session, b)) = (a.unwrap(), b.unwrap());
        assert_eq!(session, 5);
        assert!(a.secret == b.secret && a.secret != token);
        let (again, _) = meet(token.clone(), token).await;
        assert!(again.unwrap().secret != a.secret);
    }

    #[tokio::test]
    async fn the_trainer_refuses_a_worker_without_the_token() {
        let (a, b) = meet(Token::generate().unwrap(), Token::generate().unwrap()).await;
        assert!(matches!(a, Err(Error::Unauthorized { .. })), "{:?}", a.err());
        assert!(matches!(b, Err(Error::PeerLost { .. })), "{:?}", b.err());
    }

    #[tokio::test]
    async fn the_worker_refuses_a_trainer_without_the_token() {
        let (mut a, mut b) = tokio::io::duplex(1 << 16);
        let token = Token::generate().unwrap();
        let liar = async {
            send(
                &mut a,
                "worker",
                &Frame::Hello {
                    session: 0,
                    nonce: [1; 32],
                },
            )
            .await
            .unwrap();
            read_frame(&mut a, "worker", 4096).await.unwrap();
            send(&mut a, "worker", &Frame::Proof { proof: [0; 32] }).await.unwrap();
            read_frame(&mut a, "worker", 4096).await.unwrap()
        };
        let (answer, result) = tokio::join!(liar, receive(&mut b, "liar", |_| Ok(token.clone())));
        assert!(matches!(result, Err(Error::Unauthorized { peer }) if peer == "liar"));
        assert!(matches!(unexpected("w", "x", answer), Error::Unauthorized { .. }));
    }
}
