//! Randomness that is the same on every machine: SplitMix64, integers only.

/// A SplitMix64 generator (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
///
/// Every row of the generated data has a generator of its own, keyed by (seed, domain, index). A row is thus a pure
/// function of its number: chunks can be made by any thread in any order, and a copy can recompute its original.
#[derive(Debug, Clone)]
pub(crate) struct Rng {
    state: u64,
}

/// What a generator is for; two domains with the same index share no numbers.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(crate) enum Domain {
    Kind = 1,
    Author,
    Time,
    Body,
    Edit,
    Flood,
    Vote,
    Appeal,
    Golden,
    User,
    Strike,
    Erasure,
    Moderator,
    Eval,
    Media,
    Picture,
}

impl Rng {
    /// Starts the generator of one row.
    pub(crate) fn new(seed: u64, domain: Domain, index: u64) -> Self {
        let keyed = mix(seed ^ 0x6a09_e667_f3bc_c909) ^ mix((domain as u64) << 32 | 0xbb67_ae85);
        Self {
            state: mix(keyed ^ mix(index.wrapping_add(0x3c6e_f372_fe94_f82b))),
        }
    }

    /// Returns 64 uniform bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Returns a uniform number in `0..bound` (`bound` of 0 gives 0). The bias is below 2⁻³² for the bounds used here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns a number in `0..bound` that favours small ones: the density falls as x^(-2/3), as activity on a
    /// platform or the use of words does.
    pub(crate) fn skewed(&mut self, bound: u64) -> u64 {
        let u = self.bits() >> 32;
        let cube = (((u * u) >> 32) * u) >> 32;
        (cube * bound) >> 32
    }

    /// True in `per_mille` of a thousand cases.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// Picks an element uniformly.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Picks an element, the first ones more often.
    pub(crate) fn pick_skewed<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.skewed(of.len() as u64) as usize]
    }

    /// Picks the index of a weight, in proportion to it.
    pub(crate) fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (i, weight) in weights.iter().enumerate() {
            if left < *weight {
                return i;
            }
            left -= weight;
        }
        weights.len() - 1
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_follows_the_published_sequence() {
        // The first outputs of SplitMix64 from state 1234567, as in the reference code's own test.
        let mut rng = Rng { state: 1_234_567 };
        assert_eq!(rng.bits(), 6_457_827_717_110_365_317);
        assert_eq!(rng.bits(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn draws_are_in_range_and_reach_both_ends() {
        let mut rng = Rng::new(7, Domain::Body, 0);
        let (mut seen, mut skewed) = ([0u32; 10], [0u32; 10]);
        for _ in 0..10_000 {
            seen[rng.below(10) as usize] += 1;
            skewed[rng.skewed(10) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
        assert!(skewed[0] > 3 * skewed[9] && skewed[9] > 100, "{skewed:?}");
    }

    #[test]
    fn domains_and_rows_do_not_share_numbers() {
        let first = Rng::new(1, Domain::Body, 5).bits();
        assert_ne!(first, Rng::new(1, Domain::Edit, 5).bits());
        assert_ne!(first, Rng::new(1, Domain::Body, 6).bits());
        assert_ne!(first, Rng::new(2, Domain::Body, 5).bits());
    }
}
