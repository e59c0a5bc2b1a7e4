//! Which rows can be drawn: what the filter leaves of each corpus, and the classes of a balanced one.
//!
//! Only the columns of the filter and of the classes are read, and no shard whose partition values decide by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use corpusmill_stream::Selection;

use crate::error::{BatchError, Result};
use crate::filter::Predicate;
use crate::kept::Kept;
use crate::source::{BlockPlace, Source};

use super::found::RowsFound;
use super::options::Options;
use super::{nearest, source_named};

/// Kind of the files that keep what was found.
const KIND: &str = "rows";

/// How to find rows.
pub(crate) struct Scan<'a> {
    /// Where what was found before is kept.
    pub(crate) kept: Option<&'a Kept>,
    /// Whether damaged blocks are left out rather than an error.
    pub(crate) skips_damage: bool,
}

/// A class of a balanced source.
pub(crate) struct ClassRows {
    /// The column's value, as text.
    pub(crate) value: String,
    /// Its share, relative to the other classes.
    pub(crate) weight: f64,
    /// Its rows.
    pub(crate) rows: Selection,
}

/// The rows of one source that can be drawn.
#[derive(Default)]
pub(crate) struct Chosen {
    /// The filter in its canonical form, with the rows that pass; absent: all rows.
    pub(crate) filter: Option<(String, Selection)>,
    /// The column and its classes.
    pub(crate) balance: Option<(String, Vec<ClassRows>)>,
    /// Every class that has rows, with a weight or not.
    classes_found: BTreeSet<String>,
    /// What is to be logged: blocks that could not be read.
    pub(crate) notes: Vec<String>,
}

/// Works out the rows of every source.
///
/// # Errors
/// Plan for a filter or class that does not fit; those of reading.
pub(crate) async fn choose(sources: &[Arc<Source>], options: &Options, scan: &Scan<'_>) -> Result<Vec<Chosen>> {
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
        all.push(choose_one(source, predicate, balance, scan).await?);
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
        BatchError::Plan(format!(
            "balance: {} has no column `{column}`{}",
            source.name,
            nearest(column, &names)
        ))
    })?;
    let kind = field.data_type();
    if kind.is_nested() || kind.is_floating() {
        return Err(BatchError::Plan(format!(
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
            return Err(BatchError::Plan(format!(
                "balance: no row has {column} = {value}{hint}"
            )));
        }
    }
    Ok(())
}

async fn choose_one(
    source: &Arc<Source>,
    predicate: Option<Predicate>,
    balance: Option<(&String, &BTreeMap<String, f64>)>,
    scan: &Scan<'_>,
) -> Result<Chosen> {
    if predicate.is_none() && balance.is_none() {
        return Ok(Chosen::default());
    }
    let column = balance.map(|(column, _)| column.as_str());
    let text = predicate.as_ref().map(Predicate::to_string);
    let layout = source.layout();
    let of = [layout.as_str(), text.as_deref().unwrap_or(""), column.unwrap_or("")];
    let known = scan.kept.and_then(|kept| kept.get(KIND, &of));
    let known = known.and_then(|bytes| RowsFound::from_bytes(&bytes, source.rows));
    let (mut rows, notes) = match known {
        Some(rows) => (rows, Vec::new()),
        None => find(source, predicate.as_ref(), column, scan.skips_damage).await?,
    };
    if let Some(kept) = scan.kept
        && notes.is_empty()
    {
        kept.put(KIND, &of, rows.to_bytes());
    }
    let classes_found = rows.by_class.keys().cloned().collect();
    let balance = balance.map(|(column, weights)| (column.clone(), rows.classes(source.rows, weights)));
    let filter = text.map(|text| (text, Selection::from_bits(source.rows, rows.words)));
    Ok(Chosen {
        filter,
        balance,
        classes_found,
        notes,
    })
}

/// Reads what has to be read. Rows of damaged blocks do not pass where damage is skipped, and are noted.
async fn find(
    source: &Arc<Source>,
    predicate: Option<&Predicate>,
    class_column: Option<&str>,
    skips_damage: bool,
) -> Result<(RowsFound, Vec<String>)> {
    let mut rows = RowsFound::new(source.rows);
    let mut notes = Vec::new();
    let mut to_read: Vec<BlockPlace> = Vec::new();
    let mut decided = None;
    for place in &source.blocks {
        let outcomes = match (predicate, &decided) {
            (None, _) => None,
            (Some(_), Some((shard, outcomes))) if *shard == place.shard => Some(*outcomes),
            (Some(predicate), _) => Some(predicate.outcomes(&source.partition_row(place.shard)?)?),
        };
        decided = outcomes.map(|o| (place.shard, o));
        match outcomes {
            Some(o) if !o.can_be_true => {}
            Some(o) if o.all_pass() && class_column.is_none() => rows.pass_all(place),
            _ => to_read.push(*place),
        }
    }
    let mut columns: BTreeSet<&str> = predicate.map(Predicate::columns).unwrap_or_default();
    columns.extend(class_column);
    let columns = columns.into_iter().map(str::to_owned).collect();
    let each = |place, batch: Result<RecordBatch>| match batch {
        Ok(batch) => rows.add(&place, &batch, predicate, class_column),
        Err(e) if skips_damage && e.is_damage() => {
            notes.push(format!(
                "{e}; its {} rows are left out: whether they pass cannot be told",
                place.rows
            ));
            Ok(())
        }
        Err(e) => Err(e),
    };
    source.scan(to_read, columns, each).await?;
    Ok((rows, notes))
}
