//! Descriptors that break the rules, one at a time.

use clap::Args;
use corpusmill_transport::{Checksum, Descriptor, Error, Puller, Refusal, Result};
use serde_json::json;

use crate::body::Bodies;
use crate::{Agreement, Target, say};

#[derive(Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    agreement: Agreement,
    #[command(flatten)]
    target: Target,
}

/// A lie about a good descriptor, and the rule that it breaks.
type Lie = (&'static str, fn(&mut Descriptor), Refusal);

const LIES: [Lie; 8] = [
    ("another session", |d| d.session ^= 1, Refusal::WrongSession),
    ("a slot that is not there", |d| d.slot = 4096, Refusal::OutOfBounds),
    ("an offset past the slot", |d| d.offset = 1 << 40, Refusal::OutOfBounds),
    ("a length past the slot", |d| d.length = 1 << 40, Refusal::OutOfBounds),
    (
        "an offset that overflows",
        |d| d.offset = u64::MAX,
        Refusal::OutOfBounds,
    ),
    ("a generation to come", |d| d.generation += 1, Refusal::StaleGeneration),
    ("no checksum", |d| d.checksum = Checksum::None, Refusal::WeakChecksum),
    ("a sequence far ahead", |d| d.seq += 1 << 40, Refusal::OutOfWindow),
];

impl Audit {
    pub(crate) async fn run(self) -> Result<()> {
        let puller = Puller::connect(self.target.connect, self.target.options(&self.agreement)).await?;
        say(&json!({"event": "open", "kind": puller.kind().name()}));
        let bodies = Bodies::new(self.agreement.seed);
        let (mut last, mut right, mut wrong) = (None::<Descriptor>, 0u64, Vec::new());
        while let Some(descriptor) = puller.next().await? {
            for (name, lie, expected) in LIES {
                let mut forged = descriptor.clone();
                lie(&mut forged);
                wrong.extend(unless_refused(&puller, name, &forged, expected).await);
            }
            if let Some(last) = &last {
                wrong.extend(unless_refused(&puller, "a replay", last, Refusal::Replayed).await);
                if last.slot == descriptor.slot {
                    let mut stale = descriptor.clone();
                    stale.generation = last.generation;
                    wrong.extend(
                        unless_refused(&puller, "a generation gone by", &stale, Refusal::StaleGeneration).await,
                    );
                }
            }
            let body = puller.pull(&descriptor).await?;
            let length = self.agreement.length(body.seq());
            if !bodies.is(body.seq(), length, body.host().unwrap_or_default()) {
                wrong.push(format!("body {} is not right", body.seq()));
            }
            right += 1;
            last = Some(descriptor);
        }
        puller.close().await;
        let refused = puller.stats().refused;
        say(&json!({"event": "audited", "refused": refused, "right": right, "wrong": wrong}));
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Error::Protocol {
            peer: self.target.connect.to_string(),
            what: wrong.join("; "),
        })
    }
}

/// What went wrong, where the descriptor was not refused for `expected`.
async fn unless_refused(puller: &Puller, name: &str, forged: &Descriptor, expected: Refusal) -> Option<String> {
    match puller.pull(forged).await {
        Err(Error::Refused { refusal, .. }) if refusal == expected => None,
        Err(error) => Some(format!("{name}: {error}")),
        Ok(_) => Some(format!("{name} was taken")),
    }
}
