//! `near_duplicates(TABLE t, key => 'id', text => 'body' [, threshold => 0.8] [, keep => 'score DESC, at']
//!  [, cluster => 'component'|'star'] [, unit => 'auto'|'word'|'char', ngram => n] [, bands => b, rows => r]
//!  [, against => 'history:corpus'])`
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
//! input is read four times. With `against`, texts that earlier builds have seen take part: see [`super::near_history`].

use corpusmill_kernels::duplicate_links::ClusterShape;
use corpusmill_kernels::minhash::MinHash;
use corpusmill_kernels::shingles::{ShingleOptions, ShingleUnit};
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};

use super::arguments::Arguments;
use super::clusters::{A, B, DUPLICATES, NODE, RANK, Rows, SETTLED, VALUE};
use super::{fault, near_history};
use crate::functions::{near_pairs, near_text};
use crate::history::{self, BandOptions};

/// Its name in SQL.
pub(crate) const NAME: &str = "near_duplicates";
/// The argument that names a history.
pub(crate) const AGAINST: &str = "against";

/// Name of the column of [`bands`] with a band and a sketch.
pub(super) const BAND: &str = "__dup_band";
const PAIR: &str = "__dup_pair";

/// What was asked for beside the columns.
pub(super) struct Options {
    pub(super) threshold: f64,
    pub(super) shape: ClusterShape,
    pub(super) bands: BandOptions,
}

pub(super) fn plan(mut arguments: Arguments, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let key = arguments.required_column("key", &input)?;
    let text = arguments.required_column("text", &input)?;
    let keep = arguments.order("keep", &input, context)?;
    let against = arguments.text(AGAINST)?;
    let options = Options::read(&mut arguments)?;
    if let Some(against) = against {
        let history = history::named(&against).ok_or_else(|| {
            let message = format!(
                "near_duplicates compares with the history of a corpus, against => 'history:corpus', found '{against}'"
            );
            fault(message, arguments.span())
        })?;
        return near_history::plan(input, key, text, keep, &history, &options, arguments.span());
    }
    let rows = Rows::new(input, key, text, keep);
    let nodes = rows.nodes()?;
    let alike = |a: Expr, b: Expr| options.alike(a, b);
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
            AGAINST,
        ])?;
        let bands = BandOptions {
            unit,
            ngram,
            bands,
            rows,
            representatives_only: shape == ClusterShape::Star,
        };
        Ok(Options {
            threshold,
            shape,
            bands,
        })
    }

    /// The similarity of two texts.
    pub(super) fn alike(&self, a: Expr, b: Expr) -> Expr {
        let (unit, ngram) = (&self.bands.unit, self.bands.ngram);
        near_text::similarity().call(vec![a, b, lit(unit.clone()), lit(ScalarValue::Int64(ngram))])
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

/// A field of a column of structs.
pub(super) fn field(of: &str, name: &str) -> Expr {
    datafusion::functions::core::get_field().call(vec![ident(of), lit(name)])
}

/// The `columns` of `texts`, and [`BAND`]: a row for each band that `text` is found by.
pub(super) fn bands(
    texts: LogicalPlan,
    mut columns: Vec<Expr>,
    text: Expr,
    options: &BandOptions,
) -> Result<LogicalPlan> {
    let bands = near_text::bands().call(vec![
        text,
        lit(options.unit.clone()),
        lit(ScalarValue::Int64(options.ngram)),
        lit(options.bands),
        lit(options.rows),
    ]);
    columns.push(bands.alias(BAND));
    LogicalPlanBuilder::from(texts)
        .project(columns)?
        .unnest_column(Column::new_unqualified(BAND))?
        .build()
}

/// Pairs of nodes that are worth comparing, each once; none of two settled ones.
pub(super) fn pairs(nodes: LogicalPlan, options: &Options) -> Result<LogicalPlan> {
    let columns = [NODE, RANK, SETTLED].map(ident).to_vec();
    let candidates = near_pairs::function().call(vec![
        ident(NODE),
        ident(RANK),
        ident(SETTLED),
        field(BAND, "sketch"),
        lit(options.threshold),
    ]);
    LogicalPlanBuilder::from(bands(nodes, columns, ident(VALUE), &options.bands)?)
        .aggregate(vec![field(BAND, "band")], vec![candidates.alias(PAIR)])?
        .project(vec![ident(PAIR)])?
        .filter(ident(PAIR).is_not_null())?
        .unnest_column(Column::new_unqualified(PAIR))?
        .project(vec![field(PAIR, "a").alias(A), field(PAIR, "b").alias(B)])?
        .distinct()?
        .build()
}
