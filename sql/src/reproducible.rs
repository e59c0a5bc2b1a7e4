//! What may not be in a corpus: anything that could come out differently when the same build runs again.
//!
//! Refused, with the fix: volatile functions (`random()`, `uuid()`), the clock (`now()`), a Python function declared
//! VOLATILE, aggregates that depend on the order of rows (`array_agg`, `first_value`, `string_agg`, …) and window
//! functions and `LIMIT` without an `ORDER BY`, and aggregates that approximate. `sum` and `avg` of floats are
//! replaced by exact ones.
//!
//! Not refused, though only a total order makes it safe: `row_number()`, `lag`, … and `LIMIT` with an `ORDER BY` that
//! leaves ties. Whether it does is a property of the data.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result as EngineResult};
use datafusion::logical_expr::expr::{AggregateFunction, WindowFunction};
use datafusion::logical_expr::{AggregateUDF, Expr, ExprSchemable, LogicalPlan, Volatility, WindowFunctionDefinition};

use crate::error::{Fault, Result, SqlError};
use crate::functions::exact_sum;
use crate::plan_errors::find_word;
use crate::source_text::SqlText;

/// Aggregates whose result depends on the order of rows, unless an order is given.
const ORDER_SENSITIVE: [&str; 6] = [
    "array_agg",
    "string_agg",
    "first_value",
    "last_value",
    "nth_value",
    "any_value",
];

/// Aggregates that merge sketches: close to the truth, but not the same bits in any grouping.
const APPROXIMATE: [(&str, &str); 4] = [
    ("approx_distinct", "count(DISTINCT x)"),
    ("approx_median", "median(x)"),
    ("approx_percentile_cont", "percentile_cont(p) WITHIN GROUP (ORDER BY x)"),
    (
        "approx_percentile_cont_with_weight",
        "percentile_cont(p) WITHIN GROUP (ORDER BY x)",
    ),
];

/// Statistics of floats that the engine sums in the order of arrival.
const FLOAT_STATISTICS: [&str; 17] = [
    "var",
    "var_samp",
    "var_pop",
    "stddev",
    "stddev_samp",
    "stddev_pop",
    "covar",
    "covar_samp",
    "covar_pop",
    "corr",
    "regr_slope",
    "regr_intercept",
    "regr_r2",
    "regr_avgx",
    "regr_avgy",
    "regr_sxx",
    "regr_sxy",
];

/// Window functions that number or look at neighbours.
const NEEDS_ORDER: [&str; 9] = [
    "row_number",
    "rank",
    "dense_rank",
    "percent_rank",
    "cume_dist",
    "ntile",
    "lag",
    "lead",
    "first_value",
];

/// Checks a plan and makes its float sums exact.
pub(crate) fn check(plan: LogicalPlan, text: &SqlText) -> Result<LogicalPlan> {
    let mut found: Option<Refusal> = None;
    plan.apply_with_subqueries(|node| {
        if found.is_none() {
            found = refuse_node(node)?;
        }
        Ok(if found.is_some() {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    })?;
    if let Some(refusal) = found {
        let fault = Fault::at(
            text,
            find_word(text, refusal.word).or(Some(text.start)),
            refusal.message,
        )
        .with_help(refusal.fix);
        return Err(SqlError::NotReproducible(fault));
    }
    Ok(exact(plan)?)
}

struct Refusal {
    /// The word to look for in the statement.
    word: &'static str,
    message: String,
    fix: String,
}

fn refuse_node(node: &LogicalPlan) -> EngineResult<Option<Refusal>> {
    if let LogicalPlan::Limit(limit) = node
        && !is_sorted(&limit.input)
    {
        return Ok(Some(Refusal {
            word: "limit",
            message: "LIMIT without ORDER BY takes whatever rows come first".into(),
            fix: "add ORDER BY with columns that order every row, such as the primary key".into(),
        }));
    }
    if let LogicalPlan::Distinct(datafusion::logical_expr::Distinct::On(on)) = node
        && on.sort_expr.as_ref().is_none_or(Vec::is_empty)
    {
        return Ok(Some(Refusal {
            word: "distinct",
            message: "DISTINCT ON without ORDER BY keeps whatever row comes first".into(),
            fix: "add ORDER BY with columns that order every row".into(),
        }));
    }
    let mut found = None;
    node.apply_expressions(|expression| {
        expression.apply(|expression| {
            found = refuse_expression(expression);
            Ok(if found.is_some() {
                TreeNodeRecursion::Stop
            } else {
                TreeNodeRecursion::Continue
            })
        })
    })?;
    Ok(found)
}

fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(projection) => is_sorted(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_sorted(&alias.input),
        LogicalPlan::Limit(limit) => is_sorted(&limit.input),
        _ => false,
    }
}

fn refuse_expression(expression: &Expr) -> Option<Refusal> {
    match expression {
        Expr::ScalarFunction(call) => refuse_scalar(call.func.name(), call.func.signature().volatility),
        Expr::AggregateFunction(call) => refuse_aggregate(call),
        Expr::WindowFunction(call) => refuse_window(call),
        _ => None,
    }
}

fn refuse_scalar(name: &str, volatility: Volatility) -> Option<Refusal> {
    let clock = ["now", "current_timestamp", "current_date", "current_time", "today"];
    if let Some(word) = clock.into_iter().find(|clock| *clock == name) {
        return Some(Refusal {
            word,
            message: format!("{name}() reads the clock, so the same build would differ tomorrow"),
            fix: "use run_start() or run_end(), the logical time of the build".into(),
        });
    }
    if volatility != Volatility::Volatile {
        return None;
    }
    let (word, fix): (&'static str, &str) = match name {
        "random" => (
            "random",
            "derive it from the row: content_id(key, 'salt'), or assign_split for a split",
        ),
        "uuid" => ("uuid", "derive it from the row: content_hash(key)"),
        _ => (
            "",
            "declare the function IMMUTABLE if it gives the same result for the same arguments",
        ),
    };
    Some(Refusal {
        word,
        message: format!("{name}() gives another value each time it is called"),
        fix: fix.into(),
    })
}

fn refuse_aggregate(call: &AggregateFunction) -> Option<Refusal> {
    let name = call.func.name();
    if let Some(word) = ORDER_SENSITIVE.into_iter().find(|other| *other == name)
        && call.params.order_by.is_empty()
    {
        return Some(Refusal {
            word,
            message: format!("{name} depends on the order of rows, which is not fixed"),
            fix: format!("write {name}(… ORDER BY …) with columns that order every row"),
        });
    }
    if let Some((word, exact)) = APPROXIMATE.into_iter().find(|(other, _)| *other == name) {
        return Some(Refusal {
            word,
            message: format!("{name} approximates, and not in the same way in every run"),
            fix: format!("use {exact}"),
        });
    }
    if let Some(word) = FLOAT_STATISTICS.into_iter().find(|other| *other == name) {
        return Some(Refusal {
            word,
            message: format!("{name} sums floats in the order in which rows arrive"),
            fix: "write it with sum, avg and count, which are exact in a corpus".into(),
        });
    }
    None
}

fn refuse_window(call: &WindowFunction) -> Option<Refusal> {
    let name = call.fun.name();
    let params = &call.params;
    let known = NEEDS_ORDER.into_iter().chain(ORDER_SENSITIVE);
    let word = known.into_iter().find(|other| *other == name)?;
    params.order_by.is_empty().then(|| Refusal {
        word,
        message: format!("{name} without ORDER BY in its window takes rows as they come"),
        fix: "add ORDER BY to the window, with columns that order every row".into(),
    })
}

/// Replaces `sum` and `avg` over floats, in aggregates and windows, by exact ones under the same name.
fn exact(plan: LogicalPlan) -> EngineResult<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let schema = input_schema(&node)?;
        let node = node.map_expressions(|expression| {
            let name = expression.schema_name().to_string();
            let replaced = expression.transform_up(|expression| exact_call(expression, &schema))?;
            if !replaced.transformed {
                return Ok(replaced);
            }
            // What reads this node's output knows the column by the old name.
            Ok(Transformed::yes(match replaced.data {
                Expr::Alias(alias) => Expr::Alias(alias),
                other => other.alias(name),
            }))
        })?;
        if node.transformed {
            return Ok(Transformed::yes(node.data.recompute_schema()?));
        }
        Ok(node)
    })?;
    Ok(plan.data)
}

fn input_schema(node: &LogicalPlan) -> EngineResult<DFSchema> {
    let mut schema = DFSchema::empty();
    for input in node.inputs() {
        schema.merge(input.schema());
    }
    Ok(schema)
}

fn exact_call(expression: Expr, schema: &DFSchema) -> EngineResult<Transformed<Expr>> {
    match expression {
        Expr::AggregateFunction(mut call) => {
            match exact_of(call.func.name(), &call.params.args, call.params.distinct, schema)? {
                Some(function) => {
                    call.func = Arc::new(function);
                    Ok(Transformed::yes(Expr::AggregateFunction(call)))
                }
                None => Ok(Transformed::no(Expr::AggregateFunction(call))),
            }
        }
        Expr::WindowFunction(mut call) => {
            let name = call.fun.name().to_string();
            match exact_of(&name, &call.params.args, call.params.distinct, schema)? {
                Some(function) => {
                    call.fun = WindowFunctionDefinition::AggregateUDF(Arc::new(function));
                    Ok(Transformed::yes(Expr::WindowFunction(call)))
                }
                None => Ok(Transformed::no(Expr::WindowFunction(call))),
            }
        }
        other => Ok(Transformed::no(other)),
    }
}

fn exact_of(name: &str, args: &[Expr], distinct: bool, schema: &DFSchema) -> EngineResult<Option<AggregateUDF>> {
    if distinct || !matches!(name, "sum" | "avg" | "mean") {
        return Ok(None);
    }
    let [argument] = args else {
        return Ok(None);
    };
    let data_type = argument.get_type(schema)?;
    let is_float = matches!(data_type, DataType::Float16 | DataType::Float32 | DataType::Float64);
    // avg of integers is computed in floats too, but from an exact sum as long as it stays below 2^53.
    let averages_integers = matches!(name, "avg" | "mean") && data_type.is_integer();
    Ok(match name {
        "sum" if is_float => Some(exact_sum::sum()),
        "avg" | "mean" if is_float || averages_integers => Some(exact_sum::avg()),
        _ => None,
    })
}
