//! The table functions: they add columns to their input and never drop a row (`read_blob` is a source).
//!
//! ```text
//! f(TABLE t, key => 'id', …) ── rewrite ──▶ f((SELECT * FROM t), key => 'id', …)
//!                                               │ TableFunctionPlanner
//!                    arguments ◀── named, checked against the input's columns
//!                        │
//!                        └──▶ a plan of ordinary windows, joins and aggregates
//! ```
//! To add a table function: write `table_functions/NAME.rs` with `pub(crate) fn plan(…)`, and add its name to
//! [`NAMES`] and its arm to `TableFunctionPlanner::plan`.

mod arguments;
mod assign_split;
mod clusters;
mod connected_components;
mod contamination;
mod corpus_diff;
mod exact_duplicates;
pub(crate) mod hash_match;
mod label_conflicts;
mod media_duplicates;
pub(crate) mod ml_predict;
pub(crate) mod near_duplicates;
pub(crate) mod near_history;
pub(crate) mod read_blob;
pub(crate) mod relation;
mod semantic_duplicates;
mod stratified_sample;
mod substring_duplicates;
mod video_duplicates;

use std::sync::Arc;

use datafusion::common::{Diagnostic, Result, Span};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::sql::sqlparser::ast::{Spanned, TableFactor};

use crate::asof::AsofPlanner;
use arguments::Arguments;

/// Names of all table functions of this build.
pub(crate) const NAMES: &[&str] = &[
    "assign_split",
    "connected_components",
    "contamination",
    "corpus_diff",
    "exact_duplicates",
    "hash_match",
    "label_conflicts",
    "media_duplicates",
    "ml_predict",
    "near_duplicates",
    "read_blob",
    "semantic_duplicates",
    "stratified_sample",
    "substring_duplicates",
    "video_duplicates",
];

/// Table functions of the dialect that a later part brings.
const LATER: &[&str] = &[
    "resolve_labels",
    "nearest_neighbors",
    "hard_negatives",
    "exposure",
    "lineage",
];

/// All relation planners, in the order in which they are asked.
pub(crate) fn planners() -> Vec<Arc<dyn RelationPlanner>> {
    vec![Arc::new(AsofPlanner), Arc::new(TableFunctionPlanner)]
}

#[derive(Debug)]
struct TableFunctionPlanner;

impl RelationPlanner for TableFunctionPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::Table {
            name,
            alias,
            args: Some(_),
            ..
        } = &relation
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let function = context.object_name_to_table_reference(name.clone())?.to_string();
        let span = Span::try_from_sqlparser_span(name.span());
        let alias = alias.clone();
        if LATER.contains(&function.as_str()) {
            return Err(fault(
                format!("table function '{function}' is not supported by this build; it comes with a later part"),
                span,
            ));
        }
        if !NAMES.contains(&function.as_str()) {
            return match relation {
                TableFactor::Table { .. } if is_known_to_engine(&function) => {
                    Ok(RelationPlanning::Original(Box::new(relation)))
                }
                _ => Err(fault(unknown_function(&function), span)),
            };
        }
        let TableFactor::Table { args: Some(args), .. } = relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let arguments = Arguments::new(&function, span, args.args, context)?;
        let plan = Self::plan(&function, arguments, context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

impl TableFunctionPlanner {
    fn plan(function: &str, arguments: Arguments, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
        match function {
            "assign_split" => assign_split::plan(arguments, context),
            "exact_duplicates" => exact_duplicates::plan(arguments, context),
            "connected_components" => connected_components::plan(arguments),
            "contamination" => contamination::plan(arguments),
            "corpus_diff" => corpus_diff::plan(arguments),
            "hash_match" => hash_match::plan(arguments),
            "label_conflicts" => label_conflicts::plan(arguments),
            "media_duplicates" => media_duplicates::plan(arguments, context),
            "near_duplicates" => near_duplicates::plan(arguments, context),
            "semantic_duplicates" => semantic_duplicates::plan(arguments, context),
            "stratified_sample" => stratified_sample::plan(arguments),
            "substring_duplicates" => substring_duplicates::plan(arguments),
            "video_duplicates" => video_duplicates::plan(arguments, context),
            "ml_predict" => ml_predict::plan(arguments),
            _ => read_blob::plan(arguments),
        }
    }
}

fn is_known_to_engine(function: &str) -> bool {
    matches!(function, "generate_series" | "range")
}

fn unknown_function(function: &str) -> String {
    let known = NAMES.iter().map(|name| (*name).to_string());
    match crate::error::nearest(function, known) {
        Some(near) => format!("unknown table function '{function}' (did you mean '{near}'?)"),
        None => format!("unknown table function '{function}'"),
    }
}

/// A planning error at a place in the statement.
fn fault(message: impl Into<String>, span: Option<Span>) -> DataFusionError {
    let message = message.into();
    DataFusionError::Plan(message.clone()).with_diagnostic(Diagnostic::new_error(message, span))
}
