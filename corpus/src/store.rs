//! The few things that this crate asks of an object store, with errors that name the object.

mod attempts;
mod open;
mod told;

use std::ops::Range;

use bytes::Bytes;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::error::{CorpusError, RESTORE, Result};

pub use attempts::{StoreAttempts, store_attempts};
pub use open::{StoreOptions, open_store};
pub use told::{StoreAdvice, store_advice, store_message, store_retry};

/// Joins the folder of a corpus and a key below it, which holds percent-encoded letters already.
pub(crate) fn object_path(root: &Path, below: &str) -> Result<Path> {
    let whole = if root.as_ref().is_empty() {
        below.to_owned()
    } else {
        format!("{root}/{below}")
    };
    Path::parse(&whole).map_err(|e| CorpusError::argument("path", below, e.to_string()))
}

/// Reads exactly the bytes of a range; fewer are damage.
pub(crate) async fn read_range(store: &dyn ObjectStore, path: &Path, range: Range<u64>) -> Result<Bytes> {
    let damaged = |found: String| CorpusError::Corrupt {
        path: path.to_string(),
        place: format!("bytes {}..{}", range.start, range.end),
        found,
        fix: RESTORE,
    };
    let wanted = range.end.saturating_sub(range.start);
    if wanted == 0 {
        return Ok(Bytes::new());
    }
    match store.get_range(path, range.clone()).await {
        Ok(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
        Ok(bytes) => Err(damaged(format!(
            "only {} of {wanted} bytes are there, the file is truncated",
            bytes.len()
        ))),
        Err(source @ object_store::Error::NotFound { .. }) => Err(CorpusError::Store {
            action: "read",
            path: path.to_string(),
            source,
        }),
        // A range beyond the end is an error of each store's own kind: ask for the size before blaming the network.
        Err(source) => match store.head(path).await {
            Ok(meta) if meta.size < range.end => {
                Err(damaged(format!("the file has {} bytes, it is truncated", meta.size)))
            }
            _ => Err(CorpusError::Store {
                action: "read",
                path: path.to_string(),
                source,
            }),
        },
    }
}

/// Reads a whole object.
pub(crate) async fn read_whole(store: &dyn ObjectStore, path: &Path) -> Result<Bytes> {
    let object = store.get(path).await.map_err(CorpusError::store("read", path))?;
    object.bytes().await.map_err(CorpusError::store("read", path))
}

/// Completes an upload.
pub(crate) async fn complete(upload: &mut BufWriter, path: &Path) -> Result<()> {
    use tokio::io::AsyncWriteExt;
    upload.shutdown().await.map_err(|source| CorpusError::Store {
        action: "write",
        path: path.to_string(),
        source: object_store::Error::Generic {
            store: "upload",
            source: Box::new(source),
        },
    })
}
