//! `video_duplicates(TABLE t, key => 'id', frames => 'frames' [, max_distance => 31] [, min_quality => 50]
//!  [, min_share => 0.8] [, keep => '…'] [, cluster => 'component'|'star'])`
//!
//! Adds `video_cluster_id` (`Int64`, from the hashes alone), `video_is_representative`, `video_share` (`Float64`: the
//! lesser share of frames that the row and its representative have of each other) and `video_linked_to` (the key of the
//! row that links it to the cluster). `frames` is what `vpdq` gives. Rows are linked when at least `min_share` of each
//! one's frames is within `max_distance` bits of a frame of the other (vPDQ). Frames of a lower quality than
//! `min_quality` do not count; a row without any other is a cluster of its own.
//!
//! Videos of the same frames are one node; the nodes are gathered in one task, where an index over all frames finds who
//! shares some: what very many videos share, such as a logo, costs the square of their number.

use datafusion::common::{Column, Result};
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};

use super::arguments::Arguments;
use super::clusters::{Added, EDGE_COLUMNS, NODE, RANK, Rows, VALUE};
use super::fault;
use super::media_duplicates::distance_max;
use super::near_duplicates::shape;
use crate::functions::{gathered_pairs, vpdq};

const PAIRS: &str = "__dup_pairs";
const ADDED: Added = Added {
    cluster: "video_cluster_id",
    representative: "video_is_representative",
    similarity: "video_share",
    linked: "video_linked_to",
};

pub(super) fn plan(mut arguments: Arguments, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let key = arguments.required_column("key", &input)?;
    let frames = arguments.required_column("frames", &input)?;
    let distance_max = distance_max(&mut arguments, "video_duplicates")?;
    let min_quality = arguments.number("min_quality")?.unwrap_or(50.0);
    let min_share = arguments.number("min_share")?.unwrap_or(0.8);
    let keep = arguments.order("keep", &input, context)?;
    let shape = shape(&mut arguments)?;
    arguments.finish(&[
        "key",
        "frames",
        "max_distance",
        "min_quality",
        "min_share",
        "keep",
        "cluster",
    ])?;
    if !(min_share > 0.0 && min_share <= 1.0) {
        return Err(fault(
            format!("min_share of video_duplicates is above 0 and at most 1, found {min_share}"),
            arguments.span(),
        ));
    }
    let hashes = vpdq::frame_hashes().call(vec![frames, lit(min_quality)]);
    let rows = Rows::new(input, key, hashes, keep);
    let pairs = gathered_pairs::videos().call(vec![
        ident(NODE),
        ident(RANK),
        ident(VALUE),
        lit(distance_max),
        lit(min_share),
    ]);
    let field = |of: Expr, name: &str| datafusion::functions::core::get_field().call(vec![of, lit(name)]);
    let edges = LogicalPlanBuilder::from(rows.nodes()?)
        .aggregate(Vec::<Expr>::new(), vec![pairs.alias(PAIRS)])?
        .unnest_column(Column::new_unqualified(PAIRS))?
        .project(EDGE_COLUMNS.map(|(name, to)| field(ident(PAIRS), name).alias(to)))?
        .build()?;
    let share = |a: Expr, b: Expr| {
        let shares = vpdq::shares().call(vec![a, b, lit(distance_max)]);
        field(shares, "least")
    };
    rows.annotate(edges, shape, &ADDED, lit(1.0f64), share)
}
