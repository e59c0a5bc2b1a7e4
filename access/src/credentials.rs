//! The folder of certificates and the token, as `corpusmill certs init` makes it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::error::{AccessError, Result};
use crate::token::Token;

/// The variable that names the folder where no flag does.
pub const CERTS_VARIABLE: &str = "CORPUSMILL_CERTS";

/// The name that every server certificate carries beside the names of its hosts: those who get a worker's address from
/// the coordinator check this name, as workers have addresses that no certificate foresees.
pub const MEMBER_NAME: &str = "corpusmill";

/// A certificate chain and its key, as the files have them: PEM (RFC 7468).
#[derive(Clone)]
pub struct Identity {
    /// The certificates, the process's own first.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}

/// What a process shows to others, and what it asks of them.
///
/// ```text
/// DIR/ca.pem                    who signs certificates that are believed
/// DIR/token                     64 hexadecimal digits, the same everywhere
/// DIR/server.pem, server.key    shown by those who listen: coordinator, workers
/// DIR/client.pem, client.key    shown by those who call: everybody
/// ```
pub struct Credentials {
    folder: PathBuf,
    token: Token,
    authority: Vec<u8>,
    server: Option<Identity>,
    client: Option<Identity>,
    /// Asks for a certificate; and answers also those who have none.
    pub(crate) accepting: Option<(Arc<ServerConfig>, Arc<ServerConfig>)>,
    pub(crate) calling: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the folder. Certificates of a side that it has no files for are missed only when they are needed.
    ///
    /// # Errors
    /// File when one cannot be read, Content when one is no certificate, key or token.
    pub fn read(folder: impl Into<PathBuf>) -> Result<Arc<Self>> {
        let folder = folder.into();
        let authority_path = folder.join("ca.pem");
        let authority = file(&authority_path)?;
        let token_path = folder.join("token");
        let token = String::from_utf8(file(&token_path)?).unwrap_or_default();
        let token = token.trim().parse().map_err(|reason| AccessError::Content {
            path: token_path,
            reason,
        })?;
        let (server, client) = (identity(&folder, "server")?, identity(&folder, "client")?);
        // tonic's TLS asks for the process's choice where more than one is compiled in; an earlier choice stays.
        let _ = ring::default_provider().install_default();
        let provider = Arc::new(ring::default_provider());
        let believed = Arc::new(believed(&authority_path, &authority)?);
        let accepting = match &server {
            None => None,
            Some(server) => {
                let path = folder.join("server.pem");
                let required = accepting(&provider, &believed, server, true, &path)?;
                Some((required, accepting(&provider, &believed, server, false, &path)?))
            }
        };
        let calling = match &client {
            None => None,
            Some(client) => Some(calling(&provider, &believed, client, &folder.join("client.pem"))?),
        };
        Ok(Arc::new(Self {
            folder,
            token,
            authority,
            server,
            client,
            accepting,
            calling,
        }))
    }

    /// Reads the folder that the environment names; none when it names none.
    ///
    /// # Errors
    /// As [`Credentials::read`].
    pub fn of_environment() -> Result<Option<Arc<Self>>> {
        let named = std::env::var_os(CERTS_VARIABLE).filter(|folder| !folder.is_empty());
        named.map(Self::read).transpose()
    }

    /// The token that callers show.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The certificates of the authority, PEM.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// What those who listen show.
    ///
    /// # Errors
    /// Missing when the folder has none.
    pub fn server(&self) -> Result<&Identity> {
        self.server.as_ref().ok_or_else(|| self.missing("server"))
    }

    /// What those who call show.
    ///
    /// # Errors
    /// Missing when the folder has none.
    pub fn client(&self) -> Result<&Identity> {
        self.client.as_ref().ok_or_else(|| self.missing("client"))
    }

    pub(crate) fn missing(&self, name: &'static str) -> AccessError {
        AccessError::Missing {
            folder: self.folder.clone(),
            name,
        }
    }
}

fn file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| AccessError::File {
        path: path.to_owned(),
        source,
    })
}

/// The files of one side; none when there is neither.
fn identity(folder: &Path, name: &str) -> Result<Option<Identity>> {
    let [certificate, key] = ["pem", "key"].map(|ending| folder.join(format!("{name}.{ending}")));
    if !certificate.exists() && !key.exists() {
        return Ok(None);
    }
    Ok(Some(Identity {
        certificate: file(&certificate)?,
        key: file(&key)?,
    }))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let reason = match read {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "expected certificates in PEM, found none".to_owned(),
        Err(error) => format!("expected certificates in PEM: {error}"),
    };
    Err(AccessError::Content {
        path: path.to_owned(),
        reason,
    })
}

fn content(path: &Path, reason: impl fmt::Display) -> AccessError {
    AccessError::Content {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn believed(path: &Path, pem: &[u8]) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        store.add(certificate).map_err(|error| content(path, error))?;
    }
    Ok(store)
}

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn shown(identity: &Identity, path: &Path) -> Result<Shown> {
    let key = PrivateKeyDer::from_pem_slice(&identity.key);
    // What the key's file has in it is told to nobody.
    let key = key.map_err(|_| content(&path.with_extension("key"), "expected a private key in PEM"))?;
    Ok((certificates(path, &identity.certificate)?, key))
}

fn accepting(
    provider: &Arc<CryptoProvider>,
    believed: &Arc<RootCertStore>,
    identity: &Identity,
    required: bool,
    path: &Path,
) -> Result<Arc<ServerConfig>> {
    let wrong = |error: &dyn fmt::Display| content(path, error);
    let verifier = WebPkiClientVerifier::builder_with_provider(believed.clone(), provider.clone());
    let verifier = match required {
        true => verifier.build(),
        false => verifier.allow_unauthenticated().build(),
    };
    let verifier = verifier.map_err(|e| wrong(&e))?;
    let (chain, key) = shown(identity, path)?;
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, key));
    Ok(Arc::new(config.map_err(|e| wrong(&e))?))
}

fn calling(
    provider: &Arc<CryptoProvider>,
    believed: &Arc<RootCertStore>,
    identity: &Identity,
    path: &Path,
) -> Result<Arc<ClientConfig>> {
    let (chain, key) = shown(identity, path)?;
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(believed.clone())
                .with_client_auth_cert(chain, key)
        });
    Ok(Arc::new(config.map_err(|e| content(path, e))?))
}
