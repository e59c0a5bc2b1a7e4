//! A coordinator elsewhere: scripts are sent to it, and what happens there is told here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use corpusmill_proto::control::{DescribeRequest, ListKind, ListRequest};
use corpusmill_proto::{ControlClient, Coordinators, client};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::conversation::Conversation;
use crate::error::{CoordinatorError, Result};
use crate::events::{Events, Sink};

/// A coordinator that cannot be reached for so long is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One that is there and says nothing for so long is as good as gone.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// While nobody leads, a question waits so long.
const LEADERLESS: Duration = Duration::from_secs(30);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(250);

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

/// A connection to a coordinator, or to whichever of several leads.
#[derive(Debug, Clone)]
pub struct Remote {
    pub(super) client: ControlClient,
    coordinators: Coordinators,
}

impl Remote {
    /// Connects to the coordinator at `urls`, such as `http://127.0.0.1:50050`, or to the first that answers of several
    /// with commas between them.
    ///
    /// # Errors
    /// [`CoordinatorError::Invalid`] when one is no address, [`CoordinatorError::Cluster`] when nobody answers.
    pub async fn connect(urls: &str) -> Result<Self> {
        let mut coordinators = Coordinators::new(urls);
        for url in coordinators.all() {
            endpoint(url)?;
        }
        let mut reasons = Vec::new();
        for _ in 0..coordinators.all().len() {
            let url = coordinators.url();
            match endpoint(url)?.connect().await {
                Ok(channel) => {
                    return Ok(Self {
                        client: client(channel),
                        coordinators,
                    });
                }
                Err(e) => reasons.push(format!(
                    "no coordinator answers at {url} ({})",
                    corpusmill_operators::with_sources(&e)
                )),
            }
            coordinators.turn();
        }
        Err(CoordinatorError::Cluster(format!(
            "{}; start one with `corpusmill coordinator`",
            reasons.join(", ")
        )))
    }

    /// Turns to the coordinator that a refusal names, and then says so, or to the next one.
    pub(super) fn turn(&mut self, refusal: &Status) -> Result<bool> {
        let named = self.coordinators.turn_after(refusal);
        self.client = client(self.channel()?);
        Ok(named)
    }

    fn channel(&self) -> Result<Channel> {
        Ok(endpoint(self.coordinators.url())?.connect_lazy())
    }

    /// Asks whoever leads.
    async fn ask<T, F>(&mut self, question: impl Fn(ControlClient) -> F) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let began = Instant::now();
        loop {
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, question(self.client.clone())).await;
            let refusal = match answer.unwrap_or_else(|_| Err(no_answer())) {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(refusal) => refusal,
            };
            if refusal.code() != Code::Unavailable || began.elapsed() > LEADERLESS {
                return Err(self.lost(&refusal));
            }
            if !self.turn(&refusal)? {
                tokio::time::sleep(PAUSE).await;
            }
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
            .ask(|mut client| async move { client.list(request).await })
            .await?
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
        let described = self.ask(|mut client| {
            let request = request.clone();
            async move { client.describe(request).await }
        });
        Ok(described.await?.manifest)
    }

    pub(super) fn lost(&self, status: &Status) -> CoordinatorError {
        match status.code() {
            Code::FailedPrecondition | Code::Unknown | Code::NotFound => CoordinatorError::Cluster(format!(
                "coordinator at {}: {}",
                self.coordinators.url(),
                status.message()
            )),
            _ => CoordinatorError::Cluster(format!(
                "the connection to the coordinator at {} ended ({}); run the same command again: it goes on from the last \
                 finished step",
                self.coordinators.url(),
                status.message()
            )),
        }
    }

    pub(super) fn broken(&self, why: &str) -> CoordinatorError {
        CoordinatorError::Cluster(format!("coordinator at {}: {why}", self.coordinators.url()))
    }
}

/// How a coordinator at `url` is called.
fn endpoint(url: &str) -> Result<Endpoint> {
    let no_address = |why: &str| {
        CoordinatorError::Invalid(format!(
            "`{url}` is no address of a coordinator ({why}); one looks like http://127.0.0.1:50050"
        ))
    };
    if !url.contains("://") {
        return Err(no_address("http:// is missing"));
    }
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| no_address(&e.to_string()))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true))
}

/// What a call that was not answered in time is taken for.
pub(super) fn no_answer() -> Status {
    Status::unavailable(format!("it said nothing for {} s", ANSWER_TIMEOUT.as_secs()))
}
