//! The rank's call to the coordinator, and what it said.

use std::time::{Duration, Instant};

use corpusmill_proto::stream::{OpenRequest, Server};
use corpusmill_proto::{Caller, broken_off};
use tokio::sync::watch;
use tonic::Code;

/// Pauses between two calls to the coordinator.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a rank may be taken by a process that is about to be gone.
const BUSY: Duration = Duration::from_secs(20);

/// What the coordinator said.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) servers: Vec<Server>,
    /// Why the rank is not taken in, for good.
    pub(super) refused: Option<String>,
    /// Why nothing is known just now.
    pub(super) trouble: Option<String>,
}

/// Keeps the rank's call to the coordinator open; never ends.
pub(super) async fn follow(caller: Caller, request: OpenRequest, known: watch::Sender<Known>) {
    let mut pause = PAUSE;
    let mut busy_since = None;
    loop {
        let trouble = match caller.streams().await {
            Err(reason) => format!("no coordinator answers at {}: {reason}", caller.url()),
            Ok(mut client) => match client.open(request.clone()).await {
                Ok(replies) => {
                    let mut replies = replies.into_inner();
                    while let Ok(Some(reply)) = replies.message().await {
                        (pause, busy_since) = (PAUSE, None);
                        known.send_modify(|known| {
                            known.trouble = reply
                                .servers
                                .is_empty()
                                .then(|| format!("no worker serves at {}: start `corpusmill worker`", caller.url()));
                            // The last ones are better than none, while a coordinator that was started again has none.
                            if !reply.servers.is_empty() {
                                known.servers = reply.servers;
                            }
                        });
                    }
                    format!("the coordinator at {} is gone", caller.url())
                }
                Err(status) => {
                    let answered = || status.message().to_owned();
                    let nobody = |reason| format!("no coordinator answers at {}: {reason}", caller.url());
                    let reason = broken_off(&status).map_or_else(answered, nobody);
                    let waited = busy_since.get_or_insert_with(Instant::now).elapsed();
                    let for_good = match status.code() {
                        Code::FailedPrecondition | Code::Unauthenticated | Code::Unimplemented => true,
                        Code::AlreadyExists => waited > BUSY,
                        _ => false,
                    };
                    if for_good {
                        known.send_modify(|known| known.refused = Some(reason));
                        return std::future::pending().await;
                    }
                    reason
                }
            },
        };
        known.send_modify(|known| known.trouble = Some(trouble));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
