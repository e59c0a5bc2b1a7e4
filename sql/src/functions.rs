//! The functions of the dialect, each in a file of its own.
//!
//! To add a function: write `functions/NAME.rs` with `pub(crate) fn function() -> …`, and add one line to [`all`].

mod agreement;
mod audio;
pub(crate) mod contamination;
mod content_hash;
pub(crate) mod duplicate_links;
pub(crate) mod embed;
pub(crate) mod exact_sum;
pub(crate) mod gathered_pairs;
pub(crate) mod group_components;
pub(crate) mod hash_list;
mod images;
mod jaccard;
mod lang_id;
mod media;
pub(crate) mod near_pairs;
pub(crate) mod near_text;
pub(crate) mod nearest_hash;
mod normalize_text;
pub(crate) mod order_key;
pub(crate) mod pdq;
mod pii;
pub(crate) mod psi_counts;
mod quality_signals;
pub(crate) mod run_time;
pub(crate) mod split_of;
mod text_function;
pub(crate) mod tokenize;
pub(crate) mod vectors;
pub(crate) mod videos;
pub(crate) mod vpdq;
pub(crate) mod windows;

use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::physical_expr::expressions::Literal;
use std::sync::Arc;

use crate::session::RunTime;

pub(crate) use content_hash::{content_id, function as content_hash};

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
        Function::Scalar(audio::fingerprint()),
        Function::Scalar(audio::distance()),
        Function::Scalar(contamination::grams()),
        Function::Scalar(contamination::ngram_overlap()),
        Function::Scalar(content_hash::function()),
        Function::Scalar(content_hash::content_id()),
        Function::Scalar(embed::function()),
        Function::Scalar(hash_list::hash_entries()),
        Function::Scalar(hash_list::hash_text()),
        Function::Scalar(hash_list::listed_hash()),
        Function::Scalar(hash_list::listed_id()),
        Function::Scalar(images::info()),
        Function::Scalar(images::decode()),
        Function::Scalar(images::resize()),
        Function::Scalar(images::blur()),
        Function::Scalar(jaccard::function()),
        Function::Scalar(lang_id::function()),
        Function::Scalar(near_text::bands()),
        Function::Scalar(near_text::minhash()),
        Function::Scalar(near_text::similarity()),
        Function::Scalar(normalize_text::function()),
        Function::Scalar(order_key::key()),
        Function::Scalar(order_key::value()),
        Function::Scalar(pdq::hash()),
        Function::Scalar(pdq::dihedral()),
        Function::Scalar(pdq::distance()),
        Function::Scalar(pii::spans()),
        Function::Scalar(pii::redact()),
        Function::Scalar(quality_signals::function()),
        Function::Scalar(split_of::function()),
        Function::Scalar(tokenize::tokenize()),
        Function::Scalar(tokenize::token_count()),
        Function::Scalar(tokenize::detokenize()),
        Function::Scalar(vectors::unit()),
        Function::Scalar(vectors::cosine()),
        Function::Scalar(vectors::placed()),
        Function::Scalar(videos::frames()),
        Function::Scalar(videos::hashes()),
        Function::Scalar(vpdq::frame_hashes()),
        Function::Scalar(vpdq::shares()),
        Function::Scalar(windows::of_text()),
        Function::Scalar(windows::share()),
        Function::Aggregate(agreement::alpha()),
        Function::Aggregate(agreement::kappa()),
        Function::Aggregate(duplicate_links::function()),
        Function::Aggregate(exact_sum::sum()),
        Function::Aggregate(exact_sum::avg()),
        Function::Aggregate(group_components::function()),
        Function::Aggregate(gathered_pairs::cosine()),
        Function::Aggregate(gathered_pairs::hamming()),
        Function::Aggregate(gathered_pairs::videos()),
        Function::Aggregate(near_pairs::function()),
        Function::Aggregate(psi_counts::function()),
        Function::Aggregate(vectors::centres()),
        Function::Aggregate(windows::merged_spans()),
    ];
    functions.extend(of_run_time(run_time));
    functions
}

/// The value of an argument of an aggregate that is a constant.
pub(crate) fn constant_argument(args: &AccumulatorArgs, place: usize) -> Result<ScalarValue> {
    match args
        .exprs
        .get(place)
        .and_then(|argument| argument.downcast_ref::<Literal>())
    {
        Some(literal) => Ok(literal.value().clone()),
        None => plan_err!("argument {} of {} is a constant", place + 1, args.name),
    }
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
