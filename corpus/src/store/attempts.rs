//! Counts the requests to object stores and those that failed, and gives up early on a server that is not there.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use async_trait::async_trait;
use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};

/// Attempts to reach a server that has never answered.
const FIRST_ATTEMPTS: u32 = 3;

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static UNANSWERED: AtomicU64 = AtomicU64::new(0);
static BROKEN: AtomicU64 = AtomicU64::new(0);

/// What this process asked of object stores behind a network, and what went wrong and was tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreAttempts {
    /// Requests, repeated ones among them.
    pub requests: u64,
    /// Answers 408, 429 and 5xx.
    pub refused: u64,
    /// Requests without an answer: no connection, or none in time.
    pub unanswered: u64,
    /// Answers that broke off in the middle of their body.
    pub broken: u64,
}

impl StoreAttempts {
    /// Attempts that failed.
    pub fn failed(&self) -> u64 {
        self.refused + self.unanswered + self.broken
    }

    /// What went wrong in one sentence; `None` if nothing did.
    pub fn summary(&self) -> Option<String> {
        let kinds = [
            (self.refused, "refused by the server"),
            (self.unanswered, "not answered"),
            (self.broken, "broken off"),
        ];
        let kinds: Vec<String> = kinds
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!kinds.is_empty()).then(|| {
            format!(
                "object storage: {} of {} requests failed and were repeated ({})",
                self.failed(),
                self.requests,
                kinds.join(", ")
            )
        })
    }
}

/// Attempts of this process so far.
pub fn store_attempts() -> StoreAttempts {
    StoreAttempts {
        requests: REQUESTS.load(Ordering::Relaxed),
        refused: REFUSED.load(Ordering::Relaxed),
        unanswered: UNANSWERED.load(Ordering::Relaxed),
        broken: BROKEN.load(Ordering::Relaxed),
    }
}

/// Makes clients whose attempts are counted.
#[derive(Debug)]
pub(super) struct CountedConnector;

impl HttpConnector for CountedConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Counted {
            client: ReqwestConnector::default().connect(options)?,
            answered: AtomicBool::new(false),
            attempts: AtomicU32::new(0),
        }))
    }
}

#[derive(Debug)]
struct Counted {
    client: HttpClient,
    /// The server has answered once: whatever fails later is worth waiting for.
    answered: AtomicBool,
    /// Attempts before that.
    attempts: AtomicU32,
}

#[async_trait]
impl HttpService for Counted {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let document = is_document(&request);
        match self.client.execute(request).await {
            Ok(response) => {
                self.answered.store(true, Ordering::Relaxed);
                let status = response.status();
                if status.is_server_error() || matches!(status.as_u16(), 408 | 429) {
                    REFUSED.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%method, path, status = status.as_u16(), "object storage refuses for now");
                }
                let broke = move |error: HttpError| {
                    BROKEN.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%method, path, %error, "an answer of object storage broke off");
                    error
                };
                if !document {
                    return Ok(response.map(|body| HttpResponseBody::new(body.map_err(broke))));
                }
                let (parts, body) = response.into_parts();
                let whole = body.bytes().await;
                // Broken in the middle it is a request that failed, and the client repeats it.
                let whole = whole.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, broke(error)))?;
                Ok(HttpResponse::from_parts(parts, whole.into()))
            }
            Err(error) => {
                UNANSWERED.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%method, path, %error, "object storage does not answer");
                let reached = self.answered.load(Ordering::Relaxed);
                if reached || self.attempts.fetch_add(1, Ordering::Relaxed) + 1 < FIRST_ATTEMPTS {
                    return Err(error);
                }
                // The client does not repeat what it does not know.
                Err(HttpError::new(HttpErrorKind::Unknown, Unreachable(error)))
            }
        }
    }
}

/// Whether the answer is a short document of the protocol, such as a page of a listing: the client goes on in the middle
/// of an object that broke off, but gives up on a document.
fn is_document(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let listing = ["list-type=", "comp=list"].iter().any(|part| query.contains(part));
    listing || !matches!(request.method().as_str(), "GET" | "HEAD")
}

/// A server that never answered.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreachable(#[source] HttpError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_by_kind_and_none_is_silent() {
        let attempts = StoreAttempts {
            requests: 40,
            refused: 2,
            broken: 1,
            ..StoreAttempts::default()
        };
        let told = attempts.summary().unwrap();
        assert!(
            told.contains("3 of 40 requests") && told.contains("2 refused by the server, 1 broken off"),
            "{told}"
        );
        assert_eq!(StoreAttempts::default().summary(), None);
    }
}
