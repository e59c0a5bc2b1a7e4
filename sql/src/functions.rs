//! The functions of the dialect, each in a file of its own.
//!
//! To add a function: write `functions/NAME.rs` with `pub(crate) fn function() -> …`, and add one line to [`all`].

mod content_hash;
pub(crate) mod exact_sum;
pub(crate) mod group_components;
mod jaccard;
mod lang_id;
mod normalize_text;
mod pii;
pub(crate) mod psi_counts;
mod quality_signals;
pub(crate) mod run_time;
pub(crate) mod split_of;
mod text_function;
pub(crate) mod tokenize;

use datafusion::common::Result;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use std::sync::Arc;

use crate::session::RunTime;

pub(crate) use content_hash::content_id;

/// A function of any sort.
pub(crate) enum Function {
    Scalar(ScalarUDF),
    Aggregate(AggregateUDF),
}

impl Function {
    pub(crate) fn register(self, state: &mut SessionState) -> Result<()> {
        match self {
            Function::Scalar(function) => {
                state.register_udf(Arc::new(function))?;
            }
            Function::Aggregate(function) => {
                state.register_udaf(Arc::new(function))?;
            }
        }
        Ok(())
    }
}

/// Every function of the dialect.
pub(crate) fn all(run_time: RunTime) -> Vec<Function> {
    let mut functions = vec![
        Function::Scalar(content_hash::function()),
        Function::Scalar(content_hash::content_id()),
        Function::Scalar(jaccard::function()),
        Function::Scalar(lang_id::function()),
        Function::Scalar(normalize_text::function()),
        Function::Scalar(pii::spans()),
        Function::Scalar(pii::redact()),
        Function::Scalar(quality_signals::function()),
        Function::Scalar(split_of::function()),
        Function::Scalar(tokenize::tokenize()),
        Function::Scalar(tokenize::token_count()),
        Function::Scalar(tokenize::detokenize()),
        Function::Aggregate(exact_sum::sum()),
        Function::Aggregate(exact_sum::avg()),
        Function::Aggregate(group_components::function()),
        Function::Aggregate(psi_counts::function()),
    ];
    functions.extend(of_run_time(run_time));
    functions
}

/// `run_start()` and `run_end()` of one logical time.
pub(crate) fn of_run_time(run_time: RunTime) -> Vec<Function> {
    vec![
        Function::Scalar(run_time::function("run_start", run_time.start)),
        Function::Scalar(run_time::function("run_end", run_time.end)),
    ]
}

/// Our functions by name, for codecs that send plans to other processes.
///
/// Functions that carry an object (a tokenizer, Python source, a logical time) are not here.
pub fn plain_functions() -> (Vec<ScalarUDF>, Vec<AggregateUDF>) {
    let mut scalars = Vec::new();
    let mut aggregates = Vec::new();
    for function in all(RunTime::at(chrono::DateTime::UNIX_EPOCH)) {
        match function {
            Function::Scalar(function) => scalars.push(function),
            Function::Aggregate(function) => aggregates.push(function),
        }
    }
    (scalars, aggregates)
}
