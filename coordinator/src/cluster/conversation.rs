//! A script that runs on a coordinator elsewhere, followed to its end through lost connections.
//!
//! ```text
//!   submit ─► watch from message n ─► outcomes, events ─► ended
//!     ▲            ▲        │ connection lost
//!     │            └────────┤ the coordinator still knows the script: from the next message
//!     └─────────────────────┘ it was started again: the same script once more, what was told already is left out
//! ```
//! Where several coordinators are known, a lost one is looked for at the next; another that leads now does not know the
//! script, as one that was started again.
//!
//! A script can be sent again because its statements can: what is done is found done, and builds go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corpusmill_proto::control::message::What;
use corpusmill_proto::control::{CancelRequest, Ended, Message, SubmitRequest, WatchRequest};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::client::{ANSWER_TIMEOUT, Remote, RemoteScript, no_answer};
use super::wire;
use crate::error::{CoordinatorError, Result};
use crate::events::{Event, Events, Outcome, Sink};

/// A coordinator that is gone is waited for so long.
const PATIENCE: Duration = Duration::from_secs(300);
/// First and longest pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);

type Messages = Arc<Mutex<Streaming<Message>>>;

/// A script on its way.
pub(super) struct Conversation<'a> {
    remote: &'a mut Remote,
    request: SubmitRequest,
    events: &'a Arc<dyn Events>,
    cancel: &'a CancellationToken,
    /// What the coordinator calls the script.
    script: Option<String>,
    /// Number of the next message.
    next: u64,
    /// Outcomes that the sink has taken.
    taken: usize,
    /// Outcomes that the sink took before the script was sent again.
    skip: usize,
}

/// Why a conversation stopped before the script ended.
enum Stopped {
    /// Nobody is there at the moment.
    Lost(Status),
    /// The coordinator was started again.
    Forgotten,
    /// This will not change.
    Failed(CoordinatorError),
}

impl From<CoordinatorError> for Stopped {
    fn from(error: CoordinatorError) -> Self {
        Self::Failed(error)
    }
}

impl<'a> Conversation<'a> {
    pub(super) fn new(
        remote: &'a mut Remote,
        script: RemoteScript,
        events: &'a Arc<dyn Events>,
        cancel: &'a CancellationToken,
    ) -> Self {
        let request = SubmitRequest {
            text: script.text,
            origin: script.origin,
            base_dir: script.base_dir,
            as_of_ms: script.as_of.map(|time| time.timestamp_millis()),
        };
        Self {
            remote,
            request,
            events,
            cancel,
            script: None,
            next: 0,
            taken: 0,
            skip: 0,
        }
    }

    /// Runs the script to its end.
    ///
    /// # Errors
    /// As [`Remote::run_script`].
    pub(super) async fn run(mut self, sink: &mut dyn Sink) -> Result<()> {
        let mut gone: Option<Instant> = None;
        let mut pause = PAUSE;
        let (mut redirected, mut warned) = (false, false);
        loop {
            let heard = (self.next, self.taken);
            let stopped = match self.converse(sink).await {
                Ok(()) => return Ok(()),
                Err(stopped) => stopped,
            };
            if heard != (self.next, self.taken) {
                (gone, pause) = (None, PAUSE);
                (redirected, warned) = (false, false);
            }
            match stopped {
                Stopped::Failed(error) => return Err(error),
                Stopped::Forgotten => {
                    (self.script, self.next, self.skip) = (None, 0, self.taken);
                }
                Stopped::Lost(status) => {
                    if gone.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        return Err(self.remote.lost(&status));
                    }
                    let named = self.remote.turn(&status)?;
                    if named && !std::mem::replace(&mut redirected, true) {
                        continue;
                    }
                    if !std::mem::replace(&mut warned, true) {
                        self.events.event(Event::Warning(format!(
                            "the connection to the coordinator is lost ({}); waiting for it to come back",
                            status.message()
                        )));
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.cancel.cancelled() => return Err(CoordinatorError::Cancelled),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn converse(&mut self, sink: &mut dyn Sink) -> Result<(), Stopped> {
        let id = match &self.script {
            Some(id) => id.clone(),
            None => {
                let reply = in_time(self.remote.client.submit(self.request.clone())).await;
                let id = reply.map_err(|status| self.stopped(status))?.into_inner().script;
                self.script.insert(id).clone()
            }
        };
        let watch = WatchRequest {
            script: id.clone(),
            from: self.next,
        };
        let messages = in_time(self.remote.client.watch(watch)).await;
        let messages = messages.map_err(|status| self.stopped(status))?.into_inner();
        let messages: Messages = Arc::new(Mutex::new(messages));
        let (mut canceller, cancel) = (self.remote.client.clone(), self.cancel.clone());
        let stop = async move {
            cancel.cancelled().await;
            // Whatever comes of it, the script's own end says what happened.
            let _ = canceller.cancel(CancelRequest { script: id }).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = self.follow(&messages, sink) => ended,
            () = stop => Err(Stopped::Failed(CoordinatorError::Cancelled)),
        }
    }

    /// What a failed call means.
    fn stopped(&self, status: Status) -> Stopped {
        match status.code() {
            Code::NotFound if self.script.is_some() => Stopped::Forgotten,
            // A coordinator of another version refuses, one that is full asks to come later: a person decides.
            Code::NotFound | Code::FailedPrecondition | Code::InvalidArgument | Code::ResourceExhausted => {
                Stopped::Failed(self.remote.lost(&status))
            }
            _ => Stopped::Lost(status),
        }
    }

    async fn follow(&mut self, messages: &Messages, sink: &mut dyn Sink) -> Result<(), Stopped> {
        loop {
            let message = messages.lock().await.message().await;
            let message = message.map_err(|status| self.stopped(status))?;
            let Some(Message {
                number,
                what: Some(what),
            }) = message
            else {
                return Err(Stopped::Lost(Status::unavailable("it ended the conversation")));
            };
            self.next = number + 1;
            match what {
                What::Ended(Ended { failure: None }) => return Ok(()),
                What::Ended(Ended { failure: Some(failure) }) => return Err(wire::to_error(failure).into()),
                What::Said(text) => self.outcome(Outcome::Message(text), sink).await?,
                What::Built(json) => {
                    let report = serde_json::from_str(&json).map_err(|e| self.remote.broken(&e.to_string()))?;
                    self.outcome(Outcome::Build(Box::new(report)), sink).await?;
                }
                What::RowsBegin(schema) => {
                    // An error in the rows is the script's end as well, in better words.
                    let rows = rows(Arc::clone(messages), &schema)?;
                    let shown = self.outcome(Outcome::Rows(rows), sink).await;
                    if let Err(error) = shown
                        && !matches!(&error, CoordinatorError::Sql(_))
                    {
                        return Err(error.into());
                    }
                }
                other => {
                    if let Some(event) = wire::to_event(other) {
                        self.events.event(event);
                    }
                }
            }
        }
    }

    /// Hands an outcome on, unless the sink took it before the script was sent again.
    async fn outcome(&mut self, outcome: Outcome, sink: &mut dyn Sink) -> Result<()> {
        if self.skip > 0 {
            self.skip -= 1;
            if let Outcome::Rows(mut rows) = outcome {
                while rows.next().await.transpose()?.is_some() {}
            }
            return Ok(());
        }
        sink.outcome(outcome).await?;
        self.taken += 1;
        Ok(())
    }
}

/// An answer that comes in time.
async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
    answer.unwrap_or_else(|_| Err(no_answer()))
}

/// The rows of a result, as they come in.
fn rows(messages: Messages, schema: &[u8]) -> Result<SendableRecordBatchStream> {
    let (schema, _) = wire::batches(schema).map_err(DataFusionError::from)?;
    let incoming = futures::stream::try_unfold(messages, |messages| async move {
        let message = messages.lock().await.message().await;
        let message = message.map_err(|e| DataFusionError::External(Box::new(e)))?;
        match message.and_then(|message| message.what) {
            Some(What::Rows(bytes)) => {
                let (_, batches) = wire::batches(&bytes)?;
                Ok(Some((futures::stream::iter(batches.into_iter().map(Ok)), messages)))
            }
            Some(What::RowsEnd(end)) => match end.error {
                None => Ok(None),
                Some(error) => Err(DataFusionError::Execution(error)),
            },
            _ => Err(DataFusionError::Execution(
                "the coordinator ended the result in the middle; run the same command again".to_owned(),
            )),
        }
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(
        schema,
        incoming.try_flatten().boxed(),
    )))
}
