//! Calls to a coordinator, and between members of a cluster.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use corpusmill_access::{Credentials, MEMBER_NAME};
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};

use crate::control::control_client::ControlClient as Control;
use crate::error::causes;
use crate::metadata::Says;
use crate::stream::streams_client::StreamsClient as Streams;
use crate::{ControlClient, MESSAGE_BYTES_MAX, StreamsClient};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Who answers no ping for so long is gone.
const SILENCE: Duration = Duration::from_secs(10);
/// Bytes of a shuffle that may be under way: of all on a connection, and of one.
const WINDOWS_BYTES: (u32, u32) = (64 << 20, 16 << 20);

/// How a coordinator is called: where, and what is shown to it.
#[derive(Debug, Clone)]
pub struct Caller {
    url: String,
    endpoint: Endpoint,
    says: Says,
}

impl Caller {
    /// Calls the coordinator at `url`: `http://`, `https://` or `corpusmill://`, host and port. With credentials the
    /// calls are inside TLS, whatever the scheme says.
    ///
    /// # Errors
    /// Why that is no address, or why it cannot be called.
    pub fn new(url: &str, credentials: Option<&Arc<Credentials>>) -> Result<Self, String> {
        let place = match url.split_once("://") {
            Some(("https", _)) if credentials.is_none() => {
                return Err("https:// takes certificates: give --certs, or set CORPUSMILL_CERTS".to_owned());
            }
            Some(("http" | "https" | "corpusmill", place)) => place,
            Some((scheme, _)) => return Err(format!("{scheme}:// is not http://, https:// or corpusmill://")),
            None => return Err("http:// is missing".to_owned()),
        };
        let scheme = if credentials.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{place}");
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|e| e.to_string())?;
        if endpoint.uri().port().is_none() {
            return Err("it has no port".to_owned());
        }
        let mut endpoint = alive(endpoint);
        if let Some(credentials) = credentials {
            let tls = client_tls(credentials).map_err(|e| e.to_string())?;
            endpoint = endpoint.tls_config(tls).map_err(|e| causes(&e))?;
        }
        let says = Says::new(credentials.map(Arc::as_ref));
        Ok(Self { url, endpoint, says })
    }

    /// Says `version` instead of this program's own.
    #[must_use]
    pub fn of_version(self, version: &'static str) -> Self {
        let says = self.says.of_version(version);
        Self { says, ..self }
    }

    /// The address, as it is called.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Opens a connection for control.
    ///
    /// # Errors
    /// Why nobody is there, in words.
    pub async fn control(&self) -> Result<ControlClient, String> {
        Ok(Self::control_over(self.connect().await?))
    }

    /// A client for control that connects when it is used.
    #[must_use]
    pub fn control_lazily(&self) -> ControlClient {
        Self::control_over(InterceptedService::new(self.endpoint.connect_lazy(), self.says.clone()))
    }

    fn control_over(channel: InterceptedService<Channel, Says>) -> ControlClient {
        Control::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Opens a connection for streams.
    ///
    /// # Errors
    /// Why nobody is there, in words.
    pub async fn streams(&self) -> Result<StreamsClient, String> {
        Ok(Streams::new(self.connect().await?))
    }

    async fn connect(&self) -> Result<InterceptedService<Channel, Says>, String> {
        let channel = self.endpoint.connect().await.map_err(|e| causes(&e))?;
        Ok(InterceptedService::new(channel, self.says.clone()))
    }
}

/// An endpoint of another member of the cluster, whatever Ballista made of it: inside TLS.
///
/// # Errors
/// When its address or the credentials do not serve for that.
pub fn member_endpoint(
    endpoint: &Endpoint,
    credentials: &Credentials,
) -> Result<Endpoint, Box<dyn Error + Send + Sync>> {
    let place = endpoint.uri().authority().ok_or("an address without a host")?;
    let secured = Endpoint::from_shared(format!("https://{place}"))?;
    // The front before it passes bytes on, and agrees on no protocol.
    let tls = client_tls(credentials)?.domain_name(MEMBER_NAME).assume_http2(true);
    Ok(alive(secured)
        .initial_connection_window_size(WINDOWS_BYTES.0)
        .initial_stream_window_size(WINDOWS_BYTES.1)
        .tls_config(tls)?)
}

/// What a server of tonic's shows, and asks of its callers.
///
/// # Errors
/// When the credentials are those of a caller only.
pub fn server_tls(credentials: &Credentials) -> corpusmill_access::Result<ServerTlsConfig> {
    let server = credentials.server()?;
    Ok(ServerTlsConfig::new()
        .identity(Identity::from_pem(&server.certificate, &server.key))
        .client_ca_root(Certificate::from_pem(credentials.authority())))
}

fn client_tls(credentials: &Credentials) -> corpusmill_access::Result<ClientTlsConfig> {
    let client = credentials.client()?;
    Ok(ClientTlsConfig::new()
        .identity(Identity::from_pem(&client.certificate, &client.key))
        .ca_certificate(Certificate::from_pem(credentials.authority())))
}

fn alive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(SILENCE / 2)
        .keep_alive_timeout(SILENCE)
        .keep_alive_while_idle(true)
}

/// Why a call failed on its way; none where the status is an answer of the other side.
#[must_use]
pub fn broken_off(status: &Status) -> Option<String> {
    status.source().map(causes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_scheme_or_port_are_refused_with_a_reason() {
        for (url, why) in [
            ("127.0.0.1:1", "http:// is missing"),
            ("corpusmill://host", "no port"),
            ("s3://bucket:1", "s3://"),
            ("corpusmill://", ""),
            ("https://host:1", "--certs"),
        ] {
            let reason = Caller::new(url, None).unwrap_err();
            assert!(reason.contains(why), "{url}: {reason}");
        }
        assert_eq!(
            Caller::new("corpusmill://127.0.0.1:50050", None).unwrap().url(),
            "http://127.0.0.1:50050"
        );
        Caller::new("http://[::1]:50050", None).unwrap();
    }
}
