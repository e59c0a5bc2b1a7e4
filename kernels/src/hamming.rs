//! 256-bit hashes that are near each other, by multi-index hashing.

use crate::duplicate_links::Edge;
use crate::pdq::PdqHash;
use crate::union_find::UnionFind;

/// Pieces that a hash is cut into, of 16 bits each.
const PIECES: usize = 16;
/// Largest distance that the index finds: above it, no piece need be within one bit.
pub const DISTANCE_MAX: u32 = 31;

/// Finds all hashes within a distance of up to [`DISTANCE_MAX`] bits, without looking at most others.
///
/// Norouzi, Punjani & Fleet, "Fast Search in Hamming Space with Multi-Index Hashing" (CVPR 2012): two hashes that differ
/// in at most 31 bits differ in at most one bit of at least one of 16 pieces, so the 17 nearest values of each piece are
/// looked up; those of 15 bits agree in a piece. Needs 96 bytes a hash.
#[derive(Debug)]
pub struct HammingIndex {
    hashes: Vec<[u64; 4]>,
    tables: Vec<Table>,
}

/// Numbers of the hashes by the value of one piece.
#[derive(Debug)]
struct Table {
    starts: Vec<u32>,
    numbers: Vec<u32>,
}

impl HammingIndex {
    /// Builds the index; hashes are numbered as they come.
    ///
    /// # Panics
    /// If there are 2³² hashes or more.
    #[must_use]
    pub fn new(hashes: &[PdqHash]) -> Self {
        assert!(u32::try_from(hashes.len()).is_ok(), "hashes are numbered by 32 bits");
        let hashes: Vec<[u64; 4]> = hashes.iter().map(words).collect();
        let tables = (0..PIECES).map(|piece| Table::new(&hashes, piece)).collect();
        Self { hashes, tables }
    }

    /// Calls `found(number, distance)` once for each hash within `distance_max` bits, in no particular order.
    ///
    /// # Panics
    /// If `distance_max` is above [`DISTANCE_MAX`].
    pub fn near(&self, hash: &PdqHash, distance_max: u32, mut found: impl FnMut(u32, u32)) {
        assert!(distance_max <= DISTANCE_MAX, "the index finds up to 31 bits");
        let hash = words(hash);
        // Up to 15 bits leave one of 16 pieces as it is; then the values one bit away need no look.
        let flips = if distance_max < PIECES as u32 { 0 } else { 16 };
        for (piece, table) in self.tables.iter().enumerate() {
            let value = piece_of(&hash, piece);
            for flip in 0..=flips {
                let looked_up = if flip == 0 { value } else { value ^ (1 << (flip - 1)) };
                for number in table.of(looked_up) {
                    let other = &self.hashes[*number as usize];
                    let distance: u32 = hash.iter().zip(other).map(|(a, b)| (a ^ b).count_ones()).sum();
                    if distance <= distance_max && first_piece(&hash, other, flips > 0) == piece {
                        found(*number, distance);
                    }
                }
            }
        }
    }
}

impl Table {
    fn new(hashes: &[[u64; 4]], piece: usize) -> Self {
        let mut starts = vec![0u32; (1 << 16) + 1];
        for hash in hashes {
            starts[usize::from(piece_of(hash, piece)) + 1] += 1;
        }
        for value in 0..1 << 16 {
            starts[value + 1] += starts[value];
        }
        let mut next = starts.clone();
        let mut numbers = vec![0; hashes.len()];
        for (number, hash) in (0u32..).zip(hashes) {
            let at = &mut next[usize::from(piece_of(hash, piece))];
            numbers[*at as usize] = number;
            *at += 1;
        }
        Self { starts, numbers }
    }

    fn of(&self, value: u16) -> &[u32] {
        let value = usize::from(value);
        &self.numbers[self.starts[value] as usize..self.starts[value + 1] as usize]
    }
}

fn words(hash: &PdqHash) -> [u64; 4] {
    let (words, _) = hash.as_chunks::<8>();
    std::array::from_fn(|i| u64::from_le_bytes(words[i]))
}

fn piece_of(hash: &[u64; 4], piece: usize) -> u16 {
    (hash[piece / 4] >> (16 * (piece % 4))) as u16
}

/// The first piece under which two hashes meet: they are told of there, and not again.
fn first_piece(a: &[u64; 4], b: &[u64; 4], one_bit: bool) -> usize {
    let most = u32::from(one_bit);
    (0..PIECES)
        .find(|piece| (piece_of(a, *piece) ^ piece_of(b, *piece)).count_ones() <= most)
        .unwrap_or(PIECES)
}

/// Finds pairs of hashes within `distance_max` bits that are enough for their clusters, with the share of equal bits as
/// similarity: each hash with its first and its nearest neighbour, one of every component that it joins, and every
/// neighbour that has no smaller neighbour itself (the centres of stars).
///
/// # Panics
/// As [`HammingIndex::near`] and [`HammingIndex::new`].
#[must_use]
pub fn hamming_edges(hashes: &[PdqHash], distance_max: u32) -> Vec<Edge> {
    let index = HammingIndex::new(hashes);
    let mut sets = UnionFind::new(hashes.len());
    let mut centre = vec![true; hashes.len()];
    let mut edges = Vec::new();
    let mut near: Vec<(u32, u32)> = Vec::new();
    for (b, hash) in (0u32..).zip(hashes) {
        near.clear();
        index.near(hash, distance_max, |a, distance| {
            if a < b {
                near.push((distance, a));
            }
        });
        near.sort_unstable();
        let first = near.iter().map(|(_, a)| *a).min();
        for (place, (distance, a)) in near.iter().enumerate() {
            let joins = sets.union(*a, b);
            if place == 0 || joins || Some(*a) == first || centre[*a as usize] {
                let similarity = 1.0 - f64::from(*distance) / 256.0;
                edges.push(Edge { a: *a, b, similarity });
            }
        }
        centre[b as usize] = !near.iter().any(|(_, a)| centre[*a as usize]);
    }
    edges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;
    use crate::duplicate_links::{ClusterShape, duplicate_links};
    use crate::pdq::pdq_distance;

    /// Families of hashes: some bits of a base are flipped.
    fn hashes(families: &[(u64, Vec<Vec<u8>>)]) -> Vec<PdqHash> {
        let mut all = Vec::new();
        for (seed, flips) in families {
            let mut base = [0u8; 32];
            for (i, part) in base.chunks_exact_mut(8).enumerate() {
                part.copy_from_slice(&xxh3_64(&[seed.to_le_bytes(), (i as u64).to_le_bytes()].concat()).to_le_bytes());
            }
            for bits in flips {
                let mut hash = base;
                bits.iter().for_each(|bit| hash[usize::from(bit / 8)] ^= 1 << (bit % 8));
                all.push(hash);
            }
        }
        all
    }

    proptest! {
        #[test]
        fn all_neighbours_are_found_once(
            families in prop::collection::vec((0u64..4, prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6)), 1..5),
            distance_max in 0u32..=31,
        ) {
            let hashes = hashes(&families);
            let index = HammingIndex::new(&hashes);
            for hash in &hashes {
                let mut found = Vec::new();
                index.near(hash, distance_max, |number, distance| found.push((number, distance)));
                found.sort_unstable();
                let want: Vec<(u32, u32)> = (0u32..)
                    .zip(&hashes)
                    .map(|(number, other)| (number, pdq_distance(hash, other)))
                    .filter(|(_, distance)| *distance <= distance_max)
                    .collect();
                prop_assert_eq!(found, want);
            }
        }

        #[test]
        fn the_edges_are_enough_for_components_and_stars(
            families in prop::collection::vec((0u64..3, prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..8)), 1..4),
        ) {
            let hashes = hashes(&families);
            let n = hashes.len() as u32;
            let all: Vec<Edge> = (0..n)
                .flat_map(|b| (0..b).map(move |a| (a, b)))
                .map(|(a, b)| (a, b, pdq_distance(&hashes[a as usize], &hashes[b as usize])))
                .filter(|(_, _, distance)| *distance <= 31)
                .map(|(a, b, distance)| Edge { a, b, similarity: 1.0 - f64::from(distance) / 256.0 })
                .collect();
            let edges = hamming_edges(&hashes, 31);
            prop_assert!(edges.iter().all(|edge| all.contains(edge)));
            for shape in [ClusterShape::Component, ClusterShape::Star] {
                let of = |edges: &[Edge]| -> Vec<u32> {
                    let links = duplicate_links(edges.to_vec(), n as usize, shape);
                    links.iter().map(|link| link.representative).collect()
                };
                prop_assert_eq!(of(&edges), of(&all));
            }
        }
    }
}
