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

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::control::message::What;
use crate::control::{CancelRequest, Ended, FailureKind, Message, SubmitRequest, WatchRequest};
use crate::error::{RemoteError, Result};
use crate::remote::{Remote, in_time};

/// A coordinator that is gone is waited for so long.
const PATIENCE: Duration = Duration::from_secs(300);
/// First and longest pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A script on its way.
#[derive(Debug)]
pub struct Conversation {
    remote: Remote,
    /// What is sent; none where somebody else sent it, and this only watches.
    request: Option<SubmitRequest>,
    cancel: CancellationToken,
    /// The coordinator was told of the cancellation.
    cancelled: bool,
    /// What the coordinator calls the script.
    script: Option<String>,
    messages: Option<Streaming<Message>>,
    /// Number of the next message.
    next: u64,
    outcomes: Outcomes,
    waiting: Waiting,
    ended: Option<Result<()>>,
}

/// Which outcomes of the script were handed out.
#[derive(Debug, Default)]
struct Outcomes {
    /// Those that came since the script was sent for the last time.
    heard: usize,
    /// Those that were handed out before: they come again.
    skip: usize,
    /// Rows of one are being handed out.
    in_rows: bool,
}

/// For how long nobody was there.
#[derive(Debug)]
struct Waiting {
    since: Option<Instant>,
    pause: Duration,
    /// The next try comes after the pause.
    due: bool,
    /// A coordinator has said who leads, and was believed.
    redirected: bool,
    /// A person knows that nobody is there.
    told: bool,
}

/// Why messages stopped before the script ended.
#[derive(Debug)]
enum Stopped {
    /// Nobody is there at the moment.
    Lost(Status),
    /// The coordinator was started again.
    Forgotten,
    /// This will not change.
    Failed(RemoteError),
}

impl Conversation {
    /// Sends `request`.
    pub(crate) fn new(remote: Remote, request: SubmitRequest, cancel: CancellationToken) -> Self {
        Self {
            request: Some(request),
            ..Self::of(remote, None, cancel)
        }
    }

    /// Watches what somebody else sent.
    pub(crate) fn watching(remote: Remote, script: String, cancel: CancellationToken) -> Self {
        Self::of(remote, Some(script), cancel)
    }

    fn of(remote: Remote, script: Option<String>, cancel: CancellationToken) -> Self {
        Self {
            remote,
            request: None,
            cancel,
            cancelled: false,
            script,
            messages: None,
            next: 0,
            outcomes: Outcomes::default(),
            waiting: Waiting::over(),
            ended: None,
        }
    }

    /// The next thing that happens to the script: what statements give, once each and in order, and events in between;
    /// `None` after a good end.
    ///
    /// # Errors
    /// What the script failed with ([`RemoteError::Failed`], [`RemoteError::Cancelled`]), or why nothing more can be
    /// known of it; from then on the same again.
    pub async fn next(&mut self) -> Result<Option<What>> {
        while self.ended.is_none() {
            if !self.wait().await {
                self.ended = Some(Err(RemoteError::Cancelled));
                break;
            }
            match self.hear().await {
                Ok(What::Ended(Ended { failure })) => {
                    self.ended = Some(failure.map_or(Ok(()), |failure| {
                        Err(match failure.kind() {
                            FailureKind::Cancelled => RemoteError::Cancelled,
                            _ => RemoteError::Failed(failure),
                        })
                    }));
                }
                Ok(what) => {
                    self.waiting = Waiting::over();
                    if self.outcomes.are_new(&what) {
                        return Ok(Some(what));
                    }
                }
                Err(stopped) => {
                    if let Some(warning) = self.stop(stopped) {
                        return Ok(Some(warning));
                    }
                }
            }
        }
        self.ended.clone().unwrap_or(Ok(())).map(|()| None)
    }

    /// Waits before the next try; false when the caller no longer wants one.
    async fn wait(&mut self) -> bool {
        if !std::mem::take(&mut self.waiting.due) {
            return true;
        }
        let pause = self.waiting.pause;
        self.waiting.pause = (pause * 2).min(PAUSE_MAX);
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = self.cancel.cancelled() => false,
        }
    }

    async fn hear(&mut self) -> Result<What, Stopped> {
        let mut messages = match self.messages.take() {
            Some(messages) => messages,
            None => self.open().await?,
        };
        let message = tokio::select! {
            message = messages.message() => message,
            () = self.cancel.cancelled(), if self.request.is_none() => {
                return Err(Stopped::Failed(RemoteError::Cancelled));
            }
            () = self.cancel.cancelled(), if !self.cancelled => {
                self.cancelled = true;
                let script = self.script.clone().unwrap_or_default();
                // Whatever comes of it, the script's own end says what happened.
                let _ = self.remote.client.cancel(CancelRequest { script }).await;
                messages.message().await
            }
        };
        let message = message.map_err(|status| self.stopped(status))?;
        let Some(Message {
            number,
            what: Some(what),
        }) = message
        else {
            return Err(Stopped::Lost(Status::unavailable("it ended the conversation")));
        };
        self.next = number + 1;
        self.messages = Some(messages);
        Ok(what)
    }

    async fn open(&mut self) -> Result<Streaming<Message>, Stopped> {
        let script = match (&self.script, &self.request) {
            (Some(script), _) => script.clone(),
            (None, Some(request)) => {
                let reply = in_time(self.remote.client.submit(request.clone())).await;
                let script = reply.map_err(|status| self.stopped(status))?.into_inner().script;
                self.script.insert(script).clone()
            }
            (None, None) => return Err(Stopped::Failed(self.remote.broken("it does not know the script"))),
        };
        let watch = WatchRequest {
            script,
            from: self.next,
            without_results: self.request.is_none(),
        };
        let messages = in_time(self.remote.client.watch(watch)).await;
        Ok(messages.map_err(|status| self.stopped(status))?.into_inner())
    }

    /// What a failed call means.
    fn stopped(&self, status: Status) -> Stopped {
        match status.code() {
            Code::NotFound if self.script.is_some() && self.request.is_some() => Stopped::Forgotten,
            // A coordinator of another version or token refuses, one that is full asks to come later: a person decides.
            Code::NotFound
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::InvalidArgument
            | Code::ResourceExhausted => Stopped::Failed(self.remote.lost(&status)),
            _ => Stopped::Lost(status),
        }
    }

    /// Decides what follows, and gives what a person should know about it.
    fn stop(&mut self, stopped: Stopped) -> Option<What> {
        self.waiting.due = true;
        let (lost, told) = match stopped {
            Stopped::Failed(error) => {
                self.ended = Some(Err(error));
                return None;
            }
            Stopped::Forgotten => (Status::not_found("it was started again"), None),
            Stopped::Lost(status) => {
                if self.waiting.since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    self.ended = Some(Err(self.remote.lost(&status)));
                    return None;
                }
                let named = self.remote.turn(&status);
                if named && !std::mem::replace(&mut self.waiting.redirected, true) {
                    self.waiting.due = false;
                }
                let told = (self.waiting.due && !std::mem::replace(&mut self.waiting.told, true)).then(|| {
                    What::Warning(format!(
                        "the connection to the coordinator is lost ({}); waiting for it to come back",
                        status.message()
                    ))
                });
                (status, told)
            }
        };
        if self.outcomes.in_rows {
            // A coordinator hands rows out once, so those that were on their way are gone.
            self.ended = Some(Err(self.remote.broken(&format!(
                "the connection ended in the middle of a result ({}); run the same again",
                lost.message()
            ))));
            return None;
        }
        if lost.code() == Code::NotFound {
            (self.script, self.next) = (None, 0);
            self.outcomes.again();
        }
        told
    }
}

impl Outcomes {
    /// Whether the caller has not had `what` yet; events are always new.
    fn are_new(&mut self, what: &What) -> bool {
        let new = self.heard >= self.skip;
        match what {
            What::Said(_) | What::Built(_) => self.heard += 1,
            What::RowsBegin(_) => self.in_rows = new,
            What::Rows(_) => {}
            What::RowsEnd(_) => {
                self.in_rows = false;
                self.heard += 1;
            }
            _ => return true,
        }
        new
    }

    /// The script is sent again.
    fn again(&mut self) {
        self.skip = self.skip.max(self.heard);
        self.heard = 0;
    }
}

impl Waiting {
    fn over() -> Self {
        Self {
            since: None,
            pause: PAUSE,
            due: false,
            redirected: false,
            told: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::RowsEnd;

    #[test]
    fn what_was_handed_out_before_is_left_out_and_events_are_not() {
        let said = || What::Said("made".to_owned());
        let rows = || {
            [
                What::RowsBegin(vec![]),
                What::Rows(vec![1]),
                What::RowsEnd(RowsEnd { error: None }),
            ]
        };
        let mut outcomes = Outcomes::default();
        assert!(outcomes.are_new(&said()));
        assert!(rows().iter().all(|what| outcomes.are_new(what)));
        outcomes.again();
        assert!(!outcomes.are_new(&said()));
        // It is lost again before it has told everything once more.
        outcomes.again();
        assert!(outcomes.are_new(&What::Warning("w".to_owned())));
        assert!(!outcomes.are_new(&said()));
        assert!(!rows().iter().any(|what| outcomes.are_new(what)));
        assert!(!outcomes.in_rows);
        assert!(outcomes.are_new(&said()));
        assert!(outcomes.are_new(&What::RowsBegin(vec![])) && outcomes.in_rows);
    }
}
