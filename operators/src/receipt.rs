//! Receipts: what one split of a step wrote.
//!
//! A receipt is a small JSON object in the step's staging folder, `SPLIT.ATTEMPT.json`, put there after the files it
//! names are complete. A split may have been tried many times; whoever commits takes exactly one receipt for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use corpusmill_corpus::ShardFile;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::OperatorError;

/// A plain Parquet file that a step wrote: rows of a materialised view, or quarantined rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowFile {
    /// Path relative to the destination of the step.
    pub path: String,
    /// Rows in the file.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// xxh3-64 of the file, 16 hex digits.
    pub xxh3: String,
}

/// What one attempt at one split of a step wrote and counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Version of this format: 1.
    pub format: u32,
    /// The step's name.
    pub step: String,
    /// The split's number inside the step.
    pub split: u32,
    /// What made this attempt's names unique.
    pub attempt: String,
    /// Shards, one for each partition value, in order of value.
    #[serde(default)]
    pub shards: Vec<ShardFile>,
    /// Files of a materialised step.
    #[serde(default)]
    pub rows_files: Vec<RowFile>,
    /// Files of quarantined rows.
    #[serde(default)]
    pub quarantine: Vec<RowFile>,
    /// Rows dropped, by expectation.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// Rows quarantined, by expectation.
    #[serde(default)]
    pub quarantined: BTreeMap<String, u64>,
    /// Rows that broke an expectation with action WARN, by expectation.
    #[serde(default)]
    pub warnings: BTreeMap<String, u64>,
    /// Rows that came in.
    pub rows_in: u64,
    /// Rows written as corpus or view rows.
    pub rows_out: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Receipt {
    /// The format written by this version.
    pub const FORMAT: u32 = 1;

    /// The name of this receipt's object in the staging folder.
    #[must_use]
    pub fn object_name(&self) -> String {
        format!("{:05}.{}.json", self.split, self.attempt)
    }

    /// Puts the receipt into `folder`, once: another receipt of the same attempt is refused by the store.
    ///
    /// # Errors
    /// When storage fails or the attempt has another receipt already.
    pub async fn put(&self, store: &Arc<dyn ObjectStore>, folder: &Path) -> Result<(), OperatorError> {
        let path = folder.clone().join(self.object_name());
        let body = serde_json::to_vec_pretty(self).map_err(|source| OperatorError::Receipt {
            path: path.to_string(),
            source,
        })?;
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let source = match store.put_opts(&path, body.clone().into(), options).await {
            Ok(_) => return Ok(()),
            Err(source) => source,
        };
        // The answer to a put that had been made may be lost: the repeated one then finds its own object.
        if matches!(source, object_store::Error::AlreadyExists { .. })
            && let Ok(there) = store.get(&path).await
            && there.bytes().await.is_ok_and(|there| there == body)
        {
            return Ok(());
        }
        Err(OperatorError::Store {
            path: path.to_string(),
            source,
        })
    }

    /// Reads the receipts in `folder` and takes one for each split: the first by attempt name, so that whoever
    /// looks at the same folder takes the same ones.
    ///
    /// # Errors
    /// When storage fails, or a receipt is not what this version can read.
    pub async fn collect(store: &Arc<dyn ObjectStore>, folder: &Path) -> Result<BTreeMap<u32, Receipt>, OperatorError> {
        let at = |source| OperatorError::Store {
            path: folder.to_string(),
            source,
        };
        let mut objects: Vec<Path> = store
            .list(Some(folder))
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(at)?;
        objects.retain(|path| path.filename().is_some_and(|name| name.ends_with(".json")));
        objects.sort();
        let mut taken = BTreeMap::new();
        for path in objects {
            let fail = |source| OperatorError::Store {
                path: path.to_string(),
                source,
            };
            let body = store.get(&path).await.map_err(fail)?.bytes().await.map_err(fail)?;
            let receipt: Receipt = serde_json::from_slice(&body).map_err(|source| OperatorError::Receipt {
                path: path.to_string(),
                source,
            })?;
            taken.entry(receipt.split).or_insert(receipt);
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn receipt(split: u32, attempt: &str) -> Receipt {
        Receipt {
            format: Receipt::FORMAT,
            step: "shards".into(),
            split,
            attempt: attempt.into(),
            shards: vec![],
            rows_files: vec![],
            quarantine: vec![],
            drops: BTreeMap::from([("has_label".into(), 3)]),
            quarantined: BTreeMap::new(),
            warnings: BTreeMap::new(),
            rows_in: 10,
            rows_out: 7,
            bytes: 100,
        }
    }

    #[tokio::test]
    async fn one_receipt_a_split_whatever_the_attempts() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let folder = Path::from("_staging/b/shards");
        for r in [receipt(1, "zz"), receipt(0, "aa"), receipt(1, "bb")] {
            r.put(&store, &folder).await.unwrap();
        }
        receipt(1, "bb")
            .put(&store, &folder)
            .await
            .expect("the same receipt again");
        let other = Receipt {
            rows_out: 1_000_000,
            ..receipt(1, "bb")
        };
        assert!(other.put(&store, &folder).await.is_err(), "an attempt has one receipt");
        let taken = Receipt::collect(&store, &folder).await.unwrap();
        assert_eq!(taken.keys().copied().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(taken[&1].attempt, "bb");
    }

    #[tokio::test]
    async fn an_altered_receipt_is_named() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let folder = Path::from("s");
        store
            .put(&folder.clone().join("00000.x.json"), "{\"format\":1".into())
            .await
            .unwrap();
        let error = Receipt::collect(&store, &folder).await.unwrap_err().to_string();
        assert!(error.contains("s/00000.x.json"), "{error}");
    }
}
