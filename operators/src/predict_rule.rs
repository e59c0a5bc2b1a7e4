//! Turns calls of models in projections into [`Predict`].

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

use crate::model_function::ModelFunction;
use crate::{ModelSpec, Predict, Prediction};

/// Puts a [`Predict`] below every projection that calls a model.
///
/// ```text
///   Projection: id, embed('m', lower(s)) as v   ──►   Projection: id, __prediction_0 as v
///                                                       Predict: m(__text_0) as __prediction_0
///                                                         Projection: …, lower(s) as __text_0
/// ```
/// It is the first rule: later ones push expressions into scans, where nothing of this could be done.
#[derive(Debug, Clone, Copy)]
pub struct PlanPredictions;

impl PlanPredictions {
    /// The engine's rules, with this one before them.
    #[must_use]
    pub fn before_all() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
        let mut rules = PhysicalOptimizer::default().rules;
        rules.insert(0, Arc::new(Self));
        rules
    }
}

impl PhysicalOptimizerRule for PlanPredictions {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.transform_up(|node| match node.downcast_ref::<ProjectionExec>() {
            Some(projection) => match rewrite(projection)? {
                Some(plan) => Ok(Transformed::yes(plan)),
                None => Ok(Transformed::no(node)),
            },
            None => Ok(Transformed::no(node)),
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &'static str {
        "plan_predictions"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The calls of models in a projection, each once.
#[derive(Default)]
struct Calls(Vec<Call>);

struct Call {
    whole: Arc<dyn PhysicalExpr>,
    argument: Arc<dyn PhysicalExpr>,
    model: Arc<ModelSpec>,
}

impl Calls {
    /// Replaces the calls in an expression by columns that begin at `first`.
    fn take(&mut self, expression: &Arc<dyn PhysicalExpr>, first: usize) -> Result<Arc<dyn PhysicalExpr>> {
        let taken = Arc::clone(expression).transform_up(|part| {
            let Some(call) = Call::of(&part) else {
                return Ok(Transformed::no(part));
            };
            let known = self.0.iter().position(|known| known.whole.eq(&part));
            let number = known.unwrap_or_else(|| {
                self.0.push(call);
                self.0.len() - 1
            });
            let column = Column::new(&prediction_name(number), first + number);
            Ok(Transformed::yes(Arc::new(column) as Arc<dyn PhysicalExpr>))
        })?;
        Ok(taken.data)
    }
}

fn prediction_name(number: usize) -> String {
    format!("__prediction_{number}")
}

impl Call {
    /// The call that an expression is, if it is one.
    fn of(expression: &Arc<dyn PhysicalExpr>) -> Option<Self> {
        let call = expression.downcast_ref::<ScalarFunctionExpr>()?;
        let function = ModelFunction::of(call.fun())?;
        Some(Self {
            whole: Arc::clone(expression),
            argument: Arc::clone(call.args().get(1)?),
            model: Arc::clone(function.spec()),
        })
    }
}

fn rewrite(projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let input = projection.input();
    let fields = input.schema().fields().len();
    // How many calls there are says where their columns begin: behind the texts.
    let mut counted = Calls::default();
    for expression in projection.expr() {
        counted.take(&expression.expr, 0)?;
    }
    let count = counted.0.len();
    if count == 0 {
        return Ok(None);
    }
    let mut calls = Calls::default();
    let mut output = Vec::with_capacity(projection.expr().len());
    for expression in projection.expr() {
        output.push(ProjectionExpr {
            expr: calls.take(&expression.expr, fields + count)?,
            alias: expression.alias.clone(),
        });
    }
    let schema = input.schema();
    let mut below: Vec<ProjectionExpr> = (0..fields)
        .map(|at| {
            let name = schema.field(at).name();
            ProjectionExpr {
                expr: Arc::new(Column::new(name, at)),
                alias: name.clone(),
            }
        })
        .collect();
    let mut predictions = Vec::with_capacity(count);
    for (number, call) in calls.0.into_iter().enumerate() {
        below.push(ProjectionExpr {
            expr: call.argument,
            alias: format!("__text_{number}"),
        });
        predictions.push(Prediction {
            column: fields + number,
            name: prediction_name(number),
            model: call.model,
        });
    }
    let texts = Arc::new(ProjectionExec::try_new(below, Arc::clone(input))?);
    let predict = Arc::new(Predict::try_new(texts, Arc::new(predictions))?);
    Ok(Some(Arc::new(ProjectionExec::try_new(output, predict)?)))
}
