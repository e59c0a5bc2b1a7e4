//! A folder of corpora, on disk or in an object store, and the versions in it.

mod checkpoint;
mod log;
mod tags;

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;

use crate::error::{CorpusError, Result};
use crate::manifest::Manifest;
use crate::store::{StoreOptions, object_path, open_store, read_whole};
pub use tags::TAGS_FILE;

/// Where corpora are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Warehouse {
    store: Arc<dyn ObjectStore>,
    root: Path,
    location: String,
}

/// A commit of a corpus's Delta log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionInfo {
    /// Delta version.
    pub version: u64,
    /// Key of the manifest below the corpus's folder; `None` for a commit that corpusmill did not make.
    pub manifest: Option<String>,
    /// When it was committed, milliseconds since 1970-01-01 UTC, if the commit says so.
    pub timestamp_ms: Option<i64>,
    /// Kind of the commit (`WRITE`, `CREATE OR REFRESH CORPUS`), if it says so.
    pub operation: Option<String>,
}

impl Warehouse {
    /// Opens a warehouse at a path or URL: a local folder (relative to the working directory), `file://`, `s3://`,
    /// `gs://`, `az://`, `http(s)://` or `memory://`.
    ///
    /// Credentials come from the environment variables that each cloud's own tools read (`AWS_…`, `AZURE_…`,
    /// `GOOGLE_…`), among them `AWS_ENDPOINT_URL` and `AWS_ALLOW_HTTP`; `options` go before them. Nothing is read
    /// yet: a folder that does not exist is empty.
    ///
    /// # Errors
    /// [`CorpusError::Argument`] for a location that is not one, [`CorpusError::Store`] for unusable options.
    pub fn open(location: &str, options: &StoreOptions) -> Result<Self> {
        let (store, root) = open_store(location, options)?;
        Ok(Self {
            store,
            root,
            location: location.to_owned(),
        })
    }

    /// Makes a warehouse of a store that is open, below `root`.
    pub fn over(store: Arc<dyn ObjectStore>, root: Path) -> Self {
        let location = root.to_string();
        Self { store, root, location }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Folder of the warehouse in the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// As a person gave it.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Folder of a corpus in the store.
    ///
    /// # Errors
    /// [`CorpusError::Argument`] for a name that is not one: letters, digits, `_`, `-` and `.`, not beginning with
    /// `_` or `.`.
    pub fn corpus_root(&self, name: &str) -> Result<Path> {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.starts_with(['_', '.']) || !name.chars().all(plain) {
            let detail = "expected letters, digits, `_`, `-` and `.`, not beginning with `_` or `.`";
            return Err(CorpusError::argument("corpus name", name, detail));
        }
        object_path(&self.root, name)
    }

    /// Names of the corpora, sorted.
    ///
    /// # Errors
    /// [`CorpusError::Store`] if the store cannot be listed.
    pub async fn corpora(&self) -> Result<Vec<String>> {
        let listing = self.store.list_with_delimiter(Some(&self.root)).await;
        let listing = listing.map_err(CorpusError::store("list", &self.root))?;
        let mut names = Vec::new();
        for folder in listing.common_prefixes {
            let name = folder.filename().unwrap_or_default().to_owned();
            if name.starts_with(['_', '.']) {
                continue;
            }
            let mut log = self.store.list(Some(&folder.clone().join("_delta_log")));
            if log
                .try_next()
                .await
                .map_err(CorpusError::store("list", &folder))?
                .is_some()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Versions of a corpus, the oldest first.
    ///
    /// # Errors
    /// [`CorpusError::NotFound`], with the nearest name, if there is no such corpus.
    pub async fn versions(&self, name: &str) -> Result<Vec<u64>> {
        let versions = log::Versions::read(&self.store, &self.corpus_root(name)?).await?.all();
        if versions.is_empty() {
            Err(self.no_corpus(name).await)
        } else {
            Ok(versions)
        }
    }

    /// What the commit of a version says.
    ///
    /// # Errors
    /// [`CorpusError::NotFound`], with the versions that exist, [`CorpusError::Format`] if the commit is not one.
    pub async fn version(&self, name: &str, version: u64) -> Result<VersionInfo> {
        let root = self.corpus_root(name)?;
        let path = log::commit_path(&root, version);
        match read_whole(&*self.store, &path).await {
            Ok(commit) => log::commit(&path, version, &commit),
            Err(CorpusError::Store {
                source: object_store::Error::NotFound { .. },
                ..
            }) => match log::Versions::read(&self.store, &root).await?.remembered(version) {
                Some(remembered) => Ok(remembered),
                None => Err(no_version(name, version, &self.versions(name).await?)),
            },
            Err(other) => Err(other),
        }
    }

    /// Understands `name@41`, `name@latest`, `name@TAG` and `name`, and checks that the version exists.
    ///
    /// # Errors
    /// [`CorpusError::NotFound`] if there is no such corpus, version or tag.
    pub async fn resolve(&self, text: &str) -> Result<(String, u64)> {
        let (name, version) = text.split_once('@').unwrap_or((text, "latest"));
        let versions = self.versions(name).await?;
        if version == "latest" {
            // The list is not empty, or `versions` had refused.
            return Ok((name.to_owned(), versions.last().copied().unwrap_or(0)));
        }
        let number = match version.strip_prefix('v').unwrap_or(version).parse() {
            Ok(number) => number,
            Err(_) => self.tagged(name, version).await?,
        };
        if versions.contains(&number) {
            Ok((name.to_owned(), number))
        } else {
            Err(no_version(name, number, &versions))
        }
    }

    /// Reads the manifest of a version.
    ///
    /// # Errors
    /// As [`Warehouse::version`], and [`CorpusError::Format`] if the version was not made by corpusmill or its
    /// manifest is not one.
    pub async fn manifest(&self, name: &str, version: u64) -> Result<Manifest> {
        let root = self.corpus_root(name)?;
        let info = self.version(name, version).await?;
        let Some(path) = info.manifest else {
            let operation = info.operation.as_deref().unwrap_or("unknown");
            let detail = format!(
                "version {version} of `{name}` was committed by something else (operation {operation}) and has no manifest; \
                 read a version that corpusmill made, or REFRESH CORPUS {name} FULL"
            );
            return Err(CorpusError::format(log::commit_path(&root, version), detail));
        };
        let object = object_path(&root, &path)?;
        let bytes = read_whole(&*self.store, &object).await.map_err(|e| match e {
            CorpusError::Store {
                source: object_store::Error::NotFound { .. },
                ..
            } => CorpusError::Corrupt {
                path: object.to_string(),
                place: "manifest".into(),
                found: format!("version {version} of `{name}` names it and it is not there"),
                fix: crate::error::RESTORE,
            },
            other => other,
        })?;
        let manifest = Manifest::from_json(object.as_ref(), &bytes)?;
        if manifest.corpus != name {
            // A folder that was copied under another name is fine; the loader addresses it by the folder.
            tracing::debug!(
                manifest = manifest.corpus,
                folder = name,
                "corpus lies in a folder of another name"
            );
        }
        Ok(manifest)
    }

    /// Reads the manifest of the newest version that corpusmill made; `None` if the table has none. Commits of other
    /// writers lie above it where its version is not the last of [`Warehouse::versions`].
    ///
    /// # Errors
    /// As [`Warehouse::manifest`].
    pub async fn newest(&self, name: &str) -> Result<Option<Manifest>> {
        for version in self.versions(name).await?.into_iter().rev() {
            if self.version(name, version).await?.manifest.is_some() {
                return self.manifest(name, version).await.map(Some);
            }
        }
        Ok(None)
    }

    async fn no_corpus(&self, name: &str) -> CorpusError {
        let names = self.corpora().await.unwrap_or_default();
        let hint = match (nearest(name, &names), names.is_empty()) {
            (Some(near), _) => format!("; did you mean `{near}`?"),
            (None, true) => format!("; there are no corpora in {}", self.location),
            (None, false) => format!("; {} has {}", self.location, names.join(", ")),
        };
        CorpusError::NotFound {
            what: "corpus",
            name: name.to_owned(),
            hint,
        }
    }
}

fn no_version(name: &str, version: u64, versions: &[u64]) -> CorpusError {
    let have = match (versions.first(), versions.last()) {
        (Some(first), Some(last)) if last - first + 1 == versions.len() as u64 => format!("{first} to {last}"),
        _ => versions.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    };
    CorpusError::NotFound {
        what: "version",
        name: format!("{name}@{version}"),
        hint: format!("; `{name}` has versions {have}"),
    }
}

/// The name that was probably meant: the closest by Jaro-Winkler, if it is close.
pub(crate) fn nearest<'a>(name: &str, names: &'a [String]) -> Option<&'a String> {
    let score = |n: &&String| (strsim::jaro_winkler(name, n) * 1e6) as u64;
    names.iter().max_by_key(score).filter(|n| score(n) > 800_000)
}
