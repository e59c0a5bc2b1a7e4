//! `label_conflicts(TABLE t, cluster => 'dup_cluster_id', label => 'label')`
//!
//! Adds `conflict`: whether rows of the same cluster have different labels. A NULL label conflicts with nothing, and a
//! row without a cluster with no other.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, WindowFrame, WindowFunctionDefinition, ident,
    lit, when,
};

use super::arguments::{Arguments, kept_columns};

const CONFLICT: &str = "conflict";
const SMALLEST: &str = "__conflict_smallest";
const LARGEST: &str = "__conflict_largest";

pub(super) fn plan(mut arguments: Arguments) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let cluster = arguments.required_column("cluster", &input)?;
    let label = arguments.required_column("label", &input)?;
    arguments.finish(&["cluster", "label"])?;
    let over_cluster = |function: Arc<AggregateUDF>, name: &str| -> Result<Expr> {
        let call = WindowFunction::new(WindowFunctionDefinition::AggregateUDF(function), vec![label.clone()]);
        Ok(Expr::from(call)
            .partition_by(vec![cluster.clone()])
            .window_frame(WindowFrame::new(None))
            .build()?
            .alias(name))
    };
    let windows = vec![over_cluster(min_udaf(), SMALLEST)?, over_cluster(max_udaf(), LARGEST)?];
    let differ = cluster
        .clone()
        .is_not_null()
        .and(ident(SMALLEST).not_eq(ident(LARGEST)));
    let mut output = kept_columns(&input, &[CONFLICT]);
    // Clusters without a label compare NULLs.
    output.push(when(differ, lit(true)).otherwise(lit(false))?.alias(CONFLICT));
    LogicalPlanBuilder::from(input)
        .window(windows)?
        .project(output)?
        .build()
}
