//! Numbered objects of one folder: each is written once, the next only where there is none, and none is ever changed.
//!
//! So whoever puts number N has seen all before it, and of those who put N at once one wins, on any store that takes
//! conditional puts.

use std::sync::Arc;

use bytes::Bytes;
use corpusmill_corpus::CorpusError;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode};

use crate::error::{BatchError, Result};
use crate::source::before_retry;

/// The objects `00000000000000000000.json`, … of a folder.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    store: Arc<dyn ObjectStore>,
    folder: Path,
}

impl Chain {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, folder: Path) -> Self {
        Self { store, folder }
    }

    fn path(&self, number: u64) -> Path {
        self.folder.clone().join(format!("{number:020}.json"))
    }

    /// The text of object `number`, and where it is; `None` if there is none.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn get(&self, number: u64) -> Result<Option<(Path, Bytes)>> {
        let path = self.path(number);
        Ok(read(&*self.store, &path).await?.map(|bytes| (path, bytes)))
    }

    /// The objects from number `first` on.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn after(&self, first: u64) -> Result<Vec<(Path, Bytes)>> {
        let mut objects = Vec::new();
        while let Some(object) = self.get(first + objects.len() as u64).await? {
            objects.push(object);
        }
        Ok(objects)
    }

    /// How many objects there are, which are `known` or more: in twice as many requests as the number has digits in base
    /// two, and in one where there are no more.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn len(&self, known: u64) -> Result<u64> {
        let (mut there, mut stride) = (known, 1);
        while self.has(there + stride - 1).await? {
            there += stride;
            stride *= 2;
        }
        let mut missing = there + stride - 1;
        while there < missing {
            let middle = there + (missing - there) / 2;
            if self.has(middle).await? {
                there = middle + 1;
            } else {
                missing = middle;
            }
        }
        Ok(there)
    }

    async fn has(&self, number: u64) -> Result<bool> {
        let path = self.path(number);
        let mut attempt = 1;
        loop {
            match self.store.head(&path).await {
                Ok(_) => return Ok(true),
                Err(StoreError::NotFound { .. }) => return Ok(false),
                Err(source) => before_retry(failed("read", &path, source), &mut attempt).await?,
            }
        }
    }

    /// Puts object `number`, unless there is one. Says whether it is this one.
    ///
    /// # Errors
    /// Those of the store; Plan for one that takes no conditional puts.
    pub(crate) async fn put(&self, number: u64, bytes: Bytes) -> Result<bool> {
        put_once(&*self.store, &self.path(number), bytes).await
    }
}

/// The text of an object, `None` if there is none.
///
/// # Errors
/// Those of the store.
pub(crate) async fn read(store: &dyn ObjectStore, path: &Path) -> Result<Option<Bytes>> {
    let mut attempt = 1;
    loop {
        let answer = async { store.get(path).await?.bytes().await };
        match answer.await {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(source) => before_retry(failed("read", path, source), &mut attempt).await?,
        }
    }
}

/// Writes an object, unless there is one. Says whether what is there now is this one.
///
/// # Errors
/// Those of the store; Plan for one that takes no conditional puts.
pub(crate) async fn put_once(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> Result<bool> {
    let mut attempt = 1;
    loop {
        match store.put_opts(path, bytes.clone().into(), PutMode::Create.into()).await {
            Ok(_) => return Ok(true),
            // The answer to a put that had been made may be lost: the repeated one then finds its own object.
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
                return Ok(read(store, path).await?.is_some_and(|there| there == bytes));
            }
            Err(StoreError::NotImplemented { .. }) => {
                return Err(BatchError::Plan(format!(
                    "run: {path} cannot be written: a live plan keeps its log beside the corpora by conditional puts, \
                     which this store does not take; use a folder, s3://, gs:// or az://, or a plan without a run"
                )));
            }
            Err(source) => before_retry(failed("write", path, source), &mut attempt).await?,
        }
    }
}

pub(crate) fn failed(action: &'static str, path: &Path, source: StoreError) -> BatchError {
    let path = path.to_string();
    CorpusError::Store { action, path, source }.into()
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn the_number_of_objects_is_found_from_anywhere() {
        for count in [0u64, 1, 2, 3, 7, 8, 20] {
            let chain = Chain::new(Arc::new(InMemory::new()), Path::from("c"));
            for number in 0..count {
                assert!(chain.put(number, Bytes::from(vec![number as u8])).await.unwrap());
            }
            for known in 0..=count {
                assert_eq!(chain.len(known).await.unwrap(), count, "{known} known");
                assert_eq!(chain.after(known).await.unwrap().len() as u64, count - known);
            }
        }
    }

    #[tokio::test]
    async fn one_of_several_wins_and_its_repetition_too() {
        let chain = Chain::new(Arc::new(InMemory::new()), Path::from("c"));
        assert!(chain.put(0, Bytes::from_static(b"one")).await.unwrap());
        assert!(!chain.put(0, Bytes::from_static(b"two")).await.unwrap());
        assert!(chain.put(0, Bytes::from_static(b"one")).await.unwrap());
        let (path, text) = chain.get(0).await.unwrap().unwrap();
        assert_eq!((path.as_ref(), &text[..]), ("c/00000000000000000000.json", &b"one"[..]));
        assert!(chain.get(1).await.unwrap().is_none());
    }
}
