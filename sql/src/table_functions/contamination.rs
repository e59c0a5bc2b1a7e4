//! `contamination(TABLE t, TABLE evals, text => 'body' [, evals_text => 'question'] [, evals_key => 'id'] [, ngram => 13]
//!  [, min_overlap => 0.5])`
//!
//! Adds `contaminated`, `contaminated_by` (the key of the evaluation text, or the text itself), `overlap` (the share of
//! that text's n-grams of words that stand in the row's text) and `contamination_spans` (the runs of words that are
//! shared). Of several evaluation texts the one of the greatest overlap is named, then the first by its hash.
//!
//! ```text
//! texts, each once ─▶ word_grams ─┐
//! evals, each once ─▶ word_grams ─┴─ join on the hash of an n-gram ─▶ count: pairs that may overlap
//!                                     verified by ngram_overlap, on the words themselves ◀┘
//! ```

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, JoinType, Result};
use datafusion::functions_aggregate::expr_fn::{count, min};
use datafusion::functions_window::row_number::row_number;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, cast, ident, lit};

use super::arguments::Arguments;
use super::fault;
use super::relation::{kept_columns, on};
use crate::functions::{contamination, content_hash};

const NODE: &str = "__eval_node";
const TEXT: &str = "__eval_text";
const OTHER: &str = "__eval_other";
const OTHER_TEXT: &str = "__eval_other_text";
const OTHER_KEY: &str = "__eval_other_key";
const GRAM: &str = "__eval_gram";
const OTHER_GRAM: &str = "__eval_other_gram";
const GRAMS: &str = "__eval_grams";
const SHARED: &str = "__eval_shared";
const FOUND: &str = "__eval_found";
const SHARE: &str = "__eval_share";
const SPANS: &str = "__eval_spans";
const PLACE: &str = "__eval_place";
const ROW: &str = "__eval_row";

const ADDED: [&str; 4] = ["contaminated", "contaminated_by", "overlap", "contamination_spans"];

pub(super) fn plan(mut arguments: Arguments) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let evals = arguments.second_input("TABLE evals")?;
    let text = arguments.required_column("text", &input)?;
    let evals_text = match arguments.column("evals_text", &evals)? {
        Some(column) => column,
        None => match evals
            .schema()
            .qualified_fields_with_unqualified_name(text_name(&text))
            .as_slice()
        {
            [(qualifier, field)] => Expr::Column(Column::new(qualifier.cloned(), field.name().clone())),
            _ => {
                let needs = format!(
                    "contamination needs evals_text => 'column': evals has no column '{}'",
                    text_name(&text)
                );
                return Err(fault(needs, arguments.span()));
            }
        },
    };
    let key = arguments
        .column("evals_key", &evals)?
        .unwrap_or_else(|| evals_text.clone());
    let ngram = arguments.integer("ngram")?.unwrap_or(13);
    let min_overlap = arguments.number("min_overlap")?.unwrap_or(0.5);
    arguments.finish(&["text", "evals_text", "evals_key", "ngram", "min_overlap"])?;
    let is_share = min_overlap > 0.0 && min_overlap <= 1.0;
    if !(1..=64).contains(&ngram) || !is_share {
        return Err(fault(
            "contamination takes an ngram from 1 to 64 and a min_overlap above 0 and at most 1",
            arguments.span(),
        ));
    }
    let texts = LogicalPlanBuilder::from(input.clone())
        .project(vec![text.clone().alias(TEXT)])?
        .filter(ident(TEXT).is_not_null())?
        .distinct()?
        .project(vec![content_hash().call(vec![ident(TEXT)]).alias(NODE), ident(TEXT)])?
        .build()?;
    let evals = LogicalPlanBuilder::from(evals)
        .project(vec![evals_text.alias(OTHER_TEXT), key.alias(OTHER_KEY)])?
        .filter(ident(OTHER_TEXT).is_not_null())?
        .aggregate(vec![ident(OTHER_TEXT)], vec![min(ident(OTHER_KEY)).alias(OTHER_KEY)])?
        .project(vec![
            content_hash().call(vec![ident(OTHER_TEXT)]).alias(OTHER),
            ident(OTHER_TEXT),
            ident(OTHER_KEY),
        ])?
        .build()?;
    let best = best_of(verified(texts, evals, ngram, min_overlap)?)?;
    let mut rows: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    rows.push(content_hash().call(vec![text]).alias(ROW));
    let mut output = kept_columns(&input, &ADDED);
    output.push(ident(SHARE).is_not_null().alias(ADDED[0]));
    output.push(ident(OTHER_KEY).alias(ADDED[1]));
    output.push(ident(SHARE).alias(ADDED[2]));
    output.push(ident(SPANS).alias(ADDED[3]));
    LogicalPlanBuilder::from(input)
        .project(rows)?
        .join(best, JoinType::Left, on(ROW, NODE), None)?
        .project(output)?
        .build()
}

fn text_name(text: &Expr) -> &str {
    match text {
        Expr::Column(column) => column.name(),
        _ => "",
    }
}

/// [`NODE`], [`OTHER`], [`OTHER_KEY`], [`SHARE`], [`SPANS`] of the pairs that overlap enough.
fn verified(texts: LogicalPlan, evals: LogicalPlan, ngram: i64, min_overlap: f64) -> Result<LogicalPlan> {
    let grams = |text: &str| contamination::grams().call(vec![ident(text), lit(ngram)]);
    let length = datafusion::functions_nested::expr_fn::cardinality(grams(OTHER_TEXT));
    let of_evals = LogicalPlanBuilder::from(evals.clone())
        .project(vec![
            ident(OTHER).alias("__eval_of"),
            length.alias(GRAMS),
            grams(OTHER_TEXT).alias(OTHER_GRAM),
        ])?
        .unnest_column(Column::new_unqualified(OTHER_GRAM))?
        .build()?;
    let enough = cast(ident(SHARED), DataType::Float64).gt_eq(cast(ident(GRAMS), DataType::Float64) * lit(min_overlap));
    let field = |name: &str| datafusion::functions::core::get_field().call(vec![ident(FOUND), lit(name)]);
    let again = LogicalPlanBuilder::from(texts.clone())
        .project(vec![ident(NODE).alias("__eval_text_node"), ident(TEXT)])?
        .build()?;
    LogicalPlanBuilder::from(texts)
        .project(vec![ident(NODE), grams(TEXT).alias(GRAM)])?
        .unnest_column(Column::new_unqualified(GRAM))?
        .join(of_evals, JoinType::Inner, on(GRAM, OTHER_GRAM), None)?
        .aggregate(
            vec![ident(NODE), ident("__eval_of"), ident(GRAMS)],
            vec![count(lit(1i64)).alias(SHARED)],
        )?
        .filter(enough)?
        .project(vec![ident(NODE), ident("__eval_of")])?
        .join(again, JoinType::Inner, on(NODE, "__eval_text_node"), None)?
        .join(evals, JoinType::Inner, on("__eval_of", OTHER), None)?
        .project(vec![
            ident(NODE),
            ident(OTHER),
            ident(OTHER_KEY),
            contamination::ngram_overlap()
                .call(vec![ident(TEXT), ident(OTHER_TEXT), lit(ngram)])
                .alias(FOUND),
        ])?
        .project(vec![
            ident(NODE),
            ident(OTHER),
            ident(OTHER_KEY),
            field("overlap").alias(SHARE),
            field("spans").alias(SPANS),
        ])?
        .filter(ident(SHARE).gt_eq(lit(min_overlap)))?
        .build()
}

/// The evaluation text of the greatest overlap for each text.
fn best_of(verified: LogicalPlan) -> Result<LogicalPlan> {
    let place = row_number()
        .partition_by(vec![ident(NODE)])
        .order_by(vec![ident(SHARE).sort(false, false), ident(OTHER).sort(true, false)])
        .build()?
        .alias(PLACE);
    LogicalPlanBuilder::from(verified)
        .window(vec![place])?
        .filter(ident(PLACE).eq(lit(1u64)))?
        .project(vec![ident(NODE), ident(OTHER_KEY), ident(SHARE), ident(SPANS)])?
        .build()
}
