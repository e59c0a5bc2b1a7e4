//! A folder that an operator writes to, as a URL: serialisable, and resolved where the plan runs.

use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use url::Url;

/// A folder in a registered object store, written as a URL (`file:///data/warehouse/posts`, `s3://lake/posts`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Destination(Url);

impl Destination {
    /// Takes a URL; a trailing slash makes no difference.
    #[must_use]
    pub fn new(url: Url) -> Self {
        Self(url)
    }

    /// The URL.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// The folder's path inside its store.
    ///
    /// # Errors
    /// When the URL's path is not a valid object path.
    pub fn prefix(&self) -> Result<Path> {
        Path::from_url_path(self.0.path())
            .map_err(|e| DataFusionError::ObjectStore(Box::new(object_store::Error::from(e))))
    }

    /// The store, looked up in the runtime that the task runs in.
    ///
    /// # Errors
    /// When no store is registered for the URL.
    pub fn store(&self, context: &TaskContext) -> Result<Arc<dyn ObjectStore>> {
        let mut root = self.0.clone();
        root.set_path("/");
        root.set_query(None);
        context
            .runtime_env()
            .object_store(ObjectStoreUrl::parse(root.as_str())?)
    }

    /// The path of `relative` (with `/` between its parts) inside this folder.
    ///
    /// # Errors
    /// As [`Destination::prefix`].
    pub fn path(&self, relative: &str) -> Result<Path> {
        let prefix = self.prefix()?;
        Ok(relative
            .split('/')
            .filter(|part| !part.is_empty())
            .fold(prefix, |path, part| path.join(part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_inside() {
        let folder = Destination::new(Url::parse("file:///data/ware%20house/posts/").unwrap());
        assert_eq!(
            folder.path("split=train/a.parquet").unwrap().as_ref(),
            "data/ware house/posts/split=train/a.parquet"
        );
        let json = serde_json::to_string(&folder).unwrap();
        assert_eq!(serde_json::from_str::<Destination>(&json).unwrap(), folder);
    }
}
