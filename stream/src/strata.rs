//! Strata: the sources of a plan, or the classes of a source that is balanced.

use crate::error::{Error, Result};
use crate::key;
use crate::mix::STRATA_MAX;
use crate::order::RowOrder;
use crate::selection::Selection;
use crate::spec::{PlanSpec, SourceSpec};

/// The rows of one source, as the loader found them: they must match the source's specification.
#[derive(Debug, Clone)]
pub enum SourceRows {
    /// All slots: no filter, no balance.
    All,
    /// The rows that fulfil the filter.
    Filtered(Selection),
    /// The eligible rows of each class, in the order of the specification.
    Classes(Vec<Selection>),
}

/// What is drawn from: a source, or one class of it.
#[derive(Debug)]
pub(crate) struct Stratum {
    /// Position of the source in the plan.
    pub(crate) source: u32,
    /// The key of its name.
    pub(crate) name: u64,
    /// Its share of the source, from 0 to 1.
    pub(crate) share: f64,
    pub(crate) selection: Selection,
    pub(crate) order: RowOrder,
}

impl Stratum {
    /// Makes the strata of all sources, and checks that `rows` are those of the specification.
    pub(crate) fn of_plan(spec: &PlanSpec, rows: Vec<SourceRows>) -> Result<Vec<Self>> {
        if rows.len() != spec.sources.len() {
            let message = format!("rows of {} sources were given for {}", rows.len(), spec.sources.len());
            return Err(Error::spec("sources", message));
        }
        let mut strata = Vec::new();
        for (i, (source, rows)) in spec.sources.iter().zip(rows).enumerate() {
            let mut push = |class: Option<&str>, share: f64, selection: Selection| {
                let name = key::name(&source.name, class);
                let order = RowOrder::new(spec.order, spec.seed, name, source, &selection);
                strata.push(Self {
                    source: i as u32,
                    name,
                    share,
                    selection,
                    order,
                });
            };
            match (&source.balance, &source.filter, rows) {
                (None, None, SourceRows::All) => push(None, 1.0, Selection::all(source.slots)),
                (None, Some(filter), SourceRows::Filtered(selection)) => {
                    check(source, &filter.predicate, filter.rows, &filter.digest, &selection)?;
                    push(None, 1.0, selection);
                }
                (Some(balance), _, SourceRows::Classes(selections)) if selections.len() == balance.classes.len() => {
                    let sum: f64 = balance.classes.iter().map(|c| c.weight).sum();
                    if sum <= 0.0 {
                        let message = "no class has a weight above 0";
                        return Err(Error::spec(format!("sources[{i}].balance"), message));
                    }
                    for (class, selection) in balance.classes.iter().zip(selections) {
                        let what = format!("{} = {}", balance.column, class.value);
                        check(source, &what, class.rows, &class.digest, &selection)?;
                        push(Some(&class.value), class.weight / sum, selection);
                    }
                }
                _ => {
                    let message = "all rows are wanted where there is neither filter nor balance, the filtered ones \
                                   for a filter, one selection per class for a balance";
                    return Err(Error::Rows {
                        source_name: source.name.clone(),
                        message: message.into(),
                    });
                }
            }
        }
        if strata.len() > STRATA_MAX {
            let message = format!(
                "{} sources and classes, at most {STRATA_MAX} can be mixed",
                strata.len()
            );
            return Err(Error::spec("sources", message));
        }
        Ok(strata)
    }

    /// Rows in one epoch.
    pub(crate) fn rows(&self) -> u64 {
        self.selection.len()
    }
}

fn check(source: &SourceSpec, what: &str, rows: u64, digest: &str, selection: &Selection) -> Result<()> {
    let message = if selection.slots() != source.slots {
        format!(
            "{what}: chosen among {} slots, the version has {}",
            selection.slots(),
            source.slots
        )
    } else if selection.len() != rows {
        format!("{what}: {} rows, the plan was made for {rows}", selection.len())
    } else if selection.digest() != digest {
        format!(
            "{what}: other rows than the plan was made for (digest {}, not {digest})",
            selection.digest()
        )
    } else {
        return Ok(());
    };
    Err(Error::Rows {
        source_name: source.name.clone(),
        message,
    })
}
