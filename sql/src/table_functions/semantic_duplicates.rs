//! `semantic_duplicates(TABLE t, key => 'id', embedding => 'e' [, threshold => 0.95] [, clusters => k] [, keep => '…']
//!  [, cluster => 'component'|'star'])`
//!
//! Adds the columns of `near_duplicates`; `dup_similarity` is the cosine to the representative. Rows are linked when the
//! cosine of their embeddings is at least `threshold`, and k-means puts them into the same of its clusters (Abbas et al.
//! 2023, "SemDeDup"). Without `keep` the row nearest to its centre is the representative. A row without an embedding, or
//! with one of zeros, is a cluster of its own.
//!
//! ```text
//! rows ─▶ unit_vector ─▶ vector_centres: k-means over a sample, one row
//!              └──────────── × ◀─┘ placed_vector: the nearest centre
//!                            │ nodes, GROUP BY centre: cosine_pairs, all with all
//!                            ▼ clusters, as everywhere
//! ```
//! One centre's vectors are in one task at a time. The input is read five times.

use datafusion::common::{Column, Result};
use datafusion::functions_aggregate::expr_fn::min;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};

use super::arguments::Arguments;
use super::clusters::{DUPLICATES, EDGE_COLUMNS, NODE, RANK, Rows, VALUE};
use super::fault;
use super::near_duplicates::shape;
use super::relation::kept_columns;
use crate::functions::vectors::CLUSTERS_MAX;
use crate::functions::{content_hash, gathered_pairs, order_key, vectors};

const UNIT: &str = "__dup_unit";
const CENTRES: &str = "__dup_centres";
const PLACED: &str = "__dup_placed";
const CENTRE: &str = "__dup_centre";
const CLOSE: &str = "__dup_close";
const PAIRS: &str = "__dup_pairs";

pub(super) fn plan(mut arguments: Arguments, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let key = arguments.required_column("key", &input)?;
    let embedding = arguments.required_column("embedding", &input)?;
    let threshold = arguments.number("threshold")?.unwrap_or(0.95);
    let clusters = arguments.integer("clusters")?;
    let mut keep = arguments.order("keep", &input, context)?;
    let shape = shape(&mut arguments)?;
    arguments.finish(&["key", "embedding", "threshold", "clusters", "keep", "cluster"])?;
    if !(threshold > 0.0 && threshold <= 1.0) {
        let message = format!("threshold of semantic_duplicates is a cosine above 0 and at most 1, found {threshold}");
        return Err(fault(message, arguments.span()));
    }
    if clusters.is_some_and(|clusters| !(1..=CLUSTERS_MAX).contains(&clusters)) {
        let message = format!("clusters of semantic_duplicates are from 1 to {CLUSTERS_MAX}");
        return Err(fault(message, arguments.span()));
    }
    if keep.is_empty() {
        keep.push(ident(CLOSE).sort(false, false));
    }
    let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let placed = placed(input, &columns, embedding, clusters.unwrap_or(0))?;
    let rows = Rows::new(placed, key, ident(UNIT), keep);
    let edges = edges(&rows, threshold)?;
    let cosine = |a: Expr, b: Expr| vectors::cosine().call(vec![a, b]);
    let marked = rows.annotate(edges, shape, &DUPLICATES, lit(1.0f64), cosine)?;
    let output = kept_columns(&marked, &[UNIT, CENTRE, CLOSE]);
    LogicalPlanBuilder::from(marked).project(output)?.build()
}

/// The rows with [`UNIT`], [`CENTRE`] and [`CLOSE`], the cosine to the centre.
fn placed(input: LogicalPlan, columns: &[Expr], embedding: Expr, clusters: i64) -> Result<LogicalPlan> {
    let with = |more: Vec<Expr>| columns.iter().cloned().chain(more).collect::<Vec<_>>();
    let units = LogicalPlanBuilder::from(input)
        .project(with(vec![vectors::unit().call(vec![embedding]).alias(UNIT)]))?
        .build()?;
    let centres = vectors::centres().call(vec![ident(UNIT), lit(clusters)]);
    let centres = LogicalPlanBuilder::from(units.clone())
        .project(vec![ident(UNIT)])?
        .aggregate(Vec::<Expr>::new(), vec![centres.alias(CENTRES)])?
        .build()?;
    let place = vectors::placed().call(vec![ident(UNIT), ident(CENTRES)]);
    let field = |name: &str| datafusion::functions::core::get_field().call(vec![ident(PLACED), lit(name)]);
    LogicalPlanBuilder::from(units)
        .cross_join(centres)?
        .project(with(vec![ident(UNIT), place.alias(PLACED)]))?
        .project(with(vec![
            ident(UNIT),
            field("centre").alias(CENTRE),
            field("cosine").alias(CLOSE),
        ]))?
        .build()
}

/// The pairs within each centre's vectors.
fn edges(rows: &Rows, threshold: f64) -> Result<LogicalPlan> {
    let pairs = gathered_pairs::cosine().call(vec![ident(NODE), ident(RANK), ident(VALUE), lit(threshold)]);
    let field = |(name, to): (&str, &str)| {
        let value = datafusion::functions::core::get_field().call(vec![ident(PAIRS), lit(name)]);
        value.alias(to)
    };
    LogicalPlanBuilder::from(rows.input.clone())
        .project(vec![
            ident(UNIT).alias(VALUE),
            ident(CENTRE),
            order_key::of(&rows.order).alias(RANK),
        ])?
        .filter(ident(VALUE).is_not_null())?
        .aggregate(vec![ident(VALUE), ident(CENTRE)], vec![min(ident(RANK)).alias(RANK)])?
        .project(vec![
            content_hash().call(vec![ident(VALUE)]).alias(NODE),
            ident(VALUE),
            ident(CENTRE),
            ident(RANK),
        ])?
        .aggregate(vec![ident(CENTRE)], vec![pairs.alias(PAIRS)])?
        .project(vec![ident(PAIRS)])?
        .unnest_column(Column::new_unqualified(PAIRS))?
        .project(EDGE_COLUMNS.map(field))?
        .build()
}
