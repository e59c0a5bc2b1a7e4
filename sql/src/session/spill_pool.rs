//! The memory of a process, shared so that no operator takes what another cannot do without.
//!
//! In the engine's own pool, what does not spill gets all that is free. A merge of sorted runs is of that kind, and asks
//! for one more run until it is refused: the first sort of a plan takes everything, and the next one fails before its
//! first row. Here:
//! ```text
//!   first come, first served     what can do neither: the build side of a join, buffers of files
//!   one half of the rest         what spills: sorts, aggregates, exchanges; the same share each
//!   the other half               merges of sorted runs, the same share each; with less they merge in more passes
//! ```

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use datafusion::common::human_readable_size;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// What the engine calls the memory of its merges of sorted runs.
const MERGE: &str = "ExternalSorterMerge";

/// A pool of `size` bytes.
#[derive(Debug)]
pub(crate) struct SpillPool {
    size: usize,
    classes: Mutex<[Class; 3]>,
}

/// Consumers of one kind.
#[derive(Debug, Default)]
struct Class {
    consumers: usize,
    bytes: usize,
}

/// What a consumer does when it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It fails.
    Holds,
    /// It puts rows on disk.
    Spills,
    /// It merges fewer runs at a time.
    Merges,
}

impl Kind {
    fn of(consumer: &MemoryConsumer) -> Self {
        if consumer.can_spill() {
            Self::Spills
        } else if consumer.name().starts_with(MERGE) {
            Self::Merges
        } else {
            Self::Holds
        }
    }
}

impl SpillPool {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            classes: Mutex::default(),
        }
    }

    fn classes(&self) -> MutexGuard<'_, [Class; 3]> {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that a reservation of this kind, of `size` bytes now, may grow by.
    fn room(&self, classes: &[Class; 3], kind: Kind, size: usize) -> usize {
        let used: usize = classes.iter().map(|class| class.bytes).sum();
        let rest = self.size.saturating_sub(classes[Kind::Holds as usize].bytes);
        match kind {
            Kind::Holds => self.size.saturating_sub(used),
            // What others hold beyond their share, because it was larger when they asked, is theirs until they spill.
            Kind::Spills | Kind::Merges => {
                let share = rest / 2 / classes[kind as usize].consumers.max(1);
                share.saturating_sub(size)
            }
        }
    }
}

impl MemoryPool for SpillPool {
    fn name(&self) -> &str {
        "spill"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.classes()[Kind::of(consumer) as usize].consumers += 1;
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.classes()[Kind::of(consumer) as usize].consumers -= 1;
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.classes()[Kind::of(reservation.consumer()) as usize].bytes += additional;
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.classes()[Kind::of(reservation.consumer()) as usize].bytes -= shrink;
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let kind = Kind::of(reservation.consumer());
        let mut classes = self.classes();
        let room = self.room(&classes, kind, reservation.size());
        if additional > room {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} holds {} and needs {} more; {} of {} are left for it",
                reservation.consumer().name(),
                human_readable_size(reservation.size()),
                human_readable_size(additional),
                human_readable_size(room),
                human_readable_size(self.size),
            )));
        }
        classes[kind as usize].bytes += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.classes().iter().map(|class| class.bytes).sum()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.size)
    }
}

impl fmt::Display for SpillPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spill(pool_size: {})", human_readable_size(self.size))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_merge_that_asks_until_it_is_refused_leaves_the_next_sort_its_share() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SpillPool::new(1_000));
        let spiller = |name: &str| MemoryConsumer::new(name).with_can_spill(true).register(&pool);
        let merge = |name: &str| MemoryConsumer::new(name).register(&pool);
        let (first, first_merge) = (spiller("ExternalSorter[0]"), merge("ExternalSorterMerge[0]"));
        let (second, second_merge) = (spiller("ExternalSorter[0]"), merge("ExternalSorterMerge[0]"));
        while first_merge.try_grow(10).is_ok() {}
        while first.try_grow(10).is_ok() {}
        assert_eq!((first.size(), first_merge.size()), (250, 250));
        assert!(second.try_grow(250).is_ok() && second_merge.try_grow(250).is_ok());
        assert_eq!(pool.reserved(), 1_000);
        // What must be held comes first, and only out of what is free.
        let join = MemoryConsumer::new("HashJoinInput").register(&pool);
        let refused = join.try_grow(100).unwrap_err().to_string();
        assert!(
            refused.contains("HashJoinInput holds 0.0 B and needs 100.0 B more"),
            "{refused}"
        );
        drop((first, first_merge));
        assert!(join.try_grow(400).is_ok());
        assert!(
            second.try_grow(50).is_ok() && second.try_grow(1).is_err(),
            "300 of 600 for one alone"
        );
        drop((second, second_merge, join));
        assert_eq!(pool.reserved(), 0);
    }
}
