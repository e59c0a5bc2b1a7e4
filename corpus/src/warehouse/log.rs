//! The little of Delta's log that a reader of whole versions needs (Delta protocol, "Delta Log Entries").

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

use super::{VersionInfo, checkpoint};
use crate::error::{CorpusError, Result};

/// Object of a commit.
pub(super) fn commit_path(root: &Path, version: u64) -> Path {
    root.clone().join("_delta_log").join(format!("{version:020}.json"))
}

/// The versions of a log.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// Versions that have a commit, ascending.
    committed: Vec<u64>,
    /// Builds whose commits were cleaned up, by the version that they made: a checkpoint remembers them.
    remembered: BTreeMap<u64, String>,
}

impl Versions {
    /// Lists a log; there are none where there is no log.
    pub(super) async fn read(store: &Arc<dyn ObjectStore>, root: &Path) -> Result<Self> {
        let log = root.clone().join("_delta_log");
        let listed: Result<Vec<_>, _> = store.list(Some(&log)).try_collect().await;
        let (committed, checkpoint) = match listed {
            Ok(objects) => {
                let names = || objects.iter().filter_map(|o| o.location.filename());
                let mut committed: Vec<u64> = names().filter_map(version_of).collect();
                committed.sort_unstable();
                (committed, checkpoint::newest(names()))
            }
            Err(object_store::Error::NotFound { .. }) => return Ok(Self::default()),
            // A plain HTTP server cannot list: commits have no gaps, so the last one is found by asking.
            Err(source) => {
                let hint = checkpoint::hint(&**store, &log).await?;
                let first = hint.as_ref().map_or(0, |hint| hint.version);
                match probe(&**store, root, first).await? {
                    Some(committed) => (committed, hint.map_or_else(Vec::new, |hint| hint.names())),
                    None => return Err(CorpusError::store("list", &log)(source)),
                }
            }
        };
        let mut remembered = BTreeMap::new();
        if committed.first() != Some(&0) && !checkpoint.is_empty() {
            remembered = checkpoint::builds(&**store, &log, &checkpoint).await?;
            remembered.retain(|version, _| committed.binary_search(version).is_err());
        }
        Ok(Self { committed, remembered })
    }

    /// All of them, ascending.
    pub(super) fn all(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.remembered.keys().chain(&self.committed).copied().collect();
        all.sort_unstable();
        all
    }

    /// What is known of a version whose commit was cleaned up.
    pub(super) fn remembered(&self, version: u64) -> Option<VersionInfo> {
        self.remembered.get(&version).map(|build| VersionInfo {
            version,
            manifest: Some(checkpoint::manifest_of(build)),
            timestamp_ms: None,
            operation: None,
        })
    }
}

fn version_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The versions of a log without gaps that has version 0 or `first`, by doubling and halving.
async fn probe(store: &dyn ObjectStore, root: &Path, first: u64) -> Result<Option<Vec<u64>>> {
    let exists = async |version| match store.head(&commit_path(root, version)).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(source) => Err(CorpusError::Store {
            action: "read",
            path: commit_path(root, version).to_string(),
            source,
        }),
    };
    let first = match (exists(0).await?, first) {
        (true, _) => 0,
        (false, 1..) if exists(first).await? => first,
        _ => return Ok(None),
    };
    let (mut low, mut high) = (first, first + 1);
    while high < 1 << 40 && exists(high).await? {
        (low, high) = (high, high * 2);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if exists(middle).await? {
            low = middle
        } else {
            high = middle
        }
    }
    Ok(Some((first..=low).collect()))
}

/// Reads the actions of a commit, one JSON object a line, and keeps what `commitInfo` says.
pub(super) fn commit(path: &Path, version: u64, bytes: &[u8]) -> Result<VersionInfo> {
    let mut info = VersionInfo {
        version,
        manifest: None,
        timestamp_ms: None,
        operation: None,
    };
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let action: Value = serde_json::from_slice(line)
            .map_err(|e| CorpusError::format(path, format!("line {} is not JSON: {e}", number + 1)))?;
        if let Some(commit) = action.get("commitInfo") {
            let text = |v: Option<&Value>| v.and_then(Value::as_str).map(str::to_owned);
            info.manifest = manifest_of(commit);
            info.timestamp_ms = commit.get("timestamp").and_then(Value::as_i64);
            info.operation = text(commit.get("operation"));
        }
    }
    Ok(info)
}

/// `"corpusmill": {"manifest": …}`, as an object or as the text of one: writers of Delta commits differ.
fn manifest_of(commit: &Value) -> Option<String> {
    let ours = commit.get("corpusmill")?;
    let parsed: Option<Value> = ours.as_str().and_then(|text| serde_json::from_str(text).ok());
    let manifest = parsed.as_ref().unwrap_or(ours).get("manifest")?;
    manifest.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_commit_and_nothing_else() {
        let text = "{\"protocol\":{\"minReaderVersion\":1}}\n\
            {\"commitInfo\":{\"timestamp\":7,\"operation\":\"WRITE\",\"corpusmill\":{\"manifest\":\"_corpusmill/m.json\"}}}\n\n";
        let info = commit(&Path::from("c"), 3, text.as_bytes()).unwrap();
        assert_eq!((info.version, info.timestamp_ms), (3, Some(7)));
        assert_eq!(info.manifest.as_deref(), Some("_corpusmill/m.json"));
        let text = text.replace(
            "{\"manifest\":\"_corpusmill/m.json\"}",
            "\"{\\\"manifest\\\":\\\"x\\\"}\"",
        );
        assert_eq!(
            commit(&Path::from("c"), 3, text.as_bytes())
                .unwrap()
                .manifest
                .as_deref(),
            Some("x")
        );
        let e = commit(&Path::from("c"), 0, b"{}\n{\"a\"").unwrap_err().to_string();
        assert!(e.contains("c: line 2 is not JSON"), "{e}");
    }

    #[test]
    fn the_last_version_is_found_without_a_list() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (store, root) = (object_store::memory::InMemory::new(), Path::from("c"));
            assert_eq!(probe(&store, &root, 0).await.unwrap(), None);
            for version in 0..23 {
                store.put(&commit_path(&root, version), "{}".into()).await.unwrap();
                let found = probe(&store, &root, 0).await.unwrap();
                assert_eq!(found, Some((0..=version).collect()));
            }
            for version in 0..7 {
                store.delete(&commit_path(&root, version)).await.unwrap();
            }
            assert_eq!(probe(&store, &root, 7).await.unwrap(), Some((7..23).collect()));
        });
    }

    #[test]
    fn only_commits_are_versions() {
        assert_eq!(version_of("00000000000000000041.json"), Some(41));
        for other in [
            "00000000000000000010.checkpoint.parquet",
            "_last_checkpoint",
            "41.json",
            "99999999999999999999.json",
        ] {
            assert_eq!(version_of(other), None, "{other}");
        }
    }
}
