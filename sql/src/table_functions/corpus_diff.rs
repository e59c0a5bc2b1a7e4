//! `corpus_diff((SELECT * FROM c VERSION AS OF 1), TABLE c, key => 'id')`
//!
//! A row for each key whose row is in one of two relations only, or not the same in both: the key, `change` (`added`,
//! `removed`, `changed`), and `changed_columns`, which of the columns that both have differ. Values are compared by the
//! hash of their canonical encoding, so that any type can be, and NULL equals NULL.

use datafusion::common::{Column, JoinType, Result};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions::string::expr_fn::concat_ws;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit, when};

use super::arguments::Arguments;
use super::fault;
use crate::functions::content_hash;

const CHANGE: &str = "change";
const COLUMNS: &str = "changed_columns";

/// Names of the columns of one side within the join.
struct Side(&'static str);

const BEFORE: Side = Side("before");
const AFTER: Side = Side("after");

impl Side {
    fn name(&self, what: &str) -> String {
        format!("__{}_{what}", self.0)
    }

    fn there(&self) -> Expr {
        ident(self.name("there"))
    }

    /// Keys, hashes of the other columns, and a mark that the row is there.
    fn of(&self, relation: LogicalPlan, keys: &[String], others: &[String]) -> Result<LogicalPlan> {
        let column = |name: &String| match relation.schema().qualified_fields_with_unqualified_name(name)[..] {
            [(qualifier, field)] => Expr::Column(Column::new(qualifier.cloned(), field.name().clone())),
            _ => ident(name),
        };
        let mut output: Vec<Expr> = keys
            .iter()
            .map(|name| column(name).alias(self.name(&format!("key_{name}"))))
            .collect();
        output.extend(others.iter().map(|name| {
            let hash = content_hash().call(vec![column(name)]);
            hash.alias(self.name(&format!("of_{name}")))
        }));
        output.push(lit(true).alias(self.name("there")));
        LogicalPlanBuilder::from(relation).project(output)?.build()
    }
}

pub(super) fn plan(mut arguments: Arguments) -> Result<LogicalPlan> {
    let before = arguments.input()?;
    let after = arguments.second_input("a second relation")?;
    let span = arguments.span();
    let keys: Vec<String> = arguments
        .columns("key", &before)?
        .iter()
        .map(|key| match key {
            Expr::Column(column) => column.name.clone(),
            other => other.to_string(),
        })
        .collect();
    arguments.finish(&["key"])?;
    if keys.is_empty() {
        return Err(fault("corpus_diff needs key => 'column', or ['a', 'b']", span));
    }
    let has = |relation: &LogicalPlan, name: &String| relation.schema().has_column_with_unqualified_name(name);
    if let Some(missing) = keys.iter().find(|key| !has(&after, key)) {
        return Err(fault(
            format!("corpus_diff: the second relation has no column '{missing}'"),
            span,
        ));
    }
    let names = before.schema().fields().iter().map(|field| field.name().clone());
    let others: Vec<String> = names.filter(|name| !keys.contains(name) && has(&after, name)).collect();
    let key_columns = |side: &Side| -> Vec<Column> {
        let named = keys.iter().map(|key| side.name(&format!("key_{key}")));
        named.map(Column::new_unqualified).collect()
    };
    let differs = |name: &String| {
        let of = |side: &Side| ident(side.name(&format!("of_{name}")));
        of(&BEFORE).not_eq(of(&AFTER))
    };
    let both = || BEFORE.there().is_not_null().and(AFTER.there().is_not_null());
    let named: Vec<Expr> = others
        .iter()
        .map(|name| when(both().and(differs(name)), lit(name.clone())).end())
        .collect::<Result<_>>()?;
    let changed = others.iter().map(differs).reduce(Expr::or).unwrap_or(lit(false));
    let change = when(BEFORE.there().is_null(), lit("added"))
        .when(AFTER.there().is_null(), lit("removed"))
        .when(changed, lit("changed"))
        .end()?;
    let mut output: Vec<Expr> = keys
        .iter()
        .map(|key| {
            let of = |side: &Side| ident(side.name(&format!("key_{key}")));
            coalesce(vec![of(&AFTER), of(&BEFORE)]).alias(key)
        })
        .collect();
    output.push(change.alias(CHANGE));
    let columns = match named.is_empty() {
        true => lit(""),
        false => concat_ws(lit(", "), named),
    };
    output.push(when(both(), columns).end()?.alias(COLUMNS));
    LogicalPlanBuilder::from(BEFORE.of(before, &keys, &others)?)
        .join(
            AFTER.of(after, &keys, &others)?,
            JoinType::Full,
            (key_columns(&BEFORE), key_columns(&AFTER)),
            None,
        )?
        .project(output)?
        .filter(ident(CHANGE).is_not_null())?
        .build()
}
