//! Object stores, opened when a URL first names them; credentials come from the usual environment variables.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use url::{Position, Url};

/// Opens stores on demand, once each.
///
/// | URL | store | environment |
/// |---|---|---|
/// | `file://` | local files | |
/// | `s3://bucket`, `s3a://bucket` | Amazon S3 and the like | `AWS_*` |
/// | `gs://bucket`, `gcs://bucket` | Google Cloud Storage | `GOOGLE_*`, `SERVICE_ACCOUNT` |
/// | `az://container`, `abfs[s]://…` | Azure Blob Storage | `AZURE_*` |
/// | `http(s)://host` | any web server, by GET and HEAD | |
#[derive(Debug)]
pub(crate) struct StoresOnDemand {
    stores: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl StoresOnDemand {
    pub(crate) fn new() -> Self {
        let mut stores: HashMap<String, Arc<dyn ObjectStore>> = HashMap::new();
        stores.insert("file://".to_string(), Arc::new(LocalFileSystem::new()));
        StoresOnDemand {
            stores: Mutex::new(stores),
        }
    }
}

/// Scheme, host and port: what one store covers.
fn key(url: &Url) -> String {
    format!("{}://{}", url.scheme(), &url[Position::BeforeHost..Position::AfterPort])
}

fn open(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    let host = url.host_str().unwrap_or_default();
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "s3" | "s3a" => Arc::new(AmazonS3Builder::from_env().with_bucket_name(host).build()?),
        "gs" | "gcs" => Arc::new(GoogleCloudStorageBuilder::from_env().with_bucket_name(host).build()?),
        "az" | "abfs" | "abfss" => Arc::new(MicrosoftAzureBuilder::from_env().with_url(url.as_str()).build()?),
        "http" | "https" => Arc::new(
            HttpBuilder::new()
                .with_url(&url[..Position::AfterPort])
                .with_client_options(object_store::ClientOptions::new().with_allow_http(url.scheme() == "http"))
                .build()?,
        ),
        scheme => {
            return Err(DataFusionError::Configuration(format!(
                "'{url}': unknown scheme '{scheme}'; expected a path, file://, s3://, gs://, az://, http:// or https://"
            )));
        }
    };
    Ok(store)
}

impl ObjectStoreRegistry for StoresOnDemand {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.insert(key(url), store)
    }

    fn deregister_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores
            .remove(&key(url))
            .ok_or_else(|| DataFusionError::Configuration(format!("no object store is registered for {url}")))
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&key(url)) {
            return Ok(Arc::clone(store));
        }
        let store = open(url)?;
        stores.insert(key(url), Arc::clone(&store));
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_opened_once_and_an_unknown_scheme_is_named() {
        let stores = StoresOnDemand::new();
        let url = Url::parse("http://localhost:9/a/b.parquet").unwrap();
        let first = stores.get_store(&url).unwrap();
        let second = stores.get_store(&Url::parse("http://localhost:9/c").unwrap()).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        let error = stores
            .get_store(&Url::parse("ftp://host/x").unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.contains("unknown scheme 'ftp'"), "{error}");
    }
}
