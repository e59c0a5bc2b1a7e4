//! The arguments of a table function: an input relation first, then `name => value`.

use std::collections::BTreeMap;

use datafusion::common::{Column, Result, Span};
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, Spanned, TableFactor, Value};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::fault;
use crate::error::nearest;

/// What was written between the parentheses.
pub(super) struct Arguments {
    function: String,
    span: Option<Span>,
    input: Option<LogicalPlan>,
    second: Option<LogicalPlan>,
    /// A first argument that is a plain string, such as the glob of `read_blob`.
    positional: Option<(String, Option<Span>)>,
    named: BTreeMap<String, (ast::Expr, Option<Span>)>,
}

impl Arguments {
    /// Sorts the arguments; a sub-query among them is planned.
    pub(super) fn new(
        function: &str,
        span: Option<Span>,
        args: Vec<FunctionArg>,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<Arguments> {
        let mut arguments = Arguments {
            function: function.to_string(),
            span,
            input: None,
            second: None,
            positional: None,
            named: BTreeMap::new(),
        };
        for argument in args {
            let span = Span::try_from_sqlparser_span(argument.span()).or(span);
            match argument {
                FunctionArg::Named {
                    name,
                    arg: FunctionArgExpr::Expr(value),
                    ..
                } => {
                    let name = context.normalize_ident(name);
                    if arguments.named.insert(name.clone(), (value, span)).is_some() {
                        return Err(fault(format!("argument '{name}' of {function} is given twice"), span));
                    }
                }
                FunctionArg::Unnamed(FunctionArgExpr::Expr(ast::Expr::Subquery(subquery)))
                    if arguments.second.is_none() =>
                {
                    let slot = match arguments.input {
                        None => &mut arguments.input,
                        Some(_) => &mut arguments.second,
                    };
                    *slot = Some(context.plan(TableFactor::Derived {
                        lateral: false,
                        subquery,
                        alias: None,
                        sample: None,
                    })?);
                }
                FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) if arguments.positional.is_none() => {
                    let Some(text) = text_of(&value) else {
                        return Err(fault(
                            format!("{function} takes TABLE t, then name => value; found {value}"),
                            span,
                        ));
                    };
                    arguments.positional = Some((text, span));
                }
                other => {
                    return Err(fault(
                        format!("{function} takes TABLE t, then name => value; found {other}"),
                        span,
                    ));
                }
            }
        }
        Ok(arguments)
    }

    pub(super) fn span(&self) -> Option<Span> {
        self.span
    }

    /// The input relation.
    pub(super) fn input(&mut self) -> Result<LogicalPlan> {
        self.input.take().ok_or_else(|| {
            fault(
                format!("{} takes TABLE t or (SELECT …) first", self.function),
                self.span,
            )
        })
    }

    /// The relation after the input, written as `what`.
    pub(super) fn second_input(&mut self, what: &str) -> Result<LogicalPlan> {
        self.second
            .take()
            .ok_or_else(|| fault(format!("{} takes {what} after its input", self.function), self.span))
    }

    pub(super) fn positional(&mut self, what: &str) -> Result<String> {
        match self.positional.take() {
            Some((text, _)) => Ok(text),
            None => Err(fault(format!("{} takes {what}", self.function), self.span)),
        }
    }

    /// A string, or what holds when it is left out.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.named.remove(name) {
            None => Ok(None),
            Some((value, span)) => match text_of(&value) {
                Some(text) => Ok(Some(text)),
                None => Err(self.wrong(name, "a string in quotes", &value, span)),
            },
        }
    }

    /// A number, or what holds when it is left out.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>> {
        match self.named.remove(name) {
            None => Ok(None),
            Some((value, span)) => match number_of(&value) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(name, "a number", &value, span)),
            },
        }
    }

    /// A whole number, or what holds when it is left out.
    pub(super) fn integer(&mut self, name: &str) -> Result<Option<i64>> {
        match self.named.remove(name) {
            None => Ok(None),
            Some((value, span)) => match number_of(&value) {
                Some(number) if number.fract() == 0.0 && number.abs() < 1e15 => Ok(Some(number as i64)),
                _ => Err(self.wrong(name, "a whole number", &value, span)),
            },
        }
    }

    /// A column of the input, by name.
    pub(super) fn column(&mut self, name: &str, input: &LogicalPlan) -> Result<Option<Expr>> {
        match self.named.remove(name) {
            None => Ok(None),
            Some((value, span)) => match text_of(&value) {
                Some(column) => self.resolve(&column, input, span).map(Some),
                None => Err(self.wrong(name, "the name of a column in quotes", &value, span)),
            },
        }
    }

    pub(super) fn required_column(&mut self, name: &str, input: &LogicalPlan) -> Result<Expr> {
        match self.column(name, input)? {
            Some(column) => Ok(column),
            None => Err(fault(format!("{} needs {name} => 'column'", self.function), self.span)),
        }
    }

    /// One or more columns: `'a'` or `['a', 'b']`.
    pub(super) fn columns(&mut self, name: &str, input: &LogicalPlan) -> Result<Vec<Expr>> {
        let Some((value, span)) = self.named.remove(name) else {
            return Ok(Vec::new());
        };
        let items = match &value {
            ast::Expr::Array(array) => array.elem.clone(),
            single => vec![single.clone()],
        };
        let mut columns = Vec::with_capacity(items.len());
        for item in items {
            match text_of(&item) {
                Some(column) => columns.push(self.resolve(&column, input, span)?),
                None => {
                    return Err(self.wrong(name, "names of columns, ['a', 'b']", &value, span));
                }
            }
        }
        Ok(columns)
    }

    /// An expression that uses no columns, such as `run_start() - INTERVAL '14 days'`.
    pub(super) fn expression(&mut self, name: &str, context: &mut dyn RelationPlannerContext) -> Result<Option<Expr>> {
        match self.named.remove(name) {
            None => Ok(None),
            Some((value, _)) => context
                .sql_to_expr(value, &datafusion::common::DFSchema::empty())
                .map(Some),
        }
    }

    /// An order: `'a DESC, b'`.
    pub(super) fn order(
        &mut self,
        name: &str,
        input: &LogicalPlan,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<Vec<Sort>> {
        let Some((value, span)) = self.named.remove(name) else {
            return Ok(Vec::new());
        };
        let Some(text) = text_of(&value) else {
            return Err(self.wrong(name, "an order in quotes, 'a DESC, b'", &value, span));
        };
        let terms = Parser::new(&GenericDialect {})
            .try_with_sql(&text)
            .and_then(|mut parser| {
                let terms = parser.parse_comma_separated(Parser::parse_order_by_expr)?;
                parser.expect_token(&datafusion::sql::sqlparser::tokenizer::Token::EOF)?;
                Ok(terms)
            })
            .map_err(|_| fault(format!("'{text}' is not an order; {name} takes 'a DESC, b'"), span))?;
        let mut order = Vec::with_capacity(terms.len());
        for term in terms {
            let descending = term.options.asc == Some(false);
            let nulls_first = term.options.nulls_first.unwrap_or(false);
            let expression = context.sql_to_expr(term.expr, input.schema())?;
            order.push(expression.sort(!descending, nulls_first));
        }
        Ok(order)
    }

    /// Refuses what is left over, naming the nearest argument that exists.
    pub(super) fn finish(&self, known: &[&str]) -> Result<()> {
        if let Some((name, (_, span))) = self.named.iter().next() {
            let candidates = known.iter().map(|name| (*name).to_string());
            let hint = match nearest(name, candidates) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("it takes {}", known.join(", ")),
            };
            return Err(fault(
                format!("{} has no argument '{name}' ({hint})", self.function),
                *span,
            ));
        }
        if self.second.is_some() {
            return Err(fault(
                format!("{} takes one relation, found two", self.function),
                self.span,
            ));
        }
        if let Some((text, span)) = &self.positional {
            return Err(fault(
                format!("{}: '{text}' needs a name, name => value", self.function),
                *span,
            ));
        }
        Ok(())
    }

    fn resolve(&self, column: &str, input: &LogicalPlan, span: Option<Span>) -> Result<Expr> {
        let fields = input.schema().qualified_fields_with_unqualified_name(column);
        match fields.as_slice() {
            [(qualifier, field)] => Ok(Expr::Column(Column::new(qualifier.cloned(), field.name().clone()))),
            [] => {
                let known = input.schema().fields().iter().map(|f| f.name().clone());
                let hint = nearest(column, known)
                    .map(|near| format!(" (did you mean '{near}'?)"))
                    .unwrap_or_default();
                Err(fault(format!("unknown column '{column}'{hint}"), span))
            }
            _ => Err(fault(
                format!("column '{column}' is in the input of {} more than once", self.function),
                span,
            )),
        }
    }

    fn wrong(
        &self,
        name: &str,
        expected: &str,
        found: &ast::Expr,
        span: Option<Span>,
    ) -> datafusion::error::DataFusionError {
        fault(
            format!("argument '{name}' of {} takes {expected}, found {found}", self.function),
            span,
        )
    }
}

fn number_of(value: &ast::Expr) -> Option<f64> {
    match value {
        ast::Expr::Value(value) => match &value.value {
            Value::Number(number, _) => number.to_string().parse().ok(),
            _ => None,
        },
        ast::Expr::UnaryOp {
            op: ast::UnaryOperator::Minus,
            expr,
        } => number_of(expr).map(|number| -number),
        _ => None,
    }
}

fn text_of(value: &ast::Expr) -> Option<String> {
    match value {
        ast::Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}
