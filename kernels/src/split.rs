//! Deterministic assignment of groups to splits by hash.

use std::fmt;
use std::str::FromStr;

use arrow::array::{StringArray, UInt64Array};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::{KernelError, Result};

const EXAMPLE: &str = "write for example 'train=0.9,valid=0.05,test=0.05'";

/// Names of splits and the share of groups that each of them gets, in the order in which they were written.
#[derive(Debug, Clone, PartialEq)]
pub struct Ratios {
    names: Vec<String>,
    shares: Vec<f64>,
    /// Upper end of each split's range of hashes, exclusive, out of 2⁶⁴; the last is 2⁶⁴.
    ends: Vec<u128>,
}

impl Ratios {
    /// Builds ratios from pairs of name and share.
    ///
    /// # Errors
    /// When there is none, a name is empty or used twice, a share is not a number from 0 to 1, or the shares do not
    /// add up to 1 (to within 10⁻⁹).
    pub fn new<S: Into<String>>(pairs: impl IntoIterator<Item = (S, f64)>) -> Result<Self> {
        let (names, shares): (Vec<String>, Vec<f64>) = pairs.into_iter().map(|(n, s)| (n.into(), s)).unzip();
        let written = names
            .iter()
            .zip(&shares)
            .map(|(n, s)| format!("{n}={s}"))
            .collect::<Vec<_>>()
            .join(",");
        Self::checked(names, shares, &written)
    }

    fn checked(names: Vec<String>, shares: Vec<f64>, written: &str) -> Result<Self> {
        let refuse = |problem: String| invalid(written, problem);
        if names.is_empty() {
            return Err(refuse("there is no split in it".into()));
        }
        for (i, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(refuse(format!("the split number {} has no name", i + 1)));
            }
            if names[..i].contains(name) {
                return Err(refuse(format!("'{name}' is in it twice")));
            }
            if !(0.0..=1.0).contains(&shares[i]) {
                return Err(refuse(format!(
                    "the share of '{name}' is {}, not from 0 to 1",
                    shares[i]
                )));
            }
        }
        let total: f64 = shares.iter().sum();
        if (total - 1.0).abs() > 1e-9 {
            return Err(refuse(format!(
                "the shares add up to {}, not to 1",
                (total * 1e9).round() / 1e9
            )));
        }
        let mut ends = Vec::with_capacity(shares.len());
        let mut sum = 0.0;
        for share in &shares {
            sum += share;
            ends.push((sum * 18_446_744_073_709_551_616.0) as u128);
        }
        // The last split that takes anything ends at 2⁶⁴ whatever rounding did, and so do the empty ones after it.
        let last = shares.iter().rposition(|s| *s > 0.0).unwrap_or(0);
        ends[last..].fill(1 << 64);
        Ok(Self { names, shares, ends })
    }

    /// Names of the splits.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Share of each split, in the order of [`names`](Self::names).
    #[must_use]
    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// Index of the split that owns `hash`, a number that is uniform over all `u64`.
    #[must_use]
    pub fn pick(&self, hash: u64) -> usize {
        self.ends.partition_point(|end| *end <= u128::from(hash))
    }

    /// Index of the split of one group: [`pick`](Self::pick) of the salted hash of its id.
    #[must_use]
    pub fn assign_one(&self, group_id: u64, salt: &str) -> usize {
        self.pick(salted(group_id, salt_seed(salt)))
    }
}

impl FromStr for Ratios {
    type Err = KernelError;

    /// Reads `name=share,name=share,…`; spaces around names and shares do not count.
    fn from_str(s: &str) -> Result<Self> {
        let (mut names, mut shares) = (Vec::new(), Vec::new());
        for part in s.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let Some((name, share)) = part.split_once('=') else {
                return Err(invalid(s, format!("'{part}' has no '='")));
            };
            let share = share.trim();
            let number = share
                .parse::<f64>()
                .map_err(|_| invalid(s, format!("'{share}' is not a number")))?;
            names.push(name.trim().to_string());
            shares.push(number);
        }
        Self::checked(names, shares, s)
    }
}

impl fmt::Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, share)) in self.names.iter().zip(&self.shares).enumerate() {
            write!(f, "{}{name}={share}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

fn invalid(written: &str, problem: String) -> KernelError {
    KernelError::InvalidOption {
        option: "ratios",
        value: written.to_string(),
        problem,
        fix: EXAMPLE.to_string(),
    }
}

/// Assigns every group to a split.
///
/// `group_ids`: one `u64` a row, any distribution; `salt`: another salt is another assignment. Returns the split's
/// name a row, `NULL` where the group is `NULL`. The split is a function of (group id, salt, ratios) alone: the xxh3
/// hash of the id, seeded by the hash of the salt, is looked up in the ranges of the ratios. Raising one split's
/// share at the expense of its neighbour moves only groups between these two.
#[must_use]
pub fn assign(group_ids: &UInt64Array, salt: &str, ratios: &Ratios) -> StringArray {
    let seed = salt_seed(salt);
    group_ids
        .iter()
        .map(|id| id.map(|id| ratios.names[ratios.pick(salted(id, seed))].as_str()))
        .collect()
}

fn salt_seed(salt: &str) -> u64 {
    xxh3_64_with_seed(salt.as_bytes(), 0)
}

fn salted(group_id: u64, seed: u64) -> u64 {
    xxh3_64_with_seed(&group_id.to_le_bytes(), seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Array;
    use proptest::prelude::*;

    fn ratios(s: &str) -> Ratios {
        s.parse().unwrap()
    }

    #[test]
    fn bad_ratios_say_what_is_wrong_and_what_to_write() {
        for (written, problem) in [
            ("train=0.9,valid=0.05", "add up to 0.95, not to 1"),
            ("train=90,valid=10", "the share of 'train' is 90, not from 0 to 1"),
            ("train=0.5,train=0.5", "'train' is in it twice"),
            ("train:0.5", "'train:0.5' has no '='"),
            ("train=half,test=0.5", "'half' is not a number"),
            ("=1", "the split number 1 has no name"),
            ("train=NaN", "the share of 'train' is NaN"),
            ("", "there is no split in it"),
        ] {
            let message = written.parse::<Ratios>().unwrap_err().to_string();
            assert!(
                message.contains(problem) && message.contains("write for example"),
                "{message}"
            );
        }
    }

    #[test]
    fn ratios_are_written_as_they_are_read() {
        let r = ratios(" train = 0.9, valid=0.05 ,test=0.05");
        assert_eq!(r.to_string(), "train=0.9,valid=0.05,test=0.05");
        assert_eq!(ratios(&r.to_string()), r);
        assert_eq!(
            Ratios::new([("train", 0.9), ("valid", 0.05), ("test", 0.05)]).unwrap(),
            r
        );
    }

    #[test]
    fn the_ends_of_the_hash_range_have_a_split() {
        let r = ratios("a=0.1,b=0.2,c=0.7,d=0");
        assert_eq!((r.pick(0), r.pick(u64::MAX)), (0, 2));
        assert_eq!((ratios("a=0,b=1").pick(0), ratios("a=1,b=0").pick(u64::MAX)), (1, 0));
    }

    #[test]
    fn shares_are_met_and_null_stays_null() {
        let ids: UInt64Array = (0..100_000u64).map(Some).chain([None]).collect();
        let r = ratios("train=0.9,valid=0.05,test=0.05");
        let got = assign(&ids, "v1", &r);
        assert!(got.is_null(100_000));
        for (name, share) in r.names().iter().zip(r.shares()) {
            let seen = got.iter().flatten().filter(|g| g == name).count() as f64 / 100_000.0;
            // four standard deviations of a binomial share
            assert!(
                (seen - share).abs() < 4.0 * (share * (1.0 - share) / 100_000.0).sqrt(),
                "{name}: {seen}"
            );
        }
        let other = assign(&ids, "v2", &r);
        assert!(got.iter().zip(other.iter()).filter(|(a, b)| a != b).count() > 10_000);
    }

    #[test]
    fn assignments_never_change_between_releases() {
        let ids = UInt64Array::from_iter_values(0..12);
        let got = assign(&ids, "v1", &ratios("train=0.5,test=0.5"));
        let letters: String = got.iter().flatten().map(|s| &s[..2]).collect::<Vec<_>>().join(" ");
        assert_eq!(letters, GOLDEN);
    }
    const GOLDEN: &str = "te te tr tr te tr tr te te te tr te";

    proptest! {
        #[test]
        fn a_group_moves_only_between_the_splits_whose_shares_changed(id: u64, salt in "[a-z]{0,8}") {
            let narrow = ratios("train=0.8,valid=0.1,test=0.1");
            let wide = ratios("train=0.85,valid=0.05,test=0.1");
            let (a, b) = (narrow.assign_one(id, &salt), wide.assign_one(id, &salt));
            prop_assert!(a == b || (a == 1 && b == 0));
        }
    }
}
