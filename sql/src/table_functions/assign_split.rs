//! `assign_split(TABLE t, key => 'id', groups => ['user_id', 'dup_cluster_id'] [, stratify => 'label']
//!  [, time_column => 'created_at', eval_after => run_start() - INTERVAL '14 days']
//!  [, ratios => 'train=0.9,valid=0.05,test=0.05'] [, salt => 'v1'])`
//!
//! Adds `split`. Rows that share a value in any of the group columns, directly or through other rows, are one
//! *component* and get the same split; a NULL belongs to no group, and a row without any group is a component of its
//! own, by its key.
//!
//! ```text
//! rows ─▶ ids of group values ─▶ distinct ─▶ group_components ─▶ id → component ─┐
//!   └────────────────────────────────────────────────────────────────────────────┴─ join ─▶ component of each row
//!                                                                                              │
//!        without stratify: split_of(component, salt, ratios): the hash alone decides ◀─────────┤
//!        with stratify: components of a stratum, ordered by hash, are cut at the ratios' rows ◀┘
//! ```
//! Without `stratify` a component keeps its split while others come and go. With it, shares are met within every
//! stratum to about one component, and a component near a cut may move when data arrive; the stratum of a component
//! is the one that most of its rows have. With `eval_after`, a component that has a row before that time (or without
//! a time) goes to the first split, and the ratios hold among the others.

use corpusmill_kernels::split::Ratios;
use datafusion::common::{Column, JoinType, Result, ScalarValue};
use datafusion::functions_aggregate::expr_fn::{count, min, sum};
use datafusion::functions_aggregate::min_max::min_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::functions_nested::expr_fn::make_array;
use datafusion::functions_window::row_number::row_number;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, WindowFrame, WindowFrameBound, WindowFrameUnits,
    WindowFunctionDefinition, cast, ident, lit, when,
};

use super::arguments::Arguments;
use super::fault;
use super::relation::{kept_columns, on, over_all};
use crate::functions::group_components::{self, COMPONENT, NODE};
use crate::functions::{content_id, split_of};
use crate::graphs;

const SPLIT: &str = "split";
const RATIOS: &str = "train=0.9,valid=0.05,test=0.05";
const PREFIX: &str = "__split_";
const ROW_COMPONENT: &str = "__split_component";
const FIRST_NODE: &str = "__split_first_node";
const TIME: &str = "__split_time";
const STRATUM: &str = "__split_stratum";
const ROWS: &str = "__split_rows";
const RANK: &str = "__split_rank";
const BEFORE: &str = "__split_before";
const TOTAL: &str = "__split_total";
const ORDER: &str = "__split_order";
const ID: &str = "__split_id";
const CHOSEN: &str = "__split_chosen";

struct Options {
    key: Expr,
    groups: Vec<Expr>,
    stratify: Option<Expr>,
    time: Option<(Expr, Expr)>,
    salt: String,
    ratios_text: String,
    ratios: Ratios,
}

pub(super) fn plan(mut arguments: Arguments, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let options = Options::read(&mut arguments, &input, context)?;
    let rows = with_components(input.clone(), &options)?;
    let mut output = kept_columns(&input, &[SPLIT]);
    let split = match &options.stratify {
        None => return simple(rows, &options, output),
        Some(_) => stratified(&rows, &options)?,
    };
    output.push(ident(CHOSEN).alias(SPLIT));
    LogicalPlanBuilder::from(rows)
        .join(split, JoinType::Left, on(ROW_COMPONENT, ID), None)?
        .project(output)?
        .build()
}

impl Options {
    fn read(
        arguments: &mut Arguments,
        input: &LogicalPlan,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<Options> {
        let span = arguments.span();
        let key = arguments.required_column("key", input)?;
        let groups = arguments.columns("groups", input)?;
        let stratify = arguments.column("stratify", input)?;
        let time_column = arguments.column("time_column", input)?;
        let eval_after = arguments.expression("eval_after", context)?;
        let time = match (time_column, eval_after) {
            (Some(column), Some(after)) => Some((column, after)),
            (None, None) => None,
            _ => {
                return Err(fault("assign_split takes time_column and eval_after together", span));
            }
        };
        let salt = arguments.text("salt")?.unwrap_or_default();
        let ratios_text = arguments.text("ratios")?.unwrap_or_else(|| RATIOS.to_string());
        let ratios: Ratios = ratios_text
            .parse()
            .map_err(|error| fault(format!("assign_split: {error}"), span))?;
        arguments.finish(&[
            "key",
            "groups",
            "stratify",
            "time_column",
            "eval_after",
            "ratios",
            "salt",
        ])?;
        Ok(Options {
            key,
            groups,
            stratify,
            time,
            salt,
            ratios_text,
            ratios,
        })
    }

    fn first_split(&self) -> &str {
        self.ratios.names().first().map_or("", String::as_str)
    }
}

/// Id of a group value; the column's place is part of it, so that equal values of two columns stay apart.
fn group_id(index: usize, column: &Expr) -> Result<Expr> {
    let place = i64::try_from(index).unwrap_or(i64::MAX);
    when(
        column.clone().is_not_null(),
        content_id().call(vec![lit(place), column.clone()]),
    )
    .end()
}

/// Id of a row that is in no group.
fn own_id(key: &Expr) -> Expr {
    content_id().call(vec![lit(-1i64), key.clone()])
}

fn coalesce(expressions: Vec<Expr>) -> Expr {
    datafusion::functions::core::coalesce().call(expressions)
}

/// The input with [`ROW_COMPONENT`], and where they are needed [`TIME`] and [`STRATUM`].
fn with_components(input: LogicalPlan, options: &Options) -> Result<LogicalPlan> {
    let mut columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    if let Some((column, _)) = &options.time {
        columns.push(column.clone().alias(TIME));
    }
    if let Some(column) = &options.stratify {
        columns.push(cast(column.clone(), datafusion::arrow::datatypes::DataType::Utf8).alias(STRATUM));
    }
    let mut ids = Vec::with_capacity(options.groups.len());
    for (index, column) in options.groups.iter().enumerate() {
        ids.push(group_id(index, column)?);
    }
    let own = own_id(&options.key);
    if ids.len() < 2 {
        // One group column needs no search: its value is the component.
        ids.push(own);
        columns.push(coalesce(ids).alias(ROW_COMPONENT));
        return LogicalPlanBuilder::from(input).project(columns)?.build();
    }
    let components = components_of_ids(input.clone(), &ids)?;
    let kept: Vec<Expr> = columns.clone();
    columns.push(coalesce(ids).alias(FIRST_NODE));
    columns.push(own.alias(ID));
    let rows = LogicalPlanBuilder::from(input).project(columns)?;
    let names: Vec<Expr> = kept
        .iter()
        .map(|column| match column {
            Expr::Alias(alias) => ident(alias.name.clone()),
            other => other.clone(),
        })
        .chain([coalesce(vec![ident(COMPONENT), ident(ID)]).alias(ROW_COMPONENT)])
        .collect();
    rows.join(components, JoinType::Left, on(FIRST_NODE, NODE), None)?
        .project(names)?
        .build()
}

/// `node`, `component` for every id.
pub(super) fn components_of_ids(input: LogicalPlan, ids: &[Expr]) -> Result<LogicalPlan> {
    let names: Vec<String> = (0..ids.len()).map(|i| format!("{PREFIX}group_{i}")).collect();
    let named = ids.iter().zip(&names).map(|(id, name)| id.clone().alias(name));
    let found = format!("{PREFIX}pairs");
    let ids = LogicalPlanBuilder::from(input).project(named)?.distinct()?.build()?;
    if let Some(graph) = graphs::graph(|| edges(ids.clone(), &names))? {
        let nodes = LogicalPlanBuilder::from(edges(ids, &names)?)
            .project(vec![ident(graphs::V).alias(NODE)])?
            .distinct()?
            .build()?;
        let (nodes, centre) = graph.with_centre(nodes, NODE)?;
        return LogicalPlanBuilder::from(nodes)
            .project(vec![ident(NODE), centre.alias(COMPONENT)])?
            .build();
    }
    let call = group_components::function().call(names.iter().map(ident).collect());
    let field = |name: &str| {
        datafusion::functions::core::get_field()
            .call(vec![ident(found.clone()), lit(name)])
            .alias(name)
    };
    LogicalPlanBuilder::from(ids)
        .aggregate(Vec::<Expr>::new(), vec![call.alias(&found)])?
        .unnest_column(Column::new_unqualified(&found))?
        .project(vec![field(NODE), field(COMPONENT)])?
        .build()
}

/// The first id of each row with each of its ids, itself among them: the edges of the graph.
fn edges(ids: LogicalPlan, names: &[String]) -> Result<LogicalPlan> {
    let all = || names.iter().map(ident).collect::<Vec<_>>();
    LogicalPlanBuilder::from(ids)
        .project(vec![
            coalesce(all()).alias(graphs::U),
            make_array(all()).alias(graphs::V),
        ])?
        .unnest_column(Column::new_unqualified(graphs::V))?
        .filter(ident(graphs::V).is_not_null())?
        .build()
}

fn by_hash(component: Expr, options: &Options) -> Expr {
    split_of::function().call(vec![
        component,
        lit(options.salt.clone()),
        lit(options.ratios_text.clone()),
    ])
}

/// True where a component must not be evaluated on.
fn is_early(oldest: Expr, any_null: Expr, after: &Expr) -> Expr {
    any_null.or(oldest.lt(after.clone()))
}

fn simple(rows: LogicalPlan, options: &Options, mut output: Vec<Expr>) -> Result<LogicalPlan> {
    let split = by_hash(ident(ROW_COMPONENT), options);
    let Some((_, after)) = &options.time else {
        output.push(split.alias(SPLIT));
        return LogicalPlanBuilder::from(rows).project(output)?.build();
    };
    let over_component =
        |function, argument: Expr, name: &str| over_all(function, argument, ident(ROW_COMPONENT), name);
    let oldest = over_component(min_udaf(), ident(TIME), BEFORE)?;
    let nulls = over_component(sum_udaf(), null_count_term()?, TOTAL)?;
    let early = is_early(ident(BEFORE), ident(TOTAL).gt(lit(0i64)), after);
    output.push(when(early, lit(options.first_split())).otherwise(split)?.alias(SPLIT));
    LogicalPlanBuilder::from(rows)
        .window(vec![oldest, nulls])?
        .project(output)?
        .build()
}

fn null_count_term() -> Result<Expr> {
    when(ident(TIME).is_null(), lit(1i64)).otherwise(lit(0i64))
}

/// [`ID`] and [`CHOSEN`] for every component.
fn stratified(rows: &LogicalPlan, options: &Options) -> Result<LogicalPlan> {
    let early = match &options.time {
        None => lit(false),
        Some((_, after)) => is_early(ident(BEFORE), ident(TOTAL).gt(lit(0i64)), after),
    };
    let strata = strata_of_components(rows, options)?;
    let order = content_id().call(vec![lit(options.salt.clone()), ident(ROW_COMPONENT)]);
    let candidates = LogicalPlanBuilder::from(strata)
        .project(vec![
            ident(ROW_COMPONENT),
            ident(STRATUM),
            ident(ROWS),
            order.alias(ORDER),
            early.alias(CHOSEN),
        ])?
        .build()?;
    let place = vec![ident(STRATUM), ident(CHOSEN)];
    let rows_so_far = window_sum(place.clone(), true)?.alias(BEFORE);
    let rows_in_all = window_sum(place, false)?.alias(TOTAL);
    LogicalPlanBuilder::from(candidates)
        .window(vec![rows_so_far])?
        .window(vec![rows_in_all])?
        .project(vec![
            ident(ROW_COMPONENT).alias(ID),
            when(ident(CHOSEN), lit(options.first_split()))
                .otherwise(cut_at_ratios(options)?)?
                .alias(CHOSEN),
        ])?
        .build()
}

fn window_sum(partition: Vec<Expr>, running: bool) -> Result<Expr> {
    let call = Expr::from(WindowFunction::new(
        WindowFunctionDefinition::AggregateUDF(sum_udaf()),
        vec![ident(ROWS)],
    ))
    .partition_by(partition);
    if running {
        call.order_by(vec![
            ident(ORDER).sort(true, false),
            ident(ROW_COMPONENT).sort(true, false),
        ])
        .window_frame(WindowFrame::new_bounds(
            WindowFrameUnits::Rows,
            WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
            WindowFrameBound::CurrentRow,
        ))
        .build()
    } else {
        call.window_frame(WindowFrame::new(None)).build()
    }
}

/// The split whose part of the stratum's rows the middle of the component falls into.
///
/// In whole numbers up to the comparison: `2·so_far - rows < 2·total·upper_end`.
fn cut_at_ratios(options: &Options) -> Result<Expr> {
    use datafusion::arrow::datatypes::DataType::Float64;
    let middle = cast(lit(2i64) * ident(BEFORE) - ident(ROWS), Float64);
    let total = cast(lit(2i64) * ident(TOTAL), Float64);
    let names = options.ratios.names();
    let mut upper = 0.0;
    let mut cases = None;
    for (name, share) in names.iter().zip(options.ratios.shares()) {
        upper += share;
        let condition = middle.clone().lt(total.clone() * lit(upper));
        cases = Some(match cases {
            None => when(condition, lit(name.clone())),
            Some(builder) => {
                let mut builder: datafusion::logical_expr::conditional_expressions::CaseBuilder = builder;
                builder.when(condition, lit(name.clone()))
            }
        });
    }
    let last = names.last().cloned().unwrap_or_default();
    match cases {
        Some(mut cases) => cases.otherwise(lit(last)),
        None => Ok(lit(last)),
    }
}

/// One row per component: [`STRATUM`] of most of its rows, [`ROWS`], and with a time [`BEFORE`] and [`TOTAL`].
fn strata_of_components(rows: &LogicalPlan, options: &Options) -> Result<LogicalPlan> {
    let mut counted = vec![count(lit(1i64)).alias(ROWS)];
    if options.time.is_some() {
        counted.push(min(ident(TIME)).alias(BEFORE));
        counted.push(sum(null_count_term()?).alias(TOTAL));
    }
    let per_stratum = LogicalPlanBuilder::from(rows.clone())
        .aggregate(vec![ident(ROW_COMPONENT), ident(STRATUM)], counted)?
        .build()?;
    let rank = row_number()
        .partition_by(vec![ident(ROW_COMPONENT)])
        .order_by(vec![ident(ROWS).sort(false, false), ident(STRATUM).sort(true, false)])
        .build()?
        .alias(RANK);
    let ranked = LogicalPlanBuilder::from(per_stratum).window(vec![rank])?.build()?;
    let most = when(ident(RANK).eq(lit(1u64)), ident(STRATUM)).end()?;
    let mut whole = vec![min(most).alias(STRATUM), sum(ident(ROWS)).alias(ROWS)];
    if options.time.is_some() {
        whole.push(min(ident(BEFORE)).alias(BEFORE));
        whole.push(sum(ident(TOTAL)).alias(TOTAL));
    }
    LogicalPlanBuilder::from(ranked)
        .aggregate(vec![ident(ROW_COMPONENT)], whole)?
        .build()
}
