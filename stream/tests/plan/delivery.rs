//! What is delivered: every row as often as the plan says, every token of it, in packs that hold them.

use std::collections::{BTreeMap, BTreeSet};

use corpusmill_stream::{
    Counts, Error, LastBatch, Lengths, OrderSpec, Passes, Selection, SourceRows, Unmeasured, Until,
    suggested_group_turns,
};
use proptest::prelude::*;

use super::*;

fn total(steps: &[StepPlan]) -> Counts {
    steps.iter().fold(Counts::default(), |mut sum, step| {
        sum += step.counts;
        sum
    })
}

/// Pieces of each row, in the order of their starts.
fn pieces(steps: &[StepPlan]) -> BTreeMap<(u32, u64), Vec<(u32, u32)>> {
    let mut rows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for piece in steps.iter().flat_map(|s| &s.pieces) {
        rows.entry((piece.source, piece.slot))
            .or_default()
            .push((piece.start, piece.length));
    }
    rows.values_mut().for_each(|p| p.sort_unstable());
    rows
}

/// How often each row was drawn.
fn draws(steps: &[StepPlan]) -> BTreeMap<(u32, u64), u64> {
    let mut rows = BTreeMap::new();
    for piece in steps.iter().flat_map(|s| &s.pieces).filter(|p| p.start == 0) {
        *rows.entry((piece.source, piece.slot)).or_insert(0) += 1;
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_epoch_delivers_every_token_once(
        seed: u64, count in 1u32..4, capacity in 1u32..700, long in 0usize..3, sequential: bool,
        sizes in prop::collection::vec(1u64..700, 1..4), group_turns in 1u32..900, batch in 1u32..20,
    ) {
        let long = [LongDocuments::Split, LongDocuments::Truncate, LongDocuments::Drop][long];
        let sources = sizes.iter().zip(["a", "b", "c"]).map(|(&n, name)| SourceSpec::new(name, name, 0, n));
        let mut spec = PlanSpec::new(sources.collect(), seed, batch, Shape::Packed { sequence_length: capacity, long });
        spec.group_turns = group_turns;
        spec.passes = Passes::Epochs { count, until: Until::All };
        spec.order = match sequential {
            true => OrderSpec::Sequential,
            false => OrderSpec::Shuffled { block_rows: 33, window_blocks: 3 },
        };
        // Some rows are empty, some several times as long as a sequence.
        let lengths: Vec<Vec<u32>> = sizes.iter().zip(0..).map(|(&n, salt)| lengths(n, 0, 900, salt)).collect();
        let plan = plan(&spec, &lengths);

        let mut expected = BTreeMap::new();
        let mut counts = Counts::default();
        for (source, lengths) in (0..).zip(&lengths) {
            for (slot, &length) in (0..).zip(lengths) {
                let cut = match long {
                    _ if length == 0 => { counts.empty += 1; continue }
                    LongDocuments::Drop if length > capacity => { counts.left_out += 1; continue }
                    LongDocuments::Truncate => vec![(0, length.min(capacity))],
                    LongDocuments::Split | LongDocuments::Drop => (0..length.div_ceil(capacity))
                        .map(|i| (i * capacity, capacity.min(length - i * capacity))).collect(),
                };
                counts.documents += 1;
                counts.split += u64::from(cut.len() > 1);
                counts.truncated += u64::from(long == LongDocuments::Truncate && length > capacity);
                counts.tokens += cut.iter().map(|c| u64::from(c.1)).sum::<u64>();
                let repeated = cut.into_iter().flat_map(|c| vec![c; count as usize]).collect::<Vec<_>>();
                expected.insert((source, slot), repeated);
            }
        }
        if expected.is_empty() {
            let nothing = matches!(plan.step(0), Err(Error::NothingToPack { .. }));
            prop_assert!(nothing);
            return Ok(());
        }
        let steps = all_steps(&plan);
        prop_assert_eq!(Some(steps.len() as u64), plan.steps().unwrap());
        prop_assert_eq!(pieces(&steps), expected);
        let got = total(&steps);
        let times = |n: u64| n * u64::from(count);
        prop_assert_eq!(
            (got.documents, got.split, got.truncated, got.left_out, got.empty, got.tokens, got.masked),
            (times(counts.documents), times(counts.split), times(counts.truncated), times(counts.left_out),
             times(counts.empty), times(counts.tokens), 0)
        );
        for step in &steps {
            prop_assert_eq!(step.counts.packs, step.len() as u64);
            for pack in step.packs() {
                let tokens: u32 = pack.iter().map(|p| p.length).sum();
                prop_assert!(tokens <= capacity && pack.iter().all(|p| p.length > 0));
            }
        }
        let full = steps.iter().rev().skip(1).all(|s| s.len() == batch as usize);
        prop_assert!(full, "only the last batch may be partial");
    }

    #[test]
    fn a_filter_delivers_its_rows_and_no_other(keep in 1u64..40, seed: u64) {
        let eligible: Vec<u64> = (0..3000).filter(|s| (s ^ (s >> 3)) % keep == 0).collect();
        let selection = Selection::from_sorted(3000, eligible.clone());
        let source = SourceSpec::new("a", "a", 0, 3000).filtered("split = 'train'", &selection);
        let mut spec = PlanSpec::new(vec![source], seed, 16, Shape::Fixed { max_length: None });
        spec.passes = Passes::Epochs { count: 2, until: Until::All };
        let plan = Plan::with_rows(spec, Arc::new(Unmeasured), vec![SourceRows::Filtered(selection)]).unwrap();
        let expected: BTreeMap<_, _> = eligible.into_iter().map(|slot| ((0, slot), 2)).collect();
        prop_assert_eq!(draws(&all_steps(&plan)), expected);
    }
}

#[test]
fn each_source_is_drawn_through_before_it_repeats() {
    let (spec, lengths) = three_sources();
    let plan = plan(&spec, &lengths);
    // 'math' has 500 rows and a fifth of the draws: it goes through several epochs while 'web' has one.
    let mut drawn: [Vec<u64>; 3] = Default::default();
    let steps = steps(&plan, 0..40);
    for piece in steps.iter().flat_map(|s| &s.pieces).filter(|p| p.start == 0) {
        drawn[piece.source as usize].push(piece.slot);
    }
    let counts = drawn.each_ref().map(Vec::len);
    assert!(counts[2] > 1000, "{counts:?}");
    for (source, rows) in [10_003, 4_001, 500].into_iter().enumerate() {
        let mut times = vec![0u32; rows];
        drawn[source].iter().for_each(|&slot| times[slot as usize] += 1);
        // Packs of the last group that were not reached yet may hold some rows of an epoch back.
        let (least, most) = (counts[source] / rows, counts[source].div_ceil(rows) as u32 + 1);
        assert!(times.iter().all(|&t| t <= most), "source {source}: {most}");
        let held_back = times.iter().filter(|&&t| (t as usize) < least).count();
        assert!(held_back <= 512, "source {source}: {held_back}");
    }
}

#[test]
fn evaluation_is_one_pass_in_slot_order_with_a_length() {
    let sources = vec![SourceSpec::new("a", "a", 0, 70), SourceSpec::new("b", "b", 0, 33)];
    let mut spec = PlanSpec::new(sources, 1, 16, Shape::Fixed { max_length: Some(20) });
    spec.order = OrderSpec::Sequential;
    spec.passes = Passes::Once;
    spec.group_turns = 10;
    let lengths = vec![lengths(70, 0, 40, 1), lengths(33, 0, 40, 2)];
    let plan = plan(&spec, &lengths);
    assert_eq!(plan.steps().unwrap(), Some(7));
    let steps = all_steps(&plan);
    let expected: Vec<(u32, u64, u32)> = (0..70)
        .map(|s| (0, s))
        .chain((0..33).map(|s| (1, s)))
        .map(|(source, slot)| (source, slot, lengths[source as usize].as_slice()[slot as usize].min(20)))
        .collect();
    let got: Vec<_> = steps
        .iter()
        .flat_map(|s| &s.pieces)
        .map(|p| (p.source, p.slot, p.length))
        .collect();
    assert_eq!(got, expected);
    assert_eq!(
        steps.iter().map(StepPlan::len).collect::<Vec<_>>(),
        [16, 16, 16, 16, 16, 16, 7]
    );
    // The last partial batch is shared as evenly as it can be, and completely.
    let shares: Vec<_> = (0..4).map(|r| plan.rank_slice(6, r, 4).unwrap().unwrap()).collect();
    assert_eq!(
        shares.iter().map(|s| s.share.clone()).collect::<Vec<_>>(),
        [0..1, 1..3, 3..5, 5..7]
    );
    assert_eq!(
        shares.iter().flat_map(|s| s.pieces.clone()).collect::<Vec<_>>(),
        steps[6].pieces
    );
    let one_each = (0..16)
        .map(|r| plan.rank_slice(6, r, 16).unwrap().unwrap().len())
        .collect::<Vec<_>>();
    assert_eq!(one_each.iter().sum::<usize>(), 7);

    spec.last_batch = LastBatch::Drop;
    let dropping = super::plan(&spec, &lengths);
    assert_eq!(dropping.steps().unwrap(), Some(6));
    assert_eq!(all_steps(&dropping), steps[..6]);
}

#[test]
fn sequential_packs_stay_near_slot_order() {
    let mut spec = PlanSpec::new(vec![SourceSpec::new("a", "a", 0, 5000)], 1, 4, packed(1000));
    spec.order = OrderSpec::Sequential;
    spec.passes = Passes::Once;
    spec.group_turns = 100;
    let steps = all_steps(&plan(&spec, &[lengths(5000, 1, 300, 1)]));
    let firsts: Vec<u64> = steps.iter().flat_map(|s| s.packs().map(|p| p[0].slot)).collect();
    assert!(firsts.is_sorted(), "packs follow their first document");
    assert!(
        steps
            .iter()
            .flat_map(|s| s.packs())
            .all(|p| p.is_sorted_by_key(|p| p.slot)),
        "so do documents in a pack"
    );
    assert_eq!(draws(&steps).len(), 5000);
}

fn balanced(passes: Passes) -> (Plan, [BTreeSet<u64>; 3]) {
    // 4,000 rows: a common class, a rare one, one that is hardly there; rows divisible by 11 have none.
    let class = |s: u64| {
        if s.is_multiple_of(11) {
            None
        } else if s % 100 == 7 {
            Some(2)
        } else {
            Some(usize::from(s % 10 == 3))
        }
    };
    let sets: [BTreeSet<u64>; 3] = [0, 1, 2].map(|c| (0..4000).filter(|&s| class(s) == Some(c)).collect());
    let selections = sets
        .each_ref()
        .map(|s| Selection::from_sorted(4000, s.iter().copied().collect()));
    let classes = [("ok", 1.0, 0), ("spam", 1.0, 1), ("hate", 2.0, 2)];
    let source = SourceSpec::new("a", "a", 0, 4000).balanced(
        "label",
        classes.map(|(value, weight, i)| (value.to_owned(), weight, &selections[i])),
    );
    let mut spec = PlanSpec::new(vec![source], 3, 50, Shape::Fixed { max_length: None });
    spec.passes = passes;
    (
        Plan::with_rows(
            spec,
            Arc::new(Unmeasured),
            vec![SourceRows::Classes(selections.to_vec())],
        )
        .unwrap(),
        sets,
    )
}

#[test]
fn classes_are_drawn_by_weight_whatever_their_size() {
    let (plan, sets) = balanced(Passes::Infinite);
    for (i, step) in steps(&plan, 0..100).iter().enumerate() {
        let counts = sets
            .each_ref()
            .map(|set| step.pieces.iter().filter(|p| set.contains(&p.slot)).count() as i64);
        assert_eq!(counts.iter().sum::<i64>(), 50, "rows of no class are not drawn");
        // 12.5, 12.5 and 25 of 50, in every single batch.
        let near = counts.iter().zip([12, 12, 25]).all(|(c, want)| (c - want).abs() <= 3);
        assert!(near, "step {i}: {counts:?}");
    }
    let drawn = draws(&steps(&plan, 0..100));
    for set in &sets {
        let times: Vec<u64> = set.iter().map(|&s| drawn.get(&(0, s)).copied().unwrap_or(0)).collect();
        let spread = times.iter().max().unwrap() - times.iter().min().unwrap();
        assert!(spread <= 1, "a class is drawn through before it repeats: {spread}");
    }
}

#[test]
fn balanced_epochs_end_with_the_last_or_the_first_class() {
    let (plan, sets) = balanced(Passes::Epochs {
        count: 2,
        until: Until::All,
    });
    let drawn = draws(&all_steps(&plan));
    assert_eq!(drawn.len(), sets.iter().map(BTreeSet::len).sum::<usize>());
    assert!(drawn.values().all(|&times| times == 2));

    let (plan, sets) = balanced(Passes::Epochs {
        count: 1,
        until: Until::First,
    });
    let drawn = draws(&all_steps(&plan));
    let counts = sets
        .each_ref()
        .map(|set| set.iter().filter(|&&s| drawn.contains_key(&(0, s))).count());
    assert_eq!(counts[2], sets[2].len(), "the smallest class for its weight is through");
    assert!(
        counts[0].abs_diff(counts[2] / 2) <= 2 && counts[1].abs_diff(counts[2] / 2) <= 2,
        "{counts:?}"
    );
}

#[test]
fn packs_are_full() {
    let n = 40_000;
    for (min, max, sequence_length) in [(64, 1024, 4096), (5, 60, 2048), (64, 1024, 8192), (300, 5000, 4096)] {
        let lengths = vec![lengths(n, min, max, 5)];
        let mean = f64::from(min + max) / 2.0;
        let mut spec = PlanSpec::new(vec![SourceSpec::new("a", "a", 0, n)], 7, 8, packed(sequence_length));
        spec.group_turns = suggested_group_turns(sequence_length, mean);
        let counts = total(&steps(&plan(&spec, &lengths), 0..20));
        let fill = counts.tokens as f64 / (counts.packs * u64::from(sequence_length)) as f64;
        assert!(fill > 0.98, "{min} to {max} in {sequence_length}: {fill}");
    }
}

#[test]
fn a_shuffled_batch_is_a_sample_of_the_window() {
    // Lengths must not show in the order of packs, nor the place of a document in its pack.
    let n = 60_000;
    let spec = PlanSpec::new(vec![SourceSpec::new("a", "a", 0, n)], 7, 64, packed(2048));
    let lengths = vec![lengths(n, 16, 1024, 5)];
    let steps = steps(&plan(&spec, &lengths), 0..100);
    let packs: Vec<usize> = steps.iter().flat_map(|s| s.packs().map(<[_]>::len)).collect();
    let (first, second): (Vec<_>, Vec<_>) = steps
        .iter()
        .flat_map(|s| s.packs())
        .filter(|p| p.len() > 1)
        .map(|p| (f64::from(p[0].length), f64::from(p[p.len() - 1].length)))
        .unzip();
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    assert!(
        (mean(&first) / mean(&second) - 1.0).abs() < 0.05,
        "{} {}",
        mean(&first),
        mean(&second)
    );
    let groups: Vec<f64> = packs
        .chunks(packs.len() / 4)
        .map(|c| c.iter().sum::<usize>() as f64 / c.len() as f64)
        .collect();
    assert!(groups.iter().all(|g| (g / groups[0] - 1.0).abs() < 0.08), "{groups:?}");
}

#[test]
fn provenance_names_each_row_of_a_step_once() {
    let (mut spec, mut lengths) = three_sources();
    lengths[0].iter_mut().step_by(5).for_each(|l| *l = 9000);
    spec.global_batch = 100;
    let plan = plan(&spec, &lengths);
    let step = plan.step(2).unwrap().unwrap();
    let rows = plan.provenance(2).unwrap();
    let unique: BTreeSet<_> = rows.iter().copied().collect();
    assert_eq!(unique.len(), rows.len());
    assert_eq!(unique, step.pieces.iter().map(|p| (p.source, p.slot)).collect());
    assert!(rows.len() < step.pieces.len(), "split documents have several pieces");
}

#[test]
fn bulk_lengths_agree_with_single_ones() {
    let lengths = vec![lengths(100, 0, 9, 1)];
    let mut out = [0; 3];
    lengths.gather(0, &[5, 99, 0], &mut out).unwrap();
    assert_eq!(out, [5, 99, 0].map(|row| lengths.length(0, row)));
}
