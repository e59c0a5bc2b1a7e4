use std::collections::BTreeMap;

use corpusmill_corpus::Warehouse;
use corpusmill_stream::{
    Change, LongDocuments, MaskReason, OrderSpec, PlanSpec, Shape, SourceSpec, Start, StepPlan, WeightChange,
};
use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;

const STEPS: u64 = 40;

/// One process of a run.
struct Rank {
    order: Order,
    live: Live,
    threads: Arc<ReadThreads>,
}

fn weights(a: f64, b: f64) -> BTreeMap<String, f64> {
    BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)])
}

impl Rank {
    fn new(warehouse: &Warehouse, run: &str) -> Self {
        let sources = vec![SourceSpec::new("a", "a", 0, 3000), SourceSpec::new("b", "b", 0, 400)];
        let long = LongDocuments::Split;
        let shape = Shape::Packed {
            sequence_length: 512,
            long,
        };
        let mut spec = PlanSpec::new(sources, 7, 12, shape);
        spec.group_turns = 100;
        spec.order = OrderSpec::Shuffled {
            block_rows: 64,
            window_blocks: 8,
        };
        spec.weights = vec![WeightChange {
            from: Start::Turn(0),
            weights: weights(0.8, 0.2),
        }];
        let lengths: Vec<Vec<u32>> = vec![
            (0..3000).map(|row| 20 + row % 211).collect(),
            (0..400).map(|row| 5 + row % 97).collect(),
        ];
        let order = Order::new(spec, Arc::new(lengths)).unwrap();
        let threads = Arc::new(ReadThreads::new(1).unwrap());
        let folder = PlanFolder::of(warehouse, order.hash());
        let live = Live::new(run.to_owned(), folder, Options::default(), threads.clone());
        live.refresh(&order).unwrap();
        Self { order, live, threads }
    }

    fn append(&self, change: Change) -> u64 {
        self.threads
            .block_on(self.live.folder.append(change, "a test"))
            .unwrap()
    }

    fn delivered(&self, step: u64) -> StepPlan {
        self.live.enter(&self.order, step).unwrap();
        self.order.step(step).unwrap().unwrap()
    }
}

fn warehouse() -> Warehouse {
    Warehouse::over(Arc::new(InMemory::new()), Path::from("w"))
}

fn change(number: u64) -> Change {
    match number % 3 {
        0 => Change::mask(
            "a",
            (0..3000).filter(|slot| slot % 5 == number % 5),
            MaskReason::TakenDown,
        ),
        1 => Change::mask("b", number * 7..number * 7 + 64, MaskReason::Corrupt),
        _ => Change::Weights {
            weights: weights(1.0, 1.0 + number as f64),
        },
    }
}

#[test]
fn ranks_that_race_for_a_group_agree_and_a_replay_says_the_same() {
    for seed in 0..6u64 {
        let warehouse = warehouse();
        let rank = |number: u64| {
            let rank = Rank::new(&warehouse, "r");
            let steps = (0..STEPS).map(|step| {
                if (step * 31 + number * 17 + seed * 7).is_multiple_of(13) {
                    rank.append(change(step + number + seed));
                }
                rank.delivered(step)
            });
            steps.collect::<Vec<_>>()
        };
        let delivered: Vec<Vec<StepPlan>> = std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..4).map(|number| scope.spawn(move || rank(number))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        for other in &delivered[1..] {
            assert_eq!(other, &delivered[0], "seed {seed}");
        }
        assert!(delivered[0].iter().any(|step| step.counts.masked > 0), "seed {seed}");

        let replay = Rank::new(&warehouse, "r");
        for step in (0..STEPS).rev() {
            replay.live.look(&replay.order, step).unwrap();
            let found = replay.order.step(step).unwrap().unwrap();
            assert_eq!(found, delivered[0][step as usize], "seed {seed}, step {step}");
        }
        // A rank that was killed comes back in the middle, from a state.
        for step in [1, STEPS / 3, STEPS - 1] {
            let state = replay.order.state(step).unwrap();
            let again = Rank::new(&warehouse, "r");
            again.live.check_state(&again.order, &state).unwrap();
            assert_eq!(again.order.resume(&state).unwrap(), step);
            assert_eq!(
                again.delivered(step),
                delivered[0][step as usize],
                "seed {seed}, step {step}"
            );
        }
    }
}

#[test]
fn a_change_holds_from_the_first_group_that_nobody_has_entered() {
    let warehouse = warehouse();
    let (ahead, behind) = (Rank::new(&warehouse, "r"), Rank::new(&warehouse, "r"));
    let before: Vec<StepPlan> = (0..20).map(|step| ahead.delivered(step)).collect();
    let entered = ahead.order.log().entered().unwrap();
    // Somebody else, who has entered nothing, takes every row down.
    assert_eq!(behind.append(Change::mask("a", 0..3000, MaskReason::TakenDown)), 0);
    for step in 0..20 {
        assert_eq!(
            behind.delivered(step),
            before[step as usize],
            "what was handed out stays"
        );
    }
    let next = ahead.order.groups_of(20).unwrap();
    for step in 20..STEPS {
        let delivered = ahead.delivered(step);
        assert_eq!(behind.delivered(step), delivered);
        let groups = ahead.order.groups_of(step).unwrap();
        if groups.start > entered {
            assert!(
                delivered.pieces.iter().all(|p| p.masked == (p.source == 0)),
                "step {step}"
            );
        }
    }
    assert!(
        next.start <= entered + 1,
        "the change waits for no more than the next group"
    );
    assert_eq!(ahead.order.log().effective(0), entered + 1);

    // A run that begins later has nothing of them.
    let later = Rank::new(&warehouse, "later");
    assert!(later.delivered(0).pieces.iter().all(|p| p.masked == (p.source == 0)));
}

#[test]
fn a_state_of_another_run_is_refused_where_the_log_had_a_part_in_it() {
    let warehouse = warehouse();
    let run = Rank::new(&warehouse, "first");
    run.delivered(3);
    let early = run.order.state(4).unwrap();
    run.append(change(2));
    for step in 4..STEPS {
        run.delivered(step);
    }
    let late = run.order.state(STEPS).unwrap();
    assert_eq!((early.log, late.log), (0, 1));

    let other = Rank::new(&warehouse, "second");
    other.live.check_state(&other.order, &early).unwrap();
    let refused = other.live.check_state(&other.order, &late).unwrap_err().to_string();
    assert!(
        refused.contains("run `second` has not been there") && refused.contains("1 entries"),
        "{refused}"
    );
    run.live.check_state(&run.order, &late).unwrap();
}

#[test]
fn the_records_of_a_run_say_how_far_it_came_under_what() {
    let warehouse = warehouse();
    let rank = Rank::new(&warehouse, "r");
    for step in 0..STEPS {
        if step == 10 {
            rank.append(change(0));
        }
        rank.delivered(step);
    }
    let known = rank.live.known();
    let [none, one] = known.entered[..] else {
        panic!("two spans: {:?}", known.entered)
    };
    assert_eq!((none.entries, one.entries), (0, 1));
    assert!(
        (10..STEPS).contains(&none.steps) && one.steps >= STEPS,
        "{none:?} {one:?}"
    );
    for step in 0..STEPS {
        let last = rank.order.groups_of(step).unwrap().last().unwrap();
        assert_eq!(rank.order.log().counting(last) == 1, step >= none.steps, "step {step}");
    }
    let records = rank.threads.block_on(rank.live.records.len(0)).unwrap();
    assert_eq!(records, known.records);
    let kept = rank.threads.block_on(PlanFolder::all(&warehouse)).unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].0, rank.order.hash());
    let arguments = rank.threads.block_on(kept[0].1.arguments()).unwrap();
    assert_eq!(arguments, Some(Options::default()));
}
