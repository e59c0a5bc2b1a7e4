//! Opens an object store at a location that a person wrote.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use url::Url;

use crate::error::{CorpusError, Result};

/// Options of an object store by the names that its clients use (`aws_endpoint`, `google_service_account`); they go
/// before the environment.
pub type StoreOptions = BTreeMap<String, String>;

const SCHEMES: &str = "a local path, file://, s3://, gs://, az://, abfss://, http://, https:// or memory://";

/// Opens the store of a location and gives the folder in it; see [`Warehouse::open`](crate::Warehouse::open).
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
    let cloud = |name: &str| {
        ["AWS_", "AZURE_", "GOOGLE_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    // vars_os: a variable that is not UTF-8 is none of ours, and must not abort the process.
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let environment = environment.filter(|(name, value)| cloud(name) && !value.is_empty());
    let given = options.iter().map(|(name, value)| (name.clone(), value.clone()));
    let (store, root) = object_store::parse_url_opts(&url, environment.chain(given)).map_err(|e| match e {
        object_store::Error::Generic { store: "URL", .. } => refuse(format!("{e}; expected {SCHEMES}")),
        source => CorpusError::Store {
            action: "open",
            path: location.to_owned(),
            source,
        },
    })?;
    Ok((Arc::from(store), root))
}
