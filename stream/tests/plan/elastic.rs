//! The same global batches for every world size, after every restart, from every direction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use corpusmill_stream::{Lengths, Passes, Piece, Plan, Start, State, Until};
use proptest::prelude::*;

use super::*;

/// What the ranks of a world get in a step, one after the other.
fn by_ranks(plan: &Plan, step: u64, world: u32) -> Vec<Vec<Piece>> {
    let rank = |rank| plan.rank_slice(step, rank, world).unwrap().unwrap();
    (0..world)
        .flat_map(|r| rank(r).packs().map(<[Piece]>::to_vec).collect::<Vec<_>>())
        .collect()
}

fn packs(plan: &StepPlan) -> Vec<Vec<Piece>> {
    plan.packs().map(<[Piece]>::to_vec).collect()
}

#[test]
fn every_world_size_sees_the_same_global_batches() {
    let (spec, lengths) = three_sources();
    let plan = plan(&spec, &lengths);
    for step in [0, 1, 7, 23] {
        let whole = packs(&plan.step(step).unwrap().unwrap());
        assert_eq!(whole.len(), 48);
        for world in [1, 2, 3, 4, 6, 8, 12, 16, 24, 48] {
            assert_eq!(by_ranks(&plan, step, world), whole, "step {step}, world {world}");
        }
    }
}

#[test]
fn a_job_goes_on_with_another_world_size() {
    let (spec, lengths) = three_sources();
    let reference: Vec<_> = steps(&plan(&spec, &lengths), 0..60).iter().map(packs).collect();
    let mut delivered = Vec::new();
    let mut state: Option<String> = None;
    for (world, until) in [(8, 23), (3, 41), (16, 60)] {
        // A new process each time: nothing but the JSON of the state goes over, and each rank has its own plan.
        let ranks: Vec<Plan> = (0..world).map(|_| plan(&spec, &lengths)).collect();
        let from = state.as_deref().map_or(0, |text| {
            let state = State::from_json(text).unwrap();
            ranks.iter().map(|plan| plan.resume(&state).unwrap()).max().unwrap()
        });
        for step in from..until {
            let rank = |(r, plan): (u32, &Plan)| plan.rank_slice(step, r, world).unwrap().unwrap();
            delivered.push(
                (0..)
                    .zip(&ranks)
                    .flat_map(|rank_plan| packs(&rank(rank_plan)))
                    .collect::<Vec<_>>(),
            );
        }
        let states: Vec<String> = ranks.iter().map(|plan| plan.state(until).unwrap().to_json()).collect();
        assert!(states.iter().all(|s| *s == states[0]), "ranks differ: {states:?}");
        state = Some(states[0].clone());
    }
    assert_eq!(delivered, reference);
}

#[test]
fn a_state_is_small_even_late_in_a_job() {
    let (mut spec, lengths) = three_sources();
    for step in 1..=8 {
        spec.weights
            .push(change(Start::Step(step), &[("web", 1.0), ("code", step as f64)]));
    }
    let mut state = plan(&spec, &lengths).state(40).unwrap();
    assert_eq!(state.changes.len(), 8);
    // As far as a job may ever get: a billion steps, ten million groups.
    state.step = 1_000_000_000;
    state.group = 10_000_000;
    state.pack = 60_000;
    state.log = 10_000;
    assert!(
        state.to_json().len() < 300,
        "{} bytes: {}",
        state.to_json().len(),
        state.to_json()
    );
    assert_eq!(State::from_json(&state.to_json()).unwrap(), state);
}

/// Lengths that count how many were asked for.
struct Counted(Vec<Vec<u32>>, AtomicU64);

impl Lengths for Counted {
    fn length(&self, source: usize, row: u64) -> u32 {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0[source][row as usize]
    }
}

#[test]
fn resuming_computes_a_group_and_a_kept_index_saves_counting() {
    let (spec, lengths) = three_sources();
    let far = plan(&spec, &lengths);
    let (expected, state) = (far.step(60).unwrap().unwrap(), far.state(60).unwrap());
    let index = far.index_to_bytes();
    let fresh = || {
        let counted = Arc::new(Counted(lengths.clone(), AtomicU64::new(0)));
        (
            Plan::new(spec.clone(), Arc::clone(&counted) as Arc<dyn Lengths>).unwrap(),
            counted,
        )
    };
    let few = 3 * u64::from(spec.group_turns);

    let (resumed, counted) = fresh();
    assert_eq!(resumed.resume(&state).unwrap(), 60);
    assert_eq!(resumed.step(60).unwrap().unwrap(), expected);
    assert!(
        counted.1.load(Ordering::Relaxed) <= few,
        "a resume must not count from the start"
    );
    // Going back before the state counts from the start, and says the same.
    assert_eq!(resumed.step(5).unwrap(), far.step(5).unwrap());
    assert_eq!(resumed.step(61).unwrap(), far.step(61).unwrap());

    let (indexed, counted) = fresh();
    assert!(indexed.load_index(&index).unwrap());
    assert_eq!(indexed.step(60).unwrap().unwrap(), expected);
    assert!(counted.1.load(Ordering::Relaxed) <= few, "a kept index must be used");

    let (cold, counted) = fresh();
    assert_eq!(cold.step(60).unwrap().unwrap(), expected);
    assert!(
        counted.1.load(Ordering::Relaxed) > few,
        "without either, groups are counted"
    );
    assert!(
        !cold.load_index(&plan(&spec, &lengths).index_to_bytes()).unwrap(),
        "an index that knows less is no use"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_step_in_any_order_and_after_any_resume_is_the_same(
        seed: u64,
        batch in 1u32..40,
        group_turns in prop::sample::select(vec![7u32, 64, 500, 2048]),
        shape in prop::sample::select(vec![packed(600), packed(90), Shape::Fixed { max_length: Some(70) }]),
        long in prop::sample::select(vec![LongDocuments::Split, LongDocuments::Truncate, LongDocuments::Drop]),
        finite: bool,
        wanted in prop::collection::vec(0u64..120, 6),
        at_step in 1u64..60,
    ) {
        let (mut spec, lengths) = three_sources();
        spec.seed = seed;
        spec.global_batch = batch;
        spec.group_turns = group_turns;
        spec.shape = match shape {
            Shape::Packed { sequence_length, .. } => Shape::Packed { sequence_length, long },
            fixed @ Shape::Fixed { .. } => fixed,
        };
        if finite {
            spec.passes = Passes::Epochs { count: 1, until: Until::All };
        }
        spec.weights.push(change(Start::Step(at_step), &[("web", 0.2), ("math", 0.8)]));
        let forward = plan(&spec, &lengths);
        let reference: Vec<_> = (0..120).map(|step| forward.step(step).unwrap()).collect();
        let jumping = plan(&spec, &lengths);
        for &step in &wanted {
            prop_assert_eq!(&jumping.step(step).unwrap(), &reference[step as usize], "step {}", step);
            let state = State::from_json(&forward.state(step).unwrap().to_json()).unwrap();
            prop_assert_eq!(&jumping.state(step).unwrap(), &state);
            let resumed = plan(&spec, &lengths);
            prop_assert_eq!(resumed.resume(&state).unwrap(), step);
            for next in step..(step + 3).min(120) {
                prop_assert_eq!(&resumed.step(next).unwrap(), &reference[next as usize], "step {} after {}", next, step);
            }
        }
        if finite {
            let steps = forward.steps().unwrap().unwrap();
            prop_assert!(steps == 0 || forward.step(steps - 1).unwrap().is_some());
            prop_assert_eq!(forward.step(steps).unwrap(), None);
            let end = plan(&spec, &lengths);
            prop_assert_eq!(end.resume(&forward.state(steps).unwrap()).unwrap(), steps);
            prop_assert_eq!(end.step(steps).unwrap(), None);
        }
    }
}
