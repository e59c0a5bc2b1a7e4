//! When which weights hold: the specification's schedule and the log's entries, resolved to turns.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::log::{Change, Log};
use crate::mix::{Arrangement, Limits, Mix, Weights};
use crate::spec::{Passes, PlanSpec, Shape, Start};
use crate::strata::Stratum;

/// Stands for a turn that is not known yet, behind every turn that can be reached.
const FAR: u64 = 1 << 60;

/// Arranges the strata. `changes` are the groups that the specification's changes at steps were resolved to so far.
pub(crate) fn arrange(spec: &PlanSpec, strata: &[Stratum], log: &Log, changes: &[u64]) -> Result<Arrangement> {
    if spec.passes == Passes::Once {
        let mut end = 0;
        let ends = strata.iter().map(|s| {
            end += s.rows();
            end
        });
        return Ok(Arrangement::Chained(ends.collect()));
    }
    let turns = u64::from(spec.group_turns);
    let mut schedule: Vec<Weights> = Vec::new();
    if spec.weights.is_empty() {
        let natural = spec.sources.iter().map(|s| (s.name.clone(), s.rows() as f64)).collect();
        schedule.push(Weights {
            from: 0,
            strata: by_stratum(spec, strata, &natural),
        });
    }
    let mut resolved = changes.iter();
    for change in &spec.weights {
        let from = match change.from {
            Start::Turn(turn) => turn,
            at if is_at_step(at, spec.shape) => resolved.next().map_or(FAR, |group| group.saturating_mul(turns)),
            Start::Step(step) => step.saturating_mul(u64::from(spec.global_batch)),
        };
        schedule.push(Weights {
            from: from.min(FAR),
            strata: by_stratum(spec, strata, &change.weights),
        });
    }
    for (group, weights) in logged_weights(log) {
        schedule.push(Weights {
            from: group.saturating_mul(turns).min(FAR),
            strata: by_stratum(spec, strata, weights),
        });
    }
    // The later of two changes at one turn holds; the log is later than the specification.
    schedule.sort_by_key(|w| w.from);
    let limits = match spec.passes {
        Passes::Epochs { count, until } => Some(Limits {
            draws: draws(strata, count)?,
            until,
        }),
        Passes::Infinite | Passes::Once => None,
    };
    let names = strata.iter().map(|s| s.name).collect();
    Ok(Arrangement::Mixed(Mix::new(
        spec.seed,
        names,
        &schedule,
        limits.as_ref(),
    )))
}

/// Whether a change of weights is at a step that only the group index can place.
fn is_at_step(start: Start, shape: Shape) -> bool {
    matches!((start, shape), (Start::Step(1..), Shape::Packed { .. }))
}

/// The steps of the specification's changes that only the group index can place.
pub(crate) fn changes_at_steps(spec: &PlanSpec) -> impl Iterator<Item = u64> + '_ {
    spec.weights.iter().filter_map(|change| match change.from {
        Start::Step(step) if is_at_step(change.from, spec.shape) => Some(step),
        _ => None,
    })
}

/// The log's weights, with the groups from which on they hold.
pub(crate) fn logged_weights(log: &Log) -> Vec<(u64, &BTreeMap<String, f64>)> {
    let weights = log
        .entries()
        .iter()
        .enumerate()
        .filter_map(|(i, entry)| match &entry.change {
            Change::Weights { weights } => Some((log.effective(i), weights)),
            Change::Mask { .. } => None,
        });
    weights.collect()
}

/// The first group whose weights can differ between two logs; `None` if there is none.
pub(crate) fn first_difference(old: &Log, new: &Log) -> Option<u64> {
    let (old, new) = (logged_weights(old), logged_weights(new));
    // In order: the same weights may be asked for again after others.
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    old[same..].iter().chain(&new[same..]).map(|(group, _)| *group).min()
}

fn by_stratum(spec: &PlanSpec, strata: &[Stratum], weights: &BTreeMap<String, f64>) -> Vec<f64> {
    let weight = |s: &Stratum| {
        weights
            .get(&spec.sources[s.source as usize].name)
            .copied()
            .unwrap_or(0.0)
            * s.share
    };
    strata.iter().map(weight).collect()
}

fn draws(strata: &[Stratum], count: u32) -> Result<Vec<u64>> {
    let draws: Vec<u64> = strata
        .iter()
        .map(|s| s.rows().saturating_mul(u64::from(count)))
        .collect();
    if draws.iter().fold(0u64, |sum, &d| sum.saturating_add(d)) < FAR {
        return Ok(draws);
    }
    Err(Error::spec(
        "passes.count",
        format!("{count} epochs are more than 2^60 draws: take fewer"),
    ))
}
