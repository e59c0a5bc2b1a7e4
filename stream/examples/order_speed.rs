//! How fast a plan is computed, and how full its packs are.
//!
//! `cargo run --release -p corpusmill-stream --example order_speed [samples]`: one source of documents of 64 to
//! 1,024 tokens (uniform, a fixed seed), ordered, mixed and packed on one thread, with the lengths in memory. Times
//! are CPU time where Linux says so (`/proc/self/schedstat`), so that other work on the machine does not count.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use corpusmill_stream::{
    Counts, Error, LongDocuments, OrderSpec, Plan, PlanSpec, Selection, Shape, SourceRows, SourceSpec, Start,
    Unmeasured, WeightChange, suggested_group_turns,
};

fn main() -> Result<(), Error> {
    let samples: u64 = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(2_000_000);
    println!("{samples} samples a row, one thread");
    println!("{:<44} {:>12} {:>12} {:>8}", "plan", "samples/s", "ns/sample", "fill");
    let one = |shape| PlanSpec::new(vec![SourceSpec::new("a", "a", 0, samples)], 42, 1024, shape);
    let packed = |sequence_length| {
        let mut spec = one(Shape::Packed {
            sequence_length,
            long: LongDocuments::Split,
        });
        spec.group_turns = suggested_group_turns(sequence_length, 544.0);
        spec.global_batch = 64;
        spec
    };
    measure(
        "fixed, shuffled",
        one(Shape::Fixed { max_length: None }),
        samples,
        false,
    )?;
    let mut sequential = one(Shape::Fixed { max_length: None });
    sequential.order = OrderSpec::Sequential;
    measure("fixed, sequential", sequential, samples, false)?;
    for sequence_length in [2048, 4096, 8192] {
        measure(
            &format!("packed to {sequence_length}, shuffled"),
            packed(sequence_length),
            samples,
            false,
        )?;
    }
    let mut mixed = packed(4096);
    mixed.sources = vec![
        SourceSpec::new("web", "web", 0, samples),
        SourceSpec::new("code", "code", 0, samples / 3),
        SourceSpec::new("math", "math", 0, samples / 20),
    ];
    let weights = |pairs: [(&str, f64); 3]| pairs.map(|(name, weight)| (name.to_owned(), weight)).into();
    mixed.weights = vec![
        WeightChange {
            from: Start::Turn(0),
            weights: weights([("web", 0.7), ("code", 0.3), ("math", 0.0)]),
        },
        WeightChange {
            from: Start::Step(500),
            weights: weights([("web", 0.5), ("code", 0.3), ("math", 0.2)]),
        },
    ];
    measure("packed to 4096, three sources, weights change", mixed, samples, false)?;
    measure("packed to 4096, a filter leaves half", packed(4096), samples, true)?;
    resume(packed(4096), samples)
}

fn lengths(spec: &PlanSpec) -> Vec<Vec<u32>> {
    let length = |row: u64| 64 + ((row.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) % 961) as u32;
    spec.sources
        .iter()
        .map(|s| (0..s.slots).map(length).collect())
        .collect()
}

fn measure(name: &str, mut spec: PlanSpec, samples: u64, filter: bool) -> Result<(), Error> {
    let lengths = lengths(&spec);
    let mut rows = vec![SourceRows::All; spec.sources.len()];
    if filter {
        let slots = spec.sources[0].slots;
        let half = Selection::from_bits(
            slots,
            (0..slots.div_ceil(64))
                .map(|i| i.wrapping_mul(0xD6E8_FEB8_6659_FD93))
                .collect(),
        );
        spec.sources[0] = spec.sources[0].clone().filtered("half", &half);
        rows[0] = SourceRows::Filtered(half);
    }
    let sequence_length = match spec.shape {
        Shape::Packed { sequence_length, .. } => Some(u64::from(sequence_length)),
        Shape::Fixed { .. } => None,
    };
    let plan = Plan::with_rows(spec, Arc::new(lengths), rows)?;
    let mut counts = Counts::default();
    let start = Clock::start();
    for step in 0.. {
        match plan.step(step)? {
            Some(next) if counts.documents < samples => counts += next.counts,
            _ => break,
        }
    }
    let seconds = start.seconds();
    let rate = counts.documents as f64 / seconds;
    let fill = sequence_length.map_or("-".to_owned(), |n| {
        format!("{:.4}", counts.tokens as f64 / (counts.packs * n) as f64)
    });
    println!("{name:<44} {rate:>12.0} {:>12.1} {fill:>8}", 1e9 / rate);
    Ok(())
}

/// Times (by the clock on the wall: they are too short to be billed) the first step after a resume in the middle, and
/// a cold count of all groups.
fn resume(spec: PlanSpec, samples: u64) -> Result<(), Error> {
    let lengths: Arc<Vec<Vec<u32>>> = Arc::new(lengths(&spec));
    let fresh = || {
        Plan::new(
            spec.clone(),
            Arc::clone(&lengths) as Arc<dyn corpusmill_stream::Lengths>,
        )
    };
    let first = fresh()?;
    let step = samples * 544 / 4096 / u64::from(spec.global_batch) / 2;
    let start = Instant::now();
    first.step(step)?;
    println!(
        "cold jump to step {step}: {:.1} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    let (state, resumed) = (first.state(step)?, fresh()?);
    let start = Instant::now();
    resumed.resume(&state)?;
    resumed.step(step)?;
    println!(
        "resume at step {step} ({} bytes of state): {:.2} ms",
        state.to_json().len(),
        start.elapsed().as_secs_f64() * 1e3
    );
    let images = Plan::new(
        PlanSpec::new(
            vec![SourceSpec::new("i", "i", 0, samples)],
            1,
            256,
            Shape::Fixed { max_length: None },
        ),
        Arc::new(Unmeasured),
    )?;
    let start = Instant::now();
    images.step(samples / 300)?;
    println!(
        "jump in a plan of samples: {:.2} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}

/// CPU time of this process, or wall time where that is not to be had.
enum Clock {
    Cpu(Duration),
    Wall(Instant),
}

impl Clock {
    fn start() -> Self {
        cpu_time().map_or_else(|| Self::Wall(Instant::now()), Self::Cpu)
    }

    fn seconds(&self) -> f64 {
        let elapsed = match self {
            Self::Cpu(start) => cpu_time().unwrap_or(*start).saturating_sub(*start),
            Self::Wall(start) => start.elapsed(),
        };
        elapsed.as_secs_f64()
    }
}

fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
