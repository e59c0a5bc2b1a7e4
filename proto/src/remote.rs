//! A coordinator elsewhere.

use std::sync::Arc;

use corpusmill_access::Credentials;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::ControlClient;
use crate::caller::{Caller, broken_off};
use crate::control::{DescribeRequest, ListKind, ListRequest, SubmitRequest};
use crate::conversation::Conversation;
use crate::error::{RemoteError, Result};

/// A connection to a coordinator.
#[derive(Debug, Clone)]
pub struct Remote {
    pub(crate) client: ControlClient,
    url: String,
}

impl Remote {
    /// Connects to the coordinator at `url`, such as `http://127.0.0.1:50050`; `corpusmill://…` is the same.
    /// With credentials, inside TLS.
    ///
    /// # Errors
    /// [`RemoteError::Address`] when that is no address, [`RemoteError::Unreachable`] when nobody answers there.
    pub async fn connect(url: &str, credentials: Option<&Arc<Credentials>>) -> Result<Self> {
        let caller = Caller::new(url, credentials).map_err(|reason| RemoteError::Address {
            url: url.to_owned(),
            reason,
        })?;
        let nobody = |reason: String| RemoteError::Unreachable {
            url: caller.url().to_owned(),
            reason,
            hint: match credentials {
                Some(_) => "; its certificates and those of --certs must be of one `certs init`",
                None => ", and give --certs if it asks for certificates",
            },
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
            Code::FailedPrecondition | Code::Unauthenticated | Code::Unknown | Code::NotFound => {
                self.broken(status.message())
            }
            _ => RemoteError::Lost {
                url: self.url.clone(),
                reason: status.message().to_owned(),
            },
        }
    }
}
