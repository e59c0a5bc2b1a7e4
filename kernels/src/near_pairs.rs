//! Which members of a bucket are worth comparing: nearly all similar pairs, at a cost that grows with the members.

use crate::minhash::alike;
use crate::union_find::UnionFind;

/// Buckets up to this size are compared pair by pair.
const SMALL: usize = 8;
/// Leaders that a member is compared with, the latest ones.
const LEADERS_MAX: usize = 1024;
/// Members remembered behind a leader.
const FOLLOWERS_MAX: usize = 16;
/// Groups of leaders that one member is paired with.
const GROUPS_MAX: usize = 8;
/// Leaders that one member is paired with which is surely similar to none.
const NEAREST_MAX: usize = 12;
/// Standard deviation of an estimate near the threshold.
const ERROR: f64 = 0.053;
/// Standard deviations that an estimate may be too low by.
const MARGIN: f64 = 3.0;

/// Finds pairs of members whose similarity may reach `threshold`, from their sketches, as positions `(smaller, larger)`.
///
/// A small bucket gives all pairs whose estimate is within three standard deviations of the threshold. In a large one,
/// such as a flood of 100,000 messages that differ in their tails, members come one after the other: one that is surely
/// similar to an earlier *leader* follows it and is paired with it (and a follower, in case the estimate was wrong);
/// any other becomes a leader itself and is paired with the nearest ones. Leaders that are similar to each other are one
/// group, and a follower is paired with the first and the nearest leader of each group that it may be similar to, so
/// that no link between groups is lost. Where only followers of a leader may be similar (by the triangle inequality of
/// the Jaccard distance), they are looked at. The first `settled` members were compared with each other at an earlier
/// time: pairs of two of them are left out. The cost is at most that of [`LEADERS_MAX`] estimates a member, a nanosecond or two each; in a bucket of
/// more leaders than that, which are all unlike each other, the oldest are forgotten.
pub fn near_pairs(sketches: &[u128], settled: usize, threshold: f64, mut pair: impl FnMut(usize, usize)) {
    let maybe = threshold - MARGIN * ERROR;
    if sketches.len() <= SMALL {
        for (b, sketch) in sketches.iter().enumerate().skip(settled) {
            for (a, earlier) in sketches[..b].iter().enumerate() {
                if alike(*earlier, *sketch) >= maybe {
                    pair(a, b);
                }
            }
        }
        return;
    }
    let mut bucket = Bucket::new(sketches, threshold);
    for member in 0..settled {
        bucket.add(member, &mut |_, _| {});
    }
    for member in settled..sketches.len() {
        bucket.add(member, &mut pair);
    }
}

struct Leader {
    member: usize,
    followers: Vec<usize>,
}

struct Bucket<'a> {
    sketches: &'a [u128],
    /// An estimate from which two are compared.
    maybe: f64,
    /// An estimate from which two are expected to be found similar.
    likely: f64,
    /// An estimate from which they are sure enough to be.
    surely: f64,
    /// An estimate to a leader from which its followers may be similar.
    beside: f64,
    leaders: Vec<Leader>,
    /// Leaders before this one are forgotten.
    oldest: usize,
    groups: UnionFind,
    /// Leaders that the member in hand may be similar to, with the estimates, and those whose followers may be.
    near: Vec<(f64, usize)>,
    beside_of: Vec<usize>,
}

impl<'a> Bucket<'a> {
    fn new(sketches: &'a [u128], threshold: f64) -> Self {
        let maybe = threshold - MARGIN * ERROR;
        Self {
            sketches,
            maybe,
            likely: threshold,
            surely: (threshold + 1.5 * ERROR).min(1.0),
            beside: maybe - (1.0 - threshold),
            leaders: Vec::new(),
            oldest: 0,
            groups: UnionFind::new(0),
            near: Vec::new(),
            beside_of: Vec::new(),
        }
    }

    fn add(&mut self, member: usize, pair: &mut impl FnMut(usize, usize)) {
        let sketch = self.sketches[member];
        self.near.clear();
        self.beside_of.clear();
        let mut follows: Option<usize> = None;
        for (number, leader) in self.leaders.iter().enumerate().skip(self.oldest) {
            let estimate = alike(self.sketches[leader.member], sketch);
            if estimate < self.beside {
                continue;
            }
            if estimate >= self.maybe {
                self.near.push((estimate, number));
            }
            if estimate < self.surely {
                self.beside_of.push(number);
            } else if follows.is_none() {
                follows = Some(number);
            }
        }
        self.near
            .sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        match follows {
            Some(number) => {
                self.pair_with_groups(member, pair);
                self.pair_with_followers(member, pair);
                self.follow(number, member, pair);
            }
            None => {
                for (_, number) in self.near.iter().take(NEAREST_MAX) {
                    pair(self.leaders[*number].member, member);
                }
                self.pair_with_followers(member, pair);
                self.lead(member);
            }
        }
    }

    /// Pairs a member with the first and the nearest leader of each group.
    fn pair_with_groups(&mut self, member: usize, pair: &mut impl FnMut(usize, usize)) {
        let mut seen: Vec<u32> = Vec::new();
        for at in 0..self.near.len() {
            let number = self.near[at].1;
            // Positions are below 2³², as everything that is numbered by a union-find.
            let group = self.groups.find(number as u32);
            if seen.contains(&group) || seen.len() == GROUPS_MAX {
                continue;
            }
            seen.push(group);
            let of_group = self.near.iter().map(|(_, other)| *other);
            let first = of_group.filter(|other| self.groups.find(*other as u32) == group).min();
            pair(self.leaders[number].member, member);
            if let Some(first) = first.filter(|first| *first != number) {
                pair(self.leaders[first].member, member);
            }
        }
    }

    /// Pairs a member with followers of leaders whose group it does not surely belong to.
    fn pair_with_followers(&mut self, member: usize, pair: &mut impl FnMut(usize, usize)) {
        let sketch = self.sketches[member];
        let sure = self.near.iter().take_while(|(estimate, _)| *estimate >= self.surely);
        let sure: Vec<u32> = sure.map(|(_, number)| self.groups.find(*number as u32)).collect();
        let mut found: Vec<(f64, usize)> = Vec::new();
        for number in &self.beside_of {
            let followers = &self.leaders[*number].followers;
            if followers.is_empty() || sure.contains(&self.groups.find(*number as u32)) {
                continue;
            }
            let best = followers
                .iter()
                .map(|other| (alike(self.sketches[*other], sketch), *other))
                .filter(|(estimate, _)| *estimate >= self.maybe)
                .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            found.extend(best);
        }
        found.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, other) in found.iter().take(GROUPS_MAX) {
            pair(*other, member);
        }
    }

    fn follow(&mut self, number: usize, member: usize, pair: &mut impl FnMut(usize, usize)) {
        let followers = &mut self.leaders[number].followers;
        if let Some(other) = followers.first() {
            pair(*other, member);
        }
        if followers.len() < FOLLOWERS_MAX {
            followers.push(member);
        }
    }

    fn lead(&mut self, member: usize) {
        let sketch = self.sketches[member];
        let own = self.groups.push();
        for number in self.oldest..self.leaders.len() {
            if alike(self.sketches[self.leaders[number].member], sketch) >= self.likely {
                self.groups.union(number as u32, own);
            }
        }
        self.leaders.push(Leader {
            member,
            followers: Vec::new(),
        });
        self.oldest = self.leaders.len().saturating_sub(LEADERS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::minhash::MinHash;
    use crate::shingles::jaccard;
    use crate::union_find::components;
    use xxhash_rust::xxh3::xxh3_64;

    /// Sets that share `base` items of a template, and `own` of a sub-group; each has `tail` items of its own.
    fn member(template: u64, base: u64, group: u64, own: u64, tail: std::ops::Range<u64>) -> Vec<u64> {
        let hash =
            |kind: u64, of: u64, i: u64| xxh3_64(&[kind.to_le_bytes(), of.to_le_bytes(), i.to_le_bytes()].concat());
        let mut set: Vec<u64> = (0..base)
            .map(|i| hash(0, template, i))
            .chain((0..own).map(|i| hash(1, group, i)))
            .chain(tail.map(|i| hash(2, 0, i)))
            .collect();
        set.sort_unstable();
        set
    }

    /// Checks one bucket: all pairs that brute force finds are connected by verified pairs, at a linear cost.
    fn check(sets: &[Vec<u64>], pairs_a_member: usize) {
        let family = MinHash::default();
        let sketches: Vec<u128> = sets.iter().map(|set| family.sketch_of(set)).collect();
        let mut found = BTreeSet::new();
        let mut emitted = 0;
        near_pairs(&sketches, 0, 0.8, |a, b| {
            assert!(a < b);
            emitted += 1;
            found.insert((a, b));
        });
        assert!(
            emitted <= pairs_a_member * sets.len(),
            "{emitted} pairs of {} members",
            sets.len()
        );
        let alike = |a: usize, b: usize| jaccard(&sets[a], &sets[b]) >= 0.8;
        let verified: Vec<(u32, u32)> = found
            .iter()
            .filter(|(a, b)| alike(*a, *b))
            .map(|(a, b)| (*a as u32, *b as u32))
            .collect();
        let component = components(&verified, sets.len());
        let (mut pairs, mut missed) = (0, 0);
        for b in 0..sets.len() {
            for a in 0..b {
                if alike(a, b) {
                    pairs += 1;
                    missed += usize::from(component[a] != component[b]);
                }
            }
        }
        assert!(missed * 500 <= pairs, "{missed} of {pairs} missed");
    }

    /// Members that come later find those of an earlier time, and each other; the earlier ones are not paired again.
    #[test]
    fn settled_members_are_found_and_not_compared_again() {
        let sets: Vec<_> = (0..900u64)
            .map(|i| member(1, 40, i % 150, 12, i * 4..i * 4 + 4))
            .collect();
        let family = MinHash::default();
        for (all, settled) in [(900, 600), (900, 899), (6, 3)] {
            let sketches: Vec<u128> = sets[..all].iter().map(|set| family.sketch_of(set)).collect();
            let mut found = Vec::new();
            near_pairs(&sketches, settled, 0.8, |a, b| found.push((a, b)));
            assert!(found.iter().all(|(a, b)| a < b && *b >= settled));
            let alike = |a: usize, b: usize| jaccard(&sets[a], &sets[b]) >= 0.8;
            for b in settled..all {
                let wanted = (0..settled).any(|a| alike(a, b));
                let met = found.iter().any(|(x, y)| *y == b && *x < settled && alike(*x, b));
                assert_eq!(met, wanted, "{b} of {all}, {settled} settled");
            }
        }
    }

    #[test]
    fn a_flood_is_one_group_at_a_few_pairs_a_member() {
        let sets: Vec<_> = (0..1500).map(|i| member(1, 60, 0, 0, i * 4..i * 4 + 4)).collect();
        check(&sets, 8);
    }

    #[test]
    fn a_flood_at_the_threshold_holds_together() {
        // Each has 54 of 66 in common with any other: 0.818.
        let sets: Vec<_> = (0..1000).map(|i| member(1, 54, 0, 0, i * 6..i * 6 + 6)).collect();
        check(&sets, 18);
    }

    #[test]
    fn groups_in_a_crowd_that_shares_a_template_are_found() {
        // 200 groups of 5; strangers are alike at about 0.55, members of a group at 0.86.
        let sets: Vec<_> = (0..1000u64)
            .map(|i| member(1, 40, i % 200, 12, i * 4..i * 4 + 4))
            .collect();
        check(&sets, 18);
    }

    #[test]
    fn a_chain_is_not_cut() {
        // Neighbours share 56 of 64: each is like the next ones only.
        let sets: Vec<_> = (0..600u64).map(|i| member(1, 0, 0, 0, i * 4..i * 4 + 60)).collect();
        check(&sets, 18);
    }
}
