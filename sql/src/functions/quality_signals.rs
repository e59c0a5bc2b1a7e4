//! `quality_signals(s [, rules = 'gopher,c4,fineweb'])` → a struct of signals, a verdict and the rules that failed.

use std::sync::Arc;

use corpusmill_kernels::{QualityRules, quality_signals};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ScalarUDF;

use super::text_function::{TextFunction, kernel_error};

fn rules(options: &[&str]) -> Result<QualityRules> {
    options[0].parse().map_err(kernel_error)
}

pub(crate) fn function() -> ScalarUDF {
    TextFunction::new(
        "quality_signals",
        &[("rules", Some("gopher,c4,fineweb"))],
        |options| Ok(DataType::Struct(rules(options)?.fields())),
        |text, options| Ok(Arc::new(quality_signals(text, &rules(options)?))),
    )
    .into_udf()
}
