//! A coordinator elsewhere: scripts are sent to it, and what happens there is told here.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use corpusmill_access::Credentials;
use corpusmill_proto::control::message::What;
use corpusmill_proto::control::{ListKind, SubmitRequest};
use corpusmill_proto::{Conversation, RemoteError};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::wire;
use crate::error::{CoordinatorError, Result};
use crate::events::{Events, Outcome, Sink};

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

impl From<RemoteScript> for SubmitRequest {
    fn from(script: RemoteScript) -> Self {
        Self {
            text: script.text,
            origin: script.origin,
            base_dir: script.base_dir,
            as_of_ms: script.as_of.map(|time| time.timestamp_millis()),
        }
    }
}

/// A connection to a coordinator, or to whichever of several leads.
#[derive(Debug, Clone)]
pub struct Remote(corpusmill_proto::Remote);

impl Remote {
    /// Connects to the coordinator at `url`, such as `http://127.0.0.1:50050`; with credentials inside TLS.
    ///
    /// # Errors
    /// [`CoordinatorError::Invalid`] when that is no address, [`CoordinatorError::Cluster`] when nobody answers there.
    pub async fn connect(url: &str, credentials: Option<&Arc<Credentials>>) -> Result<Self> {
        Ok(Self(corpusmill_proto::Remote::connect(url, credentials).await?))
    }

    /// Runs a script there as [`Coordinator::run_script`](crate::Coordinator::run_script) does here.
    ///
    /// A connection that ends, or a coordinator that is started again, is waited for: the script goes on where it was.
    ///
    /// # Errors
    /// What the script failed with there ([`CoordinatorError::Remote`], [`CoordinatorError::Cancelled`]), or
    /// [`CoordinatorError::Cluster`] when the coordinator does not come back.
    pub async fn run_script(
        &mut self,
        script: RemoteScript,
        sink: &mut dyn Sink,
        events: &Arc<dyn Events>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let conversation = self.0.run(script.into(), cancel.clone());
        self.follow(conversation, sink, events).await
    }

    /// Sends a script, and leaves it there; gives its id.
    ///
    /// # Errors
    /// [`CoordinatorError::Cluster`] when it is not taken.
    pub async fn submit(&mut self, script: RemoteScript) -> Result<String> {
        Ok(self.0.submit(script.into()).await?)
    }

    /// Follows the script `script`, which somebody else sent, to its end, without the rows of its queries; `cancel` ends
    /// that, not the script.
    ///
    /// # Errors
    /// As [`Remote::run_script`], and when there is no such script.
    pub async fn watch(
        &mut self,
        script: &str,
        sink: &mut dyn Sink,
        events: &Arc<dyn Events>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let conversation = self.0.watch(script, cancel.clone());
        self.follow(conversation, sink, events).await
    }

    /// Asks for the script `script` to be stopped cleanly; false when it had ended.
    ///
    /// # Errors
    /// [`CoordinatorError::Cluster`] when there is no such script, or the coordinator does not answer.
    pub async fn cancel(&mut self, script: &str) -> Result<bool> {
        Ok(self.0.cancel(script).await?)
    }

    async fn follow(&self, conversation: Conversation, sink: &mut dyn Sink, events: &Arc<dyn Events>) -> Result<()> {
        let conversation = Arc::new(Mutex::new(conversation));
        loop {
            let what = conversation.lock().await.next().await?;
            let Some(what) = what else { return Ok(()) };
            match what {
                What::Said(text) => sink.outcome(Outcome::Message(text)).await?,
                What::Built(json) => {
                    let report = serde_json::from_str(&json).map_err(|e| self.0.broken(&e.to_string()))?;
                    sink.outcome(Outcome::Build(Box::new(report))).await?;
                }
                What::RowsBegin(schema) => {
                    let rows = rows(Arc::clone(&conversation), &schema)?;
                    // An error in the rows is the script's end as well, in better words.
                    if let Err(error) = sink.outcome(Outcome::Rows(rows)).await
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
        Ok(self.0.list(kind).await?)
    }

    /// The manifest of `name`, `name@version` or `name@latest`, as JSON.
    ///
    /// # Errors
    /// [`CoordinatorError::Cluster`] when there is none, or the coordinator does not answer.
    pub async fn describe(&mut self, corpus: &str) -> Result<String> {
        Ok(self.0.describe(corpus).await?)
    }
}

/// The rows of a result, as they come in.
fn rows(conversation: Arc<Mutex<Conversation>>, schema: &[u8]) -> Result<SendableRecordBatchStream> {
    let (schema, _) = wire::batches(schema).map_err(DataFusionError::from)?;
    let external = |error: RemoteError| DataFusionError::External(Box::new(error));
    let incoming = futures::stream::try_unfold(conversation, move |conversation| async move {
        let what = conversation.lock().await.next().await.map_err(external)?;
        match what {
            Some(What::Rows(bytes)) => {
                let (_, batches) = wire::batches(&bytes)?;
                Ok(Some((futures::stream::iter(batches.into_iter().map(Ok)), conversation)))
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
