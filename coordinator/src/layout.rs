//! Where things are in a home.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use corpusmill_corpus::{StoreOptions, Warehouse};
use corpusmill_operators::Destination;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use url::Url;

use crate::error::{CoordinatorError, Result};

/// The folders of a home; `docs/ARCHITECTURE.md` draws them.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    home: PathBuf,
    warehouse: Warehouse,
    url: Url,
}

impl Layout {
    /// The folders of the home `home`.
    ///
    /// # Errors
    /// When the path cannot be made absolute.
    pub(crate) fn new(home: &FilePath) -> Result<Self> {
        let home = std::path::absolute(home).map_err(|source| CoordinatorError::Io {
            action: "open",
            path: home.to_owned(),
            source,
        })?;
        let folder = home.join("warehouse");
        let url = Url::from_directory_path(&folder).map_err(|()| {
            CoordinatorError::Invalid(format!(
                "{} is not a path that can be written as a URL",
                folder.display()
            ))
        })?;
        let warehouse = Warehouse::open(url.as_str(), &StoreOptions::new())?;
        Ok(Self { home, warehouse, url })
    }

    /// The home.
    pub(crate) fn home(&self) -> &FilePath {
        &self.home
    }

    /// Its catalogue.
    pub(crate) fn catalog(&self) -> PathBuf {
        self.home.join("catalog.sqlite")
    }

    /// Its warehouse.
    pub(crate) fn warehouse(&self) -> &Warehouse {
        &self.warehouse
    }

    /// The store of the warehouse.
    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        self.warehouse.store()
    }

    /// A folder of the warehouse, as operators take it.
    pub(crate) fn folder(&self, below: &str) -> Destination {
        let mut url = self.url.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts
                .pop_if_empty()
                .extend(below.split('/').filter(|part| !part.is_empty()));
        }
        Destination::new(url)
    }

    /// The same folder as a path in the store.
    pub(crate) fn path(&self, below: &str) -> Path {
        below
            .split('/')
            .filter(|part| !part.is_empty())
            .fold(self.warehouse.root().clone(), |path, part| path.join(part))
    }

    /// Removes everything below a folder of the warehouse.
    ///
    /// # Errors
    /// When storage refuses.
    pub(crate) async fn remove(&self, below: &str) -> Result<()> {
        let folder = self.path(below);
        let fail = |source| CoordinatorError::Store {
            action: "remove",
            path: folder.to_string(),
            source,
        };
        let objects: Vec<Path> = self
            .store()
            .list(Some(&folder))
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(fail)?;
        for object in objects {
            match self.store().delete(&object).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(fail(source)),
            }
        }
        self.remove_empty_folders(&folder);
        Ok(())
    }

    /// Removes one file of the warehouse; one that is not there is fine.
    ///
    /// # Errors
    /// When storage refuses.
    pub(crate) async fn remove_file(&self, below: &str) -> Result<()> {
        // A path below a corpus' folder is percent-encoded already where it has to be.
        let text = format!("{}/{below}", self.warehouse.root());
        let path = Path::parse(&text).map_err(|e| CoordinatorError::Store {
            action: "remove",
            path: text.clone(),
            source: e.into(),
        })?;
        match self.store().delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(CoordinatorError::Store {
                action: "remove",
                path: text,
                source,
            }),
        }
    }

    /// A folder of the warehouse on the local disk, if that is where the warehouse is.
    pub(crate) fn local(&self, below: &str) -> Option<PathBuf> {
        (self.url.scheme() == "file").then(|| FilePath::new("/").join(self.path(below).as_ref()))
    }

    /// Object stores have no folders, a disk does: empty ones are litter to whoever looks.
    pub(crate) fn remove_empty_folders(&self, folder: &Path) {
        if self.url.scheme() == "file" {
            remove_empty(&FilePath::new("/").join(folder.as_ref()));
        }
    }
}

/// Removes empty folders bottom-up; one that is not empty, or was just filled, stays.
fn remove_empty(folder: &FilePath) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    // Fails where something is left inside, which is what we want.
    let _ = std::fs::remove_dir(folder);
}

/// Folder of a corpus in the warehouse.
pub(crate) fn corpus_folder(corpus: &str) -> String {
    corpus.to_owned()
}

/// Folder of one build of a materialised view.
pub(crate) fn view_folder(view: &str, build: &str) -> String {
    format!("_views/{view}/{build}")
}

/// Staging folder of a build.
pub(crate) fn staging_folder(build: &str) -> String {
    format!("_staging/{build}")
}
