//! Calls to the coordinator that last: made again whenever they end.

use std::time::Duration;

use corpusmill_proto::{Coordinators, StreamsClient, streams_client};
use tonic::transport::Endpoint;

use crate::error::{Result, ServeError};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// A coordinator that answers no ping for so long is gone.
const SILENCE: Duration = Duration::from_secs(10);

/// The coordinators of a list with commas between them; `corpusmill://` need stand before the first only.
///
/// # Errors
/// Address, with what one looks like.
pub(crate) fn coordinators(list: &str) -> Result<Coordinators> {
    let (first, more) = list.split_once(',').unwrap_or((list, ""));
    let more = more.split(',').map(str::trim).filter(|url| !url.is_empty());
    let whole = more.map(|url| match url.contains("://") {
        true => url.to_owned(),
        false => format!("corpusmill://{url}"),
    });
    let urls: Vec<String> = std::iter::once(first.to_owned()).chain(whole).collect();
    for url in &urls {
        endpoint(url)?;
    }
    Ok(Coordinators::new(&urls.join(",")))
}

/// The endpoint of a coordinator: `corpusmill://HOST:PORT` or `http://HOST:PORT`.
///
/// # Errors
/// Address, with what one looks like.
fn endpoint(url: &str) -> Result<Endpoint> {
    let wrong = |reason: String| ServeError::Address {
        source_url: url.to_owned(),
        reason,
    };
    let http = match url.split_once("://") {
        Some(("corpusmill", rest)) => format!("http://{rest}"),
        Some(("http", _)) => url.to_owned(),
        _ => return Err(wrong("it does not begin with corpusmill://".to_owned())),
    };
    let endpoint = Endpoint::from_shared(http).map_err(|e| wrong(e.to_string()))?;
    if endpoint.uri().port().is_none() {
        return Err(wrong("it has no port".to_owned()));
    }
    Ok(endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(SILENCE / 2)
        .keep_alive_timeout(SILENCE)
        .keep_alive_while_idle(true))
}

/// A client over a new connection.
pub(crate) async fn connect(url: &str) -> std::result::Result<StreamsClient, String> {
    let channel = endpoint(url).map_err(|e| e.to_string())?.connect().await;
    channel.map(streams_client).map_err(|e| causes(&e))
}

/// An error with the errors beneath it.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_scheme_or_port_are_refused_with_an_example() {
        for url in ["127.0.0.1:1", "corpusmill://host", "s3://bucket:1", "corpusmill://"] {
            let error = endpoint(url).unwrap_err().to_string();
            assert!(
                error.contains("corpusmill://127.0.0.1:50050") && error.contains(url),
                "{error}"
            );
        }
        endpoint("corpusmill://127.0.0.1:50050").unwrap();
        endpoint("http://[::1]:50050").unwrap();
        let several = coordinators("corpusmill://a:1, b:2,http://c:3").unwrap();
        assert_eq!(several.all(), ["corpusmill://a:1", "corpusmill://b:2", "http://c:3"]);
        assert!(coordinators("corpusmill://a:1,b").is_err());
    }
}
