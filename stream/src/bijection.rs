//! A keyed bijection of `[0, n)` with its inverse: how rows, blocks and packs are shuffled.
//!
//! Large domains take no array: a generalised Feistel network on `a × b ≥ n` (Black and Rogaway, *Ciphers with
//! Arbitrary Finite Domains*, 2002, section 5) with `a = ⌈√n⌉` and `b = ⌈n / a⌉`, so that fewer than `a` values lie
//! outside of the domain and walking the cycle back into it takes 1 + O(1/√n) evaluations on average. On small ones
//! such a network prefers some orders (by a fifth, on 16 values and with six rounds); they are shuffled as a table
//! (Durstenfeld 1964).

const ROUNDS: usize = 6;
/// Domains up to this size are tables.
const TABLE_MAX: u64 = 1024;

/// A keyed bijection of `[0, n)`, for `n` up to 2^62.
#[derive(Debug, Clone)]
pub struct Bijection(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Table(Vec<u16>),
    Network(Network),
}

#[derive(Debug, Clone)]
struct Network {
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
        let mut words = words(key);
        if n > TABLE_MAX {
            let root = n.isqrt();
            let a = root + u64::from(root * root < n);
            let b = n.div_ceil(a);
            let mut keys = [0; ROUNDS];
            keys.iter_mut().for_each(|key| *key = words());
            return Self(Kind::Network(Network {
                n,
                a,
                b,
                reciprocal: u64::MAX / b,
                keys,
            }));
        }
        let mut table: Vec<u16> = (0..n as u16).collect();
        for last in (1..n).rev() {
            let pick = ((words() >> 32) * (last + 1)) >> 32;
            table.swap(last as usize, pick as usize);
        }
        Self(Kind::Table(table))
    }

    /// Maps `x` in `[0, n)` to its image in `[0, n)`.
    ///
    /// # Panics
    /// If `x` lies outside, on small domains; on large ones it need not.
    #[must_use]
    #[inline]
    pub fn forward(&self, x: u64) -> u64 {
        match &self.0 {
            Kind::Table(table) => u64::from(table[x as usize]),
            Kind::Network(network) => network.forward(x),
        }
    }

    /// Maps an image in `[0, n)` back: `inverse(forward(x)) == x`.
    ///
    /// # Panics
    /// If `y` lies outside, on small domains; on large ones it need not.
    #[must_use]
    pub fn inverse(&self, y: u64) -> u64 {
        match &self.0 {
            Kind::Table(table) => {
                let place = table.iter().position(|&image| u64::from(image) == y);
                place.expect("a permutation has every value of its domain") as u64
            }
            Kind::Network(network) => network.inverse(y),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014) turns the two words of a key into as many as are needed.
fn words(key: [u64; 2]) -> impl FnMut() -> u64 {
    let mut state = key[0];
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state ^ key[1];
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Network {
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

    #[inline]
    fn forward(&self, x: u64) -> u64 {
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

    fn inverse(&self, y: u64) -> u64 {
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
    fn neighbours_go_to_every_pair_of_places_alike() {
        // Few blocks are the worst case: a plan of 5,000 rows permutes five.
        let trials = 20_000u64;
        for n in [2, 3, 5, 7, 16, 20] {
            let mut counts = std::collections::HashMap::new();
            for seed in 0..trials {
                let bijection = Bijection::new(n, crate::key::derive(seed, crate::key::Purpose::Blocks, n, 0, 0));
                for x in 0..n - 1 {
                    *counts
                        .entry((x, bijection.forward(x), bijection.forward(x + 1)))
                        .or_insert(0u64) += 1;
                }
            }
            assert_eq!(counts.len() as u64, (n - 1) * n * (n - 1), "n = {n}");
            // Chi squared over the pairs of each x: its mean is the degrees of freedom, its variance twice that.
            let freedom = (n * (n - 1) - 1) as f64;
            let expected = trials as f64 / (n * (n - 1)) as f64;
            for x in 0..n - 1 {
                let cells = counts.iter().filter(|((at, _, _), _)| *at == x);
                let chi: f64 = cells.map(|(_, &c)| (c as f64 - expected).powi(2) / expected).sum();
                let deviations = (chi - freedom) / (2.0 * freedom).sqrt();
                assert!(deviations.abs() < 4.5, "n = {n}, x = {x}: {deviations} deviations off");
            }
        }
    }

    #[test]
    fn a_network_sends_a_value_everywhere_alike() {
        let (n, trials) = (1025, 200_000u64);
        let mut counts = vec![0u64; n as usize * 2];
        for seed in 0..trials {
            let bijection = Bijection::new(n, crate::key::derive(seed, crate::key::Purpose::Window, 0, 0, 0));
            let (x, y) = (bijection.forward(7), bijection.forward(8));
            counts[x as usize] += 1;
            counts[(n + (y + n - x) % n) as usize] += 1;
        }
        // Places of one value, and distances of two neighbours (never 0).
        let expected = trials as f64 / n as f64;
        for (cell, &count) in counts.iter().enumerate().filter(|(cell, _)| *cell != n as usize) {
            assert!(
                (count as f64 - expected).abs() < 5.5 * expected.sqrt(),
                "{cell}: {count} of {expected}"
            );
        }
        assert_eq!(counts[n as usize], 0);
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
