//! `label_conflicts(TABLE t, cluster => 'dup_cluster_id', label => 'label')`
//!
//! Adds `conflict`: whether rows of the same cluster have different labels. A NULL label conflicts with nothing, and a
//! row without a cluster with no other.

use datafusion::common::Result;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, ident, lit, when};

use super::arguments::Arguments;
use super::relation::{kept_columns, over_all};

const CONFLICT: &str = "conflict";
const SMALLEST: &str = "__conflict_smallest";
const LARGEST: &str = "__conflict_largest";

pub(super) fn plan(mut arguments: Arguments) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let cluster = arguments.required_column("cluster", &input)?;
    let label = arguments.required_column("label", &input)?;
    arguments.finish(&["cluster", "label"])?;
    let over_cluster = |function, name: &str| over_all(function, label.clone(), cluster.clone(), name);
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
