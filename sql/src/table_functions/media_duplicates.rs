//! `media_duplicates(TABLE t, key => 'id', hash => 'pdq' [, quality => 'pdq_quality'] [, max_distance => 31]
//!  [, min_quality => 50] [, keep => '…'] [, cluster => 'component'|'star'])`
//!
//! Adds `media_cluster_id` (`Int64`, from the hashes alone), `media_is_representative`, `media_distance` (`Int32`: bits
//! between the row's hash and that of the representative) and `media_linked_to` (the key of the row that links it to the
//! cluster). Rows are linked when their PDQ hashes differ in at most `max_distance` bits. A row without a hash, or of a
//! lower quality than `min_quality`, is a cluster of its own: hashes of plain pictures say nothing.
//!
//! `hash` may be a list, `pdq_dihedral(content)`: then pictures are also linked when one is the other turned or mirrored.
//!
//! Equal hashes are one node; the nodes are gathered in one task, where an index finds the near ones.

use corpusmill_kernels::hamming::DISTANCE_MAX;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, Result};
use datafusion::functions_nested::expr_fn::array_to_string;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, ident, lit, when};

use super::arguments::Arguments;
use super::clusters::{Added, EDGE_COLUMNS, NODE, RANK, Rows, VALUE};
use super::fault;
use super::near_duplicates::shape;
use crate::functions::{gathered_pairs, pdq};

const PAIRS: &str = "__dup_pairs";
const ADDED: Added = Added {
    cluster: "media_cluster_id",
    representative: "media_is_representative",
    similarity: "media_distance",
    linked: "media_linked_to",
};

pub(super) fn plan(mut arguments: Arguments, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let key = arguments.required_column("key", &input)?;
    let hash = arguments.required_column("hash", &input)?;
    let quality = arguments.column("quality", &input)?;
    let distance_max = distance_max(&mut arguments, "media_duplicates")?;
    let min_quality = arguments.integer("min_quality")?.unwrap_or(50);
    let keep = arguments.order("keep", &input, context)?;
    let shape = shape(&mut arguments)?;
    arguments.finish(&[
        "key",
        "hash",
        "quality",
        "max_distance",
        "min_quality",
        "keep",
        "cluster",
    ])?;
    let hash = match hash.get_type(input.schema())? {
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => array_to_string(hash, lit("")),
        _ => hash,
    };
    let hash = datafusion::functions::string::lower().call(vec![hash]);
    let value = match quality {
        Some(quality) => when(quality.gt_eq(lit(min_quality)), hash).end()?,
        None => hash,
    };
    let rows = Rows::new(input, key, value, keep);
    let pairs = gathered_pairs::hamming().call(vec![ident(NODE), ident(RANK), ident(VALUE), lit(distance_max)]);
    let field = |(name, to): (&str, &str)| {
        let value = datafusion::functions::core::get_field().call(vec![ident(PAIRS), lit(name)]);
        value.alias(to)
    };
    let edges = LogicalPlanBuilder::from(rows.nodes()?)
        .aggregate(Vec::<Expr>::new(), vec![pairs.alias(PAIRS)])?
        .unnest_column(Column::new_unqualified(PAIRS))?
        .project(EDGE_COLUMNS.map(field))?
        .build()?;
    let distance = |a: Expr, b: Expr| pdq::distance().call(vec![a, b]);
    rows.annotate(edges, shape, &ADDED, lit(0i32), distance)
}

/// The argument `max_distance`: bits.
pub(super) fn distance_max(arguments: &mut Arguments, function: &str) -> Result<i64> {
    let distance_max = arguments.integer("max_distance")?.unwrap_or(i64::from(DISTANCE_MAX));
    if (0..=i64::from(DISTANCE_MAX)).contains(&distance_max) {
        return Ok(distance_max);
    }
    Err(fault(
        format!(
            "max_distance of {function} is from 0 to {DISTANCE_MAX} bits, found {distance_max}; unrelated pictures differ in about 128"
        ),
        arguments.span(),
    ))
}
