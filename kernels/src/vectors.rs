//! Embeddings as vectors of length 1: their cosine, and k-means over a sample of them.
//!
//! All sums are over one dimension after the other, in double precision and by one thread, so they are the same bits on
//! every machine, whatever it has to do arithmetic with.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::duplicate_links::{Edge, enough_edges};

/// Rounds of k-means; later ones move hardly a vector.
const ROUNDS_MAX: usize = 12;

/// Scales a vector to length 1; `None` for one without a direction: of zeros, or with a value that is not finite.
#[must_use]
pub fn unit(vector: &[f32]) -> Option<Vec<f32>> {
    let length = dot(vector, vector).sqrt();
    let usable = length.is_finite() && length > 0.0;
    usable.then(|| vector.iter().map(|x| (f64::from(*x) / length) as f32).collect())
}

/// Computes the cosine of two vectors of length 1 and of one width: their inner product.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    // Four chains, always the same ones: they keep the processor busy, and the order of additions is fixed.
    let mut sums = [0f64; 4];
    let (a4, a_rest) = a.as_chunks::<4>();
    let (b4, b_rest) = b.as_chunks::<4>();
    for (a, b) in a4.iter().zip(b4) {
        for (sum, (x, y)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += f64::from(*x) * f64::from(*y);
        }
    }
    let rest: f64 = a_rest
        .iter()
        .zip(b_rest)
        .map(|(x, y)| f64::from(*x) * f64::from(*y))
        .sum();
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

/// Centres of clusters, all of one width, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Centres {
    width: usize,
    values: Vec<f32>,
}

impl Centres {
    /// Finds up to `count` centres of vectors of length 1 by spherical k-means (Dhillon & Modha 2001) from a fixed start: the
    /// vectors themselves, as many as there are centres, drawn by a hash of their bytes; then rounds in which each vector goes to the
    /// nearest centre and each centre to the direction of its vectors' sum. The centres depend on the vectors and on
    /// their order.
    ///
    /// # Panics
    /// If the vectors are not all of one width.
    #[must_use]
    pub fn of(vectors: &[&[f32]], count: usize) -> Self {
        let width = vectors.first().map_or(0, |vector| vector.len());
        assert!(
            vectors.iter().all(|vector| vector.len() == width),
            "vectors have one width"
        );
        let mut start: Vec<(u64, usize)> = vectors
            .iter()
            .enumerate()
            .map(|(number, vector)| (drawn(vector), number))
            .collect();
        start.sort_unstable();
        start.truncate(count.max(1));
        let values = start.iter().flat_map(|(_, number)| vectors[*number]).copied().collect();
        let mut centres = Self { width, values };
        let mut at: Vec<usize> = vec![usize::MAX; vectors.len()];
        for _ in 0..ROUNDS_MAX {
            let now: Vec<usize> = vectors.iter().map(|vector| centres.nearest(vector).0).collect();
            if now == at {
                break;
            }
            at = now;
            centres.move_to(vectors, &at);
        }
        centres
    }

    /// Reads centres as [`to_bytes`](Self::to_bytes) wrote them; `None` for bytes that are none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (width, values) = bytes.split_first_chunk::<4>()?;
        let width = u32::from_le_bytes(*width) as usize;
        let values = floats(values)?;
        let whole = width > 0 && !values.is_empty() && values.len() % width == 0;
        whole.then_some(Self { width, values })
    }

    /// The width as 32 bits, then all values, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let width = u32::try_from(self.width).unwrap_or(u32::MAX);
        let mut bytes = width.to_le_bytes().to_vec();
        bytes.extend(self.values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    /// Dimensions of each.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The number of the nearest centre, the first of those at the same distance, and the cosine to it.
    ///
    /// # Panics
    /// If there is no centre.
    #[must_use]
    pub fn nearest(&self, vector: &[f32]) -> (usize, f64) {
        let cosines = self
            .values
            .chunks_exact(self.width.max(1))
            .map(|centre| dot(centre, vector));
        let nearest = cosines
            .enumerate()
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        nearest.expect("k-means gives at least one centre")
    }

    /// Puts each centre in the direction of the sum of its vectors; one without a vector stays.
    fn move_to(&mut self, vectors: &[&[f32]], at: &[usize]) {
        let mut sums = vec![0f64; self.values.len()];
        for (vector, centre) in vectors.iter().zip(at) {
            let sum = &mut sums[centre * self.width..(centre + 1) * self.width];
            sum.iter_mut()
                .zip(*vector)
                .for_each(|(sum, value)| *sum += f64::from(*value));
        }
        for (centre, sum) in self
            .values
            .chunks_exact_mut(self.width.max(1))
            .zip(sums.chunks_exact(self.width.max(1)))
        {
            let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
            if length > 0.0 {
                centre
                    .iter_mut()
                    .zip(sum)
                    .for_each(|(to, from)| *to = (from / length) as f32);
            }
        }
    }
}

/// Reads little-endian floats; `None` if the bytes end within one.
#[must_use]
pub fn floats(bytes: &[u8]) -> Option<Vec<f32>> {
    let (values, rest) = bytes.as_chunks::<4>();
    rest.is_empty()
        .then(|| values.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

/// What a vector is drawn by.
pub fn drawn(vector: &[f32]) -> u64 {
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    xxh3_64_with_seed(&bytes, 0x6b6d_6561)
}

/// Finds pairs of vectors of length 1 whose cosine is at least `threshold` that are enough for their clusters
/// ([`enough_edges`]), by comparing all with all.
#[must_use]
pub fn cosine_edges(vectors: &[&[f32]], threshold: f64) -> Vec<Edge> {
    enough_edges(vectors.len(), |b, near| {
        for (a, other) in (0..b).zip(vectors) {
            let cosine = dot(other, vectors[b as usize]);
            if cosine >= threshold {
                near.push((cosine, a));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::duplicate_links::enough_for_clusters;

    fn views(vectors: &[Vec<f32>]) -> Vec<&[f32]> {
        vectors.iter().map(Vec::as_slice).collect()
    }

    fn units(width: usize) -> impl Strategy<Value = Vec<Vec<f32>>> {
        let vector = prop::collection::vec(-3i8..=3, width);
        let unit = vector.prop_filter_map("without a direction", |v| {
            unit(&v.into_iter().map(f32::from).collect::<Vec<f32>>())
        });
        prop::collection::vec(unit, 1..30)
    }

    proptest! {
        #[test]
        fn edges_are_enough_for_the_clusters_of_all_pairs(vectors in units(5), threshold in 0.5f64..1.0) {
            let vectors = views(&vectors);
            let n = vectors.len() as u32;
            let all: Vec<Edge> = (0..n)
                .flat_map(|b| (0..b).map(move |a| (a, b)))
                .map(|(a, b)| Edge { a, b, similarity: dot(vectors[a as usize], vectors[b as usize]) })
                .filter(|edge| edge.similarity >= threshold)
                .collect();
            let edges = cosine_edges(&vectors, threshold);
            enough_for_clusters(&edges, &all, n as usize);
        }

        #[test]
        fn every_vector_goes_to_its_nearest_centre(vectors in units(7), count in 1usize..6) {
            let vectors = views(&vectors);
            let centres = Centres::of(&vectors, count);
            prop_assert_eq!(&Centres::from_bytes(&centres.to_bytes()), &Some(centres.clone()));
            let all: Vec<&[f32]> = centres.values.chunks_exact(7).collect();
            prop_assert!(!all.is_empty() && all.len() <= count.max(1));
            for vector in &vectors {
                let (number, cosine) = centres.nearest(vector);
                prop_assert_eq!(cosine, dot(all[number], vector));
                prop_assert!(all.iter().all(|centre| dot(centre, vector) <= cosine));
            }
        }
    }

    #[test]
    fn families_are_told_apart() {
        let family = |axis: usize, turn: f32| {
            let mut vector = vec![0.02 * turn; 8];
            vector[axis] = 1.0;
            unit(&vector).unwrap()
        };
        let vectors: Vec<Vec<f32>> = (0..40).map(|i| family(i % 4, (i / 4) as f32)).collect();
        let centres = Centres::of(&views(&vectors), 12);
        let at: Vec<usize> = vectors.iter().map(|vector| centres.nearest(vector).0).collect();
        for (a, x) in at.iter().enumerate() {
            for (b, y) in at.iter().enumerate() {
                assert!(x != y || a % 4 == b % 4, "{a} and {b} share a centre");
            }
        }
    }

    #[test]
    fn what_has_no_direction_is_no_vector() {
        assert_eq!(unit(&[3.0, 4.0]), Some(vec![0.6, 0.8]));
        for vector in [&[0.0, 0.0][..], &[f32::NAN, 1.0], &[f32::INFINITY, 1.0], &[]] {
            assert_eq!(unit(vector), None);
        }
        assert_eq!(floats(&[0, 0, 128]), None);
        assert_eq!(Centres::from_bytes(&[2, 0, 0, 0, 0, 0, 128, 63]), None);
    }
}
