//! Which changes of a corpus' columns the next version may make.

use corpusmill_corpus::{Column, Manifest, columns_of};

use crate::corpus_plan::CorpusPlan;
use crate::error::{CoordinatorError, Result};

/// Holds the columns of `plan` against those of the version before: columns may be added; to remove or retype one,
/// or to change key or partitions, takes OR REPLACE.
///
/// # Errors
/// [`CoordinatorError::Invalid`] that names each change.
pub(super) fn check(plan: &CorpusPlan, base: Option<&Manifest>, replace: bool) -> Result<()> {
    let Some(base) = base else { return Ok(()) };
    if replace {
        return Ok(());
    }
    let new = columns_of(&plan.schema)?;
    let mut changes = changed_columns(&base.columns, &new);
    let lists = [
        ("PRIMARY KEY", &base.primary_key, &plan.corpus.primary_key),
        ("PARTITIONED BY", &base.partition_by, &plan.corpus.partitioned_by),
    ];
    for (clause, before, now) in lists {
        if before != now {
            changes.push(format!(
                "{clause} was ({}) and is ({})",
                before.join(", "),
                now.join(", ")
            ));
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    Err(CoordinatorError::Invalid(format!(
        "corpus {}: {}; version {} and its readers expect the old columns: columns may be added, anything else needs \
         CREATE OR REPLACE CORPUS",
        base.corpus,
        changes.join("; "),
        base.version
    )))
}

fn changed_columns(before: &[Column], now: &[Column]) -> Vec<String> {
    let change = |old: &Column| match now.iter().find(|new| new.name == old.name) {
        None => Some(format!("column {} is gone", old.name)),
        Some(new) if new.kind != old.kind => {
            let shown = |column: &Column| column.to_field().data_type().to_string();
            Some(format!("column {} was {} and is {}", old.name, shown(old), shown(new)))
        }
        Some(_) => None,
    };
    before.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use corpusmill_corpus::ColumnType;

    use super::*;

    fn column(name: &str, kind: ColumnType) -> Column {
        Column {
            name: name.into(),
            kind,
            nullable: true,
        }
    }

    #[test]
    fn added_is_fine_removed_and_retyped_are_not() {
        let before = [column("id", ColumnType::Int64), column("label", ColumnType::String)];
        let more = [
            before[0].clone(),
            column("score", ColumnType::Float64),
            before[1].clone(),
        ];
        assert!(changed_columns(&before, &more).is_empty());
        let less = [before[0].clone()];
        assert_eq!(changed_columns(&before, &less), ["column label is gone"]);
        let other = [column("id", ColumnType::String), before[1].clone()];
        assert_eq!(changed_columns(&before, &other), ["column id was Int64 and is Utf8"]);
    }
}
