//! Packing: best fit decreasing (Johnson 1974) in O(n + capacity / 64) a placement, O(n) in all practice.
//!
//! Lengths are sorted by counting. Open packs are kept in one stack per free room, with a bitmap over the rooms
//! (and one over its words), so that the fullest pack that still takes a document is a search for the next set bit.

/// Open packs by free room.
struct Rooms {
    /// First pack with so much room, [`NONE`] if there is none; one entry per room `0..=capacity`.
    heads: Vec<u32>,
    /// The next pack with the same room.
    next: Vec<u32>,
    words: Vec<u64>,
    /// One bit per word that has a bit set.
    summary: Vec<u64>,
}

const NONE: u32 = u32::MAX;

impl Rooms {
    fn new(capacity: u32) -> Self {
        let words = capacity as usize / 64 + 1;
        Self {
            heads: vec![NONE; capacity as usize + 1],
            next: Vec::new(),
            words: vec![0; words],
            summary: vec![0; words.div_ceil(64)],
        }
    }

    /// Takes out a pack with the least room that is at least `length`: (pack, room).
    fn take(&mut self, length: u32) -> Option<(u32, u32)> {
        let room = self.next_room(length)?;
        let pack = self.heads[room as usize];
        self.heads[room as usize] = self.next[pack as usize];
        if self.next[pack as usize] == NONE {
            let word = room as usize / 64;
            self.words[word] &= !(1 << (room % 64));
            if self.words[word] == 0 {
                self.summary[word / 64] &= !(1 << (word % 64));
            }
        }
        Some((pack, room))
    }

    fn put(&mut self, pack: u32, room: u32) {
        if pack as usize == self.next.len() {
            self.next.push(NONE);
        }
        self.next[pack as usize] = self.heads[room as usize];
        self.heads[room as usize] = pack;
        let word = room as usize / 64;
        self.words[word] |= 1 << (room % 64);
        self.summary[word / 64] |= 1 << (word % 64);
    }

    /// The least room from `from` up that an open pack has.
    fn next_room(&self, from: u32) -> Option<u32> {
        let word = from as usize / 64;
        let here = self.words[word] & (u64::MAX << (from % 64));
        if here != 0 {
            return Some(word as u32 * 64 + here.trailing_zeros());
        }
        let after = word + 1;
        let mut at = after / 64;
        let mut bits = self.summary.get(at)? & (u64::MAX << (after % 64));
        while bits == 0 {
            at += 1;
            bits = *self.summary.get(at)?;
        }
        let word = at * 64 + bits.trailing_zeros() as usize;
        Some(word as u32 * 64 + self.words[word].trailing_zeros())
    }
}

/// Assigns a pack to each of `lengths` (in tokens, each in 1..=`capacity`): pack numbers in the order of the
/// input, and how many packs there are. Packs are numbered by their first document, so that the order of the
/// input shows through. The result depends on the arguments only.
///
/// # Panics
/// If a length is above `capacity`.
#[must_use]
pub fn best_fit(lengths: &[u32], capacity: u32) -> (Vec<u32>, u32) {
    let mut rooms = Rooms::new(capacity);
    let mut pack_of = vec![0u32; lengths.len()];
    let mut packs = 0;
    for i in longest_first(lengths, capacity) {
        let length = lengths[i as usize];
        let (pack, room) = rooms.take(length).unwrap_or_else(|| {
            packs += 1;
            (packs - 1, capacity)
        });
        pack_of[i as usize] = pack;
        rooms.put(pack, room - length);
    }
    let mut number = vec![NONE; packs as usize];
    let mut numbered = 0;
    for pack in &mut pack_of {
        let number = &mut number[*pack as usize];
        if *number == NONE {
            *number = numbered;
            numbered += 1;
        }
        *pack = *number;
    }
    (pack_of, packs)
}

/// Positions by descending length (a counting sort). Equal lengths are taken in a scrambled order: taken in the
/// order of the input, the earlier of them would go to the fuller packs, and a document's place in its pack would
/// tell its length (by 12 % between first and last, on uniform lengths).
fn longest_first(lengths: &[u32], capacity: u32) -> Vec<u32> {
    let mut ends = vec![0u32; capacity as usize + 1];
    lengths.iter().for_each(|&l| ends[l as usize] += 1);
    let mut sum = 0;
    for end in ends.iter_mut().rev() {
        sum += std::mem::replace(end, sum);
    }
    let mut sorted = vec![0; lengths.len()];
    let positions = lengths.len().next_power_of_two();
    for scrambled in 0..positions {
        // An odd factor permutes the residues of a power of two; this one is 2^32 over the golden ratio.
        let i = scrambled.wrapping_mul(0x9E37_79B1) & (positions - 1);
        if let Some(&length) = lengths.get(i) {
            let end = &mut ends[length as usize];
            sorted[*end as usize] = i as u32;
            *end += 1;
        }
    }
    sorted
}

/// Suggests how many turns a group should have: about 128 packs, so that the one that a group cannot fill costs
/// less than half a percent. `mean_length` is in tokens; the answer is a power of two from 2,048 to 65,536.
#[must_use]
pub fn suggested_group_turns(sequence_length: u32, mean_length: f64) -> u32 {
    let turns = 128.0 * f64::from(sequence_length) / mean_length.clamp(1.0, f64::from(sequence_length.max(1)));
    (turns.min(65_536.0) as u32).next_power_of_two().clamp(2048, 65_536)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Best fit decreasing, as the textbook has it: the fullest pack that still has room.
    fn oracle(lengths: &[u32], capacity: u32) -> u32 {
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable_by_key(|&l| std::cmp::Reverse(l));
        let mut rooms: Vec<u32> = Vec::new();
        for length in sorted {
            match rooms.iter_mut().filter(|r| **r >= length).min() {
                Some(room) => *room -= length,
                None => rooms.push(capacity - length),
            }
        }
        rooms.len() as u32
    }

    proptest! {
        #[test]
        fn packs_like_the_textbook(capacity in 1u32..9000, raw in prop::collection::vec(1u32..10_000, 0..400)) {
            let lengths: Vec<u32> = raw.iter().map(|l| (l - 1) % capacity + 1).collect();
            let (pack_of, packs) = best_fit(&lengths, capacity);
            prop_assert_eq!(packs, oracle(&lengths, capacity));
            let mut used = vec![0u32; packs as usize];
            let mut highest = 0;
            for (&pack, &length) in pack_of.iter().zip(&lengths) {
                prop_assert!(pack <= highest, "packs are numbered by their first document");
                highest = highest.max(pack + 1);
                used[pack as usize] += length;
            }
            prop_assert!(used.iter().all(|&u| u > 0 && u <= capacity));
            let total: u64 = lengths.iter().map(|&l| u64::from(l)).sum();
            // Any two packs hold more than one capacity together, so at most one is half empty.
            prop_assert!(u64::from(packs) * u64::from(capacity) <= 2 * total + u64::from(capacity));
        }
    }

    #[test]
    fn fills_well() {
        let lengths: Vec<u32> = (0..2048)
            .map(|i| 64 + (crate::key::derive(1, crate::key::Purpose::Packs, 0, i, 0)[0] % 961) as u32)
            .collect();
        let (_, packs) = best_fit(&lengths, 4096);
        let fill = lengths.iter().sum::<u32>() as f64 / (f64::from(packs) * 4096.0);
        assert!(fill > 0.99, "{fill}");
    }

    #[test]
    fn suggests_groups_of_enough_packs() {
        assert_eq!(suggested_group_turns(4096, 544.0), 2048);
        assert_eq!(suggested_group_turns(8192, 30.0), 65_536);
        assert_eq!(suggested_group_turns(8192, 300.0), 4096);
        assert_eq!(suggested_group_turns(512, 4000.0), 2048);
        assert_eq!(suggested_group_turns(1 << 22, 0.0), 65_536);
    }
}
