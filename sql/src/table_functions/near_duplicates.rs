//! `near_duplicates(TABLE t, key => 'id', text => 'body' [, threshold => 0.8] [, keep => 'score DESC, at']
//!  [, cluster => 'component'|'star'] [, unit => 'auto'|'word'|'char', ngram => n] [, bands => b, rows => r])`
//!
//! Adds `dup_cluster_id` (`Int64`, from the texts alone), `dup_is_representative` (the first row of a cluster by `keep`,
//! then by key), `dup_similarity` (the exact Jaccard similarity of the row's shingles to those of the representative) and
//! `dup_linked_to` (the key of the row that links it to the cluster; NULL for the representative).
//!
//! ```text
//! texts, each once ─▶ near_bands: shingles ─▶ MinHash ─▶ bands, sketch ─▶ one row a band
//!                                                                           │ GROUP BY band
//!      verified by shingle_similarity ≥ threshold ◀── distinct ◀── near_pairs(node, rank, sketch)
//! ```
//! Rows are clustered over verified pairs only, so no cluster holds a pair that was only probable; which pairs are looked
//! at is up to the bands. Everything is a plan of joins and aggregates, so it spills and runs on a cluster as it is; the
//! input is read four times.

use corpusmill_kernels::duplicate_links::ClusterShape;
use corpusmill_kernels::minhash::MinHash;
use corpusmill_kernels::shingles::{ShingleOptions, ShingleUnit};
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};

use super::arguments::Arguments;
use super::clusters::{A, B, DUPLICATES, NODE, RANK, Rows, VALUE};
use super::fault;
use crate::functions::{near_pairs, near_text};

const BAND: &str = "__dup_band";
const PAIR: &str = "__dup_pair";

struct Options {
    threshold: f64,
    shape: ClusterShape,
    unit: String,
    ngram: Option<i64>,
    bands: i64,
    rows: i64,
}

pub(super) fn plan(mut arguments: Arguments, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let key = arguments.required_column("key", &input)?;
    let text = arguments.required_column("text", &input)?;
    let keep = arguments.order("keep", &input, context)?;
    let options = Options::read(&mut arguments)?;
    let rows = Rows::new(input, key, text, keep);
    let nodes = rows.nodes()?;
    let alike = |a: Expr, b: Expr| {
        near_text::similarity().call(vec![
            a,
            b,
            lit(options.unit.clone()),
            lit(ScalarValue::Int64(options.ngram)),
        ])
    };
    let pairs = pairs(nodes.clone(), &options)?;
    let verified = rows.verify(pairs, &nodes, alike, options.threshold)?;
    rows.annotate(verified, options.shape, &DUPLICATES, lit(1.0f64), alike)
}

impl Options {
    fn read(arguments: &mut Arguments) -> Result<Options> {
        let span = arguments.span();
        let wrong = |error: &dyn std::fmt::Display| fault(format!("near_duplicates: {error}"), span);
        let threshold = arguments.number("threshold")?.unwrap_or(0.8);
        let shape = shape(arguments)?;
        let unit = arguments.text("unit")?.unwrap_or_else(|| "auto".into());
        let ngram = arguments.integer("ngram")?;
        let parsed: ShingleUnit = unit.parse().map_err(|error| wrong(&error))?;
        ShingleOptions::new(parsed, ngram).map_err(|error| wrong(&error))?;
        let family = MinHash::for_threshold(threshold).map_err(|error| wrong(&error))?;
        let (bands, rows) = match (arguments.integer("bands")?, arguments.integer("rows")?) {
            (None, None) => (family.bands() as i64, (family.permutations() / family.bands()) as i64),
            (Some(bands), Some(rows)) => (bands, rows),
            _ => return Err(fault("near_duplicates takes bands and rows together", span)),
        };
        let count = |n: i64| usize::try_from(n).unwrap_or(0);
        MinHash::new(count(bands), count(rows)).map_err(|error| wrong(&error))?;
        arguments.finish(&[
            "key",
            "text",
            "threshold",
            "keep",
            "cluster",
            "unit",
            "ngram",
            "bands",
            "rows",
        ])?;
        Ok(Options {
            threshold,
            shape,
            unit,
            ngram,
            bands,
            rows,
        })
    }
}

/// The argument `cluster`.
pub(super) fn shape(arguments: &mut Arguments) -> Result<ClusterShape> {
    match arguments.text("cluster")?.as_deref() {
        None | Some("component") => Ok(ClusterShape::Component),
        Some("star") => Ok(ClusterShape::Star),
        Some(other) => Err(fault(
            format!(
                "cluster is 'component' (everything that is connected) or 'star' (what is similar to the representative itself), found '{other}'"
            ),
            arguments.span(),
        )),
    }
}

/// Pairs of nodes that are worth comparing, each once.
fn pairs(nodes: LogicalPlan, options: &Options) -> Result<LogicalPlan> {
    let bands = near_text::bands().call(vec![
        ident(VALUE),
        lit(options.unit.clone()),
        lit(ScalarValue::Int64(options.ngram)),
        lit(options.bands),
        lit(options.rows),
    ]);
    let field = |of: &str, name: &str| datafusion::functions::core::get_field().call(vec![ident(of), lit(name)]);
    let candidates = near_pairs::function().call(vec![
        ident(NODE),
        ident(RANK),
        field(BAND, "sketch"),
        lit(options.threshold),
    ]);
    LogicalPlanBuilder::from(nodes)
        .project(vec![ident(NODE), ident(RANK), bands.alias(BAND)])?
        .unnest_column(Column::new_unqualified(BAND))?
        .aggregate(vec![field(BAND, "band")], vec![candidates.alias(PAIR)])?
        .project(vec![ident(PAIR)])?
        .filter(ident(PAIR).is_not_null())?
        .unnest_column(Column::new_unqualified(PAIR))?
        .project(vec![field(PAIR, "a").alias(A), field(PAIR, "b").alias(B)])?
        .distinct()?
        .build()
}
