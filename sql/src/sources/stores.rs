//! Object stores, opened when a URL first names them; credentials come from the usual environment variables.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use corpusmill_corpus::{CorpusError, StoreOptions, open_store};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::ObjectStore;
use url::{Position, Url};

/// Opens stores on demand, once each, as a warehouse is opened: see [`open_store`].
#[derive(Debug, Default)]
pub(crate) struct StoresOnDemand {
    stores: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

/// Scheme, user, host and port: what one store covers.
fn key(url: &Url) -> &str {
    &url[..Position::BeforePath]
}

fn open(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    // A local path is read from the root of the file system, whatever the URL's path is.
    let place = if url.scheme() == "file" { "file:///" } else { key(url) };
    match open_store(place, &StoreOptions::new()) {
        Ok((store, _)) => Ok(store),
        Err(CorpusError::Store { source, .. }) => Err(source.into()),
        Err(other) => Err(DataFusionError::Configuration(other.to_string())),
    }
}

impl ObjectStoreRegistry for StoresOnDemand {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.insert(key(url).to_owned(), store)
    }

    fn deregister_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores
            .remove(key(url))
            .ok_or_else(|| DataFusionError::Configuration(format!("no object store is registered for {url}")))
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(key(url)) {
            return Ok(Arc::clone(store));
        }
        let store = open(url)?;
        stores.insert(key(url).to_owned(), Arc::clone(&store));
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_opened_once_and_an_unknown_scheme_is_named() {
        let stores = StoresOnDemand::default();
        let url = Url::parse("http://localhost:9/a/b.parquet").unwrap();
        let first = stores.get_store(&url).unwrap();
        let second = stores.get_store(&Url::parse("http://localhost:9/c").unwrap()).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        let error = stores
            .get_store(&Url::parse("ftp://host/x").unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("ftp://host") && error.contains("expected a local path"),
            "{error}"
        );
    }
}
