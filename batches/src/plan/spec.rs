//! From the arguments and the chosen rows to the specification that decides the order of samples.

use std::collections::BTreeMap;
use std::sync::Arc;

use corpusmill_stream::{
    LastBatch, LongDocuments, OrderSpec, Passes, PlanSpec, Shape, SourceRows, SourceSpec, Start, Until, WeightChange,
    suggested_group_turns,
};

use crate::error::Result;
use crate::source::Source;

use super::options::Options;
use super::rows::Chosen;
use super::source_named;

/// Turns in a group of a plan that does not pack: groups are then only the unit of the log.
const GROUP_TURNS: u32 = 2048;

/// Builds the specification, and the rows it is made for; `totals` are (tokens, rows) of the sources.
///
/// # Errors
/// Plan for weights that name no source.
pub(crate) fn build(
    options: &Options,
    sources: &[Arc<Source>],
    chosen: Vec<Chosen>,
    totals: (u64, u64),
) -> Result<(PlanSpec, Vec<SourceRows>)> {
    let mut specs = Vec::new();
    let mut rows = Vec::new();
    for (source, chosen) in sources.iter().zip(chosen) {
        let mut spec = SourceSpec::new(&source.name, &source.corpus, source.version, source.rows);
        spec.shards = source.shard_rows();
        if let Some((text, selection)) = &chosen.filter {
            spec = spec.filtered(text, selection);
        }
        match (chosen.balance, chosen.filter) {
            (Some((column, classes)), _) => {
                spec = spec.balanced(column, classes.iter().map(|c| (c.value.clone(), c.weight, &c.rows)));
                rows.push(SourceRows::Classes(classes.into_iter().map(|c| c.rows).collect()));
            }
            (None, Some((_, selection))) => rows.push(SourceRows::Filtered(selection)),
            (None, None) => rows.push(SourceRows::All),
        }
        specs.push(spec);
    }
    let block_rows = sources.iter().map(|s| s.block_rows()).max().unwrap_or(1);
    let shape = match options.pack {
        Some(sequence_length) => Shape::Packed {
            sequence_length,
            long: long(&options.long),
        },
        None => Shape::Fixed {
            max_length: options.max_length,
        },
    };
    let mut spec = PlanSpec::new(specs, options.seed, options.global_batch, shape);
    spec.weights = weights(options, sources)?;
    spec.order = match options.shuffle {
        true => OrderSpec::Shuffled {
            block_rows: block_rows as u32,
            window_blocks: options.window_blocks,
        },
        false => OrderSpec::Sequential,
    };
    let until = if options.until == "first" {
        Until::First
    } else {
        Until::All
    };
    let plain = options.balance.is_none() && spec.weights.is_empty();
    spec.passes = match options.epochs {
        None => Passes::Infinite,
        Some(1) if !options.shuffle && plain => Passes::Once,
        Some(count) => Passes::Epochs { count, until },
    };
    spec.last_batch = if options.last_batch == "drop" {
        LastBatch::Drop
    } else {
        LastBatch::Partial
    };
    let mean = totals.0 as f64 / totals.1.max(1) as f64;
    spec.group_turns = options
        .pack
        .map_or(GROUP_TURNS, |sequence| suggested_group_turns(sequence, mean));
    Ok((spec, rows))
}

fn long(text: &str) -> LongDocuments {
    match text {
        "truncate" => LongDocuments::Truncate,
        "drop" => LongDocuments::Drop,
        _ => LongDocuments::Split,
    }
}

/// The schedule of weights, with sources by their full names.
fn weights(options: &Options, sources: &[Arc<Source>]) -> Result<Vec<WeightChange>> {
    let named = |argument: &str, weights: &BTreeMap<String, f64>| {
        let one = |(key, weight): (&String, &f64)| {
            let at = source_named(argument, key, sources, &options.corpora)?;
            Ok((sources[at].name.clone(), *weight))
        };
        weights.iter().map(one).collect::<Result<BTreeMap<_, _>>>()
    };
    let mut changes = Vec::new();
    match &options.weights {
        Some(weights) => changes.push(WeightChange {
            from: Start::Turn(0),
            weights: named("corpus", weights)?,
        }),
        None if !options.weights_at.is_empty() && !options.weights_at.contains_key(&0) => {
            // Changed weights need some to change from: in proportion to the rows, as without any.
            let weights = sources.iter().map(|s| (s.name.clone(), s.rows as f64)).collect();
            changes.push(WeightChange {
                from: Start::Turn(0),
                weights,
            });
        }
        None => {}
    }
    for (step, weights) in &options.weights_at {
        if *step == 0 {
            changes.clear();
        }
        let from = if *step == 0 { Start::Turn(0) } else { Start::Step(*step) };
        changes.push(WeightChange {
            from,
            weights: named("weights_at", weights)?,
        });
    }
    Ok(changes)
}
