//! A keyed bijection of `[0, n)` with its inverse: how rows, blocks and packs are shuffled without an array.
//!
//! A generalised Feistel network on `a × b ≥ n` (Black and Rogaway, *Ciphers with Arbitrary Finite Domains*,
//! 2002, section 5) with `a = ⌈√n⌉` and `b = ⌈n / a⌉`, so that fewer than `a` values lie outside of the domain
//! and walking the cycle back into it takes 1 + O(1/√n) evaluations on average.

const ROUNDS: usize = 6;

/// A keyed bijection of `[0, n)`, for `n` up to 2^62.
#[derive(Debug, Clone)]
pub struct Bijection {
    n: u64,
    a: u64,
    b: u64,
    /// ⌊(2^64 − 1) / b⌋, to divide by multiplying.
    reciprocal: u64,
    keys: [u64; ROUNDS],
}

impl Bijection {
    /// Makes the bijection of `[0, n)` that belongs to `key`. `n` is at most 2^62, and at least 1 if it is used.
    #[must_use]
    pub fn new(n: u64, key: [u64; 2]) -> Self {
        debug_assert!(n <= 1 << 62, "the halves of the network hold 32 bits");
        let root = n.isqrt();
        let a = (root + u64::from(root * root < n)).max(1);
        let mut keys = [0; ROUNDS];
        let mut state = key[0];
        for round in &mut keys {
            // SplitMix64 (Steele, Lea, Flood 2014) turns the two words of the key into one per round.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state ^ key[1];
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            *round = z ^ (z >> 31);
        }
        let b = n.div_ceil(a).max(1);
        let reciprocal = u64::MAX / b;
        Self {
            n,
            a,
            b,
            reciprocal,
            keys,
        }
    }

    /// The halves of `x`: quotient and remainder by `b`.
    #[inline]
    fn split(&self, x: u64) -> (u64, u64) {
        let quotient = ((u128::from(x) * u128::from(self.reciprocal)) >> 64) as u64;
        let remainder = x - quotient * self.b;
        // For x below 2^63 the product falls short by less than one.
        if remainder >= self.b {
            (quotient + 1, remainder - self.b)
        } else {
            (quotient, remainder)
        }
    }

    /// Maps `x` in `[0, n)` to its image in `[0, n)`.
    #[must_use]
    #[inline]
    pub fn forward(&self, x: u64) -> u64 {
        debug_assert!(x < self.n, "{x} is outside of [0, {})", self.n);
        let mut y = x;
        loop {
            let (mut l, mut r) = self.split(y);
            for pair in self.keys.chunks_exact(2) {
                l = add(l, round(r, pair[0], self.a), self.a);
                r = add(r, round(l, pair[1], self.b), self.b);
            }
            y = l * self.b + r;
            if y < self.n {
                return y;
            }
        }
    }

    /// Maps an image in `[0, n)` back: `inverse(forward(x)) == x`.
    #[must_use]
    #[inline]
    pub fn inverse(&self, y: u64) -> u64 {
        debug_assert!(y < self.n, "{y} is outside of [0, {})", self.n);
        let mut x = y;
        loop {
            let (mut l, mut r) = self.split(x);
            for pair in self.keys.chunks_exact(2).rev() {
                r = add(r, self.b - round(l, pair[1], self.b), self.b);
                l = add(l, self.a - round(r, pair[0], self.a), self.a);
            }
            x = l * self.b + r;
            if x < self.n {
                return x;
            }
        }
    }
}

/// `x + y` modulo `m`, for `x < m` and `y ≤ m`.
#[inline]
fn add(x: u64, y: u64, m: u64) -> u64 {
    let sum = x + y;
    if sum >= m { sum - m } else { sum }
}

/// A keyed hash of a half to `[0, m)`: 32 mixed bits, scaled (no modulo, no division).
#[inline]
fn round(half: u64, key: u64, m: u64) -> u64 {
    let mut z = (half ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    ((z >> 32) * m) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_a_permutation_with_an_inverse(n in 1u64..3000, key: [u64; 2]) {
            let bijection = Bijection::new(n, key);
            let mut seen = vec![false; n as usize];
            for x in 0..n {
                let y = bijection.forward(x);
                prop_assert!(y < n && !std::mem::replace(&mut seen[y as usize], true));
                prop_assert_eq!(bijection.inverse(y), x);
            }
        }

        #[test]
        fn inverts_on_large_domains(n in 1u64..=1 << 62, x: u64, key: [u64; 2]) {
            let bijection = Bijection::new(n, key);
            let x = x % n;
            let y = bijection.forward(x);
            prop_assert!(y < n);
            prop_assert_eq!(bijection.inverse(y), x);
        }
    }

    #[test]
    fn all_orders_of_three_are_about_equally_likely() {
        let mut counts = std::collections::HashMap::new();
        let trials = 60_000u64;
        for seed in 0..trials {
            let bijection = Bijection::new(3, crate::key::derive(seed, crate::key::Purpose::Packs, 0, 0, 0));
            *counts.entry([0, 1, 2].map(|x| bijection.forward(x))).or_insert(0u64) += 1;
        }
        assert_eq!(counts.len(), 6, "{counts:?}");
        // 4 rows in a 2 × 2 network cannot give exactly a sixth each; within a factor of two is enough to train.
        assert!(
            counts.values().all(|&c| c > trials / 12 && c < trials / 3),
            "{counts:?}"
        );
    }

    #[test]
    fn spreads_neighbours() {
        let n = 16_384;
        let bijection = Bijection::new(n, [1, 2]);
        let images: Vec<u64> = (0..n).map(|x| bijection.forward(x)).collect();
        let moved: f64 = images
            .iter()
            .zip(0..)
            .map(|(&y, x)| (y as f64 - x as f64).abs())
            .sum::<f64>()
            / n as f64;
        let step: f64 = images
            .windows(2)
            .map(|w| (w[0] as f64 - w[1] as f64).abs())
            .sum::<f64>()
            / (n - 1) as f64;
        // A random permutation moves a row, and separates neighbours, by n/3 on average (deviation about 0.4 %).
        for mean in [moved, step] {
            assert!((mean / (n as f64 / 3.0) - 1.0).abs() < 0.03, "{moved} {step}");
        }
    }
}
