//! Pieces of plans that table functions share.

use std::sync::Arc;

use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprFunctionExt, LogicalPlan, WindowFrame, WindowFunctionDefinition,
};

/// The columns of a relation without those that a function adds in their place.
pub(super) fn kept_columns(input: &LogicalPlan, added: &[&str]) -> Vec<Expr> {
    input
        .schema()
        .columns()
        .into_iter()
        .filter(|column| !added.contains(&column.name()))
        .map(Expr::Column)
        .collect()
}

/// The keys of a join of two columns without qualifiers.
pub(crate) fn on(left: &str, right: &str) -> (Vec<Column>, Vec<Column>) {
    (
        vec![Column::new_unqualified(left)],
        vec![Column::new_unqualified(right)],
    )
}

/// An aggregate over all rows of a partition, on each of them.
pub(crate) fn over_all(function: Arc<AggregateUDF>, argument: Expr, partition: Expr, name: &str) -> Result<Expr> {
    let call = WindowFunction::new(WindowFunctionDefinition::AggregateUDF(function), vec![argument]);
    Ok(Expr::from(call)
        .partition_by(vec![partition])
        .window_frame(WindowFrame::new(None))
        .build()?
        .alias(name))
}
