//! Opens an object store at a location that a person wrote.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::{Position, Url};

use super::attempts::CountedConnector;
use super::told::{Place, Told};
use crate::error::{CorpusError, Result};

/// Options of an object store by the names that its clients use (`aws_endpoint`, `google_service_account`); they go
/// before the environment.
pub type StoreOptions = BTreeMap<String, String>;

const SCHEMES: &str = "a local path, file://, s3://, gs://, az://, abfss://, http://, https:// or memory://";

/// A server that takes no connection in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A whole request with its body; what arrived of a body is kept, and the rest asked for again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Attempts go on for a minute and a half, with pauses that grow to five seconds and are shortened at random.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: 12,
        retry_timeout: Duration::from_secs(90),
    }
}

/// Opens the store of a location and gives the folder in it; see [`Warehouse::open`](crate::Warehouse::open).
///
/// A store behind a network repeats what failed (its attempts are counted, see
/// [`store_attempts`](crate::store_attempts)), and its errors say what a person can do.
///
/// # Errors
/// [`CorpusError::Argument`] for a location that is not one or is of an unknown scheme, [`CorpusError::Store`] if
/// the store refuses its options.
pub fn open_store(location: &str, options: &StoreOptions) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let refuse = |detail: String| CorpusError::argument("location", location, detail);
    if !location.contains("://") {
        if location.is_empty() {
            return Err(refuse(format!("expected {SCHEMES}")));
        }
        let absolute = std::path::absolute(location).map_err(|e| refuse(e.to_string()))?;
        let root = Path::from_absolute_path(&absolute).map_err(|e| refuse(e.to_string()))?;
        return Ok((Arc::new(LocalFileSystem::new()), root));
    }
    let url = Url::parse(location).map_err(|e| refuse(format!("{e}; expected {SCHEMES}")))?;
    if url.scheme() == "file" {
        let file = url
            .to_file_path()
            .map_err(|()| refuse("is not a local path; write file:///folder".into()))?;
        let root = Path::from_absolute_path(&file).map_err(|e| refuse(e.to_string()))?;
        return Ok((Arc::new(LocalFileSystem::new()), root));
    }
    let root = Path::from_url_path(url.path()).map_err(|e| refuse(e.to_string()))?;
    if url.scheme() == "memory" {
        return Ok((Arc::new(InMemory::new()), root));
    }
    let settings = settings(options);
    let store = remote(&url, &settings).map_err(|source| match source {
        None => refuse(format!("expected {SCHEMES}")),
        Some(source) => CorpusError::Store {
            action: "open",
            path: location.to_owned(),
            source,
        },
    })?;
    Ok((Arc::new(Told::new(store, Place::new(&url, &settings))), root))
}

/// The environment's variables of all clouds in lower case, and the options over them.
fn settings(options: &StoreOptions) -> StoreOptions {
    const PREFIXES: [&str; 3] = ["aws_", "azure_", "google_"];
    // vars_os: a variable that is not UTF-8 is none of ours, and must not abort the process.
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let environment = environment.map(|(name, value)| (name.to_ascii_lowercase(), value));
    let cloud = |name: &str| name == "service_account" || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let mut settings: StoreOptions = environment
        .filter(|(name, value)| cloud(name) && !value.is_empty())
        .collect();
    let given = options
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    settings.extend(given);
    settings
}

/// The client of a scheme, with the settings whose names it knows.
macro_rules! client {
    ($builder:expr, $settings:expr) => {{
        let builder = $builder
            .with_http_connector(CountedConnector)
            .with_retry(retries())
            .with_client_options(
                ClientOptions::new()
                    .with_connect_timeout(CONNECT_TIMEOUT)
                    .with_timeout(REQUEST_TIMEOUT),
            );
        let builder = $settings
            .iter()
            .fold(builder, |builder, (name, value)| match name.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            });
        Arc::new(builder.build()?) as Arc<dyn ObjectStore>
    }};
}

fn remote(url: &Url, settings: &StoreOptions) -> Result<Arc<dyn ObjectStore>, Option<object_store::Error>> {
    let whole = url.to_string();
    Ok(match url.scheme() {
        "s3" | "s3a" => client!(AmazonS3Builder::new().with_url(whole), settings),
        "gs" => client!(GoogleCloudStorageBuilder::new().with_url(whole), settings),
        "az" | "azure" | "adl" | "abfs" | "abfss" => client!(MicrosoftAzureBuilder::new().with_url(whole), settings),
        "http" | "https" => {
            let builder = HttpBuilder::new().with_url(&url[..Position::BeforePath]);
            // Whoever writes http:// wants it.
            let plain = StoreOptions::from([("allow_http".to_owned(), "true".to_owned())]);
            client!(builder, plain)
        }
        _ => return Err(None),
    })
}
