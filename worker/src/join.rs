//! Asks the coordinator how to take part.

use std::time::Duration;

use corpusmill_proto::control::{JoinReply, JoinRequest};
use corpusmill_proto::{Coordinators, client};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::error::{Result, WorkerError};

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Asks until the coordinator that leads answers; `None` when the worker is told to stop meanwhile.
///
/// # Errors
/// [`WorkerError::Refused`] when the coordinator is of another version, [`WorkerError::Invalid`] when an address is none.
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

/// How a coordinator at `url` is called.
///
/// # Errors
/// [`WorkerError::Invalid`] when that is no address.
pub(crate) fn endpoint(url: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| {
        WorkerError::Invalid(format!(
            "`{url}` is no address of a coordinator ({error}); one looks like http://127.0.0.1:50050"
        ))
    })?;
    Ok(endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT))
}

/// Asks one coordinator, and turns to the next when it does not take the worker in.
async fn ask(coordinators: &mut Coordinators, request: &JoinRequest) -> Result<JoinReply> {
    let url = coordinators.url().to_owned();
    let unreachable = |reason: String| WorkerError::Unreachable {
        url: url.clone(),
        reason,
    };
    let channel = match endpoint(&url)?.connect().await {
        Ok(channel) => channel,
        Err(error) => {
            coordinators.turn();
            return Err(unreachable(error.to_string()));
        }
    };
    match client(channel).join(request.clone()).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) if status.code() == Code::FailedPrecondition => Err(WorkerError::Refused {
            reason: status.message().to_owned(),
            url,
        }),
        Err(status) => {
            coordinators.turn_after(&status);
            Err(unreachable(status.message().to_owned()))
        }
    }
}
