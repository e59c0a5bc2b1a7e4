//! Plans of expectations: conditions on rows as Boolean columns, conditions on a corpus as one row.
//!
//! - `EXISTS (SELECT … )` and `x IN (SELECT … )` inside a row condition become counting sub-queries, because the engine
//!   plans them only in `WHERE`.
//! - `leakage(…)`, `psi(…)` and every aggregate of a corpus condition become sub-queries of their own.

use std::ops::ControlFlow;

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, FunctionArg, FunctionArgExpr, FunctionArguments, Spanned, VisitMut, VisitorMut,
};

use crate::error::{Fault, Result, SqlError};
use crate::script;
use crate::session::Session;
use crate::source_text::{Position, SqlText};

/// See [`Session::plan_row_conditions`].
pub(crate) async fn plan_row_conditions(
    session: &Session,
    plan: LogicalPlan,
    relation: &str,
    conditions: &[(String, SqlText)],
) -> Result<LogicalPlan> {
    let mut plan = plan;
    for (name, condition) in conditions {
        let mut expression = script::parse_expression(condition)?;
        count_instead_of_exists(&mut expression, condition, relation)?;
        let kept: Vec<String> = plan
            .schema()
            .fields()
            .iter()
            .map(|field| quoted(field.name()))
            .collect();
        let query = select_query(&kept, &expression, name, Some(relation));
        let planned = session.plan_parsed_over(query, condition, relation, plan).await?;
        let field = planned.schema().field(planned.schema().fields().len() - 1);
        if *field.data_type() != DataType::Boolean && *field.data_type() != DataType::Null {
            return Err(SqlError::Plan(Fault::at(
                condition,
                Some(condition.start),
                format!("the condition of '{name}' is {}, expected Boolean", field.data_type()),
            )));
        }
        plan = planned;
    }
    Ok(plan)
}

/// See [`Session::plan_corpus_expectation`].
pub(crate) async fn plan_corpus_expectation(
    session: &Session,
    condition: &SqlText,
    corpus: &str,
    previous: Option<&str>,
    partitioned_by: &[String],
) -> Result<LogicalPlan> {
    let mut expression = script::parse_expression(condition)?;
    let rows = session
        .plan_generated(&format!("SELECT * FROM {}", quoted(corpus)), condition)
        .await?;
    let numeric = rows
        .schema()
        .fields()
        .iter()
        .filter(|field| field.data_type().is_numeric());
    let mut rewriter = CorpusCalls {
        condition,
        corpus,
        previous,
        numeric: numeric.map(|field| field.name().clone()).collect(),
        split_column: match partitioned_by {
            [only] => Some(only.as_str()),
            many => many.iter().map(String::as_str).find(|column| *column == "split"),
        },
        aggregates: session
            .context()
            .state()
            .aggregate_functions()
            .keys()
            .cloned()
            .collect(),
        depth: 0,
    };
    if let ControlFlow::Break(error) = expression.visit(&mut rewriter) {
        return Err(error);
    }
    let observed = match &expression {
        ast::Expr::BinaryOp { left, op, .. } if is_comparison(op) => (**left).clone(),
        ast::Expr::Between { expr, .. } => (**expr).clone(),
        _ => ast::Expr::value(ast::Value::Null),
    };
    let sql = format!("SELECT CAST(({expression}) AS BOOLEAN) AS passed, CAST(({observed}) AS VARCHAR) AS observed");
    session.plan_generated(&sql, condition).await
}

fn is_comparison(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
    )
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `SELECT columns, (expression) AS name FROM relation`, with the spans of the expression kept.
fn select_query(columns: &[String], expression: &ast::Expr, name: &str, relation: Option<&str>) -> GeneratedSelect {
    GeneratedSelect {
        columns: columns.to_vec(),
        expression: expression.clone(),
        name: name.to_string(),
        relation: relation.map(str::to_string),
    }
}

/// A query whose last column is an expression that a person wrote.
pub(crate) struct GeneratedSelect {
    columns: Vec<String>,
    expression: ast::Expr,
    name: String,
    relation: Option<String>,
}

impl GeneratedSelect {
    /// The query, with the written expression put into the generated frame.
    pub(crate) fn into_query(self) -> Result<ast::Query> {
        let from = match &self.relation {
            Some(relation) => format!(" FROM {}", quoted(relation)),
            None => String::new(),
        };
        let mut columns = self.columns;
        columns.push(format!("NULL AS {}", quoted(&self.name)));
        let frame = SqlText::file(&format!("SELECT {}{from}", columns.join(", ")), "<generated>");
        let mut query = script::parse_query(&frame)?;
        if let ast::SetExpr::Select(select) = query.body.as_mut()
            && let Some(ast::SelectItem::ExprWithAlias { expr, .. }) = select.projection.last_mut()
        {
            *expr = self.expression;
        }
        Ok(query)
    }
}

/// `EXISTS (SELECT … FROM r WHERE c)` → `(SELECT count(*) FROM r WHERE c) > 0`; `x IN (SELECT y …)` likewise.
fn count_instead_of_exists(expression: &mut ast::Expr, condition: &SqlText, relation: &str) -> Result<()> {
    struct Counter<'a>(&'a SqlText, &'a str);
    impl VisitorMut for Counter<'_> {
        type Break = SqlError;
        fn post_visit_expr(&mut self, expression: &mut ast::Expr) -> ControlFlow<SqlError> {
            let replacement = match expression {
                ast::Expr::Exists { subquery, negated } => counting(subquery, None).map(|count| (count, *negated)),
                ast::Expr::InSubquery {
                    expr,
                    subquery,
                    negated: false,
                } => counting(subquery, Some(of_relation(expr, self.1))).map(|count| (count, false)),
                ast::Expr::InSubquery { .. } => None,
                _ => return ControlFlow::Continue(()),
            };
            let Some((count, negated)) = replacement else {
                let place = place(expression);
                return ControlFlow::Break(SqlError::Unsupported(
                    Fault::at(
                        self.0,
                        place,
                        "this sub-query cannot be part of a row's condition",
                    )
                    .with_help("write [NOT] EXISTS (SELECT 1 FROM r WHERE r.x = corpus.x), without GROUP BY, DISTINCT or LIMIT"),
                ));
            };
            let op = if negated {
                BinaryOperator::Eq
            } else {
                BinaryOperator::Gt
            };
            *expression = ast::Expr::Nested(Box::new(ast::Expr::BinaryOp {
                left: Box::new(count),
                op,
                right: Box::new(ast::Expr::value(ast::Value::Number("0".into(), false))),
            }));
            ControlFlow::Continue(())
        }
    }
    match expression.visit(&mut Counter(condition, relation)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// The expression with its bare columns qualified: inside the sub-query, a bare name would mean the sub-query's own.
fn of_relation(value: &ast::Expr, relation: &str) -> ast::Expr {
    struct Qualifier<'a>(&'a str);
    impl VisitorMut for Qualifier<'_> {
        type Break = ();
        fn post_visit_expr(&mut self, expression: &mut ast::Expr) -> ControlFlow<()> {
            if let ast::Expr::Identifier(column) = expression {
                let relation = ast::Ident::with_quote('"', self.0);
                *expression = ast::Expr::CompoundIdentifier(vec![relation, column.clone()]);
            }
            ControlFlow::Continue(())
        }
    }
    let mut value = value.clone();
    let _ = value.visit(&mut Qualifier(relation));
    value
}

/// The sub-query with `count(*)` as its only column; with `equals`, rows whose first column equals it.
fn counting(subquery: &ast::Query, equals: Option<ast::Expr>) -> Option<ast::Expr> {
    let mut query = subquery.clone();
    if query.limit_clause.is_some() || query.fetch.is_some() {
        return None;
    }
    query.order_by = None;
    let ast::SetExpr::Select(select) = query.body.as_mut() else {
        return None;
    };
    let has_groups = match &select.group_by {
        ast::GroupByExpr::Expressions(expressions, _) => !expressions.is_empty(),
        ast::GroupByExpr::All(_) => true,
    };
    if has_groups || select.having.is_some() || select.distinct.is_some() {
        return None;
    }
    if let Some(value) = equals {
        let column = match select.projection.as_slice() {
            [ast::SelectItem::UnnamedExpr(column) | ast::SelectItem::ExprWithAlias { expr: column, .. }] => {
                column.clone()
            }
            _ => return None,
        };
        let equal = ast::Expr::BinaryOp {
            left: Box::new(column),
            op: BinaryOperator::Eq,
            right: Box::new(value),
        };
        select.selection = Some(match select.selection.take() {
            None => equal,
            Some(selection) => ast::Expr::BinaryOp {
                left: Box::new(ast::Expr::Nested(Box::new(selection))),
                op: BinaryOperator::And,
                right: Box::new(equal),
            },
        });
    }
    let count = script::parse_expression(&SqlText::file("count(*)", "<generated>")).ok()?;
    select.projection = vec![ast::SelectItem::UnnamedExpr(count)];
    Some(ast::Expr::Subquery(Box::new(query)))
}

fn place(expression: &ast::Expr) -> Option<Position> {
    let span = expression.span();
    (span.start.line > 0).then_some(Position {
        line: span.start.line,
        column: span.start.column,
    })
}

/// Replaces the calls of a corpus condition that look at all rows by sub-queries.
struct CorpusCalls<'a> {
    condition: &'a SqlText,
    corpus: &'a str,
    previous: Option<&'a str>,
    split_column: Option<&'a str>,
    /// Columns of numbers.
    numeric: Vec<String>,
    aggregates: Vec<String>,
    /// Sub-queries around the expression that is being visited.
    depth: usize,
}

impl VisitorMut for CorpusCalls<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, _query: &mut ast::Query) -> ControlFlow<SqlError> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut ast::Query) -> ControlFlow<SqlError> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    // After its children, so that what is put in its place is not visited in turn.
    fn post_visit_expr(&mut self, expression: &mut ast::Expr) -> ControlFlow<SqlError> {
        let ast::Expr::Function(call) = expression else {
            return ControlFlow::Continue(());
        };
        // A sub-query that a person wrote looks at its own relations.
        if self.depth > 0 {
            return ControlFlow::Continue(());
        }
        let name = call.name.to_string().to_lowercase();
        let place = place(expression);
        let ast::Expr::Function(call) = expression else {
            return ControlFlow::Continue(());
        };
        let sql = match name.as_str() {
            "leakage" => self.leakage(call, place),
            "psi" => self.psi(call, place),
            other if self.aggregates.iter().any(|known| known == other) => {
                Ok(format!("SELECT {call} FROM {}", quoted(self.corpus)))
            }
            _ => return ControlFlow::Continue(()),
        };
        let parsed = sql.and_then(|sql| script::parse_query(&SqlText::file(&sql, "<generated>")));
        match parsed {
            Ok(query) => {
                *expression = ast::Expr::Subquery(Box::new(query));
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl CorpusCalls<'_> {
    fn fault(&self, place: Option<Position>, message: String) -> SqlError {
        SqlError::Plan(Fault::at(self.condition, place, message))
    }

    /// Number of group values that occur in more than one split.
    fn leakage(&self, call: &ast::Function, place: Option<Position>) -> Result<String> {
        let columns = text_arguments(call)
            .filter(|columns| !columns.is_empty())
            .ok_or_else(|| self.fault(place, "leakage takes names of columns: leakage('user_id', …)".into()))?;
        let split = self
            .split_column
            .ok_or_else(|| self.fault(place, "leakage needs a corpus that is PARTITIONED BY (split)".into()))?;
        let (corpus, split) = (quoted(self.corpus), quoted(split));
        let terms: Vec<String> = columns
            .iter()
            .map(|column| {
                let column = quoted(column);
                format!(
                    "SELECT {column} FROM {corpus} WHERE {column} IS NOT NULL \
                     GROUP BY {column} HAVING count(DISTINCT {split}) > 1"
                )
            })
            .map(|query| format!("(SELECT count(*) FROM ({query}))"))
            .collect();
        Ok(format!("SELECT {}", terms.join(" + ")))
    }

    /// Index of the shift of a column's values between the previous version and this one; 0 without a previous one.
    fn psi(&self, call: &ast::Function, place: Option<Position>) -> Result<String> {
        let usage = || self.fault(place, "psi takes psi('column', previous())".into());
        let arguments = arguments(call).ok_or_else(usage)?;
        let [column, previous] = arguments.as_slice() else {
            return Err(usage());
        };
        let column = text_of(column).ok_or_else(usage)?;
        match previous {
            ast::Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("previous") => {}
            _ => return Err(usage()),
        }
        let Some(previous) = self.previous else {
            return Ok("SELECT CAST(0 AS DOUBLE)".into());
        };
        if self.numeric.contains(&column) {
            return Ok(psi_of_numbers(
                &quoted(&column),
                &quoted(previous),
                &quoted(self.corpus),
            ));
        }
        let column = quoted(&column);
        let counts = |relation: &str| {
            format!(
                "SELECT {column} AS bucket, count(*) AS n FROM {} GROUP BY 1",
                quoted(relation)
            )
        };
        // IS NOT DISTINCT FROM, so that NULL is a bucket like any other.
        Ok(format!(
            "SELECT psi_counts(e.n, a.n) FROM ({}) e FULL JOIN ({}) a \
             ON e.bucket IS NOT DISTINCT FROM a.bucket",
            counts(previous),
            counts(self.corpus)
        ))
    }
}

/// The index of a column of numbers: its buckets end where the deciles of the previous version do, the last one is
/// open, and NULL is one more. A value that many rows have is in one bucket as a whole, so few values are a bucket each.
fn psi_of_numbers(column: &str, previous: &str, now: &str) -> String {
    let ends: Vec<String> = (0..9)
        .map(|decile| format!("max(CASE WHEN decile = {decile} THEN x END) AS end{decile}"))
        .collect();
    let above: Vec<String> = (0..9)
        .map(|decile| format!("CASE WHEN x > end{decile} THEN 1 ELSE 0 END"))
        .collect();
    let counts =
        |relation: &str| format!("SELECT CAST({column} AS DOUBLE) AS x, count(*) AS n FROM {relation} GROUP BY 1");
    format!(
        "WITH e AS ({}), a AS ({}), \
         ranks AS (SELECT x, sum(n) OVER (ORDER BY x ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS rank, \
                   sum(n) OVER () AS total FROM e WHERE x IS NOT NULL), \
         ends AS (SELECT {} FROM (SELECT x, (10 * rank - 1) / total AS decile FROM ranks)), \
         both AS (SELECT x, n AS e, 0 AS a FROM e UNION ALL SELECT x, 0, n FROM a), \
         buckets AS (SELECT CASE WHEN x IS NULL THEN -1 ELSE {} END AS bucket, e, a FROM both CROSS JOIN ends) \
         SELECT psi_counts(e, a) FROM (SELECT bucket, sum(e) AS e, sum(a) AS a FROM buckets GROUP BY bucket)",
        counts(previous),
        counts(now),
        ends.join(", "),
        above.join(" + "),
    )
}

fn arguments(call: &ast::Function) -> Option<Vec<ast::Expr>> {
    let FunctionArguments::List(list) = &call.args else {
        return None;
    };
    list.args
        .iter()
        .map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => Some(value.clone()),
            _ => None,
        })
        .collect()
}

fn text_arguments(call: &ast::Function) -> Option<Vec<String>> {
    arguments(call)?.iter().map(text_of).collect()
}

fn text_of(value: &ast::Expr) -> Option<String> {
    match value {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}
