//! Changes that reach a running job: they move nothing that was entered, and the same on every rank.

use std::collections::BTreeSet;

use corpusmill_stream::{Change, Error, Log, MaskReason, Piece, State};

use super::*;

fn takedown(source: &str, slots: Vec<u64>) -> Change {
    Change::Mask {
        source: source.into(),
        slots,
        reason: MaskReason::TakenDown,
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

    let mut running = plan(&spec, &lengths);
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
    let mut running = plan(&spec, &lengths);
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

    // Another rank that reads plan and log from the disk, and one that resumes in the middle, say the same.
    let log = Log::from_json(&running.log().to_json()).unwrap();
    let mut other = plan(&spec, &lengths);
    other.set_log(log.clone()).unwrap();
    assert_eq!(steps(&other, 0..60), after);
    let state = State::from_json(&running.state(40).unwrap().to_json()).unwrap();
    assert_eq!(state.log, 1);
    let mut resumed = plan(&spec, &lengths);
    let error = resumed.resume(&state).unwrap_err().to_string();
    assert!(error.contains("1 entries") && error.contains("only 0"), "{error}");
    resumed.set_log(log).unwrap();
    resumed.resume(&state).unwrap();
    assert_eq!(steps(&resumed, 40..60), after[40..]);

    // An index that was kept under other weights is not used; one of these weights is.
    assert!(!resumed.load_index(&plan(&spec, &lengths).index_to_bytes()).unwrap());
    let mut third = plan(&spec, &lengths);
    third.set_log(running.log().clone()).unwrap();
    assert!(third.load_index(&running.index_to_bytes()).unwrap());
    assert_eq!(steps(&third, 0..60), after);
}

#[test]
fn an_entry_that_raced_with_another_rank_waits_for_the_next_group() {
    let (spec, lengths) = three_sources();
    let before = steps(&plan(&spec, &lengths), 0..40);
    let group = plan(&spec, &lengths).groups_of(20).unwrap().start;
    let mut one = plan(&spec, &lengths);
    one.append(
        Change::Weights {
            weights: weights(&[("code", 1.0)]),
        },
        group,
    )
    .unwrap();
    assert_ne!(steps(&one, 0..40), before);
    // The other rank entered two groups more before it saw the entry: the length that it fixed counts for all.
    let mut log = one.log().clone();
    log.enter(group + 2, 0).unwrap();
    assert_eq!(log.effective(0), group + 3);
    let mut two = plan(&spec, &lengths);
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
    let mut plan = plan(&spec, &lengths);
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

    plan.append(takedown("math", vec![1]), 0).unwrap();
    assert!(matches!(plan.set_log(Log::new("another")), Err(Error::Log { .. })));
    let error = plan.set_log(Log::new(plan.hash())).unwrap_err().to_string();
    assert!(error.contains("only ever appended"), "{error}");
}
