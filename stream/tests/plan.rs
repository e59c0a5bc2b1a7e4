//! What a plan promises, checked from outside: delivery, elasticity, the log, the schedule and the numbers
//! themselves (`golden`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "plan/delivery.rs"]
mod delivery;
#[path = "plan/elastic.rs"]
mod elastic;
#[path = "plan/golden.rs"]
mod golden;
#[path = "plan/log.rs"]
mod log;
#[path = "plan/refusals.rs"]
mod refusals;
#[path = "plan/schedule.rs"]
mod schedule;

use std::collections::BTreeMap;
use std::sync::Arc;

use corpusmill_stream::{LongDocuments, Plan, PlanSpec, Shape, SourceSpec, Start, StepPlan, WeightChange};

/// Lengths from `min` to `max`, a pure function of the row (SplitMix64), so that every platform has the same.
fn lengths(rows: u64, min: u32, max: u32, salt: u64) -> Vec<u32> {
    let mix = |x: u64| {
        let mut z = x.wrapping_add(salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..rows)
        .map(|row| min + (mix(row) % u64::from(max - min + 1)) as u32)
        .collect()
}

fn weights(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
    pairs
        .iter()
        .map(|(name, weight)| ((*name).to_owned(), *weight))
        .collect()
}

fn change(from: Start, pairs: &[(&str, f64)]) -> WeightChange {
    WeightChange {
        from,
        weights: weights(pairs),
    }
}

fn packed(sequence_length: u32) -> Shape {
    Shape::Packed {
        sequence_length,
        long: LongDocuments::Split,
    }
}

/// Three sources of ragged sizes, mixed with weights that change, packed: the plan that most tests use.
fn three_sources() -> (PlanSpec, Vec<Vec<u32>>) {
    let mut web = SourceSpec::new("web", "web", 4, 10_003);
    web.shards = vec![5_000, 0, 5_003];
    let sources = vec![
        web,
        SourceSpec::new("code", "code", 0, 4_001),
        SourceSpec::new("math", "math", 9, 500),
    ];
    let mut spec = PlanSpec::new(sources, 42, 48, packed(2048));
    spec.group_turns = 512;
    spec.order = corpusmill_stream::OrderSpec::Shuffled {
        block_rows: 64,
        window_blocks: 8,
    };
    spec.weights = vec![
        change(Start::Turn(0), &[("web", 0.7), ("code", 0.3)]),
        change(Start::Turn(2_011), &[("web", 0.5), ("code", 0.3), ("math", 0.2)]),
    ];
    (
        spec,
        vec![
            lengths(10_003, 32, 512, 1),
            lengths(4_001, 32, 900, 2),
            lengths(500, 1, 100, 3),
        ],
    )
}

fn plan(spec: &PlanSpec, lengths: &[Vec<u32>]) -> Plan {
    Plan::new(spec.clone(), Arc::new(lengths.to_vec())).unwrap()
}

fn steps(plan: &Plan, range: std::ops::Range<u64>) -> Vec<StepPlan> {
    range.map(|step| plan.step(step).unwrap().unwrap()).collect()
}

/// All steps of a finite plan.
fn all_steps(plan: &Plan) -> Vec<StepPlan> {
    (0..).map_while(|step| plan.step(step).unwrap()).collect()
}
