//! A connection: plain, or encrypted with both sides' certificates checked.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::credentials::{Credentials, MEMBER_NAME};

/// The receiving half of a stream.
pub type Receiving = Box<dyn AsyncRead + Send + Unpin>;
/// The sending half of a stream. What was written is sent when it is flushed, at the latest.
pub type Sending = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// As TCP carries it.
    Plain(TcpStream),
    /// Inside TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl Stream {
    /// Takes a connection in: with credentials, from callers that show a certificate.
    ///
    /// # Errors
    /// Why there is no understanding; the caller shows no certificate, or one that is not believed.
    pub async fn accept(stream: TcpStream, credentials: Option<&Credentials>) -> io::Result<Self> {
        let Some(credentials) = credentials else {
            return Ok(stream.into());
        };
        let (required, _) = credentials
            .accepting
            .as_ref()
            .ok_or_else(|| missing(credentials, "server"))?;
        let stream = TlsAcceptor::from(required.clone()).accept(stream).await?;
        Ok(Self::Tls(Box::new(stream.into())))
    }

    /// Takes a connection in, inside TLS, from callers without a certificate too; [`Stream::shows_certificate`] tells.
    ///
    /// # Errors
    /// Why there is no understanding; the caller shows a certificate that is not believed.
    pub async fn accept_anyone(stream: TcpStream, credentials: &Credentials) -> io::Result<Self> {
        let (_, anyone) = credentials
            .accepting
            .as_ref()
            .ok_or_else(|| missing(credentials, "server"))?;
        let stream = TlsAcceptor::from(anyone.clone()).accept(stream).await?;
        Ok(Self::Tls(Box::new(stream.into())))
    }

    /// Goes on with a connection that this side made to a worker or the coordinator.
    ///
    /// # Errors
    /// Why there is no understanding; a certificate of another authority, or without the name of a member.
    pub async fn connect(stream: TcpStream, credentials: Option<&Credentials>) -> io::Result<Self> {
        let Some(credentials) = credentials else {
            return Ok(stream.into());
        };
        let calling = credentials
            .calling
            .as_ref()
            .ok_or_else(|| missing(credentials, "client"))?;
        let name = ServerName::try_from(MEMBER_NAME).map_err(io::Error::other)?;
        let stream = TlsConnector::from(calling.clone()).connect(name, stream).await?;
        Ok(Self::Tls(Box::new(stream.into())))
    }

    /// Whether the other side showed a certificate, which is believed then.
    #[must_use]
    pub fn shows_certificate(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates().is_some(),
        }
    }

    /// The connection beneath.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// The two halves, for two tasks.
    #[must_use]
    pub fn into_split(self) -> (Receiving, Sending) {
        match self {
            Self::Plain(stream) => {
                let (input, output) = stream.into_split();
                (Box::new(input), Box::new(output))
            }
            Self::Tls(stream) => {
                let (input, output) = tokio::io::split(*stream);
                (Box::new(input), Box::new(output))
            }
        }
    }
}

fn missing(credentials: &Credentials, name: &'static str) -> io::Error {
    io::Error::other(credentials.missing(name))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
