//! Counts of what a loader did, read by `Loader.stats()`.

use std::sync::atomic::{AtomicU64, Ordering};

use corpusmill_batches::BatchData;

/// What was delivered to the consumer, since the loader was made.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) batches: AtomicU64,
    pub(crate) samples: AtomicU64,
    pub(crate) tokens: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) masked: AtomicU64,
}

impl Counters {
    /// Counts a batch that is handed over.
    pub(crate) fn delivered(&self, batch: &BatchData) {
        let documents = batch.documents();
        let masked = documents.delivered.iter().filter(|d| **d == 0).count() as u64;
        let tokens: u64 = documents.length.iter().map(|n| u64::from(n.unsigned_abs())).sum();
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.samples.fetch_add(documents.len() as u64, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        self.bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        self.masked.fetch_add(masked, Ordering::Relaxed);
    }
}
