//! `ML_PREDICT(TABLE t, MODEL m, DESCRIPTOR(column))`
//!
//! Adds the columns of the model's OUTPUT: an embedding or all probabilities as `FixedSizeList<Float32>`, the best
//! label as text, its score or the probability of a label as `Float32`. They are `NULL` where the text is.

use std::sync::Arc;

use corpusmill_operators::ModelFunction;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::Result;
use datafusion::functions_nested::expr_fn::{array_element, array_max, array_position, make_array};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, ident, lit};

use super::arguments::Arguments;
use super::fault;
use super::relation::kept_columns;
use crate::models::{self, ModelValue};

/// Its name in SQL.
pub(crate) const NAME: &str = "ml_predict";
/// The argument that `MODEL m` becomes.
pub(crate) const MODEL: &str = "model";
/// The argument that `DESCRIPTOR(column)` becomes.
pub(crate) const COLUMN: &str = "descriptor";

const VALUES: &str = "__values";

pub(super) fn plan(mut arguments: Arguments) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let usage = "ml_predict takes TABLE t, MODEL m, DESCRIPTOR(column)";
    let name = arguments.text(MODEL)?.ok_or_else(|| fault(usage, arguments.span()))?;
    let text = arguments.column(COLUMN, &input)?;
    let text = text.ok_or_else(|| fault(usage, arguments.span()))?;
    arguments.finish(&[MODEL, COLUMN])?;
    let model = models::named(&name);
    let model = model.ok_or_else(|| fault(format!("unknown model '{name}'"), arguments.span()))?;

    let added: Vec<&str> = model.outputs.iter().map(|output| output.name.as_str()).collect();
    let kept = kept_columns(&input, &added);
    let values = ModelFunction::udf(Arc::clone(&model.spec)).call(vec![lit(name), text]);
    let mut below = kept.clone();
    below.push(values.alias(VALUES));
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Float32, true)));
    let values = || cast(ident(VALUES), list.clone());
    let labels = || make_array(model.spec.labels.iter().map(|label| lit(label.as_str())).collect());
    let mut output = kept;
    for column in &model.outputs {
        let value: Expr = match column.value {
            ModelValue::All => ident(VALUES),
            ModelValue::Score => array_max(values()),
            ModelValue::Label => array_element(labels(), array_position(values(), array_max(values()), lit(1i64))),
            ModelValue::Probability(number) => array_element(values(), lit(number as i64 + 1)),
        };
        output.push(value.alias(&column.name));
    }
    LogicalPlanBuilder::from(input).project(below)?.project(output)?.build()
}
