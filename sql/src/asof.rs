//! `left ASOF JOIN right MATCH_CONDITION (left.t >= right.t) ON left.k = right.k`, which the engine cannot plan.
//!
//! Every left row is kept once, with the right row of the same key whose time is nearest on the asked side, or NULLs.
//!
//! ```text
//!  left ──────────────┐ union all of times     max(right time) so far, within the key
//!  right ─┬─ one row ─┤──────────────────────▶ window ─▶ left rows ─┐ left join on (key, time)
//!         │  per time └──────────────────────────────────────────────┴──▶ result
//! ```
//! That is two sorts and a hash join: no row is ever multiplied. Of right rows with the same key and time, the one
//! that sorts first by all its columns is taken, so the result does not depend on the order of the input. A NULL key
//! or time matches nothing.

use std::ops::ControlFlow;

use datafusion::common::DataFusionError;
use datafusion::common::{Column, DFSchema, Diagnostic, JoinType, Result, ScalarValue, Span};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::functions_window::row_number::row_number;
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, WindowFrame, WindowFrameBound,
    WindowFrameUnits, WindowFunctionDefinition, cast, ident, lit, when,
};
use datafusion::sql::sqlparser::ast::{
    self, JoinConstraint, JoinOperator, Query, Select, Spanned, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};

/// Groups each `ASOF JOIN` with all that stands left of it into one relation, for [`AsofPlanner`] to plan.
pub(crate) fn group(query: &mut Query) {
    struct Grouper;
    impl VisitorMut for Grouper {
        type Break = ();
        fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
            select.from.iter_mut().for_each(group_joins);
            ControlFlow::Continue(())
        }
        fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
            if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
                group_joins(table_with_joins);
            }
            ControlFlow::Continue(())
        }
    }
    let _ = query.visit(&mut Grouper);
}

fn group_joins(tables: &mut TableWithJoins) {
    let is_asof = |join: &ast::Join| matches!(join.join_operator, JoinOperator::AsOf { .. });
    if !tables.joins.iter().any(is_asof) {
        return;
    }
    let mut relation = tables.relation.clone();
    let mut joins = Vec::new();
    for join in std::mem::take(&mut tables.joins) {
        let asof = is_asof(&join);
        joins.push(join);
        if asof {
            relation = TableFactor::NestedJoin {
                table_with_joins: Box::new(TableWithJoins {
                    relation,
                    joins: std::mem::take(&mut joins),
                }),
                alias: None,
            };
        }
    }
    tables.relation = relation;
    tables.joins = joins;
}

/// Plans the groups that [`group`] made.
#[derive(Debug)]
pub(crate) struct AsofPlanner;

impl RelationPlanner for AsofPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::NestedJoin {
            table_with_joins,
            alias,
        } = relation
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let mut tables = *table_with_joins;
        match tables.joins.pop() {
            Some(ast::Join {
                relation: right,
                join_operator:
                    JoinOperator::AsOf {
                        match_condition,
                        constraint,
                    },
                ..
            }) => {
                let left = if tables.joins.is_empty() {
                    tables.relation
                } else {
                    TableFactor::NestedJoin {
                        table_with_joins: Box::new(tables),
                        alias: None,
                    }
                };
                let plan = plan_asof(context, left, right, match_condition, constraint)?;
                Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
            }
            other => {
                tables.joins.extend(other);
                Ok(RelationPlanning::Original(Box::new(TableFactor::NestedJoin {
                    table_with_joins: Box::new(tables),
                    alias,
                })))
            }
        }
    }
}

fn plan_asof(
    context: &mut dyn RelationPlannerContext,
    left: TableFactor,
    right: TableFactor,
    match_condition: ast::Expr,
    constraint: JoinConstraint,
) -> Result<LogicalPlan> {
    let left = context.plan(left)?;
    let right = context.plan(right)?;
    let span = Span::try_from_sqlparser_span(match_condition.span());
    let both = left.schema().join(right.schema())?;
    let condition = context.sql_to_expr(match_condition, &both)?;
    let nearest = Nearest::from_condition(&condition, left.schema(), right.schema(), span)?;
    let keys = match constraint {
        JoinConstraint::On(on) => {
            let span = Span::try_from_sqlparser_span(on.span());
            let on = context.sql_to_expr(on, &both)?;
            keys_of_on(on, left.schema(), right.schema(), span)?
        }
        JoinConstraint::Using(columns) => {
            let mut keys = Vec::new();
            for column in columns {
                let name = context.object_name_to_table_reference(column)?.to_string();
                keys.push((column_of(&left, &name, span)?, column_of(&right, &name, span)?));
            }
            keys
        }
        JoinConstraint::None => Vec::new(),
        JoinConstraint::Natural => {
            return Err(fault("ASOF JOIN takes ON or USING, not NATURAL", span));
        }
    };
    build(left, right, &nearest, keys)
}

fn column_of(plan: &LogicalPlan, name: &str, span: Option<Span>) -> Result<Expr> {
    match plan.schema().qualified_fields_with_unqualified_name(name).as_slice() {
        [(qualifier, field)] => Ok(Expr::Column(Column::new(qualifier.cloned(), field.name().clone()))),
        [] => Err(fault(&format!("unknown column '{name}' in USING"), span)),
        _ => Err(fault(&format!("column '{name}' in USING is ambiguous"), span)),
    }
}

fn fault(message: &str, span: Option<Span>) -> DataFusionError {
    DataFusionError::Plan(message.to_string()).with_diagnostic(Diagnostic::new_error(message, span))
}

/// Which right row is wanted: `left_time op right_time`.
struct Nearest {
    left_time: Expr,
    right_time: Expr,
    /// The newest right row at or before the left time; else the oldest at or after it.
    backwards: bool,
    /// Equal times match.
    inclusive: bool,
}

impl Nearest {
    fn from_condition(condition: &Expr, left: &DFSchema, right: &DFSchema, span: Option<Span>) -> Result<Nearest> {
        let expected = || {
            fault(
                "MATCH_CONDITION takes one comparison, left.time >= right.time, with >=, >, <= or <",
                span,
            )
        };
        let Expr::BinaryExpr(comparison) = condition else {
            return Err(expected());
        };
        let (a, b) = (comparison.left.as_ref(), comparison.right.as_ref());
        let (left_time, right_time, op) = if belongs(a, left) && belongs(b, right) {
            (a, b, comparison.op)
        } else if belongs(a, right) && belongs(b, left) {
            (b, a, comparison.op.swap().ok_or_else(expected)?)
        } else {
            return Err(expected());
        };
        let (backwards, inclusive) = match op {
            Operator::GtEq => (true, true),
            Operator::Gt => (true, false),
            Operator::LtEq => (false, true),
            Operator::Lt => (false, false),
            _ => return Err(expected()),
        };
        let (left_type, right_type) = (left_time.get_type(left)?, right_time.get_type(right)?);
        let common = comparison_coercion(&left_type, &right_type).ok_or_else(|| {
            fault(
                &format!("MATCH_CONDITION cannot compare {left_type} with {right_type}"),
                span,
            )
        })?;
        Ok(Nearest {
            left_time: cast(left_time.clone(), common.clone()),
            right_time: cast(right_time.clone(), common),
            backwards,
            inclusive,
        })
    }
}

/// True when the expression uses columns, and only columns of this side.
fn belongs(expression: &Expr, side: &DFSchema) -> bool {
    let columns = expression.column_refs();
    !columns.is_empty() && columns.iter().all(|column| side.has_column(column))
}

fn keys_of_on(on: Expr, left: &DFSchema, right: &DFSchema, span: Option<Span>) -> Result<Vec<(Expr, Expr)>> {
    let mut keys = Vec::new();
    for term in split_conjunction_owned(on) {
        let pair = match &term {
            Expr::BinaryExpr(comparison) if comparison.op == Operator::Eq => {
                let (a, b) = (comparison.left.as_ref(), comparison.right.as_ref());
                if belongs(a, left) && belongs(b, right) {
                    Some((a.clone(), b.clone()))
                } else if belongs(a, right) && belongs(b, left) {
                    Some((b.clone(), a.clone()))
                } else {
                    None
                }
            }
            _ => None,
        };
        let Some((left_key, right_key)) = pair else {
            return Err(fault(
                "ASOF JOIN takes equalities in ON, left.key = right.key AND …; put other conditions into a sub-query",
                span,
            ));
        };
        let (left_type, right_type) = (left_key.get_type(left)?, right_key.get_type(right)?);
        let common = comparison_coercion(&left_type, &right_type)
            .ok_or_else(|| fault(&format!("ON cannot compare {left_type} with {right_type}"), span))?;
        keys.push((cast(left_key, common.clone()), cast(right_key, common)));
    }
    Ok(keys)
}

const TIME: &str = "__asof_time";
const RIGHT_TIME: &str = "__asof_right_time";
const SIDE: &str = "__asof_side";
const MATCH: &str = "__asof_match";
const RANK: &str = "__asof_rank";
/// Marks in [`SIDE`].
const IS_LEFT: &str = "__asof_is_left";

fn build(left: LogicalPlan, right: LogicalPlan, nearest: &Nearest, keys: Vec<(Expr, Expr)>) -> Result<LogicalPlan> {
    let left_columns = left.schema().columns();
    let right_columns = right.schema().columns();
    let right_rows = one_right_row_per_time(right, &right_columns, nearest, &keys)?;
    let times = left_and_right_times(left, &left_columns, &right_rows, nearest, &keys)?;
    let matched = match_times(times, nearest, keys.len())?;

    let mut join_left: Vec<Column> = vec![Column::new_unqualified(MATCH)];
    let mut join_right: Vec<Column> = vec![Column::new_unqualified(RIGHT_TIME)];
    for index in 0..keys.len() {
        join_left.push(Column::new_unqualified(key_name(index)));
        join_right.push(Column::new_unqualified(right_key_name(index)));
    }
    let named = |columns: &[Column], name: fn(usize) -> String| -> Vec<Expr> {
        columns
            .iter()
            .enumerate()
            .map(|(index, column)| match &column.relation {
                Some(relation) => ident(name(index)).alias_qualified(Some(relation.clone()), column.name()),
                None => ident(name(index)).alias(column.name()),
            })
            .collect()
    };
    let mut output = named(&left_columns, left_name);
    output.extend(named(&right_columns, right_name));
    LogicalPlanBuilder::from(matched)
        .join(right_rows, JoinType::Left, (join_left, join_right), None)?
        .project(output)?
        .build()
}

fn left_name(index: usize) -> String {
    format!("__asof_left_{index}")
}

fn right_name(index: usize) -> String {
    format!("__asof_right_{index}")
}

fn key_name(index: usize) -> String {
    format!("__asof_key_{index}")
}

fn right_key_name(index: usize) -> String {
    format!("__asof_right_key_{index}")
}

/// Right rows under internal names; of several with the same key and time, the first by all columns that sort.
fn one_right_row_per_time(
    right: LogicalPlan,
    columns: &[Column],
    nearest: &Nearest,
    keys: &[(Expr, Expr)],
) -> Result<LogicalPlan> {
    let schema = std::sync::Arc::clone(right.schema());
    let mut projected: Vec<Expr> = Vec::new();
    let mut order: Vec<Sort> = Vec::new();
    for (index, column) in columns.iter().enumerate() {
        projected.push(Expr::Column(column.clone()).alias(right_name(index)));
        let data_type = schema.qualified_field_from_column(column)?.1.data_type();
        if !data_type.is_nested() {
            order.push(ident(right_name(index)).sort(true, false));
        }
    }
    let mut partition = vec![ident(RIGHT_TIME)];
    for (index, (_, key)) in keys.iter().enumerate() {
        projected.push(key.clone().alias(right_key_name(index)));
        partition.push(ident(right_key_name(index)));
    }
    projected.push(nearest.right_time.clone().alias(RIGHT_TIME));
    let mut rank = row_number().partition_by(partition);
    if !order.is_empty() {
        rank = rank.order_by(order);
    }
    let kept: Vec<Expr> = projected.iter().map(|e| ident(e.schema_name().to_string())).collect();
    LogicalPlanBuilder::from(right)
        .project(projected)?
        .filter(ident(RIGHT_TIME).is_not_null())?
        .window(vec![rank.build()?.alias(RANK)])?
        .filter(ident(RANK).eq(lit(1u64)))?
        .project(kept)?
        .build()
}

fn left_and_right_times(
    left: LogicalPlan,
    left_columns: &[Column],
    right_rows: &LogicalPlan,
    nearest: &Nearest,
    keys: &[(Expr, Expr)],
) -> Result<LogicalPlan> {
    let left_schema = std::sync::Arc::clone(left.schema());
    let mut of_left: Vec<Expr> = Vec::new();
    let mut of_right: Vec<Expr> = Vec::new();
    for (index, (key, _)) in keys.iter().enumerate() {
        of_left.push(key.clone().alias(key_name(index)));
        of_right.push(ident(right_key_name(index)).alias(key_name(index)));
    }
    let time_type = nearest.left_time.get_type(&left_schema)?;
    of_left.push(nearest.left_time.clone().alias(TIME));
    of_right.push(ident(RIGHT_TIME).alias(TIME));
    of_left.push(lit(ScalarValue::try_from(&time_type)?).alias(RIGHT_TIME));
    of_right.push(ident(RIGHT_TIME));
    // Where equal times match, the right row comes first; the window's frame ends at the left row.
    let (left_side, right_side) = if nearest.inclusive { (1i8, 0i8) } else { (0, 1) };
    of_left.push(lit(left_side).alias(SIDE));
    of_right.push(lit(right_side).alias(SIDE));
    of_left.push(lit(true).alias(IS_LEFT));
    of_right.push(lit(false).alias(IS_LEFT));
    for (index, column) in left_columns.iter().enumerate() {
        let data_type = left_schema.qualified_field_from_column(column)?.1.data_type().clone();
        of_left.push(Expr::Column(column.clone()).alias(left_name(index)));
        of_right.push(lit(ScalarValue::try_from(&data_type)?).alias(left_name(index)));
    }
    let of_right = LogicalPlanBuilder::from(right_rows.clone())
        .project(of_right)?
        .build()?;
    LogicalPlanBuilder::from(left)
        .project(of_left)?
        .union(of_right)?
        .build()
}

/// Left rows with [`MATCH`], the time of their right row.
fn match_times(times: LogicalPlan, nearest: &Nearest, keys: usize) -> Result<LogicalPlan> {
    let aggregate = if nearest.backwards { max_udaf() } else { min_udaf() };
    let function = Expr::from(WindowFunction::new(
        WindowFunctionDefinition::AggregateUDF(aggregate),
        vec![ident(RIGHT_TIME)],
    ));
    let window = function
        .partition_by((0..keys).map(|index| ident(key_name(index))).collect())
        .order_by(vec![
            ident(TIME).sort(nearest.backwards, !nearest.backwards),
            ident(SIDE).sort(true, false),
        ])
        .window_frame(WindowFrame::new_bounds(
            WindowFrameUnits::Rows,
            WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
            WindowFrameBound::CurrentRow,
        ))
        .build()?
        .alias(MATCH);
    let fields: Vec<String> = times
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let mut kept: Vec<Expr> = fields
        .iter()
        .filter(|name| name.starts_with("__asof_left_") || name.starts_with("__asof_key_"))
        .map(ident)
        .collect();
    kept.push(when(ident(TIME).is_not_null(), ident(MATCH)).end()?.alias(MATCH));
    LogicalPlanBuilder::from(times)
        .window(vec![window])?
        .filter(ident(IS_LEFT))?
        .project(kept)?
        .build()
}
