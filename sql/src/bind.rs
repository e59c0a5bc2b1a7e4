//! Ties names inside expressions to objects of the catalogue: Python functions before planning, models and tokenizers
//! after.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use corpusmill_kernels::Tokenizer;
use corpusmill_operators::ModelFunction;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result as EngineResult, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, Query, TableFactor, Visit, Visitor};

use crate::error::{Result, SqlError};
use crate::functions::embed;
use crate::functions::tokenize::TokenizerFunction;
use crate::plan_errors::find_word;
use crate::python;
use crate::session::Session;
use crate::source_text::SqlText;
use crate::statement::ObjectKind;

/// Registers the Python functions that a query calls, as the catalogue has them now.
pub(crate) async fn register_functions(session: &Session, query: &Query, text: &SqlText) -> Result<()> {
    for name in called_functions(query) {
        match session.objects().function(&name).await? {
            // Its types are planned as SQL too, so this goes round in a circle of futures.
            Some(definition) => {
                let function = Box::pin(python::function(session, &definition, text)).await?;
                session.context().register_udf(function);
            }
            None if was_python(session, &name) => session.context().deregister_udf(&name),
            None => {}
        }
    }
    Ok(())
}

/// True for a Python function that an earlier statement registered.
fn was_python(session: &Session, name: &str) -> bool {
    let state = session.context().state_ref();
    let state = state.read();
    state
        .scalar_functions()
        .get(name)
        .is_some_and(|function| (function.inner().as_ref() as &dyn std::any::Any).is::<python::PythonFunction>())
}

/// Bare names of all functions called in a query.
fn called_functions(query: &Query) -> BTreeSet<String> {
    struct Calls(BTreeSet<String>);
    impl Visitor for Calls {
        type Break = ();
        fn pre_visit_expr(&mut self, expression: &ast::Expr) -> ControlFlow<()> {
            if let ast::Expr::Function(function) = expression
                && let [part] = function.name.0.as_slice()
                && let Some(ident) = part.as_ident()
            {
                self.0.insert(crate::script::normalized_ident(ident));
            }
            ControlFlow::Continue(())
        }
    }
    let mut calls = Calls(BTreeSet::new());
    let _ = query.visit(&mut calls);
    calls.0
}

/// The texts that an argument has in calls of a table function: `f(…, argument => 'text')`.
pub(crate) fn named_arguments(query: &Query, function: &str, argument: &str) -> BTreeSet<String> {
    struct Texts<'a> {
        function: &'a str,
        argument: &'a str,
        found: BTreeSet<String>,
    }
    impl Visitor for Texts<'_> {
        type Break = ();
        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table {
                name,
                args: Some(arguments),
                ..
            } = factor
                && is_called(name, self.function)
            {
                for argument in &arguments.args {
                    if let FunctionArg::Named {
                        name,
                        arg: FunctionArgExpr::Expr(value),
                        ..
                    } = argument
                        && crate::script::normalized_ident(name) == self.argument
                    {
                        self.found.extend(text_of(value));
                    }
                }
            }
            ControlFlow::Continue(())
        }
    }
    let mut texts = Texts {
        function,
        argument,
        found: BTreeSet::new(),
    };
    let _ = query.visit(&mut texts);
    texts.found
}

/// True where a bare name is that of a function.
pub(crate) fn is_called(name: &ast::ObjectName, wanted: &str) -> bool {
    match name.0.as_slice() {
        [part] => part
            .as_ident()
            .is_some_and(|ident| crate::script::normalized_ident(ident) == wanted),
        _ => false,
    }
}

/// The text of a constant.
pub(crate) fn text_of(expression: &ast::Expr) -> Option<String> {
    match expression {
        ast::Expr::Value(value) => value.value.clone().into_string(),
        _ => None,
    }
}

/// Replaces calls such as `tokenize(s, 'name')` by calls of a function that carries the tokenizer itself.
pub(crate) async fn bind_tokenizers(session: &Session, plan: LogicalPlan, text: &SqlText) -> Result<LogicalPlan> {
    let names = tokenizer_names(&plan)?;
    if names.is_empty() {
        return Ok(plan);
    }
    let mut tokenizers = BTreeMap::new();
    for name in names {
        let Some(tokenizer) = session.objects().tokenizer(&name).await? else {
            let known = session.objects().names().await?;
            let known = known
                .into_iter()
                .filter(|(kind, _)| *kind == ObjectKind::Tokenizer)
                .map(|(_, name)| name);
            return Err(SqlError::unknown(
                "tokenizer",
                &name,
                known,
                text,
                find_word(text, &name),
            ));
        };
        tokenizers.insert(name, tokenizer);
    }
    Ok(replace(plan, &tokenizers)?)
}

/// Replaces calls of `embed` by calls of a function that carries the model; both have the same name and arguments.
pub(crate) fn bind_models(plan: LogicalPlan) -> EngineResult<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expression| {
            expression.transform_up(|expression| match expression {
                Expr::ScalarFunction(call) if embed::UnboundEmbed::is(&call.func) => {
                    let name = match call.args.first() {
                        Some(Expr::Literal(name, _)) => Some(name),
                        _ => None,
                    };
                    let model = embed::model_of(name)?;
                    let bound = ModelFunction::udf(Arc::clone(&model.spec));
                    let call = ScalarFunction::new_udf(Arc::new(bound), call.args);
                    Ok(Transformed::yes(Expr::ScalarFunction(call)))
                }
                other => Ok(Transformed::no(other)),
            })
        })
    })?;
    Ok(plan.data)
}

/// The unbound tokenizer function and the name in a call, if it is one.
fn unbound(expression: &Expr) -> EngineResult<Option<(&TokenizerFunction, String)>> {
    let Expr::ScalarFunction(call) = expression else {
        return Ok(None);
    };
    let Some(function) = TokenizerFunction::of(&call.func) else {
        return Ok(None);
    };
    if function.is_bound() {
        return Ok(None);
    }
    match call.args.get(1) {
        Some(Expr::Literal(
            ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name)) | ScalarValue::LargeUtf8(Some(name)),
            _,
        )) => Ok(Some((function, name.clone()))),
        _ => datafusion::common::plan_err!(
            "the second argument of {} is the name of a tokenizer in quotes",
            call.func.name()
        ),
    }
}

fn tokenizer_names(plan: &LogicalPlan) -> EngineResult<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|expression| {
                if let Some((_, name)) = unbound(expression)? {
                    names.insert(name);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(names)
}

fn replace(plan: LogicalPlan, tokenizers: &BTreeMap<String, Arc<Tokenizer>>) -> EngineResult<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expression| {
            expression.transform_up(|expression| {
                let bound = match unbound(&expression)? {
                    Some((function, name)) => tokenizers
                        .get(&name)
                        .map(|tokenizer| function.bound_to(Arc::clone(tokenizer))),
                    None => None,
                };
                match (bound, expression) {
                    (Some(bound), Expr::ScalarFunction(call)) => Ok(Transformed::yes(Expr::ScalarFunction(
                        ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(bound)), call.args),
                    ))),
                    (_, expression) => Ok(Transformed::no(expression)),
                }
            })
        })
    })?;
    Ok(plan.data)
}
