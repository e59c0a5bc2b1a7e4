//! Sends spans to a collector, some together, in the background.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::{Result, TracesError};
use crate::http::Collector;
use crate::span::attribute;

/// Spans that wait to be sent; more are lost.
const WAITING_MAX: usize = 4096;
/// Spans of one request.
const TOGETHER_MAX: usize = 512;
/// How long spans wait for others.
const PAUSE: Duration = Duration::from_secs(1);
/// Tries of one request, with pauses that double from the first.
const TRIES: u32 = 4;
const RETRY: Duration = Duration::from_millis(500);
/// How long the end of a process waits for the last spans.
const LAST: Duration = Duration::from_secs(5);

/// Where this process sends its spans.
static QUEUE: OnceLock<mpsc::Sender<Value>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

/// Whether anybody wants spans.
pub(crate) fn is_on() -> bool {
    QUEUE.get().is_some()
}

/// Hands a span on; it is lost where too many wait.
pub(crate) fn tell(span: Value) {
    if let Some(queue) = QUEUE.get()
        && queue.try_send(span).is_err()
    {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends the spans of this process until it is stopped.
#[derive(Debug)]
pub struct Exporter {
    sending: JoinHandle<()>,
    stop: mpsc::Sender<()>,
}

impl Exporter {
    /// Begins to send to the collector at `endpoint`, such as `http://127.0.0.1:4318`; `service` is what it calls this
    /// process: `corpusmill-worker`.
    ///
    /// # Errors
    /// [`TracesError::Endpoint`] when that is no address, [`TracesError::Started`] the second time. A collector that is
    /// not there is no error: it may come.
    pub fn start(endpoint: &str, service: &str) -> Result<Self> {
        let collector = Collector::at(endpoint)?;
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        QUEUE.set(queue).map_err(|_| TracesError::Started)?;
        let resource = json!({"attributes": [
            attribute("service.name", service),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
            attribute("process.pid", &std::process::id().to_string()),
        ]});
        let (stop, stopped) = mpsc::channel(1);
        let sending = tokio::spawn(send(collector, resource, waiting, stopped));
        Ok(Self { sending, stop })
    }

    /// Sends what waits, some seconds at most.
    pub async fn stop(self) {
        // It ended before only if it panicked.
        let _ = self.stop.send(()).await;
        if tokio::time::timeout(LAST, self.sending).await.is_err() {
            tracing::warn!("the last spans were not taken in time");
        }
    }
}

async fn send(collector: Collector, resource: Value, mut waiting: mpsc::Receiver<Value>, mut stop: mpsc::Receiver<()>) {
    let mut stopping = false;
    while !(stopping && waiting.is_empty()) {
        let mut spans = Vec::new();
        if !stopping {
            // Some come together. It is never closed: the sender lives as long as the process.
            let more = async {
                waiting.recv_many(&mut spans, TOGETHER_MAX).await;
                tokio::time::sleep(PAUSE).await;
            };
            tokio::select! {
                () = more => {}
                _ = stop.recv() => stopping = true,
            }
        }
        while spans.len() < TOGETHER_MAX
            && let Ok(span) = waiting.try_recv()
        {
            spans.push(span);
        }
        if !spans.is_empty() {
            post(&collector, &resource, spans).await;
        }
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(spans = lost, "the collector takes spans too slowly; some are lost");
        }
    }
}

/// Sends spans as one `ExportTraceServiceRequest`.
async fn post(collector: &Collector, resource: &Value, spans: Vec<Value>) {
    let count = spans.len();
    let scope = json!({"name": "corpusmill", "version": env!("CARGO_PKG_VERSION")});
    let request = json!({"resourceSpans": [{
        "resource": resource,
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }]});
    let body = request.to_string();
    let mut pause = RETRY;
    for attempt in 1..=TRIES {
        match collector.post(&body).await {
            Ok(()) => return,
            Err(error) if error.retry() && attempt < TRIES => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            Err(error) => {
                tracing::warn!(%error, spans = count, "spans are lost");
                return;
            }
        }
    }
}
