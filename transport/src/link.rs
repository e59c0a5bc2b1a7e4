//! The control connection of a session once it is open: descriptors one way, frees the other, and signs of life.
//!
//! ```text
//!   send / Release ──▶ bounded queue ──▶ writer task ──▶ socket     (a Ping where there was nothing for a heartbeat)
//!   handler        ◀── reader task   ◀── socket                     (nothing for `silence`: the peer is lost)
//! ```
//! Whatever ends the session is recorded once, in [`Ending`], and wakes everybody who waits on the peer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::BytesMut;
use corpusmill_access::{Receiving, Sending, Stream};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::wire::{self, Frame};
use crate::{Error, Result};

/// Frames that may wait for the writer; a session's frees are bounded by its slots, the rest by its callers' waits.
const QUEUE_FRAMES: usize = 8192;
/// Frames that one write takes along.
const BATCH_FRAMES: usize = 256;

/// How long things may take, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Connecting, the handshake, and opening a session: each. Default 5 s.
    pub handshake: Duration,
    /// Between two signs of life. Default 1 s.
    pub heartbeat: Duration,
    /// Without a sign of life, or with a write that does not move, a peer is lost after this. Default 5 s.
    pub silence: Duration,
    /// For one body to arrive, once the trainer has a slot for it. Default 30 s.
    pub transfer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(5),
            transfer: Duration::from_secs(30),
        }
    }
}

/// Runs `work` for at most `limit`.
pub(crate) async fn within<T>(what: &str, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout {
            what: what.to_owned(),
            after_ms: limit.as_millis() as u64,
        }),
    }
}

/// Runs work that allocates, pins or hashes memory, which may take milliseconds, where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::io(what, std::io::Error::other(e)))?
}

#[derive(Debug, Clone)]
enum Cause {
    Lost(String),
    Broke(String),
    Closed(String),
}

/// How and when a session ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) peer: String,
    cause: OnceLock<Cause>,
    over: CancellationToken,
    /// The writer has written what was queued before the end, or given up.
    flushed: CancellationToken,
    /// The peer has sent everything: that it leaves is no news.
    complete: AtomicBool,
}

impl Ending {
    pub(crate) fn new(peer: &str) -> Arc<Self> {
        Arc::new(Self {
            peer: peer.to_owned(),
            cause: OnceLock::new(),
            over: CancellationToken::new(),
            flushed: CancellationToken::new(),
            complete: AtomicBool::new(false),
        })
    }

    /// The peer is gone.
    pub(crate) fn lose(&self, reason: impl Into<String>) {
        self.end(Cause::Lost(reason.into()));
    }

    /// This side, or the peer in so many words, closed the session.
    pub(crate) fn close(&self, reason: impl Into<String>) {
        self.end(Cause::Closed(reason.into()));
    }

    /// Ends the session for what `error` says.
    pub(crate) fn fail(&self, error: &Error) {
        self.end(match error {
            Error::Protocol { what, .. } => Cause::Broke(what.clone()),
            Error::PeerLost { reason, .. } => Cause::Lost(reason.clone()),
            Error::Closed { reason, .. } => Cause::Closed(reason.clone()),
            other => Cause::Lost(other.to_string()),
        });
    }

    /// The worker has said that it sent everything.
    pub(crate) fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    fn end(&self, cause: Cause) {
        if self.cause.set(cause.clone()).is_ok() {
            match cause {
                // what is still to be pulled fails, and says so
                Cause::Lost(reason) if self.complete.load(Ordering::Acquire) => {
                    tracing::debug!(peer = self.peer, reason, "session over");
                }
                Cause::Lost(reason) => tracing::warn!(peer = self.peer, reason, "session lost"),
                Cause::Broke(what) => tracing::warn!(peer = self.peer, what, "session ended: protocol broken"),
                Cause::Closed(reason) => tracing::debug!(peer = self.peer, reason, "session closed"),
            }
            self.over.cancel();
        }
    }

    /// Closes the session and waits until the peer was sent the frees that came before, and the goodbye.
    pub(crate) async fn close_and_flush(&self, reason: &str, limit: Duration) {
        self.close(reason);
        timeout(limit, self.flushed.cancelled()).await.ok();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Waits for the end. Cancel safe.
    pub(crate) async fn wait(&self) -> Error {
        self.over.cancelled().await;
        self.error()
    }

    /// The error for whoever still wants something from the session.
    pub(crate) fn error(&self) -> Error {
        let peer = self.peer.clone();
        match self.cause.get().cloned() {
            Some(Cause::Lost(reason)) => Error::PeerLost { peer, reason },
            Some(Cause::Broke(what)) => Error::Protocol { peer, what },
            Some(Cause::Closed(reason)) => Error::Closed { peer, reason },
            None => Error::Closed {
                peer,
                reason: "it is being opened".to_owned(),
            },
        }
    }

    /// Runs `work` until it is done or the session over.
    pub(crate) async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            error = self.wait() => Err(error),
        }
    }
}

/// Queues frames for the peer.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    queue: mpsc::Sender<Frame>,
    ending: Arc<Ending>,
}

impl Outbox {
    /// Waits for room and queues a frame.
    ///
    /// # Errors
    /// The session's end.
    pub(crate) async fn send(&self, frame: Frame) -> Result<()> {
        self.ending
            .unless(self.queue.send(frame))
            .await?
            .map_err(|_| self.ending.error())
    }

    /// Queues a frame from where nobody can wait.
    fn send_now(&self, frame: Frame) {
        if !self.ending.is_over() && self.queue.try_send(frame).is_err() && !self.ending.is_over() {
            self.ending.lose("it takes no frames; the queue of frees is full");
        }
    }
}

/// Frees the worker's slot when dropped, once it is armed: a body that was refused keeps its slot for another pull.
#[derive(Debug)]
pub(crate) struct Release {
    outbox: Outbox,
    slot: u32,
    generation: u64,
    seq: u64,
    armed: AtomicBool,
}

impl Release {
    pub(crate) fn held(outbox: Outbox, slot: u32, generation: u64, seq: u64) -> Self {
        Self {
            outbox,
            slot,
            generation,
            seq,
            armed: AtomicBool::new(false),
        }
    }

    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::Release);
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if *self.armed.get_mut() {
            let (slot, generation, seq) = (self.slot, self.generation, self.seq);
            self.outbox.send_now(Frame::Free { slot, generation, seq });
        }
    }
}

/// Starts both tasks over an open control connection. They end with the session; `handler` sees every frame but
/// pings and the peer's goodbye, in order, and must not wait.
pub(crate) fn start(
    stream: Stream,
    ending: &Arc<Ending>,
    timeouts: Timeouts,
    handler: impl FnMut(Frame) -> Result<()> + Send + 'static,
) -> Outbox {
    let (input, output) = stream.into_split();
    let (queue, frames) = mpsc::channel(QUEUE_FRAMES);
    tokio::spawn(read(BufReader::new(input), Arc::clone(ending), timeouts, handler));
    tokio::spawn(write(output, frames, Arc::clone(ending), timeouts));
    Outbox {
        queue,
        ending: Arc::clone(ending),
    }
}

async fn read(
    mut input: BufReader<Receiving>,
    ending: Arc<Ending>,
    timeouts: Timeouts,
    mut handler: impl FnMut(Frame) -> Result<()>,
) {
    let peer = ending.peer.clone();
    loop {
        let frame = ending
            .unless(timeout(timeouts.silence, wire::read_trusted(&mut input, &peer)))
            .await;
        let outcome = match frame {
            Err(_) => return,
            Ok(Err(_)) => Err(Error::lost(
                &peer,
                format!("no sign of life for {} ms", timeouts.silence.as_millis()),
            )),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Ok(Ok(Frame::Ping))) => Ok(()),
            Ok(Ok(Ok(Frame::Close { message }))) => {
                let reason = format!("by the peer: {}", String::from_utf8_lossy(&message));
                Err(Error::Closed {
                    peer: peer.clone(),
                    reason,
                })
            }
            Ok(Ok(Ok(frame))) => handler(frame),
        };
        if let Err(error) = outcome {
            ending.fail(&error);
            return;
        }
    }
}

async fn write(mut output: Sending, mut frames: mpsc::Receiver<Frame>, ending: Arc<Ending>, timeouts: Timeouts) {
    let _flushed = ending.flushed.clone().drop_guard();
    let mut beat = interval(timeouts.heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut batch, mut out) = (Vec::with_capacity(BATCH_FRAMES), BytesMut::new());
    loop {
        tokio::select! {
            biased;
            _ = ending.over.cancelled() => break,
            count = frames.recv_many(&mut batch, BATCH_FRAMES) => if count == 0 { break },
            _ = beat.tick() => batch.push(Frame::Ping),
        }
        batch.drain(..).for_each(|frame| frame.encode(&mut out));
        match ending
            .unless(timeout(timeouts.silence, wire::write(&mut output, &out)))
            .await
        {
            Ok(Ok(Ok(()))) => out.clear(),
            Ok(Ok(Err(error))) => {
                ending.fail(&wire::lost(&ending.peer, &error));
                return;
            }
            Ok(Err(_)) => {
                ending.lose(format!("it read nothing for {} ms", timeouts.silence.as_millis()));
                return;
            }
            Err(_) => return,
        }
    }
    // frees that were queued before the end still count; then why, to a peer that may be gone
    frames.close();
    while let Ok(frame) = frames.try_recv() {
        frame.encode(&mut out);
    }
    let message = match ending.cause.get() {
        Some(Cause::Closed(reason) | Cause::Lost(reason) | Cause::Broke(reason)) => reason.clone(),
        None => "the other side dropped the session".to_owned(),
    };
    ending.close("the session was dropped");
    Frame::Close {
        message: message.into(),
    }
    .encode(&mut out);
    timeout(timeouts.heartbeat, wire::write(&mut output, &out)).await.ok();
    output.shutdown().await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (Stream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (a.unwrap().into(), b.unwrap().0.into())
    }

    fn quick() -> Timeouts {
        Timeouts {
            heartbeat: Duration::from_millis(20),
            silence: Duration::from_millis(200),
            ..Timeouts::default()
        }
    }

    #[tokio::test]
    async fn frames_arrive_in_order_and_pings_keep_an_idle_session_alive() {
        let (a, b) = pair().await;
        let (mine, theirs) = (Ending::new("b"), Ending::new("a"));
        let (seen, mut frames) = mpsc::channel(10);
        let _b = start(b, &theirs, quick(), move |frame| {
            seen.try_send(frame).unwrap();
            Ok(())
        });
        let outbox = start(a, &mine, quick(), |_| Ok(()));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!mine.is_over() && !theirs.is_over());
        outbox.send(Frame::End { sent: 1 }).await.unwrap();
        drop(Release::held(outbox.clone(), 9, 9, 9));
        let release = Release::held(outbox.clone(), 1, 2, 3);
        release.arm();
        drop(release);
        assert_eq!(frames.recv().await.unwrap(), Frame::End { sent: 1 });
        assert_eq!(
            frames.recv().await.unwrap(),
            Frame::Free {
                slot: 1,
                generation: 2,
                seq: 3
            }
        );
        mine.close("done here");
        assert!(theirs.wait().await.to_string().contains("done here"));
    }

    #[tokio::test]
    async fn frees_that_were_queued_before_the_close_still_arrive() {
        let (a, b) = pair().await;
        let (mine, theirs) = (Ending::new("b"), Ending::new("a"));
        let (seen, mut frames) = mpsc::channel(1000);
        let _b = start(b, &theirs, quick(), move |frame| {
            seen.try_send(frame).unwrap();
            Ok(())
        });
        let outbox = start(a, &mine, quick(), |_| Ok(()));
        for seq in 0..900 {
            let release = Release::held(outbox.clone(), 0, 1, seq);
            release.arm();
        }
        mine.close_and_flush("done", Duration::from_secs(5)).await;
        timeout(Duration::from_secs(5), theirs.wait()).await.unwrap();
        let mut count = 0;
        while frames.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, 900);
    }

    #[tokio::test]
    async fn a_silent_peer_is_lost_within_the_deadline() {
        let (a, _silent) = pair().await;
        let ending = Ending::new("silent");
        let _outbox = start(a, &ending, quick(), |_| Ok(()));
        let error = timeout(Duration::from_secs(2), ending.wait()).await.unwrap();
        assert!(
            matches!(&error, Error::PeerLost { reason, .. } if reason.contains("no sign of life")),
            "{error}"
        );
        assert!(error.retry());
    }

    #[tokio::test]
    async fn a_closed_connection_is_noticed_at_once() {
        let (a, b) = pair().await;
        let ending = Ending::new("b");
        let outbox = start(a, &ending, Timeouts::default(), |_| Ok(()));
        drop(b);
        let error = timeout(Duration::from_secs(2), ending.wait()).await.unwrap();
        assert!(matches!(error, Error::PeerLost { .. }), "{error}");
        assert!(outbox.send(Frame::Ping).await.is_err());
    }
}
