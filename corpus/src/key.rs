//! Where a row goes: the hash of its key, and the shard that the hash names.

use arrow::array::ArrayRef;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::canonical::encoder;
use crate::error::{CorpusError, Result};

/// Hashes the key of every row: `xxh3_64` of the canonical encodings of the key columns, one after another.
///
/// `columns` are the key columns in the order of the primary key, all of one length, of any types that
/// [`RowDigest`](crate::RowDigest) accepts. The width of an integer and the layout of a string have no part in the
/// hash; neither have column names. NULL is hashed as a value of its own: refusing NULL keys is the caller's work.
///
/// # Errors
/// [`CorpusError::Column`] for a type without a canonical encoding, [`CorpusError::Argument`] if the columns differ
/// in length.
pub fn key_hashes(columns: &[ArrayRef]) -> Result<Vec<u64>> {
    hashed("key column", columns, xxh3_64)
}

/// As [`key_hashes`], 128 bits wide: equal for equal values only, for all that can happen.
///
/// Any columns will do. The values of a list of numbers and of a decimal count with their type and scale, those of a
/// struct with the names of its fields.
///
/// # Errors
/// As [`key_hashes`].
pub fn value_digests(columns: &[ArrayRef]) -> Result<Vec<u128>> {
    hashed("column", columns, xxh3_128)
}

fn hashed<T>(what: &'static str, columns: &[ArrayRef], hash: impl Fn(&[u8]) -> T) -> Result<Vec<T>> {
    let rows = columns.first().map_or(0, |c| c.len());
    if let Some(odd) = columns.iter().position(|c| c.len() != rows) {
        let detail = format!("{} rows where the first has {rows}", columns[odd].len());
        return Err(CorpusError::argument(
            "number of a column",
            (odd + 1).to_string(),
            detail,
        ));
    }
    let encoders = columns
        .iter()
        .enumerate()
        .map(|(i, column)| encoder(&format!("{what} {}", i + 1), column))
        .collect::<Result<Vec<_>>>()?;
    let mut encoded = Vec::with_capacity(64);
    Ok((0..rows)
        .map(|row| {
            encoded.clear();
            encoders.iter().for_each(|encode| encode(row, &mut encoded));
            hash(&encoded)
        })
        .collect())
}

/// Gives the shard of a key hash: `hash mod shards`; everything is in shard 0 where `shards` is 0 or 1.
pub fn shard_of(hash: u64, shards: u32) -> u32 {
    // The remainder is below a u32, so that the cast keeps it.
    (hash % u64::from(shards.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::*;

    use super::*;

    #[test]
    fn layout_and_width_have_no_part_in_the_hash() {
        let a = key_hashes(&[
            Arc::new(StringArray::from(vec!["p1", "ü"])),
            Arc::new(Int32Array::from(vec![1, -2])),
        ])
        .unwrap();
        let b = key_hashes(&[
            Arc::new(StringViewArray::from(vec!["p1", "ü"])),
            Arc::new(Int64Array::from(vec![1, -2])),
        ])
        .unwrap();
        assert_eq!(a, b);
        let dictionary: DictionaryArray<arrow::datatypes::Int8Type> = vec!["p1", "ü"].into_iter().collect();
        assert_eq!(
            key_hashes(&[Arc::new(dictionary), Arc::new(Int8Array::from(vec![1, -2]))]).unwrap(),
            a
        );
    }

    #[test]
    fn a_key_is_not_the_concatenation_of_its_texts() {
        let hash = |a: &str, b: &str| {
            key_hashes(&[
                Arc::new(StringArray::from(vec![a])),
                Arc::new(StringArray::from(vec![b])),
            ])
            .unwrap()[0]
        };
        assert_ne!(hash("ab", "c"), hash("a", "bc"));
    }

    #[test]
    fn hash_is_the_documented_bytes() {
        let mut expected = vec![6, 2, 0, 0, 0, 0, 0, 0, 0, b'p', b'1'];
        expected.extend([2, 7, 0, 0, 0, 0, 0, 0, 0]);
        let hashes = key_hashes(&[
            Arc::new(StringArray::from(vec!["p1"])),
            Arc::new(UInt16Array::from(vec![7])),
        ])
        .unwrap();
        assert_eq!(hashes, [xxh3_64(&expected)]);
        let digests = value_digests(&[
            Arc::new(BinaryArray::from_vec(vec![b"p1"])),
            Arc::new(Int64Array::from(vec![7])),
        ])
        .unwrap();
        assert_eq!(digests, [xxh3_128(&expected)]);
    }

    #[test]
    fn digests_agree_exactly_when_rows_do() {
        let values = [None, Some(""), Some("a"), Some("b"), Some("ab"), Some("ba")];
        let pairs: Vec<_> = values.iter().flat_map(|a| values.map(|b| (*a, b))).collect();
        let (first, second): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
        let digests = value_digests(&[
            Arc::new(StringArray::from(first)),
            Arc::new(LargeStringArray::from(second)),
        ])
        .unwrap();
        let distinct: std::collections::HashSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), pairs.len());
    }

    #[test]
    fn columns_of_different_length_are_refused() {
        let e = key_hashes(&[
            Arc::new(Int8Array::from(vec![1])),
            Arc::new(Int8Array::from(vec![1, 2])),
        ])
        .unwrap_err();
        assert!(e.to_string().contains("number of a column `2`"), "{e}");
    }

    #[test]
    fn every_shard_is_in_range() {
        assert_eq!(shard_of(u64::MAX, 0), 0);
        assert!((0..1000u64).all(|h| shard_of(h.wrapping_mul(0x9e37_79b9_7f4a_7c15), 7) < 7));
    }
}
