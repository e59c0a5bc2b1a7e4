//! Which rows can be drawn: what the filter leaves of each corpus, and the classes of a balanced one.
//!
//! Only the columns of the filter and of the classes are read, and no shard whose partition values decide by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use corpusmill_stream::Selection;

use crate::error::{LoaderError, Result};
use crate::filter::Predicate;
use crate::source::{BlockPlace, Source};

use super::options::Options;
use super::{nearest, source_named};

/// More classes than this are no classes but a key.
const CLASSES_MAX: usize = 1000;

/// The rows of one source that can be drawn.
pub(super) struct Chosen {
    /// The filter in its canonical form, with the rows that pass; absent: all rows.
    pub(super) filter: Option<(String, Selection)>,
    /// The column, and value, weight and rows of each class.
    pub(super) balance: Option<(String, Vec<(String, f64, Selection)>)>,
    /// Every class that has rows, with a weight or not.
    classes_found: BTreeSet<String>,
}

/// Works out the rows of every source.
///
/// # Errors
/// Plan for a filter or class that does not fit; those of reading.
pub(super) async fn choose(sources: &[Arc<Source>], options: &Options) -> Result<Vec<Chosen>> {
    for key in options.filter.keys().filter(|k| !k.is_empty()) {
        source_named("filter", key, sources, &options.corpora)?;
    }
    let mut all = Vec::new();
    for (position, source) in sources.iter().enumerate() {
        let predicate = predicate_of(position, source, sources, options)?;
        let balance = options.balance.as_ref().and_then(|b| b.iter().next());
        if let Some((column, _)) = balance {
            check_class_column(source, column)?;
        }
        all.push(choose_one(source, predicate, balance).await?);
    }
    if let Some((column, weights)) = options.balance.as_ref().and_then(|b| b.iter().next()) {
        check_classes(column, weights, &all)?;
    }
    Ok(all)
}

fn predicate_of(
    position: usize,
    source: &Source,
    sources: &[Arc<Source>],
    options: &Options,
) -> Result<Option<Predicate>> {
    let mut text = options.filter.get("");
    for (key, filter) in options.filter.iter().filter(|(k, _)| !k.is_empty()) {
        if source_named("filter", key, sources, &options.corpora)? == position {
            text = Some(filter);
        }
    }
    let Some(text) = text else { return Ok(None) };
    let predicate = Predicate::parse(text)?;
    predicate.check(&source.schema)?;
    Ok(Some(predicate))
}

fn check_class_column(source: &Source, column: &str) -> Result<()> {
    let names: Vec<&str> = source.schema.fields().iter().map(|f| f.name().as_str()).collect();
    let field = source.schema.field_with_name(column).map_err(|_| {
        LoaderError::Plan(format!("balance: {} has no column `{column}`{}", source.name, nearest(column, &names)))
    })?;
    let kind = field.data_type();
    if kind.is_nested() || kind.is_floating() {
        return Err(LoaderError::Plan(format!(
            "balance: column `{column}` of {} is {kind}: classes are texts, integers, booleans or dates",
            source.name
        )));
    }
    Ok(())
}

/// Checks that every class with a weight has rows in some source.
fn check_classes(column: &str, weights: &BTreeMap<String, f64>, all: &[Chosen]) -> Result<()> {
    let found: BTreeSet<&str> = all.iter().flat_map(|c| &c.classes_found).map(String::as_str).collect();
    for value in weights.keys() {
        if !found.contains(value.as_str()) {
            let known: Vec<&str> = found.iter().copied().collect();
            let hint = nearest(value, &known);
            return Err(LoaderError::Plan(format!("balance: no row has {column} = {value}{hint}")));
        }
    }
    Ok(())
}

async fn choose_one(
    source: &Arc<Source>,
    predicate: Option<Predicate>,
    balance: Option<(&String, &BTreeMap<String, f64>)>,
) -> Result<Chosen> {
    if predicate.is_none() && balance.is_none() {
        return Ok(Chosen { filter: None, balance: None, classes_found: BTreeSet::new() });
    }
    let mut rows = RowsFound::new(source.rows);
    let mut to_read: Vec<BlockPlace> = Vec::new();
    let mut decided = None;
    for place in &source.blocks {
        let outcomes = match (&predicate, &decided) {
            (None, _) => None,
            (Some(_), Some((shard, outcomes))) if *shard == place.shard => Some(*outcomes),
            (Some(predicate), _) => Some(predicate.outcomes(&source.partition_row(place.shard)?)?),
        };
        decided = outcomes.map(|o| (place.shard, o));
        match outcomes {
            Some(o) if !o.can_be_true => {}
            Some(o) if o.all_pass() && balance.is_none() => rows.pass_all(place),
            _ => to_read.push(*place),
        }
    }
    let mut columns: BTreeSet<&str> = predicate.as_ref().map(|p| p.columns()).unwrap_or_default();
    columns.extend(balance.map(|(column, _)| column.as_str()));
    let columns = columns.into_iter().map(str::to_owned).collect();
    let each = |place, batch| rows.add(&place, &batch, predicate.as_ref(), balance.map(|(c, _)| c.as_str()));
    source.scan(to_read, columns, each).await?;
    let classes_found = rows.by_class.keys().cloned().collect();
    let balance = balance.map(|(column, weights)| (column.clone(), rows.classes(source.rows, weights)));
    let text = predicate.map(|p| p.to_string());
    let filter = text.map(|text| (text, Selection::from_bits(source.rows, rows.words)));
    Ok(Chosen { filter, balance, classes_found })
}

/// What a scan has found so far.
struct RowsFound {
    /// A bit for each slot that passes the filter.
    words: Vec<u64>,
    /// Slots that pass, ascending, by class.
    by_class: BTreeMap<String, Vec<u64>>,
}

impl RowsFound {
    fn new(slots: u64) -> Self {
        Self { words: vec![0; slots.div_ceil(64) as usize], by_class: BTreeMap::new() }
    }

    fn pass(&mut self, slot: u64) {
        self.words[(slot / 64) as usize] |= 1 << (slot % 64);
    }

    fn pass_all(&mut self, place: &BlockPlace) {
        for slot in place.first_slot..place.first_slot + place.rows {
            self.pass(slot);
        }
    }

    fn add(
        &mut self,
        place: &BlockPlace,
        batch: &RecordBatch,
        predicate: Option<&Predicate>,
        class_column: Option<&str>,
    ) -> Result<()> {
        let passes = match predicate {
            Some(predicate) => predicate.evaluate(batch)?,
            None => BooleanArray::from(vec![true; batch.num_rows()]),
        };
        let classes = match class_column.and_then(|c| batch.column_by_name(c).map(|a| (c, a))) {
            Some((name, array)) => {
                Some(cast(array, &DataType::Utf8).map_err(LoaderError::arrow(format!("balance on `{name}`")))?)
            }
            None => None,
        };
        for row in 0..batch.num_rows() {
            if !(passes.is_valid(row) && passes.value(row)) {
                continue;
            }
            let slot = place.first_slot + row as u64;
            self.pass(slot);
            if let Some(classes) = classes.as_ref().map(|c| c.as_string::<i32>()).filter(|c| c.is_valid(row)) {
                let value = classes.value(row);
                let known = self.by_class.len();
                match self.by_class.get_mut(value) {
                    Some(slots) => slots.push(slot),
                    None if known == CLASSES_MAX => {
                        let column = class_column.unwrap_or_default();
                        return Err(LoaderError::Plan(format!(
                            "balance: column `{column}` has more than {CLASSES_MAX} values: it tells rows apart, \
                             not classes"
                        )));
                    }
                    None => drop(self.by_class.insert(value.to_owned(), vec![slot])),
                }
            }
        }
        Ok(())
    }

    /// The classes with their weights: equal ones if none are given, else those that are given.
    fn classes(&mut self, slots: u64, weights: &BTreeMap<String, f64>) -> Vec<(String, f64, Selection)> {
        let weight = |value: &str| if weights.is_empty() { Some(1.0) } else { weights.get(value).copied() };
        std::mem::take(&mut self.by_class)
            .into_iter()
            .filter_map(|(value, rows)| {
                let weight = weight(&value)?;
                Some((value, weight, Selection::from_sorted(slots, rows)))
            })
            .collect()
    }
}
