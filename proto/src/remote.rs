//! A coordinator elsewhere.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::control::{DescribeRequest, ListKind, ListRequest, SubmitRequest};
use crate::conversation::Conversation;
use crate::error::{RemoteError, Result, causes};
use crate::{ControlClient, client};

/// A coordinator that cannot be reached for so long is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a coordinator.
#[derive(Debug, Clone)]
pub struct Remote {
    pub(crate) client: ControlClient,
    url: String,
}

impl Remote {
    /// Connects to the coordinator at `url`, such as `http://127.0.0.1:50050`; `corpusmill://…` is the same.
    ///
    /// # Errors
    /// [`RemoteError::Address`] when that is no address, [`RemoteError::Unreachable`] when nobody answers there.
    pub async fn connect(url: &str) -> Result<Self> {
        let no_address = |reason: &str| RemoteError::Address {
            url: url.to_owned(),
            reason: reason.to_owned(),
        };
        let whole = match url.split_once("://") {
            None => return Err(no_address("http:// is missing")),
            Some(("corpusmill", rest)) => format!("http://{rest}"),
            Some(_) => url.to_owned(),
        };
        let endpoint = Endpoint::from_shared(whole).map_err(|e| no_address(&e.to_string()))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|e| RemoteError::Unreachable {
            url: url.to_owned(),
            reason: causes(&e),
        })?;
        Ok(Self {
            client: client(channel),
            url: url.to_owned(),
        })
    }

    /// Sends a script and follows it to its end, also when the connection ends or the coordinator is started again
    /// meanwhile; nothing is sent before the first [`Conversation::next`]. `cancel` stops the script cleanly.
    #[must_use]
    pub fn run(&self, request: SubmitRequest, cancel: CancellationToken) -> Conversation {
        Conversation::new(self.clone(), request, cancel)
    }

    /// Corpora, builds, workers or scripts of the coordinator, as a JSON array of objects.
    ///
    /// # Errors
    /// [`RemoteError::Refused`] or [`RemoteError::Lost`] when it does not say.
    pub async fn list(&mut self, kind: ListKind) -> Result<String> {
        let reply = self.client.list(ListRequest { kind: kind.into() }).await;
        Ok(reply.map_err(|e| self.lost(&e))?.into_inner().json)
    }

    /// The manifest of `name`, `name@version` or `name@latest`, as JSON.
    ///
    /// # Errors
    /// [`RemoteError::Refused`] when there is none, [`RemoteError::Lost`] when the coordinator does not answer.
    pub async fn describe(&mut self, corpus: &str) -> Result<String> {
        let corpus = corpus.to_owned();
        let reply = self.client.describe(DescribeRequest { corpus }).await;
        Ok(reply.map_err(|e| self.lost(&e))?.into_inner().manifest)
    }

    /// What the coordinator says makes no sense, or ends something for good.
    #[must_use]
    pub fn broken(&self, why: &str) -> RemoteError {
        RemoteError::Refused {
            url: self.url.clone(),
            reason: why.to_owned(),
        }
    }

    pub(crate) fn lost(&self, status: &Status) -> RemoteError {
        match status.code() {
            Code::FailedPrecondition | Code::Unknown | Code::NotFound => self.broken(status.message()),
            _ => RemoteError::Lost {
                url: self.url.clone(),
                reason: status.message().to_owned(),
            },
        }
    }
}
