//! Reads one rank's steps, from one worker after another.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::buffer::Buffer;
use bytes::Bytes;
use corpusmill_batches::{BatchData, SlabPool};
use corpusmill_proto::causes;
use corpusmill_proto::stream::delivery::What;
use corpusmill_proto::stream::{Delivery, Read, Server};
use corpusmill_transport::{Body, Descriptor, Error as TransportError, PullOptions, Puller};
use prost::Message as _;
use tokio::sync::{mpsc, watch};

use super::follow::Known;
use super::{Counted, FeedOptions, Item, State, lock};
use crate::delivery;
use crate::error::{Result, ServeError};

/// A worker that failed is not asked again for so long, while there is another.
const AVOID: Duration = Duration::from_secs(10);
/// Pause before the only worker is asked again.
const AGAIN: Duration = Duration::from_millis(250);
/// A worker that has delivered and then delivers nothing for so long is left for another.
const STALL: Duration = Duration::from_secs(120);

/// Reads one rank's steps.
pub(super) struct Reader {
    pub(super) options: FeedOptions,
    pub(super) state: Arc<State>,
    pub(super) servers: watch::Receiver<Known>,
    pub(super) queue: mpsc::Sender<Item>,
    pub(super) pool: Arc<SlabPool>,
    /// Workers that failed, and when.
    pub(super) avoid: HashMap<String, Instant>,
    /// The step that is wanted next.
    pub(super) step: u64,
    /// When something last arrived.
    pub(super) progress: Instant,
}

/// How a session ended without an error.
enum Ended {
    /// The plan did.
    Plan,
    /// The consumer is gone.
    Consumer,
    /// A batch of so many bytes does not fit a slot.
    TooLarge(u64),
}

impl Reader {
    /// Reads until the plan ends, the consumer is gone, or nothing can be done.
    pub(super) async fn run(mut self) {
        let mut reason = "no coordinator answered yet".to_owned();
        loop {
            let server = match self.choose(&mut reason).await {
                Ok(server) => server,
                Err(error) => return self.end(Err(error)).await,
            };
            match self.session(&server).await {
                Ok(Ended::Plan) => return self.end(Ok(None)).await,
                Ok(Ended::Consumer) => return,
                Ok(Ended::TooLarge(bytes)) => {
                    self.options.slot_bytes = bytes + bytes / 4;
                }
                Err(error) if error.retry() || matches!(error, ServeError::Transport(_)) => {
                    reason = format!("worker {}: {}", server.worker, causes(&error));
                    self.state.failovers.fetch_add(1, Ordering::Relaxed);
                    let step = self.step;
                    self.state
                        .say(format!("left a worker at step {step}, going on with another: {reason}"));
                    self.avoid.insert(server.address, Instant::now());
                }
                Err(error) => return self.end(Err(error)).await,
            }
        }
    }

    async fn end(self, last: Item) {
        // A consumer that is gone does not want to know.
        let _ = self.queue.send(last).await;
    }

    /// The best worker that did not fail just now, else the one whose failure is longest ago.
    async fn choose(&mut self, reason: &mut String) -> Result<Server> {
        loop {
            let best = {
                let known = self.servers.borrow_and_update();
                if let Some(refused) = &known.refused {
                    return Err(ServeError::Refused {
                        url: self.options.source.clone(),
                        reason: refused.clone(),
                    });
                }
                if let Some(trouble) = known.trouble.as_ref().filter(|_| known.servers.is_empty()) {
                    reason.clone_from(trouble);
                }
                let failed = |server: &&Server| self.avoid.get(&server.address).copied();
                let good = known
                    .servers
                    .iter()
                    .find(|s| failed(s).is_none_or(|at| at.elapsed() > AVOID));
                let good = good.map(|s| (s.clone(), Duration::ZERO));
                let oldest = known.servers.iter().min_by_key(failed);
                good.or_else(|| oldest.map(|s| (s.clone(), AGAIN)))
            };
            let left = self.options.patience.saturating_sub(self.progress.elapsed());
            if left.is_zero() {
                return Err(ServeError::Nobody {
                    step: self.step,
                    after_s: self.options.patience.as_secs(),
                    reason: reason.clone(),
                });
            }
            match best {
                Some((server, pause)) => {
                    tokio::time::sleep(pause).await;
                    return Ok(server);
                }
                // A change, or the end of patience.
                None => _ = tokio::time::timeout(left, self.servers.changed()).await,
            }
        }
    }

    /// Reads from one worker until it or the plan ends.
    async fn session(&mut self, server: &Server) -> Result<Ended> {
        let puller = self.connect(server).await?;
        let slots = puller.slots() as usize;
        let kept_max = slots.saturating_sub(self.options.slots as usize / 2 + 2).max(1);
        let mut began = false;
        loop {
            let descriptor = match began {
                true => tokio::time::timeout(STALL, puller.next())
                    .await
                    .map_err(|_| TransportError::Timeout {
                        what: "the next batch of a worker that has delivered before".to_owned(),
                        after_ms: STALL.as_millis() as u64,
                    })?,
                false => puller.next().await,
            };
            let Some(descriptor) = descriptor? else {
                return Err(TransportError::Closed {
                    peer: server.address.clone(),
                    reason: "the worker ended the stream".to_owned(),
                }
                .into());
            };
            let body = pull(&puller, &descriptor).await?;
            let Some(message) = delivery::sent(body.metadata()) else {
                return Err(TransportError::Closed {
                    peer: server.address.clone(),
                    reason: "what it said of a batch arrived altered".to_owned(),
                }
                .into());
            };
            let delivery = Delivery::decode(message)
                .map_err(|e| ServeError::Protocol(format!("worker {}: {e}", server.worker)))?;
            if delivery.step != self.step {
                return Err(ServeError::Protocol(format!(
                    "worker {} delivers step {} where {} was next",
                    server.worker, delivery.step, self.step
                )));
            }
            match delivery.what {
                Some(What::Batch(header)) => {
                    let (buffer, counted) = self.buffer(body, kept_max);
                    let batch = BatchData::decode(&self.options.shape, &header, buffer, &self.pool)?;
                    if counted {
                        self.state.queued.fetch_add(1, Ordering::Relaxed);
                    }
                    if self.queue.send(Ok(Some((batch, counted)))).await.is_err() {
                        return Ok(Ended::Consumer);
                    }
                    self.step += 1;
                    self.progress = Instant::now();
                    began = true;
                }
                other => return self.last(server, other),
            }
        }
    }

    /// What a worker says that is no batch ends its session.
    fn last(&self, server: &Server, what: Option<What>) -> Result<Ended> {
        match what {
            Some(What::End(_)) => Ok(Ended::Plan),
            Some(What::TooLarge(large)) => Ok(Ended::TooLarge(large.bytes)),
            Some(What::Failed(failed)) if failed.retry => Err(TransportError::PeerLost {
                peer: server.address.clone(),
                reason: failed.message,
            }
            .into()),
            Some(What::Failed(failed)) => Err(ServeError::Failed {
                worker: server.worker.clone(),
                step: self.step,
                kind: delivery::kind(&failed),
                message: failed.message,
            }),
            Some(What::Batch(_)) | None => Err(ServeError::Protocol(format!(
                "worker {} says something that this release does not know",
                server.worker
            ))),
        }
    }

    async fn connect(&self, server: &Server) -> Result<Puller> {
        let options = &self.options;
        let strange = |what: String| ServeError::Protocol(format!("worker {}: {what}", server.worker));
        let address = server
            .address
            .parse()
            .map_err(|e| strange(format!("`{}`: {e}", server.address)))?;
        let read = Read {
            job: options.job.clone(),
            rank: options.rank,
            world: options.world,
            plan: options.arguments.clone(),
            plan_hash: options.plan_hash.clone(),
            step: self.step,
            fields: options.fields.clone(),
        };
        let mut pulling = PullOptions::new(server.token.parse().map_err(strange)?);
        pulling.credentials.clone_from(&options.credentials);
        pulling.choice = options.transport;
        pulling.slots = options.slots;
        pulling.own_slots = options.slots;
        pulling.slot_bytes = options.slot_bytes;
        pulling.application = read.encode_to_vec().into();
        let puller = Puller::connect(address, pulling).await?;
        let (step, rank) = (self.step, options.rank);
        self.state.say(format!(
            "rank {rank} reads from worker {} at {address} over {} from step {step} on ({})",
            server.worker,
            puller.kind(),
            puller.why()
        ));
        *lock(&self.state.session) = (Some(puller.kind().to_string()), Some(server.worker.clone()));
        Ok(puller)
    }

    /// The body as memory of a batch; a copy where the consumer keeps so many that the worker would get no slot back.
    fn buffer(&self, body: Body, kept_max: usize) -> (Buffer, bool) {
        let bytes = body.into_bytes().unwrap_or_default();
        let state = &self.state;
        let kept = state
            .live
            .load(Ordering::Relaxed)
            .saturating_sub(state.queued.load(Ordering::Relaxed));
        if kept > kept_max {
            state.copies.fetch_add(1, Ordering::Relaxed);
            return (Buffer::from_slice_ref(&bytes), false);
        }
        (Buffer::from(Bytes::from_owner(Counted::new(bytes, state))), true)
    }
}

/// Pulls a body, once more if it arrived corrupt.
async fn pull(puller: &Puller, descriptor: &Descriptor) -> Result<Body> {
    match puller.pull(descriptor).await {
        Err(TransportError::Corrupt { .. }) => Ok(puller.pull(descriptor).await?),
        other => Ok(other?),
    }
}
