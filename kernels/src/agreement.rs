//! How much raters agree beyond chance, over items that each have some votes in named categories.

use std::collections::BTreeMap;

/// Counts from which the coefficients follow. Sums are of integers, so the order of the items changes nothing.
///
/// Items with fewer than two votes say nothing about agreement and are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agreement {
    items: u64,
    /// Votes by category.
    categories: BTreeMap<String, u64>,
    /// Ordered pairs of equal votes on one item, by the number of its votes.
    agreeing: BTreeMap<u64, u128>,
}

impl Agreement {
    /// Adds an item with its votes by category.
    pub fn add<'a>(&mut self, votes: impl IntoIterator<Item = (&'a str, u64)>) {
        let votes: Vec<(&str, u64)> = votes.into_iter().collect();
        let size: u64 = votes.iter().map(|(_, count)| count).sum();
        if size < 2 {
            return;
        }
        self.items += 1;
        for (category, count) in votes {
            *self.categories.entry(category.to_owned()).or_default() += count;
            *self.agreeing.entry(size).or_default() += u128::from(count) * u128::from(count.saturating_sub(1));
        }
    }

    /// Fleiss' kappa: `(P - Pe) / (1 - Pe)`, with `P` the mean share of agreeing pairs of an item and `Pe` the sum of
    /// the squared shares of the categories (Fleiss 1971). Items may have different numbers of votes.
    ///
    /// `None` when no item has two votes, or when all votes are of one category: chance explains everything then.
    #[must_use]
    pub fn fleiss_kappa(&self) -> Option<f64> {
        let votes = self.votes();
        let expected: f64 = self.categories.values().map(|n| (*n as f64 / votes).powi(2)).sum();
        let pairs = |size: u64| size as f64 * (size - 1) as f64;
        let observed: f64 = self.agreeing.iter().map(|(size, n)| *n as f64 / pairs(*size)).sum();
        self.is_defined()
            .then(|| (observed / self.items as f64 - expected) / (1.0 - expected))
    }

    /// Krippendorff's alpha for nominal data: `1 - Do / De`, the disagreement that was seen over that of votes dealt at
    /// random (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C). Missing votes are fine.
    ///
    /// `None` as for [`Agreement::fleiss_kappa`].
    #[must_use]
    pub fn krippendorff_alpha(&self) -> Option<f64> {
        let votes = self.votes();
        let agreeing: f64 = self
            .agreeing
            .iter()
            .map(|(size, n)| *n as f64 / (size - 1) as f64)
            .sum();
        let seen = votes - agreeing;
        let squares: u128 = self.categories.values().map(|n| u128::from(*n) * u128::from(*n)).sum();
        let dealt = (votes * votes - squares as f64) / (votes - 1.0);
        self.is_defined().then(|| 1.0 - seen / dealt)
    }

    fn votes(&self) -> f64 {
        self.categories.values().sum::<u64>() as f64
    }

    fn is_defined(&self) -> bool {
        self.categories.values().filter(|n| **n > 0).count() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(items: &[&[u64]]) -> Agreement {
        let names = ["a", "b", "c", "d", "e"];
        let mut agreement = Agreement::default();
        for item in items {
            agreement.add(names.iter().copied().zip(item.iter().copied()));
        }
        agreement
    }

    #[test]
    fn the_worked_examples_of_their_authors() {
        // Fourteen raters, ten subjects, five categories: kappa 0.210.
        let subjects: [&[u64]; 10] = [
            &[0, 0, 0, 0, 14],
            &[0, 2, 6, 4, 2],
            &[0, 0, 3, 5, 6],
            &[0, 3, 9, 2, 0],
            &[2, 2, 8, 1, 1],
            &[7, 7, 0, 0, 0],
            &[3, 2, 6, 3, 0],
            &[2, 5, 3, 2, 2],
            &[6, 5, 2, 1, 0],
            &[0, 2, 2, 3, 7],
        ];
        assert!((of(&subjects).fleiss_kappa().unwrap() - 0.210).abs() < 5e-4);
        // Four observers, twelve units, missing values: alpha 0.743 (nominal).
        let units: [&[u64]; 12] = [
            &[3, 0, 0, 0, 0],
            &[0, 3, 1, 0, 0],
            &[0, 0, 4, 0, 0],
            &[0, 0, 4, 0, 0],
            &[0, 4, 0, 0, 0],
            &[1, 1, 1, 1, 0],
            &[0, 0, 0, 4, 0],
            &[3, 1, 0, 0, 0],
            &[0, 4, 0, 0, 0],
            &[0, 0, 0, 0, 3],
            &[2, 0, 0, 0, 0],
            &[0, 0, 1, 0, 0],
        ];
        assert!((of(&units).krippendorff_alpha().unwrap() - 0.743).abs() < 5e-4);
    }

    #[test]
    fn what_chance_explains_is_not_defined() {
        for items in [&[][..], &[&[1, 0][..]], &[&[3, 0], &[2, 0]]] {
            let agreement = of(items);
            assert_eq!((agreement.fleiss_kappa(), agreement.krippendorff_alpha()), (None, None));
        }
        let full = of(&[&[3, 0], &[0, 3]]);
        assert_eq!((full.fleiss_kappa(), full.krippendorff_alpha()), (Some(1.0), Some(1.0)));
    }

    proptest! {
        #[test]
        fn the_order_of_items_changes_no_bit(items in prop::collection::vec(prop::collection::vec(0u64..6, 5), 2..30)) {
            let forwards: Vec<&[u64]> = items.iter().map(Vec::as_slice).collect();
            let backwards: Vec<&[u64]> = forwards.iter().rev().copied().collect();
            let (one, other) = (of(&forwards), of(&backwards));
            prop_assert_eq!(&one, &other);
            prop_assert!(one.fleiss_kappa().is_none_or(|k| k <= 1.0 + 1e-12));
            prop_assert!(one.krippendorff_alpha().is_none_or(|a| a <= 1.0 + 1e-12));
        }
    }
}
