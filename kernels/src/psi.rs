//! Population stability index.

/// Measures how far the distribution `actual` has moved from `expected`, both given as counts per bucket.
///
/// `PSI = Σ (aᵢ - eᵢ) · ln(aᵢ / eᵢ)` over the shares of the buckets (Lewis 1994; it is the symmetric
/// Kullback–Leibler divergence in nats). Below 0.1 is usually read as stable, above 0.2 as a shift.
///
/// So that an empty bucket gives a large number and not infinity, half a count is added to every bucket of both
/// sides (Jeffreys' prior): `share = (count + 0.5) / (total + 0.5 · buckets)`. A bucket that only one side has counts
/// as empty on the other: when the slices differ in length, the shorter one is read as if it went on with zeros.
/// Returns NaN when a side has no rows at all, because nothing can be said then, and 0 when there is no bucket.
#[must_use]
pub fn psi(expected: &[u64], actual: &[u64]) -> f64 {
    let buckets = expected.len().max(actual.len());
    if buckets == 0 {
        return 0.0;
    }
    let total = |counts: &[u64]| counts.iter().map(|c| u128::from(*c)).sum::<u128>();
    let (expected_total, actual_total) = (total(expected), total(actual));
    if expected_total == 0 || actual_total == 0 {
        return f64::NAN;
    }
    let share = |counts: &[u64], total: u128, i: usize| {
        let count = counts.get(i).copied().unwrap_or(0);
        (count as f64 + 0.5) / (total as f64 + 0.5 * buckets as f64)
    };
    (0..buckets)
        .map(|i| {
            let (e, a) = (share(expected, expected_total, i), share(actual, actual_total, i));
            (a - e) * (a / e).ln()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_known_value() {
        // shares (50.5, 50.5)/101 and (90.5, 10.5)/101: 40/101 · (ln(90.5/50.5) - ln(10.5/50.5))
        let by_hand = 40.0 / 101.0 * ((90.5f64 / 50.5).ln() - (10.5f64 / 50.5).ln());
        assert!((psi(&[50, 50], &[90, 10]) - by_hand).abs() < 1e-12);
    }

    #[test]
    fn edges_are_defined() {
        assert_eq!(psi(&[], &[]), 0.0);
        assert!(psi(&[0, 0], &[1, 2]).is_nan());
        assert!(psi(&[1], &[]).is_nan());
        assert_eq!(psi(&[5, 0], &[7, 3]), psi(&[5], &[7, 3]));
        assert!(psi(&[1000], &[0, 1000]).is_finite());
    }

    proptest! {
        #[test]
        fn is_symmetric_not_negative_and_zero_for_the_same(pairs in prop::collection::vec((0u64..1_000_000, 0u64..1_000_000), 1..20)) {
            let (mut e, mut a): (Vec<u64>, Vec<u64>) = pairs.into_iter().unzip();
            e[0] += 1;
            a[0] += 1;
            let there = psi(&e, &a);
            prop_assert!(there >= 0.0);
            prop_assert!((there - psi(&a, &e)).abs() <= 1e-9 * there.max(1.0));
            prop_assert_eq!(psi(&e, &e), 0.0);
        }
    }
}
