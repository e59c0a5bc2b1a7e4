//! Asks the coordinator how to take part.

use std::time::Duration;

use corpusmill_proto::client;
use corpusmill_proto::control::{JoinReply, JoinRequest};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::error::{Result, WorkerError};

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Asks until the coordinator answers; `None` when the worker is told to stop meanwhile.
///
/// # Errors
/// [`WorkerError::Refused`] when the coordinator is of another version, [`WorkerError::Invalid`] when `url` is none.
pub(crate) async fn join(url: &str, request: &JoinRequest, shutdown: &CancellationToken) -> Result<Option<JoinReply>> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| {
        WorkerError::Invalid(format!(
            "`{url}` is no address of a coordinator ({error}); one looks like http://127.0.0.1:50050"
        ))
    })?;
    let endpoint = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT);
    let mut pause = PAUSE;
    let mut told = false;
    loop {
        let asked = tokio::select! {
            asked = ask(&endpoint, url, request) => asked,
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

async fn ask(endpoint: &Endpoint, url: &str, request: &JoinRequest) -> Result<JoinReply> {
    let unreachable = |reason: String| WorkerError::Unreachable {
        url: url.to_owned(),
        reason,
    };
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    match client(channel).join(request.clone()).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) if status.code() == Code::FailedPrecondition => Err(WorkerError::Refused {
            url: url.to_owned(),
            reason: status.message().to_owned(),
        }),
        Err(status) => Err(unreachable(status.message().to_owned())),
    }
}
