//! `substring_duplicates(TABLE t, text => 'body' [, key => 'id'] [, min_length => 50] [, min_rows => 2])`
//!
//! Adds `substring_spans` (`List<Struct<start: Int32, end: Int32>>`, in bytes, from left to right: all characters that
//! stand in a run of at least `min_length` which occurs `min_rows` times or more, in other rows or elsewhere in the same
//! one; NULL where there is none) and `substring_share` (the share of the text that they are; NULL for a NULL text).
//!
//! ```text
//! texts, each once with its rows ─▶ text_windows ─▶ one row a place ─▶ GROUP BY hash: occurrences ≥ min_rows
//!                                          └────────── join on the hash ◀─┘
//!                                                          └─▶ merged_spans of each text
//! ```
//! Exact up to the hash of 128 bits. Every place of a text is a row on the way, which spills; texts that are equal are
//! looked at once.

use datafusion::common::{Column, JoinType, Result};
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};

use super::arguments::Arguments;
use super::fault;
use super::relation::{kept_columns, on};
use crate::functions::{content_hash, windows};

const NODE: &str = "__span_node";
const TEXT: &str = "__span_text";
const ROWS: &str = "__span_rows";
const WINDOW: &str = "__span_window";
const START: &str = "__span_start";
const END: &str = "__span_end";
const HASH: &str = "__span_hash";
const REPEATED: &str = "__span_repeated";
const TIMES: &str = "__span_times";
const OF: &str = "__span_of";
const SPANS: &str = "__span_spans";
const ROW: &str = "__span_row";

const ADDED: [&str; 2] = ["substring_spans", "substring_share"];

pub(super) fn plan(mut arguments: Arguments) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    arguments.column("key", &input)?;
    let text = arguments.required_column("text", &input)?;
    let min_length = arguments.integer("min_length")?.unwrap_or(50);
    let min_rows = arguments.integer("min_rows")?.unwrap_or(2);
    arguments.finish(&["key", "text", "min_length", "min_rows"])?;
    if !(2..=100_000).contains(&min_length) || min_rows < 2 {
        return Err(fault(
            "substring_duplicates takes a min_length from 2 to 100000 characters and min_rows from 2",
            arguments.span(),
        ));
    }
    let field = |name: &str, to: &str| {
        datafusion::functions::core::get_field()
            .call(vec![ident(WINDOW), lit(name)])
            .alias(to)
    };
    let places = LogicalPlanBuilder::from(input.clone())
        .project(vec![text.clone().alias(TEXT)])?
        .filter(ident(TEXT).is_not_null())?
        .aggregate(vec![ident(TEXT)], vec![count(lit(1i64)).alias(ROWS)])?
        .project(vec![
            content_hash().call(vec![ident(TEXT)]).alias(NODE),
            ident(ROWS),
            windows::of_text()
                .call(vec![ident(TEXT), lit(min_length)])
                .alias(WINDOW),
        ])?
        .unnest_column(Column::new_unqualified(WINDOW))?
        .project(vec![
            ident(NODE),
            ident(ROWS),
            field("start", START),
            field("end", END),
            field("hash", HASH),
        ])?
        .build()?;
    let repeated = LogicalPlanBuilder::from(places.clone())
        .aggregate(vec![ident(HASH).alias(REPEATED)], vec![sum(ident(ROWS)).alias(TIMES)])?
        .filter(ident(TIMES).gt_eq(lit(min_rows)))?
        .project(vec![ident(REPEATED)])?
        .build()?;
    let spans = LogicalPlanBuilder::from(places)
        .join(repeated, JoinType::Inner, on(HASH, REPEATED), None)?
        .aggregate(
            vec![ident(NODE).alias(OF)],
            vec![
                windows::merged_spans()
                    .call(vec![ident(START), ident(END)])
                    .alias(SPANS),
            ],
        )?
        .build()?;
    let mut rows: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    rows.push(content_hash().call(vec![text.clone()]).alias(ROW));
    let mut output = kept_columns(&input, &ADDED);
    output.push(ident(SPANS).alias(ADDED[0]));
    output.push(windows::share().call(vec![ident(SPANS), text]).alias(ADDED[1]));
    LogicalPlanBuilder::from(input)
        .project(rows)?
        .join(spans, JoinType::Left, on(ROW, OF), None)?
        .project(output)?
        .build()
}
