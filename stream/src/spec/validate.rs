//! What a specification must fulfil before any row is looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::{OrderSpec, Passes, PlanSpec, Shape, SourceSpec, Start, check_format};
use crate::error::{Error, Result};

impl PlanSpec {
    /// Checks everything that can be checked without the rows.
    ///
    /// # Errors
    /// [`Error::Spec`] naming the field, [`Error::Format`] for a newer format.
    pub fn validate(&self) -> Result<()> {
        check_format("a plan", self.format, Self::FORMAT)?;
        at_least("global_batch", u64::from(self.global_batch), 1, u64::from(u32::MAX))?;
        at_least("group_turns", u64::from(self.group_turns), 1, 1 << 20)?;
        match self.shape {
            Shape::Packed { sequence_length, .. } => {
                at_least("shape.sequence_length", u64::from(sequence_length), 1, 1 << 22)?;
            }
            Shape::Fixed { max_length: Some(n) } => {
                at_least("shape.max_length", u64::from(n), 1, u64::from(u32::MAX))?;
            }
            Shape::Fixed { max_length: None } => {}
        }
        if let OrderSpec::Shuffled {
            block_rows,
            window_blocks,
        } = self.order
        {
            at_least("order.block_rows", u64::from(block_rows), 1, 1 << 30)?;
            at_least("order.window_blocks", u64::from(window_blocks), 1, 1 << 30)?;
        }
        match self.passes {
            Passes::Epochs { count, .. } => at_least("passes.count", u64::from(count), 1, u64::from(u32::MAX))?,
            Passes::Once if self.order != OrderSpec::Sequential => {
                let message = "a single pass is unshuffled: set order to 'sequential', or passes to 1 epoch";
                return Err(Error::spec("passes", message));
            }
            Passes::Once if !self.weights.is_empty() => {
                return Err(Error::spec(
                    "weights",
                    "a single pass takes every row once: leave weights out",
                ));
            }
            Passes::Once | Passes::Infinite => {}
        }
        self.validate_sources()?;
        self.validate_weights()
    }

    fn validate_sources(&self) -> Result<()> {
        if self.sources.is_empty() {
            return Err(Error::spec("sources", "there are none, at least one is needed"));
        }
        let mut names = BTreeSet::new();
        for (i, source) in self.sources.iter().enumerate() {
            let field = |name: &str| format!("sources[{i}].{name}");
            if !names.insert(&source.name) {
                let message = format!("'{}' is there twice: give each source a name of its own", source.name);
                return Err(Error::spec(field("name"), message));
            }
            if source.slots > 1 << 48 {
                return Err(Error::spec(
                    field("slots"),
                    format!("{} is more than 2^48", source.slots),
                ));
            }
            let shards = source.shards.iter().fold(0u64, |sum, &rows| sum.saturating_add(rows));
            if !source.shards.is_empty() && shards != source.slots {
                let message = format!("the shards have {shards} rows, the version {}", source.slots);
                return Err(Error::spec(field("shards"), message));
            }
            if source.filter.as_ref().is_some_and(|f| f.rows > source.slots) {
                return Err(Error::spec(
                    field("filter.rows"),
                    format!("more than the {} slots", source.slots),
                ));
            }
            let mut values = BTreeSet::new();
            for class in source.balance.iter().flat_map(|b| &b.classes) {
                if !values.insert(&class.value) {
                    let message = format!("'{}' is there twice", class.value);
                    return Err(Error::spec(field("balance.classes"), message));
                }
                check_weight(&field("balance.classes"), &class.value, class.weight)?;
                if class.rows > source.slots {
                    let message = format!("class '{}' has more rows than the {} slots", class.value, source.slots);
                    return Err(Error::spec(field("balance.classes"), message));
                }
                if class.weight > 0.0 && class.rows == 0 {
                    let message = format!("class '{}' has weight {} but no row", class.value, class.weight);
                    return Err(Error::spec(field("balance.classes"), message));
                }
            }
        }
        if self.sources.iter().all(|s| s.rows() == 0) {
            let why = |s: &SourceSpec| match (&s.balance, &s.filter) {
                (Some(balance), _) => format!("no row of '{}' has a class of column '{}'", s.corpus, balance.column),
                (None, Some(filter)) => format!("no row of '{}' fulfils: {}", s.corpus, filter.predicate),
                (None, None) => format!("'{}' at version {} is empty", s.corpus, s.version),
            };
            let message: Vec<String> = self.sources.iter().map(why).collect();
            return Err(Error::spec("sources", message.join("; ")));
        }
        Ok(())
    }

    fn validate_weights(&self) -> Result<()> {
        match self.weights.first() {
            Some(first) if !matches!(first.from, Start::Turn(0) | Start::Step(0)) => {
                return Err(Error::spec(
                    "weights[0].from",
                    "the first weights must hold from turn or step 0",
                ));
            }
            _ => {}
        }
        for (i, change) in self.weights.iter().enumerate() {
            check_weights(&format!("weights[{i}]"), &change.weights, &self.sources)?;
            let order = match (i.checked_sub(1).map(|j| self.weights[j].from), change.from) {
                (Some(Start::Turn(a)), Start::Turn(b)) | (Some(Start::Step(a)), Start::Step(b)) => a < b,
                _ => true,
            };
            if !order {
                let message = format!("{:?} does not come after the change before it", change.from);
                return Err(Error::spec(format!("weights[{i}].from"), message));
            }
        }
        Ok(())
    }
}

/// Checks weights by source name: known names, finite, not negative, one of them positive with rows behind it.
pub(crate) fn check_weights(field: &str, weights: &BTreeMap<String, f64>, sources: &[SourceSpec]) -> Result<()> {
    let mut any = false;
    for (name, &weight) in weights {
        let Some(source) = sources.iter().find(|s| &s.name == name) else {
            let names: Vec<_> = sources.iter().map(|s| s.name.as_str()).collect();
            return Err(Error::spec(
                field,
                format!("no source '{name}', there are: {}", names.join(", ")),
            ));
        };
        check_weight(field, name, weight)?;
        if weight > 0.0 && source.rows() == 0 {
            return Err(Error::spec(
                field,
                format!("source '{name}' has weight {weight} but no eligible row"),
            ));
        }
        any |= weight > 0.0;
    }
    if any {
        Ok(())
    } else {
        Err(Error::spec(field, "no weight is above 0"))
    }
}

fn check_weight(field: &str, name: &str, weight: f64) -> Result<()> {
    // Far beyond what a period can tell apart, and so that no sum or quotient overflows or vanishes.
    if weight == 0.0 || (1e-15..=1e15).contains(&weight) {
        return Ok(());
    }
    Err(Error::spec(
        field,
        format!("the weight of '{name}' is {weight}, it must be 0 or from 1e-15 to 1e15"),
    ))
}

fn at_least(field: &str, value: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::spec(field, format!("{value} is outside of {min} to {max}")))
}
