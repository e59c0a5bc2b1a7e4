//! Asks the coordinator how to take part.

use std::time::Duration;

use corpusmill_proto::control::{JoinReply, JoinRequest};
use corpusmill_proto::{Coordinators, broken_off};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::error::{Result, WorkerError};

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Asks until the coordinator that leads answers; `None` when the worker is told to stop meanwhile.
///
/// # Errors
/// [`WorkerError::Refused`] when the coordinator is of another version or token.
pub(crate) async fn join(
    coordinators: &mut Coordinators,
    request: &JoinRequest,
    shutdown: &CancellationToken,
) -> Result<Option<JoinReply>> {
    let mut pause = PAUSE;
    let mut told = false;
    loop {
        let asked = tokio::select! {
            asked = ask(coordinators, request) => asked,
            () = shutdown.cancelled() => return Ok(None),
        };
        match asked {
            Ok(reply) => return Ok(Some(reply)),
            Err(error) if error.retry() => {
                if !told {
                    tracing::warn!(%error, "the worker waits for its coordinator");
                    told = true;
                }
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Asks one coordinator, and turns to the next when it does not take the worker in.
async fn ask(coordinators: &mut Coordinators, request: &JoinRequest) -> Result<JoinReply> {
    let caller = coordinators.caller().clone();
    let unreachable = |reason: String| WorkerError::Unreachable {
        url: caller.url().to_owned(),
        reason,
    };
    let mut client = match caller.control().await {
        Ok(client) => client,
        Err(reason) => {
            coordinators.turn();
            return Err(unreachable(reason));
        }
    };
    let answer = tokio::time::timeout(TIMEOUT, client.join(request.clone())).await;
    let Ok(answer) = answer else {
        coordinators.turn();
        return Err(unreachable(format!("no answer within {} s", TIMEOUT.as_secs())));
    };
    match answer {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::Unauthenticated) => {
            Err(WorkerError::Refused {
                url: caller.url().to_owned(),
                reason: status.message().to_owned(),
            })
        }
        Err(status) => {
            coordinators.turn_after(&status);
            Err(unreachable(
                broken_off(&status).unwrap_or_else(|| status.message().to_owned()),
            ))
        }
    }
}
