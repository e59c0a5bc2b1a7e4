//! What is refused, and what the message says.

use std::sync::atomic::{AtomicU32, Ordering};

use corpusmill_stream::{
    Error, Lengths, LengthsError, OrderSpec, Passes, Selection, SourceRows, State, Unmeasured, Until,
};

use super::*;

fn refusal(edit: impl FnOnce(&mut PlanSpec)) -> String {
    let (mut spec, lengths) = three_sources();
    edit(&mut spec);
    let error = Plan::new(spec, Arc::new(lengths)).unwrap_err();
    assert!(!error.retry());
    error.to_string()
}

#[test]
fn specifications_that_contradict_themselves() {
    type Edit = Box<dyn FnOnce(&mut PlanSpec)>;
    let cases: Vec<(Edit, &[&str])> = vec![
        (Box::new(|s| s.sources.clear()), &["sources", "at least one"]),
        (
            Box::new(|s| s.sources[1].name = "web".into()),
            &["sources[1].name", "'web'", "twice"],
        ),
        (
            Box::new(|s| s.sources[0].shards = vec![1]),
            &["sources[0].shards", "1 rows", "10003"],
        ),
        (Box::new(|s| s.global_batch = 0), &["global_batch", "0 is outside of 1"]),
        (Box::new(|s| s.group_turns = 0), &["group_turns"]),
        (Box::new(|s| s.shape = packed(0)), &["sequence_length"]),
        (
            Box::new(|s| {
                s.order = OrderSpec::Shuffled {
                    block_rows: 0,
                    window_blocks: 1,
                }
            }),
            &["block_rows"],
        ),
        (Box::new(|s| s.passes = Passes::Once), &["passes", "sequential"]),
        (
            Box::new(|s| {
                s.passes = Passes::Epochs {
                    count: 0,
                    until: Until::All,
                }
            }),
            &["passes.count"],
        ),
        (
            Box::new(|s| s.weights.remove(0).weights.clear()),
            &["weights[0].from", "turn or step 0"],
        ),
        (
            Box::new(|s| s.weights[1].from = Start::Turn(0)),
            &["weights[1].from", "after"],
        ),
        (
            Box::new(|s| s.weights[1].weights = weights(&[("wep", 1.0)])),
            &["weights[1]", "'wep'", "web, code, math"],
        ),
        (
            Box::new(|s| s.weights[0].weights = weights(&[("web", f64::NAN)])),
            &["'web'", "NaN"],
        ),
        (
            Box::new(|s| s.weights[0].weights = weights(&[("web", 0.0)])),
            &["above 0"],
        ),
        (
            Box::new(|s| s.sources[0] = SourceSpec::new("web", "web", 1, 0)),
            &["'web'", "no eligible row"],
        ),
        (Box::new(|s| s.format = 2), &["format 2", "format 1"]),
    ];
    for (i, (edit, words)) in cases.into_iter().enumerate() {
        let message = refusal(edit);
        assert!(words.iter().all(|w| message.contains(w)), "case {i}: {message}");
    }
}

#[test]
fn rows_that_do_not_match_the_specification() {
    let selection = Selection::from_sorted(100, (0..50).collect());
    let source = SourceSpec::new("a", "a", 0, 100).filtered("x > 1", &selection);
    let spec = PlanSpec::new(vec![source], 1, 4, Shape::Fixed { max_length: None });
    let refused = |rows| {
        Plan::with_rows(spec.clone(), Arc::new(Unmeasured), vec![rows])
            .unwrap_err()
            .to_string()
    };
    for (rows, words) in [
        (SourceRows::All, &["'a'", "filter"][..]),
        (
            SourceRows::Filtered(Selection::from_sorted(100, (0..49).collect())),
            &["x > 1", "49 rows", "for 50"],
        ),
        (
            SourceRows::Filtered(Selection::from_sorted(100, (1..51).collect())),
            &["x > 1", "other rows"],
        ),
        (
            SourceRows::Filtered(Selection::from_sorted(101, (0..50).collect())),
            &["101 slots", "100"],
        ),
        (SourceRows::Classes(vec![selection.clone()]), &["'a'"]),
    ] {
        let message = refused(rows);
        assert!(words.iter().all(|w| message.contains(w)), "{message}");
    }
    assert!(Plan::with_rows(spec.clone(), Arc::new(Unmeasured), vec![]).is_err());
    assert!(Plan::with_rows(spec, Arc::new(Unmeasured), vec![SourceRows::Filtered(selection)]).is_ok());

    let nothing = SourceSpec::new("a", "posts", 3, 100).filtered("x > 9", &Selection::from_sorted(100, vec![]));
    let spec = PlanSpec::new(vec![nothing], 1, 4, Shape::Fixed { max_length: None });
    let message = spec.validate().unwrap_err().to_string();
    assert!(message.contains("'posts'") && message.contains("x > 9"), "{message}");
}

#[test]
fn a_state_of_another_plan_says_what_differs() {
    let (spec, lengths) = three_sources();
    let state = plan(&spec, &lengths).state(3).unwrap();
    let other = |edit: fn(&mut PlanSpec)| {
        let mut spec = spec.clone();
        edit(&mut spec);
        match plan(&spec, &lengths).resume(&state) {
            Err(Error::OtherPlan { parts, .. }) => parts,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(other(|s| s.seed = 43), "seed");
    assert_eq!(other(|s| s.sources[2].version = 10), "sources");
    assert_eq!(other(|s| s.global_batch = 24), "global_batch");
    assert_eq!(other(|s| s.shape = packed(1024)), "shape");
    assert_eq!(
        other(|s| {
            s.order = OrderSpec::Sequential;
            s.weights.pop();
            s.passes = Passes::Epochs {
                count: 1,
                until: Until::All,
            };
            s.group_turns = 64;
        }),
        "weights, order, passes, group_turns"
    );
}

#[test]
fn states_that_are_damaged_or_do_not_fit_the_lengths() {
    let (spec, lengths) = three_sources();
    let state = plan(&spec, &lengths).state(30).unwrap();
    let text = state.to_json();
    assert!(matches!(
        State::from_json(&text.replace("\"format\":1", "\"format\":7")),
        Err(Error::Format { found: 7, .. })
    ));
    assert!(matches!(State::from_json(&text[..50]), Err(Error::Json { .. })));

    let counted = plan(&spec, &lengths);
    counted.step(40).unwrap();
    let moved = State {
        pack: state.pack + 1,
        ..state.clone()
    };
    let message = counted.resume(&moved).unwrap_err().to_string();
    assert!(message.contains("step 30") && message.contains("lengths"), "{message}");
    let impossible = State {
        step: 0,
        pack: 9,
        ..state
    };
    assert!(matches!(
        plan(&spec, &lengths).resume(&impossible),
        Err(Error::State { .. })
    ));
}

#[test]
fn world_sizes_that_do_not_divide() {
    let (spec, lengths) = three_sources();
    let plan = plan(&spec, &lengths);
    let message = plan.rank_slice(0, 0, 7).unwrap_err().to_string();
    assert!(message.contains("48") && message.contains("6 or 8"), "{message}");
    assert!(
        plan.rank_slice(0, 0, 100)
            .unwrap_err()
            .to_string()
            .contains("nearest world sizes: 48")
    );
    assert!(matches!(plan.rank_slice(0, 0, 0), Err(Error::World { .. })));
    assert!(plan.rank_slice(0, 8, 8).unwrap_err().to_string().contains("0 to 7"));
}

#[test]
fn a_plan_in_which_nothing_fits_ends_with_an_error() {
    let mut spec = PlanSpec::new(vec![SourceSpec::new("a", "a", 0, 900)], 1, 4, packed(10));
    spec.shape = Shape::Packed {
        sequence_length: 10,
        long: LongDocuments::Drop,
    };
    let plan = plan(&spec, &[lengths(900, 11, 20, 1)]);
    let message = plan.step(0).unwrap_err().to_string();
    assert!(message.contains("10 tokens") && message.contains("split"), "{message}");
    // So does a finite one, whether it is asked for its length or for a step.
    spec.passes = Passes::Epochs {
        count: 1,
        until: Until::All,
    };
    let finite = super::plan(&spec, &[lengths(900, 11, 20, 1)]);
    for message in [
        finite.steps().unwrap_err().to_string(),
        finite.step(0).unwrap_err().to_string(),
        finite.steps().unwrap_err().to_string(),
    ] {
        assert!(
            message.contains("900 draws from turn 0") && message.contains("10 tokens"),
            "{message}"
        );
    }
    // One document that fits is enough; a source without rows is merely empty.
    let mut one_fits = lengths(900, 11, 20, 1);
    one_fits[7] = 9;
    assert_eq!(super::plan(&spec, &[one_fits]).steps().unwrap(), Some(1));
}

#[test]
fn specifications_travel_as_json() {
    let (mut spec, _) = three_sources();
    spec.sources[1] = spec.sources[1]
        .clone()
        .filtered("a = 'b'", &Selection::from_sorted(4_001, vec![1, 7]));
    spec.weights[1].from = Start::Step(9);
    let text = spec.to_json();
    assert_eq!(PlanSpec::from_json(&text).unwrap(), spec);
    assert_eq!(PlanSpec::from_json(&text).unwrap().hash(), spec.hash());
    assert!(matches!(
        PlanSpec::from_json(&text.replacen(":1", ":3", 1)),
        Err(Error::Format { found: 3, .. })
    ));
    let unknown = text.replacen("\"seed\"", "\"sneed\"", 1);
    let Err(error @ Error::Json { .. }) = PlanSpec::from_json(&unknown) else {
        panic!("an unknown field")
    };
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("sneed"));
}

/// Lengths that fail for a while.
struct Flaky(Vec<Vec<u32>>, AtomicU32);

impl Lengths for Flaky {
    fn length(&self, source: usize, row: u64) -> u32 {
        self.0.length(source, row)
    }

    fn gather(&self, source: usize, rows: &[u64], out: &mut [u32]) -> Result<(), LengthsError> {
        if self.1.fetch_add(1, Ordering::Relaxed) % 4 == 3 {
            return Err("the disk is gone".into());
        }
        self.0.gather(source, rows, out)
    }
}

#[test]
fn lengths_that_cannot_be_read_leave_nothing_behind() {
    let (spec, lengths) = three_sources();
    let reference = plan(&spec, &lengths);
    let flaky = Plan::new(spec, Arc::new(Flaky(lengths, AtomicU32::new(0)))).unwrap();
    let mut failures = 0;
    for step in [0, 30, 31, 7, 60] {
        let got = loop {
            match flaky.step(step) {
                Ok(got) => break got,
                Err(error) => {
                    failures += 1;
                    assert!(error.retry() && error.to_string().contains("of source"), "{error}");
                    assert_eq!(
                        std::error::Error::source(&error).unwrap().to_string(),
                        "the disk is gone"
                    );
                }
            }
        };
        assert_eq!(got, reference.step(step).unwrap(), "step {step}");
    }
    assert!(failures > 10, "{failures}");
    let short = Plan::new(reference.spec().clone(), Arc::new(vec![vec![1; 10_003], vec![1; 7]])).unwrap();
    assert!(matches!(short.step(0), Err(Error::Lengths { source_name, .. }) if source_name == "code"));
}
