//! Sets of slots with rank and select: which rows a filter or a class leaves, in a few bits a row.

use xxhash_rust::xxh3::Xxh3;

const WORD_BITS: u64 = 64;
/// Words between two stored ranks: 512 bits, a cache line.
const RANK_WORDS: usize = 8;
/// Selected slots between two stored positions.
const SELECT_EVERY: u64 = 512;

/// A set of slots of one version. `select(i)` is its i-th slot in ascending order, `rank(slot)` how many come
/// before a slot. Takes nothing for all slots, 64 bits a slot for sparse sets, 1.2 bits a row of the version else.
#[derive(Debug, Clone)]
pub struct Selection {
    slots: u64,
    rows: Rows,
}

#[derive(Debug, Clone)]
enum Rows {
    All,
    Sparse(Vec<u64>),
    Dense(Bits),
}

#[derive(Debug, Clone)]
struct Bits {
    words: Vec<u64>,
    /// Set bits before each run of [`RANK_WORDS`] words, and at the end.
    ranks: Vec<u64>,
    /// The run in which each [`SELECT_EVERY`]-th set bit lies.
    hints: Vec<u32>,
}

impl Selection {
    /// Selects all of `slots` rows.
    #[must_use]
    pub fn all(slots: u64) -> Self {
        Self { slots, rows: Rows::All }
    }

    /// Selects `selected` of `slots` rows; the slots ascend strictly.
    ///
    /// # Panics
    /// If they do not ascend, or reach beyond `slots`.
    #[must_use]
    pub fn from_sorted(slots: u64, selected: Vec<u64>) -> Self {
        assert!(
            selected.windows(2).all(|w| w[0] < w[1]),
            "the slots of a selection must ascend strictly"
        );
        assert!(
            selected.last().is_none_or(|&last| last < slots),
            "a slot lies beyond the {slots} of the version"
        );
        let len = selected.len() as u64;
        let rows = if len == slots {
            Rows::All
        } else if len.saturating_mul(WORD_BITS) <= slots {
            Rows::Sparse(selected)
        } else {
            let mut words = vec![0u64; slots.div_ceil(WORD_BITS) as usize];
            for slot in selected {
                words[(slot / WORD_BITS) as usize] |= 1 << (slot % WORD_BITS);
            }
            Rows::Dense(Bits::new(words))
        };
        Self { slots, rows }
    }

    /// Selects the slots whose bit is set: bit `s % 64` of word `s / 64` stands for slot `s` (Arrow's bit order).
    ///
    /// # Panics
    /// If there are not `⌈slots / 64⌉` words.
    #[must_use]
    pub fn from_bits(slots: u64, mut words: Vec<u64>) -> Self {
        assert_eq!(
            words.len() as u64,
            slots.div_ceil(WORD_BITS),
            "one bit for each of {slots} slots is needed"
        );
        if let (Some(last), tail @ 1..) = (words.last_mut(), slots % WORD_BITS) {
            *last &= (1 << tail) - 1;
        }
        let len: u64 = words.iter().map(|w| u64::from(w.count_ones())).sum();
        let rows = if len == slots {
            Rows::All
        } else if len.saturating_mul(WORD_BITS) <= slots {
            Rows::Sparse(ones(&words).collect())
        } else {
            Rows::Dense(Bits::new(words))
        };
        Self { slots, rows }
    }

    /// How many slots are selected.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.rows {
            Rows::All => self.slots,
            Rows::Sparse(selected) => selected.len() as u64,
            Rows::Dense(bits) => bits.ranks.last().copied().unwrap_or(0),
        }
    }

    /// Says whether no slot is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many slots there are, selected or not.
    #[must_use]
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// The `i`-th selected slot, for `i < len()`.
    ///
    /// # Panics
    /// If `i` is not below `len()`.
    #[must_use]
    #[inline]
    pub fn select(&self, i: u64) -> u64 {
        match &self.rows {
            Rows::All => i,
            Rows::Sparse(selected) => selected[i as usize],
            Rows::Dense(bits) => bits.select(i),
        }
    }

    /// How many selected slots lie before `slot`.
    #[must_use]
    pub fn rank(&self, slot: u64) -> u64 {
        let slot = slot.min(self.slots);
        match &self.rows {
            Rows::All => slot,
            Rows::Sparse(selected) => selected.partition_point(|&s| s < slot) as u64,
            Rows::Dense(bits) => bits.rank(slot),
        }
    }

    /// Says whether `slot` is selected.
    #[must_use]
    pub fn contains(&self, slot: u64) -> bool {
        slot < self.slots && self.rank(slot + 1) > self.rank(slot)
    }

    /// Selected slots, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.len()).map(|i| self.select(i))
    }

    /// The identity of the set, whatever way it is kept: XXH3-64 over (slots, selected slots…) as little-endian
    /// 64-bit words, as 16 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = Xxh3::new();
        hasher.update(&self.slots.to_le_bytes());
        let mut feed = |slots: &mut dyn Iterator<Item = u64>| {
            for slot in slots {
                hasher.update(&slot.to_le_bytes());
            }
        };
        match &self.rows {
            Rows::All => feed(&mut (0..self.slots)),
            Rows::Sparse(selected) => feed(&mut selected.iter().copied()),
            Rows::Dense(bits) => feed(&mut ones(&bits.words)),
        }
        format!("{:016x}", hasher.digest())
    }
}

impl Bits {
    fn new(words: Vec<u64>) -> Self {
        let mut ranks = Vec::with_capacity(words.len() / RANK_WORDS + 2);
        let mut hints = Vec::new();
        let mut rank = 0u64;
        for (run, words) in words.chunks(RANK_WORDS).enumerate() {
            ranks.push(rank);
            rank += words.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
            while hints.len() as u64 * SELECT_EVERY < rank {
                hints.push(run as u32);
            }
        }
        ranks.push(rank);
        Self { words, ranks, hints }
    }

    fn rank(&self, slot: u64) -> u64 {
        let word = (slot / WORD_BITS) as usize;
        let run = word / RANK_WORDS;
        let before: u64 = self.words[run * RANK_WORDS..word]
            .iter()
            .map(|w| u64::from(w.count_ones()))
            .sum();
        let bit = slot % WORD_BITS;
        let inside = if bit == 0 {
            0
        } else {
            u64::from((self.words[word] & ((1 << bit) - 1)).count_ones())
        };
        self.ranks[run] + before + inside
    }

    fn select(&self, i: u64) -> u64 {
        let mut run = self.hints[(i / SELECT_EVERY) as usize] as usize;
        while self.ranks[run + 1] <= i {
            run += 1;
        }
        let mut left = (i - self.ranks[run]) as u32;
        let mut word = run * RANK_WORDS;
        while left >= self.words[word].count_ones() {
            left -= self.words[word].count_ones();
            word += 1;
        }
        word as u64 * WORD_BITS + u64::from(select_in_word(self.words[word], left))
    }
}

/// The position of the `i`-th set bit (from the lowest) of a word that has more than `i`.
fn select_in_word(mut word: u64, i: u32) -> u32 {
    let mut base = 0;
    let mut left = i;
    // Halving first leaves at most seven bits to clear one by one.
    for width in [32, 16, 8] {
        let low = (word & ((1 << width) - 1)).count_ones();
        if left >= low {
            left -= low;
            word >>= width;
            base += width;
        }
    }
    for _ in 0..left {
        word &= word - 1;
    }
    base + word.trailing_zeros()
}

fn ones(words: &[u64]) -> impl Iterator<Item = u64> + '_ {
    words.iter().enumerate().flat_map(|(i, &word)| {
        let mut left = word;
        std::iter::from_fn(move || {
            (left != 0).then(|| {
                let bit = left.trailing_zeros();
                left &= left - 1;
                i as u64 * WORD_BITS + u64::from(bit)
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(slots: u64, selected: &[u64]) {
        let mut words = vec![0u64; slots.div_ceil(64) as usize];
        selected.iter().for_each(|&s| words[(s / 64) as usize] |= 1 << (s % 64));
        let sorted = Selection::from_sorted(slots, selected.to_vec());
        let bits = Selection::from_bits(slots, words);
        assert_eq!(sorted.digest(), bits.digest());
        for selection in [sorted, bits] {
            assert_eq!(selection.len(), selected.len() as u64);
            assert_eq!(selection.iter().collect::<Vec<_>>(), selected);
            for slot in 0..=slots + 1 {
                let rank = selected.iter().filter(|&&s| s < slot).count() as u64;
                assert_eq!(selection.rank(slot), rank, "slot {slot}");
                assert_eq!(selection.contains(slot), selected.contains(&slot), "slot {slot}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_a_list(slots in 0u64..3000, keep in 0u32..=100, seed: u64) {
            let hash = |s: u64| crate::key::derive(seed, crate::key::Purpose::Packs, 0, s, 0)[0] % 100;
            let selected: Vec<u64> = (0..slots).filter(|&s| hash(s) < u64::from(keep)).collect();
            check(slots, &selected);
        }
    }

    #[test]
    fn edges() {
        for (slots, selected) in [
            (0, vec![]),
            (1, vec![]),
            (1, vec![0]),
            (64, vec![63]),
            (65, vec![64]),
            (5000, vec![7, 4999]),
            (512, (0..511).collect()),
            (1024, (512..1024).collect()),
        ] {
            check(slots, &selected);
        }
    }

    #[test]
    fn digests_tell_sets_and_versions_apart() {
        let digests = [
            Selection::all(100).digest(),
            Selection::all(101).digest(),
            Selection::from_sorted(101, (0..100).collect()).digest(),
            Selection::from_sorted(101, (1..101).collect()).digest(),
        ];
        assert_eq!(std::collections::BTreeSet::from(digests).len(), 4);
    }

    #[test]
    #[should_panic(expected = "ascend")]
    fn refuses_unsorted_slots() {
        let _ = Selection::from_sorted(10, vec![3, 3]);
    }
}
