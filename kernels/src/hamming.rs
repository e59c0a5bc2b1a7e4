//! 256-bit hashes that are near each other, by multi-index hashing.

use crate::duplicate_links::{Edge, enough_edges};
use crate::pdq::{PdqHash, pdq_distance};

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
    pub fn new(hashes: impl IntoIterator<Item = PdqHash>) -> Self {
        let hashes: Vec<[u64; 4]> = hashes.into_iter().map(|hash| words(&hash)).collect();
        assert!(u32::try_from(hashes.len()).is_ok(), "hashes are numbered by 32 bits");
        let tables = (0..PIECES).map(|piece| Table::new(&hashes, piece)).collect();
        Self { hashes, tables }
    }

    /// Bytes of memory that an index over so many hashes takes: 96 for each, and 4 MiB.
    #[must_use]
    pub fn bytes_of(hashes: usize) -> usize {
        hashes * (size_of::<[u64; 4]>() + PIECES * size_of::<u32>()) + PIECES * Table::FIXED_BYTES
    }

    /// The hash of a number.
    ///
    /// # Panics
    /// If there is none of that number.
    #[must_use]
    pub fn hash(&self, number: u32) -> PdqHash {
        let words = self.hashes[number as usize].map(u64::to_le_bytes);
        std::array::from_fn(|i| words[i / 8][i % 8])
    }

    /// Finds the hashes at the least distance, if it is at most `distance_max`: the distance and their numbers.
    ///
    /// # Panics
    /// As [`near`](Self::near).
    #[must_use]
    pub fn nearest(&self, hash: &PdqHash, distance_max: u32) -> Option<(u32, Vec<u32>)> {
        let mut least = u32::MAX;
        let mut numbers = Vec::new();
        self.near(hash, distance_max, |number, distance| {
            if distance < least {
                least = distance;
                numbers.clear();
            }
            if distance == least {
                numbers.push(number);
            }
        });
        numbers.sort_unstable();
        (!numbers.is_empty()).then_some((least, numbers))
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
    /// Bytes of the table of a piece that do not depend on the hashes.
    const FIXED_BYTES: usize = ((1 << 16) + 1) * size_of::<u32>();

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

/// Finds the distance of two pictures that have one hash each, or one for each way in which they may be turned: that of
/// their nearest hashes; `None` where one has none.
#[must_use]
pub fn least_distance(a: &[PdqHash], b: &[PdqHash]) -> Option<u32> {
    a.iter().flat_map(|a| b.iter().map(|b| pdq_distance(a, b))).min()
}

/// Finds pairs of pictures within `distance_max` bits ([`least_distance`]) that are enough for their clusters
/// ([`enough_edges`]), with the share of equal bits as similarity.
///
/// # Panics
/// As [`HammingIndex::near`] and [`HammingIndex::new`].
#[must_use]
pub fn hamming_edges(pictures: &[impl AsRef<[PdqHash]>], distance_max: u32) -> Vec<Edge> {
    let index = HammingIndex::new(pictures.iter().flat_map(AsRef::as_ref).copied());
    let numbers = (0u32..).zip(pictures);
    let owners: Vec<u32> = numbers
        .flat_map(|(number, picture)| picture.as_ref().iter().map(move |_| number))
        .collect();
    enough_edges(pictures.len(), |b, near| {
        for hash in pictures[b as usize].as_ref() {
            index.near(hash, distance_max, |number, distance| {
                let a = owners[number as usize];
                if a < b {
                    near.push((1.0 - f64::from(distance) / 256.0, a));
                }
            });
        }
        // A turned picture is met more than once: by its nearest hashes, it counts.
        near.sort_unstable_by(|x, y| x.1.cmp(&y.1).then(y.0.total_cmp(&x.0)));
        near.dedup_by_key(|(_, a)| *a);
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;
    use crate::duplicate_links::enough_for_clusters;

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

    /// Bytes of memory that this process has in use; `None` where the system does not say.
    fn resident_bytes() -> Option<usize> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace()
            .nth(1)?
            .parse::<usize>()
            .ok()
            .map(|kib| kib * 1024)
    }

    #[test]
    fn a_list_takes_the_memory_that_is_stated() {
        const HASHES: usize = 1_000_000;
        let fixed = HammingIndex::bytes_of(0);
        let each = HammingIndex::bytes_of(1) - fixed;
        assert_eq!(HammingIndex::bytes_of(100_000_000), 100_000_000 * each + fixed);
        let said = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/BENCHMARKS.md");
        let said = std::fs::read_to_string(said).unwrap();
        let formula = format!("{each} · n + {fixed} bytes");
        assert!(said.contains(&formula), "docs/BENCHMARKS.md does not say `{formula}`");
        let Some(before) = resident_bytes() else {
            eprintln!("not run here: a_list_takes_the_memory_that_is_stated: /proc/self/status is not here");
            return;
        };
        let index = HammingIndex::new((0..HASHES as u64).map(|i| {
            let mut hash = [0u8; 32];
            for (place, part) in hash.chunks_exact_mut(8).enumerate() {
                part.copy_from_slice(&xxh3_64(&[i.to_le_bytes(), (place as u64).to_le_bytes()].concat()).to_le_bytes());
            }
            hash
        }));
        let taken = resident_bytes().unwrap().saturating_sub(before) as f64;
        let stated = HammingIndex::bytes_of(HASHES) as f64;
        assert!(
            (0.95..1.08).contains(&(taken / stated)),
            "{taken} bytes, stated {stated}"
        );
        assert_eq!(index.nearest(&index.hash(7), 0), Some((0, vec![7])));
    }

    proptest! {
        #[test]
        fn all_neighbours_are_found_once(
            families in prop::collection::vec((0u64..4, prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6)), 1..5),
            distance_max in 0u32..=31,
        ) {
            let hashes = hashes(&families);
            let index = HammingIndex::new(hashes.iter().copied());
            for hash in &hashes {
                let mut found = Vec::new();
                index.near(hash, distance_max, |number, distance| found.push((number, distance)));
                found.sort_unstable();
                let want: Vec<(u32, u32)> = (0u32..)
                    .zip(&hashes)
                    .map(|(number, other)| (number, pdq_distance(hash, other)))
                    .filter(|(_, distance)| *distance <= distance_max)
                    .collect();
                let least = want.iter().map(|(_, distance)| *distance).min();
                let at_least = want.iter().filter(|(_, distance)| Some(*distance) == least);
                let at_least: Vec<u32> = at_least.map(|(number, _)| *number).collect();
                prop_assert!(want.iter().any(|(number, distance)| *distance == 0 && index.hash(*number) == *hash));
                prop_assert_eq!(index.nearest(hash, distance_max), least.map(|least| (least, at_least)));
                prop_assert_eq!(found, want);
            }
        }

        #[test]
        fn the_edges_are_enough_for_components_and_stars(
            families in prop::collection::vec((0u64..3, prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..8)), 1..4),
        ) {
            // One to three hashes a picture.
            let pictures: Vec<Vec<PdqHash>> = hashes(&families)
                .chunk_by(|a, b| a[0] % 3 < b[0] % 3)
                .map(<[PdqHash]>::to_vec)
                .collect();
            let n = pictures.len() as u32;
            let all: Vec<Edge> = (0..n)
                .flat_map(|b| (0..b).map(move |a| (a, b)))
                .map(|(a, b)| (a, b, least_distance(&pictures[a as usize], &pictures[b as usize]).unwrap()))
                .filter(|(_, _, distance)| *distance <= 31)
                .map(|(a, b, distance)| Edge { a, b, similarity: 1.0 - f64::from(distance) / 256.0 })
                .collect();
            let edges = hamming_edges(&pictures, 31);
            enough_for_clusters(&edges, &all, n as usize);
        }
    }
}
