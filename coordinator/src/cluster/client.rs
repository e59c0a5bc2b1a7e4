//! A coordinator elsewhere: scripts are sent to it, and what happens there is told here.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use corpusmill_access::Credentials;
use corpusmill_proto::control::{DescribeRequest, ListKind, ListRequest};
use corpusmill_proto::{Caller, ControlClient, broken_off};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::conversation::Conversation;
use crate::error::{CoordinatorError, Result};
use crate::events::{Events, Sink};

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
    pub(super) client: ControlClient,
    url: String,
}

impl Remote {
    /// Connects to the coordinator at `url`, such as `http://127.0.0.1:50050`; with credentials inside TLS.
    ///
    /// # Errors
    /// [`CoordinatorError::Invalid`] when that is no address, [`CoordinatorError::Cluster`] when nobody answers there.
    pub async fn connect(url: &str, credentials: Option<&Arc<Credentials>>) -> Result<Self> {
        let caller = Caller::new(url, credentials).map_err(|reason| {
            CoordinatorError::Invalid(format!(
                "`{url}` is no address of a coordinator ({reason}); one looks like http://127.0.0.1:50050"
            ))
        })?;
        let nobody = |reason: String| {
            let certificates = match credentials {
                Some(_) => "; its certificates and those of --certs must be of one `certs init`",
                None => ", and give --certs if it asks for certificates",
            };
            let url = caller.url();
            CoordinatorError::Cluster(format!(
                "no coordinator answers at {url} ({reason}); start one with `corpusmill coordinator`{certificates}"
            ))
        };
        let client = caller.control().await.map_err(nobody)?;
        let url = caller.url().to_owned();
        let mut this = Self { client, url };
        // A connection says little: who shows the wrong certificate, or none, is told so by the first answer.
        let kind = ListKind::Workers.into();
        match this.client.list(ListRequest { kind }).await {
            Err(status) => Err(match broken_off(&status) {
                Some(reason) => nobody(reason),
                None => this.lost(&status),
            }),
            Ok(_) => Ok(this),
        }
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
        Conversation::new(self, script, events, cancel).run(sink).await
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

    pub(super) fn lost(&self, status: &Status) -> CoordinatorError {
        match status.code() {
            Code::FailedPrecondition | Code::Unauthenticated | Code::Unknown | Code::NotFound => {
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

    pub(super) fn broken(&self, why: &str) -> CoordinatorError {
        CoordinatorError::Cluster(format!("coordinator at {}: {why}", self.url))
    }
}
