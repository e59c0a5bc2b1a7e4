//! Names for versions of a corpus: `mod_text@prod` is the version that `prod` stands for now.

use std::collections::BTreeMap;

use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::Warehouse;
use crate::error::{CorpusError, Result};
use crate::store::{object_path, read_whole};

/// Where the tags of a corpus are, below its folder: a JSON object of versions by name.
pub const TAGS_FILE: &str = "_corpusmill/tags.json";

impl Warehouse {
    fn tags_path(&self, corpus: &str) -> Result<Path> {
        object_path(&self.corpus_root(corpus)?, TAGS_FILE)
    }

    /// The tags of a corpus and the versions that they stand for.
    ///
    /// # Errors
    /// [`CorpusError::Format`] for a file that is none of ours, and when the store does not answer.
    pub async fn tags(&self, corpus: &str) -> Result<BTreeMap<String, u64>> {
        let path = self.tags_path(corpus)?;
        match read_whole(&*self.store, &path).await {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| CorpusError::format(path, e.to_string())),
            Err(CorpusError::Store {
                source: object_store::Error::NotFound { .. },
                ..
            }) => Ok(BTreeMap::new()),
            Err(other) => Err(other),
        }
    }

    /// Makes `tag` stand for a version that exists, or for none. Only one process may do so at a time.
    ///
    /// # Errors
    /// [`CorpusError::Argument`] for a tag that could be taken for a version, [`CorpusError::NotFound`] when there is no
    /// such version, and when the store does not answer.
    pub async fn set_tag(&self, corpus: &str, tag: &str, version: Option<u64>) -> Result<()> {
        let letters = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        let numeric = tag.strip_prefix('v').unwrap_or(tag).bytes().all(|b| b.is_ascii_digit());
        if tag == "latest" || numeric || !tag.chars().all(letters) {
            let expected = "expected letters, digits, '-', '_' and '.', and neither a number nor `latest`";
            return Err(CorpusError::argument("tag", tag, expected));
        }
        let mut tags = self.tags(corpus).await?;
        match version {
            Some(version) => {
                self.resolve(&format!("{corpus}@{version}")).await?;
                tags.insert(tag.to_owned(), version);
            }
            None if tags.remove(tag).is_none() => return Err(no_tag(corpus, tag, &tags)),
            None => {}
        }
        let path = self.tags_path(corpus)?;
        let text = serde_json::to_vec_pretty(&tags).map_err(|e| CorpusError::format(path.clone(), e.to_string()))?;
        self.store
            .put(&path, text.into())
            .await
            .map(|_| ())
            .map_err(CorpusError::store("write", &path))
    }

    /// The version that a tag stands for.
    pub(super) async fn tagged(&self, corpus: &str, tag: &str) -> Result<u64> {
        let tags = self.tags(corpus).await?;
        tags.get(tag).copied().ok_or_else(|| no_tag(corpus, tag, &tags))
    }
}

fn no_tag(corpus: &str, tag: &str, tags: &BTreeMap<String, u64>) -> CorpusError {
    let have = match tags.is_empty() {
        true => format!("it has no tags: a version is {corpus}@NUMBER or {corpus}@latest"),
        false => format!("it has {}", tags.keys().cloned().collect::<Vec<_>>().join(", ")),
    };
    CorpusError::NotFound {
        what: "tag",
        name: format!("{corpus}@{tag}"),
        hint: format!("; {have}"),
    }
}
