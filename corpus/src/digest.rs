//! The digest of a corpus: a sum over rows that does not know their order.

use std::fmt;
use std::str::FromStr;

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_128;

use crate::canonical::{encoder, name_id};
use crate::error::{CorpusError, Result};

/// The number of rows and the wrapping sum, over rows, of the 128-bit xxh3 of each row's canonical encoding
/// (see the module documentation of `canonical.rs` for the bytes).
///
/// Equal for the same rows in any order, in any batches, shards and Arrow layouts. It is text in JSON and on the
/// command line: the sum as 32 hexadecimal digits, `-`, the number of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RowDigest {
    /// Number of rows.
    pub rows: u64,
    /// Wrapping sum of the rows' hashes.
    pub sum: u128,
}

impl RowDigest {
    /// Digests the rows of a batch; column names, types and values take part, the batch's metadata does not.
    ///
    /// # Errors
    /// [`CorpusError::Column`] for a type without a canonical encoding (intervals, unions).
    pub fn of(batch: &RecordBatch) -> Result<Self> {
        let schema = batch.schema_ref();
        let columns = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, array)| {
                Ok((
                    name_id(field.name()),
                    array.logical_nulls(),
                    encoder(field.name(), array)?,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut encoded = Vec::with_capacity(1024);
        let mut sum = 0u128;
        for row in 0..batch.num_rows() {
            encoded.clear();
            for (id, nulls, encode) in &columns {
                if nulls.as_ref().is_none_or(|n| n.is_valid(row)) {
                    encoded.extend_from_slice(id);
                    encode(row, &mut encoded);
                }
            }
            sum = sum.wrapping_add(xxh3_128(&encoded));
        }
        Ok(Self {
            rows: batch.num_rows() as u64,
            sum,
        })
    }

    /// Adds the rows of a batch.
    ///
    /// # Errors
    /// As [`RowDigest::of`]; the digest is unchanged then.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.merge(Self::of(batch)?);
        Ok(())
    }

    /// Adds the rows that another digest stands for.
    pub fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl fmt::Display for RowDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.sum, self.rows)
    }
}

impl FromStr for RowDigest {
    type Err = CorpusError;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (sum, rows) = text.split_once('-')?;
            let hex = sum.len() == 32 && sum.bytes().all(|b| b.is_ascii_hexdigit());
            let sum = u128::from_str_radix(hex.then_some(sum)?, 16).ok()?;
            Some(Self {
                rows: rows.parse().ok()?,
                sum,
            })
        };
        parse().ok_or_else(|| {
            CorpusError::argument(
                "digest",
                text,
                "expected 32 hexadecimal digits, `-` and the number of rows",
            )
        })
    }
}

impl Serialize for RowDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RowDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The `xxh3_64` of a run of bytes; 16 hexadecimal digits in JSON, where a 64-bit number would lose bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checksum(pub u64);

impl Checksum {
    /// Hashes bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64(bytes))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16)
            .map(Self)
            .map_err(|_| serde::de::Error::custom(format!("`{text}` is not a checksum of 16 hexadecimal digits")))
    }
}
