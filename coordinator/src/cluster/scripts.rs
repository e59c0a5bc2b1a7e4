//! Scripts that a coordinator was given: what happened to each, for whoever watches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use corpusmill_proto::control::message::What;
use corpusmill_proto::control::{Ended, Message, Queued, RowsEnd};
use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::wire;
use crate::error::{CoordinatorError, Result};
use crate::events::{Event, Events, Outcome, Sink};

/// Bytes of results that wait to be read; a query waits when there are more.
const ROWS_BYTES_MAX: usize = 32 << 20;
/// A query does not wait for a reader longer than this.
const READER_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages of one script that are kept; the oldest go first.
const MESSAGES_MAX: usize = 10_000;

/// A script that a coordinator was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptInfo {
    /// Its id.
    pub script: String,
    /// Where it came from: a file name.
    pub origin: String,
    /// `queued`, `running` or `ended`.
    pub state: String,
}

/// A script, from its submission on.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) id: String,
    pub(super) origin: String,
    pub(super) cancel: CancellationToken,
    log: Mutex<Log>,
    changed: Notify,
    read: Notify,
}

#[derive(Debug, Default)]
struct Log {
    messages: VecDeque<Message>,
    next: u64,
    rows_bytes: usize,
    started: bool,
    /// The coordinator leads no more: whoever watches is to look for the next one.
    abandoned: bool,
    ended: bool,
}

impl Script {
    pub(super) fn new(id: String, origin: String) -> Arc<Self> {
        let (cancel, log) = (CancellationToken::new(), Mutex::default());
        Arc::new(Self {
            id,
            origin,
            cancel,
            log,
            changed: Notify::new(),
            read: Notify::new(),
        })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn info(&self) -> ScriptInfo {
        let log = self.log();
        let state = match (log.started, log.ended) {
            (_, true) => "ended",
            (true, false) => "running",
            (false, false) => "queued",
        };
        ScriptInfo {
            script: self.id.clone(),
            origin: self.origin.clone(),
            state: state.to_owned(),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.log().ended
    }

    pub(super) fn queued(&self, ahead: usize) {
        if ahead > 0 {
            self.say(What::Queued(Queued {
                ahead: ahead as u32,
                reason: format!("waiting: {ahead} scripts before yours"),
            }));
        }
    }

    pub(super) fn started(&self) {
        self.log().started = true;
    }

    /// Stops it without a last word: it goes on at the coordinator that leads next.
    pub(super) fn abandon(&self) {
        self.log().abandoned = true;
        self.cancel.cancel();
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.log().abandoned
    }

    /// Adds the last message.
    pub(super) fn ended(&self, result: &Result<()>) {
        let abandoned = self.is_abandoned() || matches!(result, Err(CoordinatorError::Deposed { .. }));
        if result.is_ok() || !abandoned {
            let failure = result.as_ref().err().map(wire::from_error);
            self.say(What::Ended(Ended { failure }));
        }
        let mut log = self.log();
        (log.ended, log.abandoned) = (true, abandoned);
        drop(log);
        self.changed.notify_waiters();
    }

    /// Adds a message. Progress that nobody has read yet is overtaken by the next.
    fn say(&self, what: What) {
        {
            let mut log = self.log();
            let is_progress = |what: &Option<What>| matches!(what, Some(What::Progress(_)));
            if matches!(what, What::Progress(_)) && log.messages.back().is_some_and(|last| is_progress(&last.what)) {
                log.messages.pop_back();
            }
            log.rows_bytes += rows_bytes(&what);
            let number = log.next;
            log.next += 1;
            log.messages.push_back(Message {
                number,
                what: Some(what),
            });
            if log.messages.len() > MESSAGES_MAX
                && let Some(old) = log.messages.pop_front()
            {
                log.rows_bytes -= old.what.as_ref().map_or(0, rows_bytes);
            }
        }
        self.changed.notify_waiters();
    }

    /// Adds rows, once those before were read.
    async fn say_rows(&self, rows: Vec<u8>) -> Result<()> {
        let room = async {
            loop {
                let read = self.read.notified();
                if self.log().rows_bytes < ROWS_BYTES_MAX {
                    return;
                }
                read.await;
            }
        };
        tokio::select! {
            () = room => {}
            () = self.cancel.cancelled() => return Err(CoordinatorError::Cancelled),
            () = tokio::time::sleep(READER_TIMEOUT) => {
                return Err(CoordinatorError::Cluster("nobody read the rows of the result for a minute".to_owned()));
            }
        }
        self.say(What::Rows(rows));
        Ok(())
    }

    /// The next message from number `from` on, that of a result only with `results`; `None` after the last. Rows are
    /// handed out once.
    pub(super) async fn next(&self, from: u64, results: bool) -> Option<Message> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that a message in between is not missed.
            changed.as_mut().enable();
            {
                let mut log = self.log();
                let wanted = |message: &Message| message.number >= from && (results || !is_result(message));
                let found = log.messages.iter().position(wanted);
                if let Some(index) = found {
                    let message = log.messages[index].clone();
                    let rows = message.what.as_ref().map_or(0, rows_bytes);
                    if rows > 0 {
                        log.rows_bytes -= rows;
                        log.messages.remove(index);
                        self.read.notify_waiters();
                        // A waiter that is about to wait looks at the size first.
                        self.read.notify_one();
                    }
                    return Some(message);
                }
                if log.ended {
                    return None;
                }
            }
            changed.await;
        }
    }
}

fn is_result(message: &Message) -> bool {
    matches!(
        message.what,
        Some(What::RowsBegin(_) | What::Rows(_) | What::RowsEnd(_))
    )
}

fn rows_bytes(what: &What) -> usize {
    match what {
        What::Rows(bytes) => bytes.len(),
        _ => 0,
    }
}

/// Tells a script's log what happens.
#[derive(Debug)]
pub(super) struct ScriptEvents(pub(super) Arc<Script>);

impl Events for ScriptEvents {
    fn event(&self, event: Event) {
        if let Some(what) = wire::from_event(event) {
            self.0.say(what);
        }
    }
}

/// Puts what statements give into a script's log.
pub(super) struct ScriptSink(pub(super) Arc<Script>);

#[async_trait]
impl Sink for ScriptSink {
    async fn outcome(&mut self, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Message(text) => self.0.say(What::Said(text)),
            Outcome::Build(report) => {
                let json = serde_json::to_string(&report).map_err(|e| {
                    CoordinatorError::Invalid(format!("the report of a build cannot be written as JSON: {e}"))
                })?;
                self.0.say(What::Built(json));
            }
            Outcome::Rows(mut rows) => {
                self.0
                    .say(What::RowsBegin(wire::schema_bytes(&rows.schema()).map_err(arrow)?));
                let result = deliver(&self.0, &mut rows).await;
                let error = result.as_ref().err().map(ToString::to_string);
                self.0.say(What::RowsEnd(RowsEnd { error }));
                result?;
            }
        }
        Ok(())
    }
}

/// Sends rows to their end.
async fn deliver(script: &Script, rows: &mut SendableRecordBatchStream) -> Result<()> {
    while let Some(batch) = rows.next().await {
        for message in wire::batch_bytes(&batch?).map_err(arrow)? {
            script.say_rows(message).await?;
        }
    }
    Ok(())
}

fn arrow(error: ArrowError) -> CoordinatorError {
    DataFusionError::from(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(text: &str) -> Event {
        Event::Warning(text.to_owned())
    }

    #[tokio::test]
    async fn messages_are_read_in_order_and_again() {
        let script = Script::new("s".into(), "x.sql".into());
        let events = ScriptEvents(Arc::clone(&script));
        events.event(warning("a"));
        let reader = Arc::clone(&script);
        let read = tokio::spawn(async move {
            let mut seen = vec![];
            while let Some(message) = reader.next(seen.len() as u64, true).await {
                seen.push(message.what);
            }
            seen
        });
        events.event(warning("b"));
        script.ended(&Ok(()));
        let seen = read.await.unwrap();
        let end = What::Ended(Ended { failure: None });
        assert_eq!(
            seen,
            [
                Some(What::Warning("a".into())),
                Some(What::Warning("b".into())),
                Some(end)
            ]
        );
        assert_eq!(
            script.next(1, true).await.unwrap().what,
            Some(What::Warning("b".into()))
        );
        assert_eq!(script.info().state, "ended");
    }

    #[tokio::test]
    async fn rows_wait_for_their_reader() {
        let script = Script::new("s".into(), "x.sql".into());
        let big = vec![0u8; ROWS_BYTES_MAX];
        script.say_rows(big.clone()).await.unwrap();
        let writer = Arc::clone(&script);
        let writing = tokio::spawn(async move { writer.say_rows(vec![1]).await });
        // Whoever only watches takes nothing away.
        assert!(futures::poll!(std::pin::pin!(script.next(0, false))).is_pending());
        assert_eq!(script.next(0, true).await.unwrap().what, Some(What::Rows(big.clone())));
        writing.await.unwrap().unwrap();
        assert_eq!(script.next(1, true).await.unwrap().what, Some(What::Rows(vec![1])));
        script.say_rows(big).await.unwrap();
        script.cancel.cancel();
        assert!(matches!(
            script.say_rows(vec![2]).await,
            Err(CoordinatorError::Cancelled)
        ));
    }
}
