//! Makes batches ahead of the trainer: worker threads, an ordered hand-over, a bound in bytes.
//!
//! ```text
//!   worker 0 ─ step 7 ─┐
//!   worker 1 ─ step 8 ─┼─▶ ready: {7, 8, …} ──take(7)──▶ trainer
//!   worker 2 ─ step 9 ─┘      ▲ a worker starts a step only while ready + running bytes fit the bound
//! ```
//! The step that the trainer waits for is always allowed to run, so one batch over the bound is slow, not a deadlock.
//! Threads never touch Python.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::{BatchError, Result};

/// What makes the batches; called from several threads.
pub trait Produce: Send + Sync + 'static {
    /// What a step becomes.
    type Item: Send + 'static;
    /// Makes the item of a step, `None` behind the last step.
    fn produce(&self, worker: usize, step: u64) -> Result<Option<Self::Item>>;
    /// Bytes that the item holds in memory.
    fn bytes(item: &Self::Item) -> usize;
}

/// Steps that may be made ahead whatever their size: more would only lengthen a restart.
const STEPS_AHEAD_MAX: u64 = 64;

struct Progress<T> {
    /// The next step that a worker starts.
    next_start: u64,
    /// The step that the trainer takes next.
    next_take: u64,
    ready: BTreeMap<u64, Result<Option<T>>>,
    running: BTreeSet<u64>,
    bytes_ready: usize,
    /// Size of the largest item of this run: what a running step is counted as.
    bytes_item: usize,
    bytes_peak: usize,
    /// Set when the trainer was told of a failure: its next request tries again.
    failed: bool,
    /// Set when a step failed or the plan ended: nothing behind it is started.
    closed: bool,
    stop: bool,
}

struct Shared<P: Produce> {
    producer: P,
    progress: Mutex<Progress<P::Item>>,
    /// Something may be started.
    startable: Condvar,
    /// Something became ready.
    finished: Condvar,
    bytes_max: usize,
}

/// Batches made ahead from a given step on, by threads that end with it.
pub struct Prefetcher<P: Produce> {
    shared: Arc<Shared<P>>,
    threads: Vec<JoinHandle<()>>,
    pid: u32,
}

impl<P: Produce> Prefetcher<P> {
    /// Starts `threads` workers at step `first`, holding at most about `bytes_max` bytes of finished batches.
    ///
    /// # Errors
    /// I/O when the system gives no thread.
    pub fn start(producer: P, first: u64, threads: usize, bytes_max: usize) -> Result<Self> {
        let progress = Progress {
            next_start: first,
            next_take: first,
            ready: BTreeMap::new(),
            running: BTreeSet::new(),
            bytes_ready: 0,
            bytes_item: 0,
            bytes_peak: 0,
            failed: false,
            closed: false,
            stop: false,
        };
        let shared = Arc::new(Shared {
            producer,
            progress: Mutex::new(progress),
            startable: Condvar::new(),
            finished: Condvar::new(),
            bytes_max,
        });
        let mut started = Self {
            shared,
            threads: Vec::new(),
            pid: std::process::id(),
        };
        for worker in 0..threads.max(1) {
            let shared = started.shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("corpusmill-{worker}"))
                .spawn(move || work(&shared, worker))
                .map_err(BatchError::io("start a loader thread"))?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    /// Waits for the next step in order; `None` at the end of the plan.
    ///
    /// # Errors
    /// What went wrong in that step; the next call tries the same step again.
    pub fn take(&self) -> Result<Option<P::Item>> {
        let mut progress = lock(&self.shared);
        let step = progress.next_take;
        if std::mem::take(&mut progress.failed) {
            // The failed step is tried again, and so are those behind it that failed; what was made is kept.
            progress.ready.retain(|_, result| matches!(result, Ok(Some(_))));
            progress.closed = false;
            progress.next_start = step;
            self.shared.startable.notify_all();
        }
        loop {
            if let Some(result) = progress.ready.remove(&step) {
                match &result {
                    Ok(Some(item)) => {
                        progress.bytes_ready -= P::bytes(item);
                        progress.next_take += 1;
                    }
                    Ok(None) => {
                        // The end stays the end for whoever asks again.
                        progress.ready.insert(step, Ok(None));
                    }
                    Err(_) => progress.failed = true,
                }
                self.shared.startable.notify_all();
                return result;
            }
            progress = self
                .shared
                .finished
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The most bytes of finished batches that were held at once.
    pub fn bytes_peak(&self) -> usize {
        lock(&self.shared).bytes_peak
    }
}

impl<P: Produce> Drop for Prefetcher<P> {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // After a fork the threads do not exist here, and a lock may be held for ever: leave everything alone.
            std::mem::forget(self.shared.clone());
            std::mem::forget(std::mem::take(&mut self.threads));
            return;
        }
        lock(&self.shared).stop = true;
        self.shared.startable.notify_all();
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so on stderr already.
            let _ = thread.join();
        }
    }
}

fn lock<P: Produce>(shared: &Shared<P>) -> MutexGuard<'_, Progress<P::Item>> {
    shared.progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the number of the next step to make, waiting until there is room; `None` when the work is over.
fn claim<P: Produce>(shared: &Shared<P>) -> Option<u64> {
    let mut progress = lock(shared);
    loop {
        if progress.stop {
            return None;
        }
        // After a failed step some of those behind it may be ready, or in the making.
        while progress.ready.contains_key(&progress.next_start) || progress.running.contains(&progress.next_start) {
            progress.next_start += 1;
        }
        let step = progress.next_start;
        let held = progress.bytes_ready + (progress.running.len() + 1) * progress.bytes_item;
        let wanted_now = step == progress.next_take;
        // Before the first is made its size is unknown: one at a time.
        let room = progress.bytes_item > 0 && held <= shared.bytes_max && step - progress.next_take < STEPS_AHEAD_MAX;
        if !progress.closed && (wanted_now || room) {
            progress.next_start += 1;
            progress.running.insert(step);
            return Some(step);
        }
        progress = shared.startable.wait(progress).unwrap_or_else(PoisonError::into_inner);
    }
}

fn work<P: Produce>(shared: &Shared<P>, worker: usize) {
    while let Some(step) = claim(shared) {
        // A panic must not leave the trainer waiting for ever.
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shared.producer.produce(worker, step)));
        let result = made.unwrap_or_else(|panic| {
            Err(BatchError::Panic {
                step,
                message: panic_text(&*panic),
            })
        });
        let mut progress = lock(shared);
        progress.running.remove(&step);
        match &result {
            Ok(Some(item)) => {
                let bytes = P::bytes(item);
                progress.bytes_ready += bytes;
                progress.bytes_item = progress.bytes_item.max(bytes);
                progress.bytes_peak = progress.bytes_peak.max(progress.bytes_ready);
            }
            Ok(None) | Err(_) => progress.closed = true,
        }
        progress.ready.insert(step, result);
        drop(progress);
        shared.finished.notify_all();
        shared.startable.notify_all();
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown".into())
}
