//! `exact_duplicates(TABLE t, key => 'id', columns => ['a', 'b'] [, keep => 'score DESC, at'])`
//!
//! Adds `dup_cluster_id` (`Int64`, from the content alone, so it stays the same from build to build),
//! `dup_is_representative` (one row of each cluster: the first by `keep`, then by `key`) and `dup_similarity` (1.0).
//! Rows are duplicates when all the columns are equal, NULL being equal to NULL; a row whose columns are all NULL has
//! no content and is a cluster of its own.

use datafusion::common::Result;
use datafusion::functions_window::row_number::row_number;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, ident, lit, when};

use super::arguments::Arguments;
use super::fault;
use super::relation::kept_columns;
use crate::functions::content_id;

const CLUSTER: &str = "dup_cluster_id";
const REPRESENTATIVE: &str = "dup_is_representative";
const SIMILARITY: &str = "dup_similarity";
const RANK: &str = "__dup_rank";

pub(super) fn plan(mut arguments: Arguments, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let key = arguments.required_column("key", &input)?;
    let columns = arguments.columns("columns", &input)?;
    let keep = arguments.order("keep", &input, context)?;
    arguments.finish(&["key", "columns", "keep"])?;
    if columns.is_empty() {
        return Err(fault(
            "exact_duplicates needs columns => ['column', …]",
            arguments.span(),
        ));
    }
    let content = content_id();
    // The hash is NULL exactly when all columns are.
    let own = content_id().call(vec![key.clone()]);
    let cluster = datafusion::functions::core::coalesce().call(vec![content.call(columns.clone()), own.clone()]);

    // Rows without content are told apart by their key, everything else by the values themselves, not by a hash.
    let has_content = columns
        .iter()
        .map(|column| column.clone().is_not_null())
        .reduce(Expr::or)
        .unwrap_or_else(|| lit(true));
    let mut partition = columns.clone();
    partition.push(when(has_content, lit(0i64)).otherwise(own)?);
    let mut order = keep;
    order.push(key.sort(true, false));
    let rank = row_number()
        .partition_by(partition)
        .order_by(order)
        .build()?
        .alias(RANK);

    let mut output = kept_columns(&input, &[CLUSTER, REPRESENTATIVE, SIMILARITY]);
    output.push(cluster.alias(CLUSTER));
    output.push(ident(RANK).eq(lit(1u64)).alias(REPRESENTATIVE));
    output.push(lit(1.0f64).alias(SIMILARITY));
    LogicalPlanBuilder::from(input)
        .window(vec![rank])?
        .project(output)?
        .build()
}
