//! The little of Delta's log that a reader of whole versions needs (Delta protocol, "Delta Log Entries").

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

use super::VersionInfo;
use crate::error::{CorpusError, Result};

/// Object of a commit.
pub(super) fn commit_path(root: &Path, version: u64) -> Path {
    root.clone().join("_delta_log").join(format!("{version:020}.json"))
}

/// Versions that have a commit, ascending; none if there is no log.
pub(super) async fn versions(store: &dyn ObjectStore, root: &Path) -> Result<Vec<u64>> {
    let log = root.clone().join("_delta_log");
    let listed: Result<Vec<_>, _> = store.list(Some(&log)).try_collect().await;
    match listed {
        Ok(objects) => {
            let names = objects.iter().filter_map(|o| o.location.filename());
            let mut versions: Vec<u64> = names.filter_map(version_of).collect();
            versions.sort_unstable();
            Ok(versions)
        }
        Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
        // A plain HTTP server cannot list: commits have no gaps, so the last one is found by asking.
        Err(source) => match probe(store, root).await? {
            Some(last) => Ok((0..=last).collect()),
            None => Err(CorpusError::Store {
                action: "list",
                path: log.to_string(),
                source,
            }),
        },
    }
}

fn version_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The last version of a log without gaps, by doubling and halving.
async fn probe(store: &dyn ObjectStore, root: &Path) -> Result<Option<u64>> {
    let exists = async |version| match store.head(&commit_path(root, version)).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(source) => Err(CorpusError::Store {
            action: "read",
            path: commit_path(root, version).to_string(),
            source,
        }),
    };
    if !exists(0).await? {
        return Ok(None);
    }
    let (mut low, mut high) = (0u64, 1u64);
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
    Ok(Some(low))
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
            assert_eq!(probe(&store, &root).await.unwrap(), None);
            for version in 0..23 {
                store.put(&commit_path(&root, version), "{}".into()).await.unwrap();
                assert_eq!(probe(&store, &root).await.unwrap(), Some(version));
            }
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
