//! Order inside a stratum: the k-th draw → the ordinal of a row among the stratum's eligible rows.
//!
//! In each epoch the blocks are permuted by a keyed bijection; `window_blocks` consecutive permuted blocks form a
//! window; the rows of a window are permuted by a second bijection. A loader that holds one window decoded reads
//! every block once per epoch, and any draw is found without the ones before it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::bijection::Bijection;
use crate::key::{self, Purpose};
use crate::selection::Selection;
use crate::spec::{OrderSpec, SourceSpec};

/// Epoch tables that are kept: two, because a group may straddle the end of an epoch.
const EPOCHS_KEPT: usize = 2;

/// The order of the eligible rows of one stratum.
#[derive(Debug)]
pub(crate) struct RowOrder {
    seed: u64,
    /// The stratum, from [`key::name`].
    name: u64,
    rows: u64,
    /// First ordinal of each block that has eligible rows, and `rows` at the end; empty for the sequential order.
    starts: Vec<u64>,
    window_blocks: usize,
    epochs: Mutex<Vec<Arc<Epoch>>>,
}

/// The permuted blocks of one epoch.
#[derive(Debug)]
struct Epoch {
    number: u64,
    /// Block at each permuted place.
    blocks: Vec<u32>,
    /// First position of each permuted block, and the number of rows at the end.
    positions: Vec<u64>,
}

impl RowOrder {
    pub(crate) fn new(spec: OrderSpec, seed: u64, name: u64, source: &SourceSpec, selection: &Selection) -> Self {
        let (starts, window_blocks) = match spec {
            OrderSpec::Sequential => (Vec::new(), 0),
            OrderSpec::Shuffled {
                block_rows,
                window_blocks,
            } => (
                block_starts(source, u64::from(block_rows), selection),
                window_blocks as usize,
            ),
        };
        Self {
            seed,
            name,
            rows: selection.len(),
            starts,
            window_blocks,
            epochs: Mutex::default(),
        }
    }

    /// Appends the ordinals of draws `first .. first + count` to `out`. Epochs follow each other.
    pub(crate) fn draw(&self, first: u64, count: u64, out: &mut Vec<u64>) {
        let end = first + count;
        let mut k = first;
        while k < end {
            let (epoch, position) = (k / self.rows, k % self.rows);
            let take = (self.rows - position).min(end - k);
            if self.starts.is_empty() {
                out.extend(position..position + take);
            } else {
                self.draw_from_epoch(epoch, position, position + take, out);
            }
            k += take;
        }
    }

    fn draw_from_epoch(&self, epoch: u64, from: u64, to: u64, out: &mut Vec<u64>) {
        let table = self.epoch(epoch);
        let blocks = table.blocks.len();
        // The last block that starts at or before `from`; its window holds `from`.
        let mut window = (table.positions.partition_point(|&p| p <= from) - 1) / self.window_blocks;
        let mut position = from;
        while position < to {
            let first = window * self.window_blocks;
            let last = (first + self.window_blocks).min(blocks);
            let inside = &table.positions[first..=last];
            let (start, end) = (inside[0], inside[last - first]);
            let key = key::derive(self.seed, Purpose::Window, self.name, epoch, window as u64);
            let shuffle = Bijection::new(end - start, key);
            let until = end.min(to);
            out.extend((position..until).map(|p| {
                let at = start + shuffle.forward(p - start);
                let block = inside.partition_point(|&p| p <= at) - 1;
                self.starts[table.blocks[first + block] as usize] + (at - inside[block])
            }));
            position = until;
            window += 1;
        }
    }

    fn epoch(&self, number: u64) -> Arc<Epoch> {
        let mut kept = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = kept.iter().find(|t| t.number == number) {
            return Arc::clone(table);
        }
        let blocks = self.starts.len() - 1;
        let shuffle = Bijection::new(
            blocks as u64,
            key::derive(self.seed, Purpose::Blocks, self.name, number, 0),
        );
        let mut table = Epoch {
            number,
            blocks: Vec::with_capacity(blocks),
            positions: Vec::with_capacity(blocks + 1),
        };
        let mut position = 0;
        for place in 0..blocks as u64 {
            let block = shuffle.forward(place) as usize;
            table.blocks.push(block as u32);
            table.positions.push(position);
            position += self.starts[block + 1] - self.starts[block];
        }
        table.positions.push(position);
        let table = Arc::new(table);
        if kept.len() == EPOCHS_KEPT {
            kept.remove(0);
        }
        kept.push(Arc::clone(&table));
        table
    }
}

/// First ordinals of the blocks of a source, as they lie on disk: each shard is cut into blocks of `block_rows`,
/// its last one ragged. Blocks without an eligible row vanish.
fn block_starts(source: &SourceSpec, block_rows: u64, selection: &Selection) -> Vec<u64> {
    let whole = [source.slots];
    let shards: &[u64] = if source.shards.is_empty() {
        &whole
    } else {
        &source.shards
    };
    let mut starts = Vec::new();
    let mut slot = 0;
    for &rows in shards {
        let end = slot + rows;
        while slot < end {
            starts.push(selection.rank(slot));
            slot = (slot + block_rows).min(end);
        }
    }
    starts.push(selection.len());
    starts.dedup();
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(shards: Vec<u64>, spec: OrderSpec, selection: &Selection, seed: u64) -> RowOrder {
        let mut source = SourceSpec::new("s", "c", 0, selection.slots());
        source.shards = shards;
        RowOrder::new(spec, seed, key::name("s", None), &source, selection)
    }

    fn draw(order: &RowOrder, first: u64, count: u64) -> Vec<u64> {
        let mut out = Vec::new();
        order.draw(first, count, &mut out);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn every_epoch_is_a_permutation_and_any_draw_is_found_alone(
            shards in prop::collection::vec(0u64..400, 1..6),
            block_rows in 1u32..70,
            window_blocks in 1u32..9,
            keep in 1u64..5,
            seed: u64,
        ) {
            let slots: u64 = shards.iter().sum();
            let selection = Selection::from_sorted(slots, (0..slots).filter(|s| s % keep == 0).collect());
            prop_assume!(!selection.is_empty());
            let order = order(shards, OrderSpec::Shuffled { block_rows, window_blocks }, &selection, seed);
            let n = selection.len();
            let three = draw(&order, 0, 3 * n);
            for epoch in three.chunks(n as usize) {
                let mut sorted = epoch.to_vec();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            }
            for k in [0, n / 2, n - 1, n, 2 * n - 1, 2 * n + n / 3] {
                prop_assert_eq!(draw(&order, k, 1)[0], three[k as usize]);
                let run = (3 * n - k).min(n);
                prop_assert_eq!(draw(&order, k, run), &three[k as usize..(k + run) as usize]);
            }
        }
    }

    #[test]
    fn a_window_touches_its_blocks_only() {
        let selection = Selection::all(1000 + 777);
        let order = order(
            vec![1000, 777],
            OrderSpec::Shuffled {
                block_rows: 100,
                window_blocks: 3,
            },
            &selection,
            5,
        );
        let rows = draw(&order, 0, 1777);
        // 10 + 8 blocks; the ragged one ends shard 1. Cut the epoch where windows end, by their own sizes.
        let block = |row: u64| if row < 1000 { row / 100 } else { 10 + (row - 1000) / 100 };
        let mut seen = std::collections::BTreeMap::<u64, (usize, usize)>::new();
        for (p, &row) in rows.iter().enumerate() {
            let span = seen.entry(block(row)).or_insert((p, p));
            span.1 = p;
        }
        assert_eq!(seen.len(), 18);
        assert!(seen.values().all(|(first, last)| last - first < 300), "{seen:?}");
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let selection = Selection::all(5000);
        let spec = OrderSpec::Shuffled {
            block_rows: 64,
            window_blocks: 8,
        };
        let [a, b] = [1, 2].map(|seed| draw(&order(vec![], spec, &selection, seed), 0, 10_000));
        for (x, y) in [(&a[..5000], &a[5000..]), (&a[..5000], &b[..5000])] {
            let same = x.iter().zip(y).filter(|(x, y)| x == y).count();
            assert!(same < 20, "{same} of 5000 rows at the same place");
        }
    }

    #[test]
    fn sequential_is_slot_order() {
        let order = order(vec![3, 2], OrderSpec::Sequential, &Selection::all(5), 9);
        assert_eq!(draw(&order, 3, 6), [3, 4, 0, 1, 2, 3]);
    }
}
