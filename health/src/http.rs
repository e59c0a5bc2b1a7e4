//! The port: HTTP/1.1, one request on a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use corpusmill_access::{Credentials, Stream, may_listen};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::error::{HealthError, Result};
use crate::exposition::Metric;
use crate::process;

/// Bytes of a request's head.
const HEAD_MAX: usize = 8 << 10;
/// How long a connection may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Connections at once; others wait.
const CONNECTIONS_MAX: usize = 16;

/// What a part of corpusmill says about itself when it is asked.
#[derive(Debug, Clone)]
pub struct View {
    /// Why it cannot do its work just now.
    pub not_ready: Option<String>,
    /// What it is ready for, where there is more to say.
    pub ready_as: Option<String>,
    /// Its numbers.
    pub metrics: Vec<Metric>,
}

/// A part of corpusmill whose health can be asked for.
#[async_trait]
pub trait Watched: Send + Sync + 'static {
    /// Looks at itself; may take some seconds at most.
    async fn view(&self) -> View;
}

/// The port of a process; closed when it is dropped.
#[derive(Debug)]
pub struct Health {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Health {
    /// Answers on `address` from now on; port 0 is one of the system's choice. On loopback everybody is answered in the
    /// clear.
    ///
    /// # Errors
    /// Access for an address beyond loopback without credentials, Port when the system does not give it.
    pub async fn serve(
        address: SocketAddr,
        credentials: Option<Arc<Credentials>>,
        watched: Arc<dyn Watched>,
    ) -> Result<Self> {
        may_listen("the port for health", address.ip(), credentials.as_deref())?;
        let credentials = credentials.filter(|_| !address.ip().is_loopback());
        let fail = |source| HealthError::Port { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        tracing::info!(%address, "health and metrics");
        let accepting = tokio::spawn(accept(listener, credentials, watched));
        Ok(Self { address, accepting })
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, credentials: Option<Arc<Credentials>>, watched: Arc<dyn Watched>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // No more files, above all: others close some.
                tracing::debug!(%error, "a connection for health was not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (credentials, watched) = (credentials.clone(), watched.clone());
        tokio::spawn(async move {
            // A caller that is too slow or gone is no concern of anybody.
            let _ = tokio::time::timeout(DEADLINE, greet(stream, credentials.as_deref(), &*watched)).await;
            drop(place);
        });
    }
}

async fn greet(stream: TcpStream, credentials: Option<&Credentials>, watched: &dyn Watched) -> std::io::Result<()> {
    let Some(credentials) = credentials else {
        return answer(stream.into(), watched, |_| true).await;
    };
    let stream = Stream::accept_anyone(stream, credentials).await?;
    let certified = stream.shows_certificate();
    answer(stream, watched, |head| certified && shows_token(head, credentials)).await
}

/// Whether a request has the header `Authorization: Bearer TOKEN` (RFC 6750).
fn shows_token(head: &[u8], credentials: &Credentials) -> bool {
    let head = String::from_utf8_lossy(head);
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let value = fields.find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let shown = value.and_then(|(_, value)| value.trim().strip_prefix("Bearer "));
    shown.is_some_and(|shown| credentials.token().is(shown.trim()))
}

async fn answer(mut stream: Stream, watched: &dyn Watched, known: impl Fn(&[u8]) -> bool) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let full = head.len() >= HEAD_MAX;
        if full || stream.read_buf(&mut head).await? == 0 {
            return reply(&mut stream, "400 Bad Request", "this is no request of HTTP/1.1\n", true).await;
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = match (method, target.split('?').next().unwrap_or_default()) {
        ("GET" | "HEAD", "/metrics") if !known(&head) => (
            "401 Unauthorized",
            "numbers are told to those who show a client's certificate and `Authorization: Bearer TOKEN`\n".to_owned(),
        ),
        ("GET" | "HEAD", path) => page(path, watched).await,
        _ => ("405 Method Not Allowed", "only GET is answered here\n".to_owned()),
    };
    reply(&mut stream, status, &body, method != "HEAD").await
}

async fn page(path: &str, watched: &dyn Watched) -> (&'static str, String) {
    match path {
        "/livez" => ("200 OK", "alive\n".to_owned()),
        "/readyz" => {
            let view = watched.view().await;
            match (view.not_ready, view.ready_as) {
                (None, None) => ("200 OK", "ready\n".to_owned()),
                (None, Some(what)) => ("200 OK", format!("ready: {what}\n")),
                (Some(reason), _) => ("503 Service Unavailable", format!("not ready: {reason}\n")),
            }
        }
        "/metrics" => {
            let mut out = String::new();
            for metric in process::metrics().iter().chain(&watched.view().await.metrics) {
                metric.write(&mut out);
            }
            ("200 OK", out)
        }
        _ => ("404 Not Found", "there are /livez, /readyz and /metrics\n".to_owned()),
    }
}

async fn reply(stream: &mut Stream, status: &str, body: &str, with_body: bool) -> std::io::Result<()> {
    let length = body.len();
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    if with_body {
        text += body;
    }
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::Kind;

    struct Part(Mutex<Option<String>>);

    #[async_trait]
    impl Watched for Part {
        async fn view(&self) -> View {
            View {
                not_ready: self.0.lock().unwrap().clone(),
                ready_as: None,
                metrics: vec![Metric::new(Kind::Gauge, "things", "Things.").of("kind", "a", 3.0)],
            }
        }
    }

    async fn serving() -> (Health, Arc<Part>) {
        let part = Arc::new(Part(Mutex::default()));
        let health = Health::serve("127.0.0.1:0".parse().unwrap(), None, part.clone())
            .await
            .unwrap();
        (health, part)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).await
    }

    #[tokio::test]
    async fn health_and_metrics_are_told_as_they_are_now() {
        let (health, part) = serving().await;
        let at = health.address();
        assert!(get(at, "/livez").await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(get(at, "/readyz").await.ends_with("\r\n\r\nready\n"));
        *part.0.lock().unwrap() = Some("no coordinator".to_owned());
        let text = get(at, "/readyz").await;
        assert!(
            text.starts_with("HTTP/1.1 503 ") && text.ends_with("\r\n\r\nnot ready: no coordinator\n"),
            "{text}"
        );
        assert!(
            get(at, "/livez").await.starts_with("HTTP/1.1 200 "),
            "a process that waits is not to be killed"
        );
        let text = get(at, "/metrics?x=1").await;
        assert!(
            text.contains("\nthings{kind=\"a\"} 3\n") && text.contains("version=0.0.4"),
            "{text}"
        );
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
        ] {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            assert!(line.unwrap().parse::<f64>().unwrap() >= 0.0, "{text}");
        }
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    }

    #[tokio::test]
    async fn other_requests_are_refused_with_a_reason() {
        let at = serving().await;
        let at = at.0.address();
        assert!(get(at, "/").await.contains("404 Not Found") && get(at, "/").await.contains("/metrics"));
        let head = ask(at, "HEAD /readyz HTTP/1.1\r\n\r\n").await;
        assert!(
            head.starts_with("HTTP/1.1 200 OK") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        assert!(ask(at, "POST /metrics HTTP/1.1\r\n\r\n").await.contains("405 "));
        assert!(ask(at, &"x".repeat(HEAD_MAX)).await.contains("400 Bad Request"));
    }

    #[tokio::test]
    async fn callers_that_say_nothing_take_no_place_for_ever() {
        let (health, _part) = serving().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX - 1 {
            silent.push(TcpStream::connect(health.address()).await.unwrap());
        }
        assert!(get(health.address(), "/livez").await.contains("200 OK"));
        drop(silent);
        for _ in 0..2 * CONNECTIONS_MAX {
            assert!(get(health.address(), "/livez").await.contains("200 OK"));
        }
    }

    #[tokio::test]
    async fn only_this_machine_is_answered() {
        let part = Arc::new(Part(Mutex::default()));
        let error = Health::serve("0.0.0.0:0".parse().unwrap(), None, part.clone())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("127.0.0.1") && !error.retry(), "{error}");
        let (health, _) = serving().await;
        let error = Health::serve(health.address(), None, part).await.unwrap_err();
        assert!(error.retry() && error.to_string().contains("another port"), "{error}");
    }
}
