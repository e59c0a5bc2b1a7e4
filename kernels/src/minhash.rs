//! MinHash signatures, the band keys under which near-duplicates meet, and sketches that estimate their similarity.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Int64Array, ListArray, StringArray, StructArray,
    UInt32Array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{KernelError, Result};
use crate::shingles::{ShingleOptions, Shingler};

mod lanes;

use lanes::LANES;

/// Bits of a sketch.
pub const SKETCH_BITS: u32 = 128;
/// Most functions that a family is given when only a threshold is named.
const USUAL_PERMUTATIONS_MAX: usize = 128;
/// Share of the pairs at the threshold that may miss each other in all bands when only a threshold is named.
const USUAL_MISSES: f64 = 0.0005;

/// A family of hash functions for MinHash, and how its values are put into bands.
///
/// Broder 1997; banding as in Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", section 3.4: two texts of
/// similarity `s` share a band with probability `1 - (1 - sʳ)ᵇ` for `b` bands of `r` rows; 20 × 5 is even at 0.55 and
/// finds 99.96 % of pairs at 0.8.
#[derive(Debug, Clone)]
pub struct MinHash {
    bands: usize,
    rows: usize,
    /// `h ↦ multiplier · h + addend` (mod 2³²) with odd multipliers: permutations of 32-bit numbers. Padded to whole
    /// blocks of [`LANES`]; the functions behind the bands serve the sketch.
    multipliers: Vec<u32>,
    addends: Vec<u32>,
}

impl Default for MinHash {
    fn default() -> Self {
        Self::new(20, 5).expect("20 bands of 5 rows are within the limits")
    }
}

impl MinHash {
    /// Makes the family of `bands · rows` functions. They are the same everywhere and always.
    ///
    /// # Errors
    /// When `bands` or `rows` is 0, or their product is more than 4096.
    pub fn new(bands: usize, rows: usize) -> Result<Self> {
        let permutations = bands.saturating_mul(rows);
        if !(1..=4096).contains(&permutations) {
            return Err(KernelError::InvalidOption {
                option: "bands × rows",
                value: format!("{bands} × {rows}"),
                problem: "the signature would have no value, or more than 4096".into(),
                fix: "use for example bands => 20, rows => 5".into(),
            });
        }
        let padded = permutations.max(SKETCH_BITS as usize).next_multiple_of(LANES);
        let draw = |seed: u64| {
            (0..padded as u64)
                .map(|i| xxh3_64_with_seed(&i.to_le_bytes(), seed) as u32)
                .collect::<Vec<_>>()
        };
        let multipliers = draw(0x6d75_6c74).into_iter().map(|m| m | 1).collect();
        Ok(Self {
            bands,
            rows,
            multipliers,
            addends: draw(0x6164_6465),
        })
    }

    /// Makes the family that finds 99.95 % of the pairs at `threshold` with the longest bands, so that the fewest other
    /// pairs meet, out of at most 128 functions; 20 × 5 for 0.8.
    ///
    /// # Errors
    /// When `threshold` is not above 0 and at most 1.
    pub fn for_threshold(threshold: f64) -> Result<Self> {
        if !(threshold > 0.0 && threshold <= 1.0) {
            return Err(KernelError::InvalidOption {
                option: "threshold",
                value: threshold.to_string(),
                problem: "a similarity is above 0 and at most 1".into(),
                fix: "use for example threshold => 0.8".into(),
            });
        }
        let bands_of = |rows: usize| -> usize {
            let meets = threshold.powi(rows as i32).min(1.0 - 1e-9);
            (USUAL_MISSES.ln() / (1.0 - meets).ln()).ceil().max(1.0) as usize
        };
        let rows = (1..=16)
            .rev()
            .find(|rows| rows * bands_of(*rows) <= USUAL_PERMUTATIONS_MAX)
            .unwrap_or(1);
        Self::new(bands_of(rows).min(USUAL_PERMUTATIONS_MAX), rows)
    }

    /// Number of values in a signature: bands times rows.
    #[must_use]
    pub fn permutations(&self) -> usize {
        self.bands * self.rows
    }

    /// Number of bands.
    #[must_use]
    pub fn bands(&self) -> usize {
        self.bands
    }

    /// Computes the signature of a set of shingles: for each function the smallest of its values, `u32::MAX` for the
    /// empty set. Repetitions and order do not matter.
    #[must_use]
    pub fn signature(&self, shingles: &[u64]) -> Vec<u32> {
        let mut smallest = self.all_smallest(shingles);
        smallest.truncate(self.permutations());
        smallest
    }

    /// Estimates the Jaccard similarity of two sets from their signatures: the share of equal values.
    #[must_use]
    pub fn estimate(a: &[u32], b: &[u32]) -> f64 {
        let equal = a.iter().zip(b).filter(|(x, y)| x == y).count();
        equal as f64 / a.len().max(1) as f64
    }

    /// Computes one bit of each of 128 functions (b-bit minwise hashing, Li & König 2010), to be compared by [`alike`].
    #[must_use]
    pub fn sketch_of(&self, shingles: &[u64]) -> u128 {
        sketch(&self.all_smallest(shingles))
    }

    fn all_smallest(&self, shingles: &[u64]) -> Vec<u32> {
        let mut smallest = vec![u32::MAX; self.multipliers.len()];
        self.lower(&mut smallest, shingles);
        smallest
    }

    fn lower(&self, smallest: &mut [u32], shingles: &[u64]) {
        lanes::lower(smallest, &self.multipliers, &self.addends, shingles);
    }

    /// Appends one key a band: sets with an equal key in an equal band are candidates. The number of the band and
    /// `kind` are part of the key.
    fn band_keys(&self, smallest: &[u32], kind: u64, keys: &mut Vec<i64>) {
        let mut bytes = [0u8; 4 * 64];
        for (band, rows) in smallest[..self.permutations()].chunks_exact(self.rows).enumerate() {
            let seed = kind << 32 | band as u64;
            let mut key = seed;
            // Longer bands are hashed in pieces, each on top of the one before.
            for piece in rows.chunks(64) {
                for (to, value) in bytes.chunks_exact_mut(4).zip(piece) {
                    to.copy_from_slice(&value.to_le_bytes());
                }
                key = xxh3_64_with_seed(&bytes[..4 * piece.len()], key);
            }
            keys.push(key as i64);
        }
    }

    /// Computes the signature of each text: `FixedSizeList<UInt32>(permutations)`, of its shingles of characters where
    /// it has them, else of words; `NULL` for `NULL` and for a text without shingles.
    ///
    /// # Errors
    /// When the values of the batch do not fit an Arrow array.
    pub fn signatures(&self, texts: &StringArray, options: ShingleOptions) -> Result<FixedSizeListArray> {
        let mut shingler = Shingler::new(options);
        let mut values = Vec::with_capacity(texts.len() * self.permutations());
        let mut valid = Vec::with_capacity(texts.len());
        let mut smallest = vec![0; self.multipliers.len()];
        for text in texts {
            shingler.read(text.unwrap_or_default());
            let shingles = shingler.chars().or(shingler.words()).unwrap_or_default();
            valid.push(text.is_some() && !shingles.is_empty());
            smallest.fill(u32::MAX);
            self.lower(&mut smallest, shingles);
            values.extend_from_slice(&smallest[..self.permutations()]);
        }
        let item = Arc::new(Field::new_list_field(DataType::UInt32, false));
        Ok(FixedSizeListArray::try_new(
            item,
            // At most 4096 values, see `MinHash::new`.
            self.permutations() as i32,
            Arc::new(UInt32Array::from(values)),
            Some(NullBuffer::from(valid)),
        )?)
    }

    /// Computes what each text is found by: `List<Struct<band: Int64, sketch: FixedSizeBinary(16)>>`
    /// ([`band_list_type`]), one item for each band and kind of shingles that the text has; no item for `NULL` and for
    /// a text without shingles.
    ///
    /// The sketch is that of [`sketch_of`](Self::sketch_of), little-endian.
    ///
    /// # Errors
    /// When the values of the batch do not fit an Arrow array.
    pub fn band_lists(&self, texts: &StringArray, options: ShingleOptions) -> Result<ListArray> {
        let mut shingler = Shingler::new(options);
        let mut keys: Vec<i64> = Vec::with_capacity(texts.len() * self.bands);
        let mut sketches: Vec<u8> = Vec::with_capacity(texts.len() * self.bands * 16);
        let mut lengths = Vec::with_capacity(texts.len());
        let mut smallest = vec![0; self.multipliers.len()];
        for text in texts {
            shingler.read(text.unwrap_or_default());
            let before = keys.len();
            for (kind, shingles) in [(0, shingler.chars()), (1, shingler.words())] {
                let Some(shingles) = shingles.filter(|set| !set.is_empty()) else {
                    continue;
                };
                smallest.fill(u32::MAX);
                self.lower(&mut smallest, shingles);
                self.band_keys(&smallest, kind, &mut keys);
                let sketch = sketch(&smallest).to_le_bytes();
                (0..self.bands).for_each(|_| sketches.extend_from_slice(&sketch));
            }
            lengths.push(keys.len() - before);
        }
        let sketches = FixedSizeBinaryArray::try_new(16, Buffer::from_vec(sketches), None)?;
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(keys)), Arc::new(sketches)];
        let items = StructArray::try_new(band_fields(), columns, None)?;
        Ok(ListArray::try_new(
            band_item(),
            OffsetBuffer::from_lengths(lengths),
            Arc::new(items),
            None,
        )?)
    }
}

/// One bit of each of the first 128 values.
fn sketch(smallest: &[u32]) -> u128 {
    smallest
        .iter()
        .take(SKETCH_BITS as usize)
        .enumerate()
        .fold(0, |sketch, (i, value)| {
            // The smallest values are small; after the multiplication the top bit depends on all of their bits.
            let bit = value.wrapping_mul(0x9e37_79b1) >> 31;
            sketch | u128::from(bit) << i
        })
}

/// Estimates the Jaccard similarity of two sets from their sketches: from -1 to 1, with a standard deviation of
/// `√(1 - s²) / √128`, which is 0.053 at 0.8.
#[must_use]
pub fn alike(a: u128, b: u128) -> f64 {
    1.0 - f64::from((a ^ b).count_ones()) / f64::from(SKETCH_BITS / 2)
}

fn band_fields() -> Fields {
    Fields::from(vec![
        Field::new("band", DataType::Int64, false),
        Field::new("sketch", DataType::FixedSizeBinary(16), false),
    ])
}

fn band_item() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(band_fields()), false))
}

/// Type of the arrays that [`MinHash::band_lists`] returns.
#[must_use]
pub fn band_list_type() -> DataType {
    DataType::List(band_item())
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;
    use crate::shingles::ShingleUnit;

    const WORDS: ShingleOptions = ShingleOptions {
        unit: ShingleUnit::Word,
        words: 3,
        chars: 5,
    };

    proptest! {
        #[test]
        fn a_signature_holds_the_smallest_value_of_each_function(set in prop::collection::vec(any::<u64>(), 0..20)) {
            let family = MinHash::new(4, 9).unwrap();
            let got = family.signature(&set);
            prop_assert_eq!(got.len(), 36);
            for (i, value) in got.iter().enumerate() {
                let values = set.iter().map(|h| {
                    let wide = u128::from(family.multipliers[i]) * u128::from(*h) + u128::from(family.addends[i]);
                    (wide % (1 << 32)) as u32
                });
                prop_assert_eq!(*value, values.min().unwrap_or(u32::MAX));
            }
            let mut again = set.clone();
            again.reverse();
            again.extend(&set);
            prop_assert_eq!(family.signature(&again), got);
        }
    }

    /// Two sets of 500 with so many in common.
    fn two_sets(shared: u64, seed: u64) -> (Vec<u64>, Vec<u64>) {
        let hash = |i: u64| xxh3_64_with_seed(&i.to_le_bytes(), seed);
        (
            (0..500).map(hash).collect(),
            (500 - shared..1000 - shared).map(hash).collect(),
        )
    }

    #[test]
    fn estimates_are_unbiased_within_their_error() {
        let family = MinHash::new(128, 4).unwrap();
        for shared in [0u64, 100, 250, 400, 500] {
            let truth = shared as f64 / (1000 - shared) as f64;
            let (mut by_signature, mut by_sketch) = (0.0, 0.0);
            for seed in 0..40 {
                let (a, b) = two_sets(shared, seed);
                by_signature += MinHash::estimate(&family.signature(&a), &family.signature(&b)) / 40.0;
                by_sketch += alike(family.sketch_of(&a), family.sketch_of(&b)) / 40.0;
            }
            // Four standard deviations of the means.
            let error = 4.0 * (truth * (1.0 - truth) / 512.0 / 40.0).sqrt();
            assert!((by_signature - truth).abs() <= error + 1e-9, "{truth} {by_signature}");
            let error = 4.0 * ((1.0 - truth * truth) / 128.0 / 40.0).sqrt();
            assert!((by_sketch - truth).abs() <= error + 1e-9, "{truth} {by_sketch}");
        }
    }

    #[test]
    fn pairs_meet_as_often_as_the_formula_says() {
        let family = MinHash::default();
        for (shared, least, most) in [(445u64, 0.99, 1.0), (278, 0.1, 0.4), (100, 0.0, 0.01)] {
            let met = (0..200).filter(|seed| {
                let (a, b) = two_sets(shared, *seed);
                let (mut x, mut y) = (Vec::new(), Vec::new());
                family.band_keys(&family.all_smallest(&a), 0, &mut x);
                family.band_keys(&family.all_smallest(&b), 0, &mut y);
                x.iter().zip(&y).any(|(x, y)| x == y)
            });
            let share = met.count() as f64 / 200.0;
            assert!((least..=most).contains(&share), "{shared} in common: {share} met");
        }
    }

    #[test]
    fn a_threshold_decides_the_bands() {
        let of = |threshold| {
            let family = MinHash::for_threshold(threshold).unwrap();
            (family.bands, family.rows)
        };
        assert_eq!(of(0.8), (20, 5));
        assert_eq!(of(0.5), (27, 2));
        assert_eq!(of(1.0).0, 1);
        assert!(of(0.01).0 <= 128);
        for threshold in [0.0, -1.0, 1.1, f64::NAN] {
            assert!(MinHash::for_threshold(threshold).is_err());
        }
    }

    #[test]
    fn texts_meet_by_their_kinds_of_shingles() {
        let family = MinHash::new(2, 2).unwrap();
        let long = (0..40).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ");
        let texts = StringArray::from(vec![
            Some("a b c"),
            None,
            Some(" "),
            Some("A, b. C"),
            Some(long.as_str()),
        ]);
        let lists = family.band_lists(&texts, ShingleOptions::default()).unwrap();
        assert_eq!(lists.data_type(), &band_list_type());
        assert_eq!(
            (0..5).map(|i| lists.value_length(i)).collect::<Vec<_>>(),
            [2, 0, 0, 2, 4]
        );
        assert_eq!(&lists.value(0), &lists.value(3));
        let by_words = family.band_lists(&texts, WORDS).unwrap();
        let keys = |list: ArrayRef| list.as_struct().column(0).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(
            keys(by_words.value(4)),
            keys(lists.value(4))[2..],
            "words after characters"
        );
        assert_ne!(keys(by_words.value(0)), keys(lists.value(0)));
        let signatures = family.signatures(&texts, WORDS).unwrap();
        assert_eq!((signatures.value_length(), signatures.null_count()), (4, 2));
    }

    #[test]
    fn options_are_checked_and_functions_never_change() {
        assert!(MinHash::new(0, 5).unwrap_err().to_string().contains("0 × 5"));
        assert!(MinHash::new(usize::MAX, 2).is_err());
        let set: Vec<u64> = ["a fixed", "fixed text"]
            .iter()
            .map(|s| xxh3_64(s.as_bytes()))
            .collect();
        assert_eq!(MinHash::new(1, 3).unwrap().signature(&set), GOLDEN);
    }
    const GOLDEN: [u32; 3] = [788_355_037, 1_725_265_727, 1_022_975_285];
}
