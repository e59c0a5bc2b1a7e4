//! The numbers themselves: a plan that was made with an earlier release must go on in the same order.
//!
//! `tests/golden/order-v1.txt` holds digests of steps, states and indices of plans that cover every branch. A
//! change that moves them is a new format: raise [`PlanSpec::FORMAT`], keep the old order for old plans, and add a
//! file. `CORPUSMILL_WRITE_GOLDEN=1` writes a file that is not there yet; it never replaces one.

use std::fmt::Write as _;

use corpusmill_stream::{Change, MaskReason, OrderSpec, Passes, Selection, SourceRows, Until};
use xxhash_rust::xxh3::xxh3_64;

use super::*;

fn digest(plan: &StepPlan) -> u64 {
    let mut bytes = Vec::new();
    for piece in &plan.pieces {
        bytes.extend_from_slice(&piece.slot.to_le_bytes());
        for word in [piece.source, piece.start, piece.length, u32::from(piece.masked)] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    plan.ends
        .iter()
        .for_each(|end| bytes.extend_from_slice(&end.to_le_bytes()));
    xxh3_64(&bytes)
}

fn describe(out: &mut String, name: &str, plan: &Plan, wanted: &[u64]) {
    writeln!(out, "{name}: hash {}", plan.hash()).unwrap();
    for &step in wanted {
        let state = plan.state(step).unwrap();
        let at = format!("group {} pack {} changes {:?}", state.group, state.pack, state.changes);
        match plan.step(step).unwrap() {
            None => writeln!(out, "  step {step}: end, {at}").unwrap(),
            Some(s) => {
                let rows: Vec<String> = s
                    .pieces
                    .iter()
                    .take(4)
                    .map(|p| format!("{}:{}", p.source, p.slot))
                    .collect();
                let (packs, documents) = (s.counts.packs, s.counts.documents);
                writeln!(
                    out,
                    "  step {step}: {packs} packs, {documents} documents, {at}, {} … {:016x}",
                    rows.join(" "),
                    digest(&s)
                )
                .unwrap();
            }
        }
    }
    writeln!(out, "  index {:016x}", xxh3_64(&plan.index_to_bytes())).unwrap();
}

fn all_plans() -> String {
    let mut out = String::new();
    let (spec, lengths) = three_sources();
    let mixed = plan(&spec, &lengths);
    describe(&mut out, "mixed", &mixed, &[0, 1, 2, 17, 90]);
    mixed
        .append(Change::mask("web", 0..9000, MaskReason::Erased), 6)
        .unwrap();
    mixed
        .append(
            Change::Weights {
                weights: weights(&[("web", 1.0), ("math", 1.0)]),
            },
            14,
        )
        .unwrap();
    describe(&mut out, "logged", &mixed, &[0, 8, 30, 31]);

    for (name, long) in [
        ("truncate", LongDocuments::Truncate),
        ("drop", LongDocuments::Drop),
        ("split", LongDocuments::Split),
    ] {
        let mut spec = spec.clone();
        spec.shape = Shape::Packed {
            sequence_length: 300,
            long,
        };
        spec.passes = Passes::Epochs {
            count: 2,
            until: Until::All,
        };
        spec.weights
            .push(change(Start::Step(20), &[("web", 0.1), ("code", 0.9)]));
        let plan = plan(&spec, &lengths);
        let end = plan.steps().unwrap().unwrap();
        describe(&mut out, name, &plan, &[0, 19, 21, 25, end - 1, end]);
    }

    let mut once = spec.clone();
    (once.shape, once.order, once.passes) = (
        Shape::Fixed { max_length: Some(64) },
        OrderSpec::Sequential,
        Passes::Once,
    );
    once.weights.clear();
    describe(&mut out, "once", &plan(&once, &lengths), &[0, 208, 302, 303]);

    let classes: Vec<Selection> = (0..3)
        .map(|c| Selection::from_sorted(10_003, (0..10_003).filter(|s| s % 17 % 3 == c).collect()))
        .collect();
    let filtered = Selection::from_sorted(4_001, (0..4_001).filter(|s| s % 1000 < 30).collect());
    let mut spec = spec;
    spec.shape = Shape::Fixed { max_length: None };
    spec.sources[0] = spec.sources[0].clone().balanced(
        "label",
        ["a", "b", "c"]
            .iter()
            .zip(&classes)
            .map(|(v, s)| ((*v).to_owned(), 1.0, s)),
    );
    spec.sources[1] = spec.sources[1].clone().filtered("x", &filtered);
    let rows = vec![
        SourceRows::Classes(classes),
        SourceRows::Filtered(filtered),
        SourceRows::All,
    ];
    let plan = Plan::with_rows(spec, Arc::new(lengths), rows).unwrap();
    describe(&mut out, "balanced", &plan, &[0, 1, 41, 42, 1000, 123_456]);
    out
}

#[test]
fn the_order_of_format_1_never_changes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/order-v1.txt");
    let now = all_plans();
    assert_eq!(PlanSpec::FORMAT, 1, "a new format needs a golden file of its own");
    if std::env::var_os("CORPUSMILL_WRITE_GOLDEN").is_some() && !std::path::Path::new(path).exists() {
        std::fs::write(path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    for (line, (kept, now)) in kept.lines().zip(now.lines()).enumerate() {
        assert_eq!(kept, now, "line {} of {path}", line + 1);
    }
    assert_eq!(kept.lines().count(), now.lines().count());
}
