//! Where things are in a home.

use std::io::ErrorKind;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use corpusmill_corpus::{StoreOptions, Warehouse};
use corpusmill_operators::Destination;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use url::Url;

use crate::error::{CoordinatorError, Result};

/// The catalogue in a home.
const CATALOG: &str = "catalog.sqlite";
/// Where the warehouse of a home is, when it is not inside.
const ELSEWHERE: &str = "warehouse.url";

/// The folders of a home; `docs/ARCHITECTURE.md` draws them.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    home: PathBuf,
    warehouse: Warehouse,
    url: Url,
}

impl Layout {
    /// The folders of the home `home`, an absolute path, whose warehouse is at `warehouse`: a path or a URL. A home remembers where its
    /// warehouse is; one that has none elsewhere has it inside.
    ///
    /// # Errors
    /// When the warehouse cannot be written to, or the home has another one.
    pub(crate) fn new(home: &FilePath, warehouse: Option<&str>) -> Result<Self> {
        let home = home.to_owned();
        let given = warehouse.map(warehouse_url).transpose()?;
        let url = match (given, remembered(&home)?) {
            (Some(given), Some(there)) if given != there => {
                return Err(CoordinatorError::Invalid(format!(
                    "the home {} keeps its corpora in {there}, not in {given}: leave --warehouse (CORPUSMILL_WAREHOUSE) \
                     away, or give another --home",
                    home.display()
                )));
            }
            (_, Some(there)) => there,
            (Some(given), None) => given,
            (None, None) => folder_url(&home.join("warehouse"))?,
        };
        let warehouse = Warehouse::open(url.as_str(), &StoreOptions::new())?;
        Ok(Self { home, warehouse, url })
    }

    /// Makes the home, and writes down where its warehouse is.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn create(&self) -> Result<()> {
        let io = |action, path: PathBuf| move |source| CoordinatorError::Io { action, path, source };
        std::fs::create_dir_all(&self.home).map_err(io("create", self.home.clone()))?;
        let note = self.home.join(ELSEWHERE);
        if folder_url(&self.home.join("warehouse"))? == self.url || note.exists() {
            return Ok(());
        }
        std::fs::write(&note, format!("{}\n", self.url)).map_err(io("write", note.clone()))
    }

    /// The home.
    pub(crate) fn home(&self) -> &FilePath {
        &self.home
    }

    /// Where its warehouse is.
    pub(crate) fn url(&self) -> &Url {
        &self.url
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

fn folder_url(folder: &FilePath) -> Result<Url> {
    Url::from_directory_path(folder).map_err(|()| {
        CoordinatorError::Invalid(format!(
            "{} is not a path that can be written as a URL",
            folder.display()
        ))
    })
}

/// The URL of a warehouse as a person gave it; those of object stores have no slash at their end.
fn warehouse_url(given: &str) -> Result<Url> {
    let refuse = |why: String| {
        CoordinatorError::Invalid(format!(
            "--warehouse {given}: {why}; expected a local folder, s3://bucket/folder, gs://… or az://…"
        ))
    };
    if !given.contains("://") {
        return folder_url(&std::path::absolute(given).map_err(|e| refuse(e.to_string()))?);
    }
    let url = Url::parse(given.trim_end_matches('/')).map_err(|e| refuse(e.to_string()))?;
    match url.scheme() {
        "file" => folder_url(&url.to_file_path().map_err(|()| refuse("is no local path".into()))?),
        "http" | "https" | "memory" => Err(refuse(format!("nothing can be kept at {}://", url.scheme()))),
        _ => Ok(url),
    }
}

/// The warehouse that a home has: the one that it was made with.
fn remembered(home: &FilePath) -> Result<Option<Url>> {
    let note = home.join(ELSEWHERE);
    let text = match std::fs::read_to_string(&note) {
        Ok(text) => text,
        // A home that was used before it said so has its warehouse inside.
        Err(e) if e.kind() == ErrorKind::NotFound && home.join(CATALOG).exists() => {
            return folder_url(&home.join("warehouse")).map(Some);
        }
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(source) => {
            return Err(CoordinatorError::Io {
                action: "read",
                path: note,
                source,
            });
        }
    };
    let url = Url::parse(text.trim()).map_err(|e| {
        CoordinatorError::Invalid(format!(
            "{}: `{}` is not the URL of a warehouse: {e}",
            note.display(),
            text.trim()
        ))
    })?;
    Ok(Some(url))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_remembers_its_warehouse() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home");
        let lake = Layout::new(&home, Some("s3://lake/corpora/")).unwrap();
        lake.create().unwrap();
        assert_eq!(lake.folder("c/split=a").url().as_str(), "s3://lake/corpora/c/split=a");
        assert_eq!(lake.path("c").as_ref(), "corpora/c");
        assert_eq!(lake.local("c"), None);
        let again = Layout::new(&home, None).unwrap();
        assert_eq!(again.warehouse().location(), "s3://lake/corpora");
        let error = Layout::new(&home, Some("s3://lake/other")).unwrap_err().to_string();
        assert!(
            error.contains("s3://lake/corpora") && error.contains("--home"),
            "{error}"
        );

        let local = root.path().join("local");
        let inside = Layout::new(&local, None).unwrap();
        inside.create().unwrap();
        std::fs::write(local.join(CATALOG), "").unwrap();
        let error = Layout::new(&local, Some("s3://lake/corpora")).unwrap_err().to_string();
        assert!(error.contains("local/warehouse/"), "{error}");
        for bad in ["http://host/x", "s3:///x//", "://"] {
            let error = Layout::new(&root.path().join("new"), Some(bad))
                .unwrap_err()
                .to_string();
            assert!(error.contains(bad.trim_end_matches('/')), "{error}");
        }
    }
}
