//! `connected_components(TABLE edges, source => 'a', target => 'b')` → `node`, `component`
//!
//! One row for each value that occurs in either column, with the smallest value that it is connected to, through however
//! many edges and in whatever direction. An edge with a NULL is a node by itself. The one table function that gives
//! other rows than those of its input.
//!
//! Memory is that of the nodes (about 40 bytes each, in one task), not of the edges.

use datafusion::common::{JoinType, Result};
use datafusion::functions_aggregate::min_max::min_udaf;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, when};

use super::arguments::Arguments;
use super::assign_split::components_of_ids;
use super::relation::{on, over_all};
use crate::functions::content_id;
use crate::functions::group_components::{COMPONENT, NODE};

const VALUE: &str = "__graph_value";
const ID: &str = "__graph_id";
const SMALLEST: &str = "__graph_smallest";

pub(super) fn plan(mut arguments: Arguments) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let source = arguments.required_column("source", &input)?;
    let target = arguments.required_column("target", &input)?;
    arguments.finish(&["source", "target"])?;
    let id = |column: &Expr| when(column.clone().is_not_null(), content_id().call(vec![column.clone()])).end();
    let components = components_of_ids(input.clone(), &[id(&source)?, id(&target)?])?;
    let values = |column: &Expr| {
        LogicalPlanBuilder::from(input.clone())
            .project(vec![column.clone().alias(VALUE)])?
            .build()
    };
    let smallest = over_all(min_udaf(), ident(VALUE), ident(COMPONENT), SMALLEST)?;
    LogicalPlanBuilder::from(values(&source)?)
        .union(values(&target)?)?
        .filter(ident(VALUE).is_not_null())?
        .distinct()?
        .project(vec![ident(VALUE), content_id().call(vec![ident(VALUE)]).alias(ID)])?
        .join(components, JoinType::Inner, on(ID, NODE), None)?
        .project(vec![ident(VALUE), ident(COMPONENT)])?
        .window(vec![smallest])?
        .project(vec![ident(VALUE).alias("node"), ident(SMALLEST).alias("component")])?
        .build()
}
