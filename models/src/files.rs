//! The files of a model's folder, local or in object storage.

use std::collections::BTreeMap;

use bytes::Bytes;
use corpusmill_corpus::{StoreOptions, open_store};
use object_store::ObjectStoreExt as _;
use serde_json::Value;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::{ModelError, Result};

/// Settings of the transformer.
pub(crate) const CONFIG: &str = "config.json";
/// The tokenizer.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// The modules of a sentence-transformers model.
pub(crate) const MODULES: &str = "modules.json";
const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// Files that a model may have beside those that it must have.
const OPTIONAL: [&str; 4] = [
    MODULES,
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
];

/// The files of one model, in memory.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    uri: String,
    files: BTreeMap<String, Bytes>,
}

/// Sizes, times and tags of the files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesState(Vec<(&'static str, u64, i64, Option<String>)>);

impl ModelFiles {
    /// Reads `config.json`, `tokenizer.json`, the weights in safetensors (also in several files behind an index), and
    /// the modules of sentence-transformers from a folder.
    ///
    /// `uri` is a local folder or a URL of an object store.
    ///
    /// # Errors
    /// [`ModelError::Read`] for a file that must be there and cannot be read, [`ModelError::Unfit`] for a folder
    /// that is no model, [`ModelError::Location`] for a location that is none.
    pub async fn read(uri: &str) -> Result<Self> {
        let mut model = Self {
            uri: uri.trim_end_matches('/').to_owned(),
            files: BTreeMap::new(),
        };
        if !model.add(CONFIG).await? {
            let fix = "give uri the folder of a model as transformers' save_pretrained() writes it";
            return Err(ModelError::unfit(uri, "has no config.json", fix));
        }
        model.add(TOKENIZER).await?;
        for name in OPTIONAL {
            model.add(name).await?;
        }
        for folder in model.module_folders()? {
            model.add(&format!("{folder}/config.json")).await?;
            model.add(&format!("{folder}/{WEIGHTS}")).await?;
        }
        if !model.add(WEIGHTS).await? {
            if !model.add(WEIGHTS_INDEX).await? {
                let fix = "save the model with safe_serialization=True: pickled weights are code, so they are not read";
                return Err(ModelError::unfit(
                    uri,
                    format!("has neither {WEIGHTS} nor {WEIGHTS_INDEX}"),
                    fix,
                ));
            }
            for part in model.parts()? {
                if !model.add(&part).await? {
                    let problem = format!("names {part}, which is not there");
                    return Err(ModelError::unfit(WEIGHTS_INDEX, problem, "copy the whole folder"));
                }
            }
        }
        Ok(model)
    }

    /// What tells whether the files changed since they were read, without reading them.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn state(uri: &str) -> Result<FilesState> {
        let mut files = Vec::new();
        for name in [CONFIG, TOKENIZER, WEIGHTS, WEIGHTS_INDEX].into_iter().chain(OPTIONAL) {
            let place = format!("{}/{name}", uri.trim_end_matches('/'));
            let (store, path) = open_store(&place, &StoreOptions::new())?;
            match store.head(&path).await {
                Ok(meta) => files.push((name, meta.size, meta.last_modified.timestamp_micros(), meta.e_tag)),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(ModelError::Read { path: place, source }),
            }
        }
        Ok(FilesState(files))
    }

    /// The folder that they were read from.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// xxh3-128 of the names and contents of all files, as 32 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Xxh3::new();
        for (name, bytes) in &self.files {
            hash.update(&xxh3_64(name.as_bytes()).to_le_bytes());
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        format!("{:032x}", hash.digest128())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Bytes> {
        self.files.get(name)
    }

    /// The content of a JSON file, if it is there.
    pub(crate) fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(bytes) = self.files.get(name) else {
            return Ok(None);
        };
        serde_json::from_slice(bytes)
            .map(Some)
            .map_err(|e| ModelError::unfit(name, format!("is not JSON: {e}"), "copy the file again"))
    }

    /// The safetensors files of the transformer.
    pub(crate) fn weights(&self) -> Result<Vec<(String, &Bytes)>> {
        if let Some(bytes) = self.files.get(WEIGHTS) {
            return Ok(vec![(WEIGHTS.to_owned(), bytes)]);
        }
        let parts = self.parts()?.into_iter();
        Ok(parts
            .filter_map(|part| self.files.get(&part).map(|b| (part, b)))
            .collect())
    }

    /// Folders of the modules after the transformer, `.` and `..` refused.
    fn module_folders(&self) -> Result<Vec<String>> {
        let modules = self.json(MODULES)?;
        let modules = modules
            .as_ref()
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let folders = modules.iter().filter_map(|m| m.get("path").and_then(Value::as_str));
        Ok(folders.filter(|path| plain_name(path)).map(str::to_owned).collect())
    }

    fn parts(&self) -> Result<Vec<String>> {
        let index = self.json(WEIGHTS_INDEX)?.unwrap_or_default();
        let map = index.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| ModelError::unfit(WEIGHTS_INDEX, "has no weight_map", "copy the file again"))?;
        let mut parts: Vec<String> = map.values().filter_map(Value::as_str).map(str::to_owned).collect();
        parts.sort();
        parts.dedup();
        match parts.iter().find(|part| !plain_name(part)) {
            Some(part) => Err(ModelError::unfit(
                WEIGHTS_INDEX,
                format!("names '{part}', which is not a file of its folder"),
                "copy the file again",
            )),
            None => Ok(parts),
        }
    }

    /// Reads a file; says whether it is there.
    async fn add(&mut self, name: &str) -> Result<bool> {
        let place = format!("{}/{name}", self.uri);
        let (store, path) = open_store(&place, &StoreOptions::new())?;
        let fail = |source| ModelError::Read {
            path: place.clone(),
            source,
        };
        match store.get(&path).await {
            Ok(object) => {
                let bytes = object.bytes().await.map_err(fail)?;
                self.files.insert(name.to_owned(), bytes);
                Ok(true)
            }
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(fail(source)),
        }
    }
}

fn plain_name(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('.') && !path.contains(['/', '\\'])
}
