//! `stratified_sample(TABLE t, key => 'id', by => ['label', 'lang'], rows => 1000 | fraction => 0.1 [, salt => 'v1'])`
//!
//! Keeps at most so many rows of each stratum (or that share of them, rounded up), and adds `inclusion_prob`: the
//! probability with which a row of its stratum is kept, for weights (Horvitz and Thompson, 1952). A stratum is what
//! rows agree on in all of `by`; NULL is a value like any other. The hash of the key and the salt alone decides which
//! rows are kept, so that a sample grows with `rows` and never changes otherwise.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_window::row_number::row_number;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, cast, ident, lit, when};

use super::arguments::Arguments;
use super::fault;
use super::relation::{kept_columns, over_all};
use crate::functions::{content_hash, content_id};

const INCLUSION: &str = "inclusion_prob";
const STRATUM: &str = "__sample_stratum";
const ORDER: &str = "__sample_order";
const PLACE: &str = "__sample_place";
const COUNT: &str = "__sample_count";

pub(super) fn plan(mut arguments: Arguments) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let key = arguments.required_column("key", &input)?;
    let by = arguments.columns("by", &input)?;
    let rows = arguments.integer("rows")?;
    let fraction = arguments.number("fraction")?;
    let salt = arguments.text("salt")?.unwrap_or_default();
    let span = arguments.span();
    arguments.finish(&["key", "by", "rows", "fraction", "salt"])?;
    let count = || cast(ident(COUNT), DataType::Float64);
    let wanted = match (rows, fraction) {
        (Some(rows), None) if rows > 0 => lit(rows as f64),
        (None, Some(share)) if share > 0.0 && share <= 1.0 => {
            datafusion::functions::math::expr_fn::ceil(lit(share) * count())
        }
        (Some(_), Some(_)) => return Err(fault("stratified_sample takes rows or fraction, not both", span)),
        _ => {
            let needs = "stratified_sample needs rows => n, above 0, or fraction => p, above 0 and at most 1";
            return Err(fault(needs, span));
        }
    };
    let mut output = kept_columns(&input, &[INCLUSION]);
    let mut staged: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let stratum = match by.is_empty() {
        true => lit(0_i64),
        false => content_hash().call(by),
    };
    staged.push(stratum.alias(STRATUM));
    staged.push(content_id().call(vec![lit(salt), key.clone()]).alias(ORDER));
    let place = row_number()
        .partition_by(vec![ident(STRATUM)])
        .order_by(vec![ident(ORDER).sort(true, false), key.sort(true, false)])
        .build()?
        .alias(PLACE);
    let probability = when(count().lt_eq(wanted.clone()), lit(1.0_f64)).otherwise(wanted.clone() / count())?;
    output.push(probability.alias(INCLUSION));
    LogicalPlanBuilder::from(input)
        .project(staged)?
        .window(vec![place])?
        .window(vec![over_all(count_udaf(), lit(1_i64), ident(STRATUM), COUNT)?])?
        .filter(cast(ident(PLACE), DataType::Float64).lt_eq(wanted))?
        .project(output)?
        .build()
}
