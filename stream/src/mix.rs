//! Mixing: turn → (stratum, k-th draw of it), in closed form.
//!
//! Between two changes of weights lie *segments*, cut into *periods* of 65,536 turns. In a period stratum x owns
//! exactly `quota[x]` turns (largest remainder; a positive weight owns at least one), spread evenly: its j-th turn
//! stands at (j + phase) / quota[x] of the period, with a keyed phase, and the turns of all strata are merged in
//! that order. So the number of draws of each stratum before any turn is a sum of products plus a count inside one
//! period, draws are neither repeated nor skipped, and after r turns of a period a stratum of share s has had s·r
//! draws, within 1 + s·(number of strata).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::{Arc, Mutex, PoisonError};

use crate::key::{self, Purpose};
use crate::spec::Until;

/// Turns in a period.
const PERIOD: u64 = 1 << 16;
/// Turns between two stored counts of a period.
const CHECKPOINT: usize = 2048;
/// Strata that a plan may have: each owns a turn of a period or more, and few enough that this is fair.
pub(crate) const STRATA_MAX: usize = 4096;
/// Periods that are kept: a group may straddle two, a resolver looks at others.
const PERIODS_KEPT: usize = 4;

/// Weights per stratum from a turn on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Weights {
    pub(crate) from: u64,
    pub(crate) strata: Vec<f64>,
}

/// Draws that end a plan.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Draws of each stratum.
    pub(crate) draws: Vec<u64>,
    pub(crate) until: Until,
}

/// Which stratum is drawn from at which turn.
#[derive(Debug)]
pub(crate) enum Arrangement {
    /// Strata are mixed by weight.
    Mixed(Mix),
    /// Stratum after stratum; holds the turn at which each one ends.
    Chained(Vec<u64>),
}

impl Arrangement {
    /// The turn at which the plan ends; `None` if it does not.
    pub(crate) fn end(&self) -> Option<u64> {
        match self {
            Self::Mixed(mix) => mix.end,
            Self::Chained(ends) => Some(ends.last().copied().unwrap_or(0)),
        }
    }

    /// Draws of each stratum before `turn`, which is at most the end.
    pub(crate) fn counts(&self, turn: u64) -> Vec<u64> {
        match self {
            Self::Mixed(mix) => mix.counts(turn),
            Self::Chained(ends) => {
                let mut start = 0;
                let count = |&end: &u64| {
                    let count = end.min(turn).saturating_sub(start);
                    start = end;
                    count
                };
                ends.iter().map(count).collect()
            }
        }
    }

    /// Appends the strata of turns `from .. to`, which lie before the end.
    pub(crate) fn strata(&self, from: u64, to: u64, out: &mut Vec<u16>) {
        match self {
            Self::Mixed(mix) => mix.strata(from, to, out),
            Self::Chained(ends) => {
                let mut turn = from;
                while turn < to {
                    let stratum = ends.partition_point(|&end| end <= turn);
                    let until = ends[stratum].min(to);
                    out.resize(out.len() + (until - turn) as usize, stratum as u16);
                    turn = until;
                }
            }
        }
    }
}

/// A mix of strata by weights that change.
#[derive(Debug)]
pub(crate) struct Mix {
    seed: u64,
    names: Vec<u64>,
    segments: Vec<Segment>,
    end: Option<u64>,
    periods: Mutex<Vec<Arc<Period>>>,
}

#[derive(Debug)]
struct Segment {
    start: u64,
    /// Turns of each stratum in a period; they add up to [`PERIOD`].
    quota: Vec<u32>,
    /// Draws of each stratum before `start`.
    before: Vec<u64>,
}

/// The turns of one period, merged.
#[derive(Debug)]
struct Period {
    segment_start: u64,
    number: u64,
    strata: Vec<u16>,
    /// Draws of each stratum before every [`CHECKPOINT`]-th turn.
    counts: Vec<Vec<u32>>,
}

impl Mix {
    /// Resolves `changes` (ascending by turn, the first at 0, each with a weight above 0) into segments.
    /// `names` are the keys of the strata.
    pub(crate) fn new(seed: u64, names: Vec<u64>, changes: &[Weights], limits: Option<&Limits>) -> Self {
        let mut mix = Self {
            seed,
            names,
            segments: Vec::new(),
            end: None,
            periods: Mutex::default(),
        };
        let mut before = vec![0u64; mix.names.len()];
        let (mut start, mut change) = (0, 0);
        loop {
            let open = |x: usize| limits.is_none_or(|l| before[x] < l.draws[x]);
            let weights: Vec<f64> = changes[change]
                .strata
                .iter()
                .enumerate()
                .map(|(x, &w)| if open(x) { w } else { 0.0 })
                .collect();
            let next = changes.get(change + 1).map(|c| c.from.max(start));
            if weights.iter().all(|&w| w <= 0.0) {
                // Nothing is left under these weights: the next ones hold at once, or the plan is through.
                if next.is_none() {
                    mix.end = Some(start);
                    break;
                }
                change += 1;
                continue;
            }
            if next == Some(start) {
                change += 1;
                continue;
            }
            let segment = Segment {
                start,
                quota: quotas(&weights),
                before: before.clone(),
            };
            let exhausted = limits.map(|l| mix.exhausted(&segment, &l.draws));
            mix.segments.push(segment);
            let end = match (next, exhausted) {
                (Some(next), Some(exhausted)) => next.min(exhausted),
                (Some(end), None) | (None, Some(end)) => end,
                (None, None) => break,
            };
            before = mix.counts(end);
            start = end;
            if exhausted == Some(end) && limits.is_some_and(|l| l.until == Until::First) {
                mix.end = Some(end);
                break;
            }
        }
        mix
    }

    /// The turn after which the first stratum of `segment` has reached its limit.
    fn exhausted(&self, segment: &Segment, limits: &[u64]) -> u64 {
        // A stratum's last draw is in period `(left - 1) / quota`: only the earliest such period is laid out.
        let left = |x: usize| limits[x] - segment.before[x];
        let active = || (0..segment.quota.len()).filter(|&x| segment.quota[x] > 0);
        let period_of = |x: usize| (left(x) - 1) / u64::from(segment.quota[x]);
        let number = active()
            .map(period_of)
            .min()
            .expect("a segment has a stratum with a weight");
        let mut last: Vec<Option<u64>> = vec![None; segment.quota.len()];
        for x in active().filter(|&x| period_of(x) == number) {
            last[x] = Some((left(x) - 1) % u64::from(segment.quota[x]));
        }
        let period = self.period(segment, number);
        for (offset, &x) in period.strata.iter().enumerate() {
            match &mut last[usize::from(x)] {
                Some(0) => return segment.start + number * PERIOD + offset as u64 + 1,
                Some(to_come) => *to_come -= 1,
                None => {}
            }
        }
        unreachable!("a period holds all turns of its quota, and the limit lies among them")
    }

    fn counts(&self, turn: u64) -> Vec<u64> {
        let Some(segment) = self.segment(turn.saturating_sub(1)) else {
            return vec![0; self.names.len()];
        };
        let (number, offset) = ((turn - segment.start) / PERIOD, (turn - segment.start) % PERIOD);
        let mut counts = segment.before.clone();
        for (count, &quota) in counts.iter_mut().zip(&segment.quota) {
            *count += number * u64::from(quota);
        }
        if offset > 0 {
            let period = self.period(segment, number);
            let (checkpoint, rest) = (offset as usize / CHECKPOINT, offset as usize % CHECKPOINT);
            for (count, &more) in counts.iter_mut().zip(&period.counts[checkpoint]) {
                *count += u64::from(more);
            }
            for &x in &period.strata[offset as usize - rest..offset as usize] {
                counts[usize::from(x)] += 1;
            }
        }
        counts
    }

    fn strata(&self, from: u64, to: u64, out: &mut Vec<u16>) {
        let mut turn = from;
        while turn < to {
            let at = self.segments.partition_point(|s| s.start <= turn) - 1;
            let segment = &self.segments[at];
            let end = self.segments.get(at + 1).map_or(to, |next| next.start.min(to));
            let (number, offset) = ((turn - segment.start) / PERIOD, (turn - segment.start) % PERIOD);
            let take = (PERIOD - offset).min(end - turn);
            let period = self.period(segment, number);
            out.extend_from_slice(&period.strata[offset as usize..(offset + take) as usize]);
            turn += take;
        }
    }

    fn segment(&self, turn: u64) -> Option<&Segment> {
        self.segments[..self.segments.partition_point(|s| s.start <= turn)].last()
    }

    fn period(&self, segment: &Segment, number: u64) -> Arc<Period> {
        let mut kept = self.periods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept
            .iter()
            .position(|p| p.segment_start == segment.start && p.number == number)
        {
            return Arc::clone(&kept[at]);
        }
        let period = Arc::new(self.lay_out(segment, number));
        if kept.len() == PERIODS_KEPT {
            kept.remove(0);
        }
        kept.push(Arc::clone(&period));
        period
    }

    fn lay_out(&self, segment: &Segment, number: u64) -> Period {
        let quota = &segment.quota;
        let mut strata = Vec::with_capacity(PERIOD as usize);
        if let Some(only) = quota.iter().position(|&q| u64::from(q) == PERIOD) {
            strata.resize(PERIOD as usize, only as u16);
        } else {
            // Places are fixed-point numbers with 48 bits after the point; a step is rounded down, so that the last
            // place of a stratum stays below 1 and no place is lost. Ties go to the first stratum.
            let mut places = BinaryHeap::with_capacity(quota.len());
            for (x, &q) in quota.iter().enumerate().filter(|(_, q)| **q > 0) {
                let step = (1u64 << 48) / u64::from(q);
                let phase = key::derive(self.seed, Purpose::Phase, self.names[x], segment.start, number)[0];
                let place = ((u128::from(phase) * u128::from(step)) >> 64) as u64;
                places.push(Reverse((place, x as u16, step, q)));
            }
            while let Some(mut next) = places.peek_mut() {
                let Reverse((place, x, step, left)) = &mut *next;
                strata.push(*x);
                *place += *step;
                *left -= 1;
                if *left == 0 {
                    PeekMut::pop(next);
                }
            }
        }
        let mut counts = Vec::with_capacity(PERIOD as usize / CHECKPOINT);
        let mut count = vec![0u32; quota.len()];
        for run in strata.chunks(CHECKPOINT) {
            counts.push(count.clone());
            for &x in run {
                count[usize::from(x)] += 1;
            }
        }
        Period {
            segment_start: segment.start,
            number,
            strata,
            counts,
        }
    }
}

/// Shares [`PERIOD`] turns by weight: largest remainder, ties to the first, at least one for a positive weight.
fn quotas(weights: &[f64]) -> Vec<u32> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|w| w / sum * PERIOD as f64).collect();
    let mut quota: Vec<u32> = exact
        .iter()
        .map(|&e| if e > 0.0 { (e.floor() as u32).max(1) } else { 0 })
        .collect();
    let mut by_remainder: Vec<usize> = (0..quota.len()).filter(|&x| exact[x] > 0.0).collect();
    by_remainder.sort_by(|&x, &y| (exact[y] - f64::from(quota[y])).total_cmp(&(exact[x] - f64::from(quota[x]))));
    let total: u32 = quota.iter().sum();
    let period = PERIOD as u32;
    for x in by_remainder.iter().cycle().take(period.saturating_sub(total) as usize) {
        quota[*x] += 1;
    }
    // Strata that were lifted to one turn take theirs from the largest ones.
    for _ in period..total {
        if let Some(largest) = quota.iter_mut().rev().max_by_key(|q| **q) {
            *largest -= 1;
        }
    }
    quota
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mix(changes: &[Weights], limits: Option<&Limits>) -> Mix {
        let names = (0..changes[0].strata.len() as u64).collect();
        Mix::new(7, names, changes, limits)
    }

    fn all(mix: &Mix, from: u64, to: u64) -> Vec<u16> {
        let mut out = Vec::new();
        mix.strata(from, to, &mut out);
        out
    }

    fn histogram(strata: &[u16], n: usize) -> Vec<u64> {
        let mut counts = vec![0; n];
        strata.iter().for_each(|&x| counts[usize::from(x)] += 1);
        counts
    }

    fn weights() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(prop_oneof![Just(0.0), 1e-6..1.0f64], 4)
            .prop_filter("a weight above 0", |w| w.iter().any(|&w| w > 0.0))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn prefix_counts_are_exact_across_changes(
            first in weights(), second in weights(), third in weights(),
            at in 1u64..140_000, gap in 1u64..59_000, probes in prop::collection::vec(0u64..200_000, 8),
        ) {
            let changes = [(0, first), (at, second), (at + gap, third)].map(|(from, strata)| Weights { from, strata });
            let mix = mix(&changes, None);
            let turns = all(&mix, 0, 200_000);
            for &t in probes.iter().chain(&[0, 1, at - 1, at, at + 1, at + gap, 65_536, 199_999]) {
                prop_assert_eq!(mix.counts(t), histogram(&turns[..t as usize], 4), "before turn {}", t);
                let to = (t + 3000).min(200_000);
                prop_assert_eq!(all(&mix, t, to), &turns[t as usize..to as usize]);
            }
        }

        #[test]
        fn shares_stay_close_at_every_turn(weights in weights()) {
            let mix = mix(&[Weights { from: 0, strata: weights.clone() }], None);
            let shares: Vec<f64> = quotas(&weights).iter().map(|&q| f64::from(q) / PERIOD as f64).collect();
            let mut counts = [0u64; 4];
            for (t, x) in all(&mix, 0, 70_000).into_iter().enumerate() {
                counts[usize::from(x)] += 1;
                for (&share, &count) in shares.iter().zip(&counts) {
                    // Turns of the period in course: an ended one is exact.
                    let off = (count as f64 - share * (t + 1) as f64).abs();
                    prop_assert!(off <= 1.0 + 4.0 * share + 1e-6, "{} after {}, share {}", count, t, share);
                }
            }
            let sum: f64 = weights.iter().sum();
            for (weight, share) in weights.iter().zip(shares) {
                // Off by one turn of a period; the largest by one more for each stratum that was lifted to one.
                prop_assert!((weight / sum - share).abs() * PERIOD as f64 <= 4.0);
                prop_assert_eq!(*weight > 0.0, share > 0.0);
            }
        }

        #[test]
        fn limits_are_reached_exactly(weights in weights(), draws in prop::collection::vec(1u64..90_000, 4)) {
            let changes = [Weights { from: 0, strata: weights.clone() }];
            let expected: Vec<u64> = (0..4).map(|x| if weights[x] > 0.0 { draws[x] } else { 0 }).collect();
            let limits = Limits { draws: draws.clone(), until: Until::All };
            let through = mix(&changes, Some(&limits));
            let end = through.end.unwrap();
            prop_assert_eq!(end, expected.iter().sum::<u64>());
            prop_assert_eq!(through.counts(end), &expected[..]);
            prop_assert_eq!(histogram(&all(&through, 0, end), 4), &expected[..]);

            let short = mix(&changes, Some(&Limits { until: Until::First, ..limits }));
            let end = short.end.unwrap();
            let counts = short.counts(end);
            prop_assert_eq!((0..4).filter(|&x| weights[x] > 0.0 && counts[x] == draws[x]).count(), 1);
            prop_assert!((0..4).all(|x| counts[x] <= draws[x]));
            prop_assert_eq!(all(&short, 0, end), all(&through, 0, end), "the same until one is through");
        }
    }

    #[test]
    fn a_change_moves_nothing_before_it() {
        let first = Weights {
            from: 0,
            strata: vec![0.9, 0.1],
        };
        let second = Weights {
            from: 70_001,
            strata: vec![0.5, 0.5],
        };
        let limits = Limits {
            draws: vec![80_000, 20_000],
            until: Until::All,
        };
        for limits in [None, Some(&limits)] {
            let (a, b) = (
                mix(std::slice::from_ref(&first), limits),
                mix(&[first.clone(), second.clone()], limits),
            );
            assert_eq!(all(&a, 0, 70_001), all(&b, 0, 70_001));
            assert_ne!(all(&a, 70_001, 75_000), all(&b, 70_001, 75_000));
        }
    }

    #[test]
    fn a_tiny_weight_is_drawn() {
        let quota = quotas(&[1.0, 1e-9, 0.0]);
        assert_eq!(quota, [65_535, 1, 0]);
        assert_eq!(quotas(&[1.0; 3]).iter().sum::<u32>(), 65_536);
        let many = quotas(&[&[1e9][..], &[1.0; STRATA_MAX - 1]].concat());
        assert_eq!(many.iter().map(|&q| u64::from(q)).sum::<u64>(), PERIOD);
        assert!(many[1..].iter().all(|&q| q == 1));
    }

    #[test]
    fn neighbours_alternate() {
        let mix = mix(
            &[Weights {
                from: 0,
                strata: vec![0.5, 0.5],
            }],
            None,
        );
        let turns = all(&mix, 0, 1000);
        assert!(
            turns.windows(3).all(|w| w[0] != w[1] || w[1] != w[2]),
            "equal weights never run three in a row"
        );
    }

    #[test]
    fn chained_strata_follow_each_other() {
        let chain = Arrangement::Chained(vec![3, 3, 5]);
        let mut out = Vec::new();
        chain.strata(1, 5, &mut out);
        assert_eq!(out, [0, 0, 2, 2]);
        assert_eq!(chain.counts(4), [3, 0, 1]);
        assert_eq!(chain.end(), Some(5));
    }
}
