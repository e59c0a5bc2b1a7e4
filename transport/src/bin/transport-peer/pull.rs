//! The trainer's side.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use corpusmill_transport::{Body, Descriptor, Error, Puller, Result};
use serde_json::json;
use tokio::task::JoinSet;

use crate::body::Bodies;
use crate::{Agreement, Target, say, say_error};

#[derive(Args)]
pub(crate) struct Pull {
    #[command(flatten)]
    agreement: Agreement,
    #[command(flatten)]
    target: Target,
    /// Pulls at once.
    #[arg(long, default_value_t = 4)]
    parallel: usize,
    /// Bodies to expect; fewer are an error.
    #[arg(long)]
    expect: Option<u64>,
    /// Keeps every body and stops reading after this many, until standard input ends.
    #[arg(long)]
    hold_after: Option<u64>,
    /// Goes on here when the worker is lost; the whole stream is pulled anew.
    #[arg(long)]
    then: Option<std::net::SocketAddr>,
    /// Milliseconds to think about each body.
    #[arg(long, default_value_t = 0)]
    think_ms: u64,
}

impl Pull {
    pub(crate) async fn run(mut self) -> Result<()> {
        loop {
            let outcome = self.session().await;
            match (outcome, self.then.take()) {
                (Err(error), Some(next)) if error.retry() => {
                    say_error("session", &error);
                    self.target.connect = next;
                }
                (outcome, _) => return outcome,
            }
        }
    }

    async fn session(&self) -> Result<()> {
        let puller = Puller::connect(self.target.connect, self.target.options(&self.agreement)).await?;
        let puller = Arc::new(puller);
        say(&json!({
            "event": "open", "kind": puller.kind().name(), "slots": puller.slots(),
            "checksum": format!("{:?}", puller.checksum()),
        }));
        let bodies = Bodies::new(self.agreement.seed);
        let (mut held, mut under_way) = (Vec::new(), JoinSet::new());
        let (mut right, mut ended) = (0u64, false);
        while !under_way.is_empty() || !(ended || self.is_full(right)) {
            let more = !ended && under_way.len() < self.parallel && !self.is_full(right + under_way.len() as u64);
            tokio::select! {
                biased;
                Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                    let Some(body) = Self::settle(done)? else { continue };
                    self.check(&bodies, &body)?;
                    right += 1;
                    say(&json!({"event": "body", "seq": body.seq(), "bytes": body.len()}));
                    if self.hold_after.is_some() {
                        held.push(body);
                    } else if self.think_ms > 0 {
                        tokio::time::sleep(Duration::from_millis(self.think_ms)).await;
                    }
                }
                next = puller.next(), if more => match next? {
                    Some(descriptor) => {
                        let puller = Arc::clone(&puller);
                        under_way.spawn(async move { pull(&puller, &descriptor).await });
                    }
                    None => ended = true,
                },
            }
        }
        if self.hold_after.is_some() {
            say(&json!({"event": "holding", "bodies": held.len()}));
            let input = || std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            tokio::task::spawn_blocking(input).await.map(drop).ok();
            // what is held stays right, whatever became of the worker meanwhile
            held.iter().try_for_each(|body| self.check(&bodies, body))?;
        }
        drop(held);
        puller.close().await;
        let stats = puller.stats();
        say(&json!({"event": "done", "right": right, "bytes": stats.bytes, "refused": stats.refused}));
        match self.expect {
            Some(expected) if expected != right => Err(Error::Protocol {
                peer: self.target.connect.to_string(),
                what: format!("{right} right bodies where {expected} were expected"),
            }),
            _ => Ok(()),
        }
    }

    fn is_full(&self, bodies: u64) -> bool {
        self.hold_after.is_some_and(|limit| bodies >= limit)
    }

    fn settle(done: std::result::Result<Result<Option<Body>>, tokio::task::JoinError>) -> Result<Option<Body>> {
        done.map_err(|error| Error::Io {
            what: "a pull".to_owned(),
            source: std::io::Error::other(error),
        })?
    }

    fn check(&self, bodies: &Bodies, body: &Body) -> Result<()> {
        let (seq, length) = (body.seq(), self.agreement.length(body.seq()));
        let bytes = body.host().unwrap_or_default();
        if bodies.is(seq, length, bytes) && body.metadata()[..] == *format!("body {seq}").as_bytes() {
            return Ok(());
        }
        let what = format!("body {seq} has {} bytes that are not its own", bytes.len());
        Err(Error::Protocol {
            peer: self.target.connect.to_string(),
            what,
        })
    }
}

/// Pulls a body; a corrupt or refused one is reported and left.
async fn pull(puller: &Puller, descriptor: &Descriptor) -> Result<Option<Body>> {
    match puller.pull(descriptor).await {
        Ok(body) => Ok(Some(body)),
        Err(error @ (Error::Corrupt { .. } | Error::Refused { .. })) => {
            say_error(&format!("body {}", descriptor.seq), &error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
