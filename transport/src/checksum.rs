//! Checksums of bodies: none, samples, or every byte.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes hashed at each sample.
const SAMPLE_BYTES: usize = 4 << 10;
/// Distance between the starts of two samples, in bytes.
const STRIDE_BYTES: usize = 256 << 10;
/// Bodies up to this size are hashed whole by `Sampled` too.
const WHOLE_BYTES: usize = 64 << 10;

/// How much of a body its descriptor's xxh3 covers. The order is that of strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// Nothing: the field is 0.
    None,
    /// The length, the first and last 4 KiB and 4 KiB in every 256 KiB: finds a body that is another's, torn or
    /// short, at about a sixtieth of the cost; misses a flipped bit between the samples.
    Sampled,
    /// Every byte: `xxh3_64` of the body.
    Full,
}

impl Checksum {
    /// Bodies up to this size, bytes, are hashed where they are: handing them to another thread costs more.
    pub(crate) const INLINE_BYTES_MAX: usize = 512 << 10;

    /// Computes the checksum of `body`.
    #[must_use]
    pub fn of(self, body: &[u8]) -> u64 {
        match self {
            Self::None => 0,
            Self::Full => xxh3_64(body),
            Self::Sampled if body.len() <= WHOLE_BYTES => xxh3_64(body),
            Self::Sampled => {
                let mut hasher = Xxh3::new();
                hasher.update(&(body.len() as u64).to_le_bytes());
                for start in (0..body.len()).step_by(STRIDE_BYTES) {
                    hasher.update(&body[start..body.len().min(start + SAMPLE_BYTES)]);
                }
                hasher.update(&body[body.len() - SAMPLE_BYTES..]);
                hasher.digest()
            }
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Sampled => 1,
            Self::Full => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::None, Self::Sampled, Self::Full]
            .into_iter()
            .find(|mode| mode.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_see_both_ends_the_length_and_every_stride() {
        let body: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let base = Checksum::Sampled.of(&body);
        for at in [0, SAMPLE_BYTES - 1, STRIDE_BYTES, 3 * STRIDE_BYTES + 17, body.len() - 1] {
            let mut changed = body.clone();
            changed[at] ^= 1;
            assert_ne!(Checksum::Sampled.of(&changed), base, "a change at {at} was missed");
        }
        assert_ne!(Checksum::Sampled.of(&body[..body.len() - 1]), base);
        let mut between = body.clone();
        between[SAMPLE_BYTES + 1] ^= 1;
        assert_eq!(
            Checksum::Sampled.of(&between),
            base,
            "bytes between samples are not covered, as documented"
        );
        assert_ne!(Checksum::Full.of(&between), Checksum::Full.of(&body));
    }

    #[test]
    fn small_bodies_are_hashed_whole() {
        let body = vec![7u8; WHOLE_BYTES];
        assert_eq!(Checksum::Sampled.of(&body), Checksum::Full.of(&body));
        assert_eq!(Checksum::None.of(&body), 0);
        assert!(Checksum::None < Checksum::Sampled && Checksum::Sampled < Checksum::Full);
    }
}
