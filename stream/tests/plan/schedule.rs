//! Weights that change at a step or a turn.

use corpusmill_stream::{Passes, State, Until};

use super::*;

fn shares(step: &StepPlan) -> [f64; 3] {
    let count = |source| step.pieces.iter().filter(|p| p.source == source).count() as f64;
    [0, 1, 2].map(|source| count(source) / step.pieces.len() as f64)
}

#[test]
fn a_change_at_a_step_is_exact_for_samples() {
    let (mut spec, lengths) = three_sources();
    spec.shape = Shape::Fixed { max_length: None };
    spec.weights = vec![
        change(Start::Step(0), &[("web", 0.5), ("code", 0.5)]),
        change(Start::Step(10), &[("math", 1.0)]),
    ];
    let plan = plan(&spec, &lengths);
    for step in 0..10 {
        let [web, code, math] = shares(&plan.step(step).unwrap().unwrap());
        assert!((web - code).abs() < 0.05 && math == 0.0, "step {step}");
    }
    assert_eq!(shares(&plan.step(10).unwrap().unwrap()), [0.0, 0.0, 1.0]);
}

#[test]
fn a_change_at_a_step_waits_for_a_group_of_packs() {
    let (mut spec, lengths) = three_sources();
    spec.weights = vec![
        change(Start::Step(0), &[("web", 0.5), ("code", 0.5)]),
        change(Start::Step(10), &[("math", 1.0)]),
        change(Start::Step(13), &[("code", 1.0)]),
    ];
    let plan = plan(&spec, &lengths);
    let kinds: Vec<[bool; 3]> = steps(&plan, 0..30)
        .iter()
        .map(|s| shares(s).map(|share| share > 0.0))
        .collect();
    assert!(
        kinds[..10].iter().all(|k| *k == [true, true, false]),
        "nothing changes before step 10: {kinds:?}"
    );
    // A group has some 75 packs and a step 48, so the change comes in step 10 or 11.
    assert!(kinds[10][2] || kinds[11][2], "{kinds:?}");
    assert!(kinds[17..].iter().all(|k| *k == [false, true, false]), "{kinds:?}");
    for step in [9, 11, 12, 14, 15, 29] {
        let resumed = super::plan(&spec, &lengths);
        resumed
            .resume(&State::from_json(&plan.state(step).unwrap().to_json()).unwrap())
            .unwrap();
        assert_eq!(
            steps(&resumed, step..30),
            steps(&plan, step..30),
            "resumed at step {step}"
        );
    }
}

#[test]
fn more_changes_than_a_state_carries_are_counted_again() {
    let (mut spec, lengths) = three_sources();
    spec.weights = (0..20)
        .map(|i| change(Start::Step(2 * i), &[("web", 1.0), ("code", i as f64)]))
        .collect();
    let plan = plan(&spec, &lengths);
    let state = plan.state(39).unwrap();
    assert!(state.changes.is_empty() && state.to_json().len() < 300);
    let resumed = super::plan(&spec, &lengths);
    resumed.resume(&state).unwrap();
    assert_eq!(steps(&resumed, 39..50), steps(&plan, 39..50));
}

#[test]
fn a_later_change_feeds_a_finite_plan_at_once_when_the_first_weights_run_dry() {
    let (mut spec, lengths) = three_sources();
    spec.passes = Passes::Epochs {
        count: 1,
        until: Until::All,
    };
    spec.weights = vec![
        change(Start::Turn(0), &[("math", 1.0)]),
        change(Start::Step(1_000_000), &[("code", 1.0)]),
    ];
    let plan = plan(&spec, &lengths);
    let documents: u64 = all_steps(&plan).iter().map(|s| s.counts.documents).sum();
    assert_eq!(documents, 500 + 4_001);
}

#[test]
fn without_weights_sources_are_mixed_by_their_rows() {
    let (mut spec, lengths) = three_sources();
    spec.weights.clear();
    spec.passes = Passes::Epochs {
        count: 1,
        until: Until::All,
    };
    let steps = all_steps(&plan(&spec, &lengths));
    for step in &steps[..steps.len() - 3] {
        let [web, code, math] = shares(step);
        assert!(
            (web - 0.69).abs() < 0.12 && (code - 0.276).abs() < 0.12 && math < 0.1,
            "{web} {code} {math}"
        );
    }
    assert_eq!(
        steps.iter().map(|s| s.counts.documents).sum::<u64>(),
        10_003 + 4_001 + 500
    );
}
