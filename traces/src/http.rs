//! The requests: HTTP/1.1, one on a connection.

use std::io::{Error as IoError, ErrorKind};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

use crate::error::{Result, TracesError};

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are looked at.
const ANSWER_MAX: usize = 4 << 10;
/// Port of OTLP/HTTP.
const PORT: u16 = 4318;
/// Answers that ask to try again, by the specification of OTLP.
const LATER: [&str; 4] = ["429", "502", "503", "504"];

/// A collector.
#[derive(Debug)]
pub(crate) struct Collector {
    address: String,
    path: String,
}

impl Collector {
    /// The collector at `endpoint`, the URL below which `/v1/traces` is.
    pub(crate) fn at(endpoint: &str) -> Result<Self> {
        let none = |reason: &str| TracesError::Endpoint {
            endpoint: endpoint.to_owned(),
            reason: reason.to_owned(),
        };
        let url = Url::parse(endpoint).map_err(|e| none(&e.to_string()))?;
        if url.scheme() != "http" {
            return Err(none("it does not begin with http://"));
        }
        let host = url.host_str().ok_or_else(|| none("it has no host"))?;
        Ok(Self {
            address: format!("{host}:{}", url.port().unwrap_or(PORT)),
            path: format!("{}/v1/traces", url.path().trim_end_matches('/')),
        })
    }

    /// Sends a request, and looks whether it was taken.
    pub(crate) async fn post(&self, body: &str) -> Result<()> {
        let unreachable = |source| TracesError::Unreachable {
            address: self.address.clone(),
            source,
        };
        let asked = tokio::time::timeout(TIMEOUT, self.ask(body)).await;
        let asked = asked.unwrap_or_else(|_| Err(IoError::from(ErrorKind::TimedOut)));
        let status = asked.map_err(unreachable)?;
        let code = status.split(' ').nth(1).unwrap_or_default();
        if code.len() == 3 && code.starts_with('2') {
            return Ok(());
        }
        Err(TracesError::Refused {
            address: self.address.clone(),
            retry: LATER.contains(&code),
            status,
        })
    }

    /// The first line of the answer.
    async fn ask(&self, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.path,
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.contains(&b'\n') && answer.len() < ANSWER_MAX && stream.read_buf(&mut answer).await? > 0 {}
        let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        Ok(String::from_utf8_lossy(line).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_endpoint_is_a_base_and_others_are_refused_with_an_example() {
        let at = |endpoint| Collector::at(endpoint).map(|c| (c.address, c.path)).unwrap();
        let expect = |address: &str, path: &str| (address.to_owned(), path.to_owned());
        assert_eq!(at("http://127.0.0.1:9"), expect("127.0.0.1:9", "/v1/traces"));
        assert_eq!(at("http://otel/a/"), expect("otel:4318", "/a/v1/traces"));
        for endpoint in ["127.0.0.1:4318", "https://otel:4318", ""] {
            let error = Collector::at(endpoint).unwrap_err().to_string();
            assert!(
                error.contains("http://127.0.0.1:4318") && error.contains(&format!("`{endpoint}`")),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn an_answer_says_whether_to_try_again() {
        for (status, taken, retry) in [
            ("200 OK", true, false),
            ("503 Busy", false, true),
            ("400 Bad", false, false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let collector = Collector::at(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
            let answer = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut seen = Vec::new();
                while !seen.ends_with(b"{}") {
                    assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
                }
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let (posted, ()) = tokio::join!(collector.post("{}"), answer);
            assert_eq!(posted.is_ok(), taken);
            assert_eq!(posted.err().is_some_and(|e| e.retry()), retry);
        }
        assert!(
            Collector::at("http://127.0.0.1:1")
                .unwrap()
                .post("{}")
                .await
                .unwrap_err()
                .retry()
        );
    }
}
