//! A coordinator elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corpusmill_access::Credentials;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status};

use crate::ControlClient;
use crate::caller::{Caller, broken_off};
use crate::control::{CancelRequest, DescribeRequest, ListKind, ListRequest, SubmitRequest};
use crate::conversation::Conversation;
use crate::coordinators::Coordinators;
use crate::error::{RemoteError, Result};

/// One that is there and says nothing for so long is as good as gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// While nobody leads, a question waits so long.
const LEADERLESS: Duration = Duration::from_secs(30);
/// One that ended during the first call is waited for so long.
const RESTART: Duration = Duration::from_secs(5);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// Nobody answers at an address.
struct Gone {
    reason: String,
    /// Somebody took the call.
    was_there: bool,
}

/// A connection to a coordinator, or to whichever of several leads.
#[derive(Debug, Clone)]
pub struct Remote {
    pub(crate) client: ControlClient,
    coordinators: Coordinators,
}

impl Remote {
    /// Connects to the coordinator at `urls`, such as `http://127.0.0.1:50050` (`corpusmill://…` is the same), or to the
    /// first that answers of several with commas between them. With credentials, inside TLS.
    ///
    /// # Errors
    /// [`RemoteError::Address`] when one is no address, [`RemoteError::Unreachable`] when nobody answers,
    /// [`RemoteError::Refused`] when who answers does not take this caller.
    pub async fn connect(urls: &str, credentials: Option<&Arc<Credentials>>) -> Result<Self> {
        let mut coordinators = Coordinators::new(urls, credentials).map_err(|reason| RemoteError::Address {
            url: urls.to_owned(),
            reason,
        })?;
        let (began, mut was_there) = (Instant::now(), false);
        let mut reasons = Vec::new();
        loop {
            reasons.clear();
            for _ in 0..coordinators.all().len() {
                match Self::reach(&coordinators).await? {
                    Ok(client) => return Ok(Self { client, coordinators }),
                    Err(gone) => {
                        was_there |= gone.was_there;
                        reasons.push(gone.reason);
                    }
                }
                coordinators.turn();
            }
            // One that takes a call and ends before it answers is being started again.
            if !was_there || began.elapsed() > RESTART {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let url = coordinators
            .all()
            .iter()
            .map(Caller::url)
            .collect::<Vec<_>>()
            .join(" or ");
        Err(RemoteError::Unreachable {
            url,
            reason: reasons.join(", "),
            hint: match credentials {
                Some(_) => "; its certificates and those of --certs must be of one `certs init`",
                None => ", and give --certs if it asks for certificates",
            },
        })
    }

    /// A client of the coordinator to ask now, or why nobody is there.
    async fn reach(coordinators: &Coordinators) -> Result<Result<ControlClient, Gone>> {
        let gone = |reason, was_there| Ok(Err(Gone { reason, was_there }));
        let mut client = match coordinators.caller().control().await {
            Ok(client) => client,
            Err(reason) => return gone(reason, false),
        };
        // A connection says little: who shows the wrong certificate, or none, is told so by the first answer.
        let kind = ListKind::Workers.into();
        let answer = in_time(client.list(ListRequest { kind })).await;
        match answer {
            Err(status) => match broken_off(&status) {
                Some(reason) => gone(reason, true),
                // One that does not lead is there as well, and knows who does.
                None if status.code() == Code::Unavailable => Ok(Ok(client)),
                None => Err(lost(coordinators.url(), &status)),
            },
            Ok(_) => Ok(Ok(client)),
        }
    }

    /// Turns to the coordinator that a refusal names, and then says so, or to the next one.
    pub(crate) fn turn(&mut self, refusal: &Status) -> bool {
        let named = self.coordinators.turn_after(refusal);
        self.client = self.coordinators.caller().control_lazily();
        named
    }

    /// Asks whoever leads.
    async fn ask<T, F>(&mut self, question: impl Fn(ControlClient) -> F) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let began = Instant::now();
        loop {
            let refusal = match in_time(question(self.client.clone())).await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(refusal) => refusal,
            };
            if refusal.code() != Code::Unavailable || began.elapsed() > LEADERLESS {
                return Err(self.lost(&refusal));
            }
            if !self.turn(&refusal) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Sends a script and follows it to its end, also when the connection ends or the coordinator is started again
    /// meanwhile; nothing is sent before the first [`Conversation::next`]. `cancel` stops the script cleanly.
    #[must_use]
    pub fn run(&self, request: SubmitRequest, cancel: CancellationToken) -> Conversation {
        Conversation::new(self.clone(), request, cancel)
    }

    /// Sends a script, and leaves it there; gives its id.
    ///
    /// # Errors
    /// [`RemoteError::Refused`] or [`RemoteError::Lost`] when it is not taken.
    pub async fn submit(&mut self, request: SubmitRequest) -> Result<String> {
        let sent = self.ask(|mut client| {
            let request = request.clone();
            async move { client.submit(request).await }
        });
        Ok(sent.await?.script)
    }

    /// Follows the script `script`, which somebody else sent, without its results; `cancel` ends that, not the script.
    #[must_use]
    pub fn watch(&self, script: &str, cancel: CancellationToken) -> Conversation {
        Conversation::watching(self.clone(), script.to_owned(), cancel)
    }

    /// Asks for the script `script` to be stopped cleanly; false when it had ended.
    ///
    /// # Errors
    /// [`RemoteError::Refused`] when there is no such script, [`RemoteError::Lost`] when the coordinator does not answer.
    pub async fn cancel(&mut self, script: &str) -> Result<bool> {
        let asked = self.ask(|mut client| {
            let script = script.to_owned();
            async move { client.cancel(CancelRequest { script }).await }
        });
        Ok(asked.await?.running)
    }

    /// Corpora, builds, workers or scripts of the coordinator, as a JSON array of objects.
    ///
    /// # Errors
    /// [`RemoteError::Refused`] or [`RemoteError::Lost`] when it does not say.
    pub async fn list(&mut self, kind: ListKind) -> Result<String> {
        let request = ListRequest { kind: kind.into() };
        let listed = self.ask(|mut client| async move { client.list(request).await });
        Ok(listed.await?.json)
    }

    /// The manifest of `name`, `name@version` or `name@latest`, as JSON.
    ///
    /// # Errors
    /// [`RemoteError::Refused`] when there is none, [`RemoteError::Lost`] when the coordinator does not answer.
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

    /// What the coordinator says makes no sense, or ends something for good.
    #[must_use]
    pub fn broken(&self, why: &str) -> RemoteError {
        RemoteError::Refused {
            url: self.coordinators.url().to_owned(),
            reason: why.to_owned(),
        }
    }

    pub(crate) fn lost(&self, status: &Status) -> RemoteError {
        lost(self.coordinators.url(), status)
    }
}

fn lost(url: &str, status: &Status) -> RemoteError {
    let (url, reason) = (url.to_owned(), status.message().to_owned());
    match status.code() {
        Code::FailedPrecondition | Code::Unauthenticated | Code::Unknown | Code::NotFound => {
            RemoteError::Refused { url, reason }
        }
        _ => RemoteError::Lost { url, reason },
    }
}

/// An answer that comes in time.
pub(crate) async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
    answer.unwrap_or_else(|_| {
        let silent = format!("it said nothing for {} s", ANSWER_TIMEOUT.as_secs());
        Err(Status::unavailable(silent))
    })
}
