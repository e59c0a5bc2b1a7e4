//! Changes that reach a running job: they move nothing that was entered, and the same on every rank.

use std::collections::BTreeSet;

use corpusmill_stream::{Change, Entry, Error, Log, MaskReason, Passes, Piece, State};
use proptest::prelude::*;

use super::*;

fn takedown(source: &str, slots: Vec<u64>) -> Change {
    Change::mask(source, slots, MaskReason::TakenDown)
}

fn reweighed(pairs: &[(&str, f64)]) -> Change {
    Change::Weights {
        weights: weights(pairs),
    }
}

fn without_masks(steps: &[StepPlan]) -> Vec<Piece> {
    steps
        .iter()
        .flat_map(|s| &s.pieces)
        .map(|p| Piece { masked: false, ..*p })
        .collect()
}

#[test]
fn a_takedown_masks_later_groups_and_moves_nothing() {
    let (spec, lengths) = three_sources();
    let before = steps(&plan(&spec, &lengths), 0..50);
    let rows: Vec<u64> = before[45..]
        .iter()
        .flat_map(|s| &s.pieces)
        .filter(|p| p.source == 0)
        .step_by(3)
        .map(|p| p.slot)
        .collect();
    let dead: BTreeSet<u64> = rows.iter().copied().collect();

    let running = plan(&spec, &lengths);
    for step in 0..10 {
        running.enter(step).unwrap();
    }
    let entered = running.groups_of(9).unwrap().end;
    let group = running.append(takedown("web", rows), 0).unwrap();
    assert_eq!(group, entered, "the first group that nobody has entered");
    let after = steps(&running, 0..50);

    assert_eq!(after[..10], before[..10], "delivered steps stay as they are");
    assert_eq!(
        without_masks(&after),
        without_masks(&before),
        "every row keeps its place"
    );
    let first = (0..)
        .find(|&step| running.groups_of(step).unwrap().start >= group)
        .unwrap() as usize;
    for step in &after[first..] {
        for piece in &step.pieces {
            assert_eq!(piece.masked, piece.source == 0 && dead.contains(&piece.slot));
        }
        assert_eq!(
            step.counts.masked,
            step.pieces.iter().filter(|p| p.masked).count() as u64
        );
    }
    assert!(after[45..].iter().all(|s| s.counts.masked > 0));
    for world in [2, 16] {
        let ranks: Vec<Piece> = (0..world)
            .flat_map(|r| running.rank_slice(48, r, world).unwrap().unwrap().pieces)
            .collect();
        assert_eq!(ranks, after[48].pieces);
    }
}

#[test]
fn new_weights_move_nothing_before_their_group() {
    let (spec, lengths) = three_sources();
    let before = steps(&plan(&spec, &lengths), 0..60);
    let running = plan(&spec, &lengths);
    // Far ahead: what was counted beyond the change must be counted again.
    running.step(59).unwrap();
    for step in 0..12 {
        running.enter(step).unwrap();
    }
    let group = running
        .append(
            Change::Weights {
                weights: weights(&[("math", 1.0)]),
            },
            0,
        )
        .unwrap();
    let first = (0..)
        .find(|&step| running.groups_of(step).unwrap().start >= group)
        .unwrap() as usize;
    let after = steps(&running, 0..60);
    assert!(first > 12 && first < 30, "{first}");
    assert_eq!(after[..first - 1], before[..first - 1]);
    assert!(after[first..].iter().all(|s| s.pieces.iter().all(|p| p.source == 2)));

    // Another rank that reads plan and log, and one that resumes in the middle, say the same.
    let log = Log::clone(&running.log());
    let other = plan(&spec, &lengths);
    other.set_log(log.clone()).unwrap();
    assert_eq!(steps(&other, 0..60), after);
    let state = State::from_json(&running.state(40).unwrap().to_json()).unwrap();
    assert_eq!(state.log, 1);
    let resumed = plan(&spec, &lengths);
    let error = resumed.resume(&state).unwrap_err().to_string();
    assert!(error.contains("1 entries") && error.contains("only 0"), "{error}");
    resumed.set_log(log).unwrap();
    resumed.resume(&state).unwrap();
    assert_eq!(steps(&resumed, 40..60), after[40..]);

    // An index that was kept under other weights is not used; one of these weights is.
    assert!(!resumed.load_index(&plan(&spec, &lengths).index_to_bytes()).unwrap());
    let third = plan(&spec, &lengths);
    third.set_log(Log::clone(&running.log())).unwrap();
    assert!(third.load_index(&running.index_to_bytes()).unwrap());
    assert_eq!(steps(&third, 0..60), after);
}

#[test]
fn an_entry_that_raced_with_another_rank_waits_for_the_next_group() {
    let (spec, lengths) = three_sources();
    let before = steps(&plan(&spec, &lengths), 0..40);
    let group = plan(&spec, &lengths).groups_of(20).unwrap().start;
    let one = plan(&spec, &lengths);
    one.append(
        Change::Weights {
            weights: weights(&[("code", 1.0)]),
        },
        group,
    )
    .unwrap();
    assert_ne!(steps(&one, 0..40), before);
    // The other rank entered two groups more before it saw the entry: the length that it fixed counts for all.
    let mut log = Log::clone(&one.log());
    log.enter(group + 2, 0).unwrap();
    assert_eq!(log.effective(0), group + 3);
    let two = plan(&spec, &lengths);
    two.set_log(log.clone()).unwrap();
    one.set_log(log).unwrap();
    assert_eq!(steps(&one, 0..40), steps(&two, 0..40));
    let moved = (0..40)
        .find(|&step| one.groups_of(step).unwrap().end > group + 3)
        .unwrap() as usize;
    assert_eq!(steps(&one, 0..40)[..moved], before[..moved]);
}

#[test]
fn logs_of_others_and_unknown_rows_are_refused() {
    let (spec, lengths) = three_sources();
    let plan = plan(&spec, &lengths);
    let error = plan.append(takedown("wep", vec![1]), 0).unwrap_err().to_string();
    assert!(error.contains("'wep'") && error.contains("web, code, math"), "{error}");
    let error = plan.append(takedown("math", vec![1, 500]), 0).unwrap_err().to_string();
    assert!(error.contains("slot 500") && error.contains("500 slots"), "{error}");
    assert!(
        plan.append(
            Change::Weights {
                weights: weights(&[("web", -1.0)])
            },
            0
        )
        .is_err()
    );
    assert!(
        plan.append(
            Change::Weights {
                weights: weights(&[("web", 0.0)])
            },
            0
        )
        .is_err()
    );
    assert!(plan.log().entries().is_empty(), "a refused change leaves no trace");
    let (mut once, rows) = (spec.clone(), lengths.clone());
    (once.passes, once.order) = (Passes::Once, corpusmill_stream::OrderSpec::Sequential);
    once.weights.clear();
    let once = super::plan(&once, &rows);
    let error = once.append(reweighed(&[("web", 1.0)]), 0).unwrap_err().to_string();
    assert!(error.contains("no weights"), "{error}");

    plan.append(takedown("math", vec![1]), 0).unwrap();
    assert!(matches!(plan.set_log(Log::new("another")), Err(Error::Log { .. })));
    let error = plan.set_log(Log::new(plan.hash())).unwrap_err().to_string();
    assert!(error.contains("only ever appended"), "{error}");
}

#[test]
fn steps_within_groups_are_those_that_need_no_other() {
    let (mut spec, lengths) = three_sources();
    spec.passes = Passes::Epochs {
        count: 1,
        until: corpusmill_stream::Until::All,
    };
    for shape in [spec.shape, corpusmill_stream::Shape::Fixed { max_length: None }] {
        spec.shape = shape;
        let plan = plan(&spec, &lengths);
        let steps = plan.steps().unwrap().unwrap();
        let lasts: Vec<u64> = (0..steps)
            .map(|step| plan.groups_of(step).unwrap().last().unwrap())
            .collect();
        for groups in 0..lasts[lasts.len() - 1] + 4 {
            let expected = lasts.iter().filter(|last| **last < groups).count() as u64;
            assert_eq!(
                plan.steps_within(groups).unwrap(),
                expected,
                "{shape:?}, {groups} groups"
            );
        }
        let late = super::plan(&spec, &lengths);
        late.resume(&plan.state(steps / 2).unwrap()).unwrap();
        assert_eq!(late.steps_within(2).unwrap(), plan.steps_within(2).unwrap());
    }
}

/// What the ranks of a run share: the entries, and the groups that were entered with how many of them.
#[derive(Default)]
struct Shared {
    entries: Vec<Entry>,
    entered: Vec<(u64, u64)>,
}

impl Shared {
    /// What the rank that knows `log` learns of it.
    fn read(&self, log: &Log) -> Log {
        let mut log = log.clone();
        for entry in &self.entries[log.entries().len()..] {
            log.push(entry.clone());
        }
        for (group, length) in &self.entered {
            log.enter(*group, *length).unwrap();
        }
        log
    }

    /// Enters a step for a rank: the first one fixes what holds.
    fn enter(&mut self, plan: &Plan, step: u64) {
        plan.set_log(self.read(&plan.log())).unwrap();
        let last = plan.groups_of(step).unwrap().last().unwrap();
        if plan.log().entered().is_none_or(|entered| entered < last) {
            self.entered.push((last, self.entries.len() as u64));
            plan.set_log(self.read(&plan.log())).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_replay_of_the_log_gives_what_was_delivered(
        seed: u64,
        batch in prop::sample::select(vec![12u32, 24, 48]),
        group_turns in prop::sample::select(vec![64u32, 500, 2048]),
        is_packed: bool,
        changes in prop::collection::vec((0u64..60, 0u64..500, 0u32..3), 1..8),
        turns in prop::collection::vec(0usize..3, 150..180),
        resume in 1u64..39,
    ) {
        const STEPS: u64 = 40;
        let (mut spec, lengths) = three_sources();
        (spec.seed, spec.global_batch, spec.group_turns) = (seed, batch, group_turns);
        if !is_packed {
            spec.shape = corpusmill_stream::Shape::Fixed { max_length: Some(64) };
        }
        // Three ranks at paces of their own, and changes that come at any moment.
        let mut shared = Shared::default();
        let ranks: Vec<Plan> = (0..3).map(|_| plan(&spec, &lengths)).collect();
        let mut delivered: Vec<Vec<StepPlan>> = vec![Vec::new(); 3];
        let turns = turns.into_iter().chain([0, 1, 2].into_iter().cycle());
        for (moment, rank) in (0u64..).zip(turns) {
            for (_, slot, kind) in changes.iter().filter(|(at, ..)| *at == moment) {
                let change = match kind {
                    0 => takedown("web", (0..10_003).filter(|s| s % 7 == slot % 7).collect()),
                    1 => takedown("math", vec![*slot]),
                    _ => reweighed(&[("web", 1.0 + *slot as f64), ("code", 3.0), ("math", 40.0)]),
                };
                shared.entries.push(Entry { group: 0, change });
            }
            let step = delivered[rank].len() as u64;
            if step < STEPS {
                shared.enter(&ranks[rank], step);
                delivered[rank].push(ranks[rank].step(step).unwrap().unwrap());
            } else if delivered.iter().all(|d| d.len() as u64 == STEPS) {
                break;
            }
        }
        prop_assert_eq!(&delivered[0], &delivered[1]);
        prop_assert_eq!(&delivered[0], &delivered[2]);

        let replay = plan(&spec, &lengths);
        replay.set_log(shared.read(&replay.log())).unwrap();
        for step in (0..STEPS).rev() {
            let whole = replay.step(step).unwrap().unwrap();
            prop_assert_eq!(&whole, &delivered[0][step as usize], "step {}", step);
            for world in [2, 6, 12] {
                let shares: Vec<Piece> = (0..world)
                    .flat_map(|r| replay.rank_slice(step, r, world).unwrap().unwrap().pieces)
                    .collect();
                prop_assert_eq!(&shares, &whole.pieces, "step {} of {} ranks", step, world);
            }
        }
        let state = State::from_json(&replay.state(resume).unwrap().to_json()).unwrap();
        let resumed = plan(&spec, &lengths);
        resumed.set_log(shared.read(&resumed.log())).unwrap();
        prop_assert_eq!(resumed.resume(&state).unwrap(), resume);
        for step in resume..STEPS {
            prop_assert_eq!(&resumed.step(step).unwrap().unwrap(), &delivered[0][step as usize], "step {}", step);
        }
    }
}
