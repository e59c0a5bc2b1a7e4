//! A coordinator elsewhere: scripts are sent to it, and what happens there is told here.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use corpusmill_proto::control::message::What;
use corpusmill_proto::control::{
    CancelRequest, DescribeRequest, Ended, ListKind, ListRequest, Message, SubmitRequest, WatchRequest,
};
use corpusmill_proto::{ControlClient, client};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use super::wire;
use crate::error::{CoordinatorError, Result};
use crate::events::{Events, Outcome, Sink};

/// A coordinator that cannot be reached for so long is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A script for a coordinator elsewhere.
#[derive(Debug, Clone)]
pub struct RemoteScript {
    /// Its statements.
    pub text: String,
    /// What error messages call it: a file name.
    pub origin: String,
    /// The folder that relative paths in it start from; both sides must see it.
    pub base_dir: String,
    /// Logical time of its builds; the time of the call when `None`.
    pub as_of: Option<DateTime<Utc>>,
}

/// A connection to a coordinator.
#[derive(Debug, Clone)]
pub struct Remote {
    client: ControlClient,
    url: String,
}

type Messages = Arc<Mutex<Streaming<Message>>>;

impl Remote {
    /// Connects to the coordinator at `url`, such as `http://127.0.0.1:50050`.
    ///
    /// # Errors
    /// [`CoordinatorError::Invalid`] when that is no address, [`CoordinatorError::Cluster`] when nobody answers there.
    pub async fn connect(url: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| {
            CoordinatorError::Invalid(format!(
                "`{url}` is no address of a coordinator ({e}); one looks like http://127.0.0.1:50050"
            ))
        })?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|e| {
            CoordinatorError::Cluster(format!(
                "no coordinator answers at {url} ({}); start one with `corpusmill coordinator`",
                corpusmill_operators::with_sources(&e)
            ))
        })?;
        Ok(Self {
            client: client(channel),
            url: url.to_owned(),
        })
    }

    /// Runs a script there as [`Coordinator::run_script`](crate::Coordinator::run_script) does here.
    ///
    /// # Errors
    /// What the script failed with there ([`CoordinatorError::Remote`], [`CoordinatorError::Cancelled`]), or
    /// [`CoordinatorError::Cluster`] when the connection ends.
    pub async fn run_script(
        &mut self,
        script: RemoteScript,
        sink: &mut dyn Sink,
        events: &Arc<dyn Events>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let request = SubmitRequest {
            text: script.text,
            origin: script.origin,
            base_dir: script.base_dir,
            as_of_ms: script.as_of.map(|time| time.timestamp_millis()),
        };
        let id = self
            .client
            .submit(request)
            .await
            .map_err(|e| self.lost(&e))?
            .into_inner()
            .script;
        let watch = WatchRequest {
            script: id.clone(),
            from: 0,
        };
        let messages = self.client.watch(watch).await.map_err(|e| self.lost(&e))?.into_inner();
        let messages: Messages = Arc::new(Mutex::new(messages));
        let mut canceller = self.client.clone();
        let stop = async move {
            cancel.cancelled().await;
            // Whatever comes of it, the script's own end says what happened.
            let _ = canceller.cancel(CancelRequest { script: id }).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = self.follow(&messages, sink, events) => ended,
            () = stop => Err(CoordinatorError::Cancelled),
        }
    }

    async fn follow(&self, messages: &Messages, sink: &mut dyn Sink, events: &Arc<dyn Events>) -> Result<()> {
        loop {
            let message = messages.lock().await.message().await.map_err(|e| self.lost(&e))?;
            let Some(what) = message.and_then(|message| message.what) else {
                return Err(self.broken("it ended the conversation before the script ended"));
            };
            match what {
                What::Ended(Ended { failure: None }) => return Ok(()),
                What::Ended(Ended { failure: Some(failure) }) => return Err(wire::to_error(failure)),
                What::Said(text) => sink.outcome(Outcome::Message(text)).await?,
                What::Built(json) => {
                    let report = serde_json::from_str(&json).map_err(|e| self.broken(&e.to_string()))?;
                    sink.outcome(Outcome::Build(Box::new(report))).await?;
                }
                What::RowsBegin(schema) => {
                    // An error in the rows is the script's end as well, in better words.
                    let rows = rows(Arc::clone(messages), &schema)?;
                    let shown = sink.outcome(Outcome::Rows(rows)).await;
                    if let Err(error) = shown
                        && !matches!(&error, CoordinatorError::Sql(_))
                    {
                        return Err(error);
                    }
                }
                other => {
                    if let Some(event) = wire::to_event(other) {
                        events.event(event);
                    }
                }
            }
        }
    }

    /// Corpora, builds, workers or scripts of the coordinator, as a JSON array of objects.
    ///
    /// # Errors
    /// [`CoordinatorError::Cluster`] when it does not answer.
    pub async fn list(&mut self, kind: ListKind) -> Result<String> {
        let request = ListRequest { kind: kind.into() };
        Ok(self
            .client
            .list(request)
            .await
            .map_err(|e| self.lost(&e))?
            .into_inner()
            .json)
    }

    /// The manifest of `name`, `name@version` or `name@latest`, as JSON.
    ///
    /// # Errors
    /// [`CoordinatorError::Cluster`] when there is none, or the coordinator does not answer.
    pub async fn describe(&mut self, corpus: &str) -> Result<String> {
        let request = DescribeRequest {
            corpus: corpus.to_owned(),
        };
        Ok(self
            .client
            .describe(request)
            .await
            .map_err(|e| self.lost(&e))?
            .into_inner()
            .manifest)
    }

    fn lost(&self, status: &Status) -> CoordinatorError {
        match status.code() {
            Code::FailedPrecondition | Code::Unknown | Code::NotFound => {
                CoordinatorError::Cluster(format!("coordinator at {}: {}", self.url, status.message()))
            }
            _ => CoordinatorError::Cluster(format!(
                "the connection to the coordinator at {} ended ({}); run the same command again: it goes on from the last \
                 finished step",
                self.url,
                status.message()
            )),
        }
    }

    fn broken(&self, why: &str) -> CoordinatorError {
        CoordinatorError::Cluster(format!("coordinator at {}: {why}", self.url))
    }
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
                "the coordinator ended the result in the middle".to_owned(),
            )),
        }
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(
        schema,
        incoming.try_flatten().boxed(),
    )))
}
