//! The gate before a commit: what the row expectations counted, and the corpus expectations over the staged shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use corpusmill_corpus::Expectation as Recorded;
use corpusmill_operators::Receipt;
use corpusmill_sql::{Expectation, ViolationAction};
use datafusion::arrow::array::{Array as _, AsArray as _};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;

use super::{Build, Planned};
use crate::error::{CoordinatorError, Result};
use crate::events::Event;
use crate::objects::shard_table;
use crate::report::ExpectationReport;

/// Name under which the conditions see the staged shards. It begins with a letter that no corpus' name does.
const STAGED: &str = "_staged";

/// Judges a build whose shards are staged: gives what was seen, or the expectation that fails the build.
///
/// # Errors
/// [`CoordinatorError::ExpectationFailed`]; the observations are kept as evidence then.
pub(super) async fn judge(
    build: &Build<'_>,
    planned: &Planned,
    id: &str,
    receipts: &[Receipt],
) -> Result<Vec<ExpectationReport>> {
    let mut reports: Vec<ExpectationReport> = planned
        .plan
        .row_expectations()
        .map(|e| row_report(e, receipts))
        .collect();
    let mut failed: Option<(String, String)> = None;
    if planned.plan.corpus_expectations().next().is_some() {
        stage(build, planned, receipts)?;
        for expectation in planned.plan.corpus_expectations() {
            let report = observe(build, planned, expectation).await?;
            if !report.passed {
                let seen = report
                    .observed
                    .as_deref()
                    .map_or(String::new(), |v| format!(", observed {v}"));
                let detail = format!("{}{seen}", report.condition);
                match expectation.action {
                    ViolationAction::FailBuild => {
                        failed.get_or_insert((report.name.clone(), detail));
                    }
                    _ => build.workspace.event(Event::Warning(format!(
                        "corpus {}: expectation `{}` does not hold: {detail}",
                        planned.plan.corpus.name, report.name
                    ))),
                }
            }
            reports.push(report);
        }
        build
            .session
            .context()
            .deregister_table(STAGED)
            .map_err(CoordinatorError::from)?;
    }
    match failed {
        None => Ok(reports),
        Some((expectation, detail)) => {
            build.workspace.keep_evidence(reports);
            Err(CoordinatorError::ExpectationFailed {
                corpus: planned.plan.corpus.name.clone(),
                build: id.to_owned(),
                expectation,
                detail,
            })
        }
    }
}

fn stage(build: &Build<'_>, planned: &Planned, receipts: &[Receipt]) -> Result<()> {
    let shards: Vec<_> = receipts
        .iter()
        .flat_map(|receipt| receipt.shards.iter().cloned())
        .collect();
    let corpus = &planned.plan.corpus;
    let table = shard_table(
        &build.workspace.layout,
        &corpus.name,
        &planned.plan.schema,
        &corpus.partitioned_by,
        &shards,
    );
    build
        .session
        .context()
        .register_table(STAGED, Arc::new(table))
        .map_err(CoordinatorError::from)?;
    Ok(())
}

async fn observe(build: &Build<'_>, planned: &Planned, expectation: &Expectation) -> Result<ExpectationReport> {
    let corpus = &planned.plan.corpus;
    let previous = build
        .base
        .as_ref()
        .map(|base| format!("{}@{}", corpus.name, base.version));
    let plan = build
        .session
        .plan_corpus_expectation(
            &expectation.condition,
            STAGED,
            previous.as_deref(),
            &corpus.partitioned_by,
        )
        .await?;
    let run = async {
        let frame = build.session.context().execute_logical_plan(plan.clone()).await?;
        frame.collect().await
    };
    let batches = match run.await {
        Ok(batches) => batches,
        Err(error) => return Err(build.explain(error, &plan).await),
    };
    let row = batches.iter().find(|batch| batch.num_rows() > 0).ok_or_else(|| {
        CoordinatorError::Invalid(format!(
            "expectation `{}` gives no row: {}",
            expectation.name, expectation.condition.text
        ))
    })?;
    let passed = row.column(0).as_boolean();
    let observed = row.column(1);
    let shown = ArrayFormatter::try_new(observed, &FormatOptions::default())
        .and_then(|formatter| formatter.value(0).try_to_string())
        .map_err(DataFusionError::from)?;
    Ok(ExpectationReport {
        name: expectation.name.clone(),
        scope: "corpus".into(),
        condition: expectation.condition.text.to_string(),
        action: action(expectation.action).into(),
        passed: passed.is_valid(0) && passed.value(0),
        violations: None,
        observed: observed.is_valid(0).then_some(shown),
    })
}

fn action(action: ViolationAction) -> &'static str {
    match action {
        ViolationAction::DropRow => "drop row",
        ViolationAction::QuarantineRow => "quarantine row",
        ViolationAction::FailBuild => "fail build",
        ViolationAction::Warn => "warn",
    }
}

fn row_report(expectation: &Expectation, receipts: &[Receipt]) -> ExpectationReport {
    let counted = |of: fn(&Receipt) -> &BTreeMap<String, u64>| -> u64 {
        receipts
            .iter()
            .filter_map(|receipt| of(receipt).get(&expectation.name))
            .sum()
    };
    let rows = counted(|r| &r.drops) + counted(|r| &r.quarantined) + counted(|r| &r.warnings);
    ExpectationReport {
        name: expectation.name.clone(),
        scope: "row".into(),
        condition: expectation.condition.text.to_string(),
        action: action(expectation.action).into(),
        passed: rows == 0,
        violations: Some(rows),
        observed: None,
    }
}

/// As the manifest keeps it.
pub(super) fn recorded(report: &ExpectationReport) -> Recorded {
    Recorded {
        name: report.name.clone(),
        kind: report.scope.clone(),
        condition: report.condition.clone(),
        action: report.action.clone(),
        outcome: if report.passed { "passed" } else { "violated" }.into(),
        observed: report
            .violations
            .map(|rows| rows.to_string())
            .or_else(|| report.observed.clone()),
    }
}

/// And back.
pub(crate) fn as_report(recorded: &Recorded) -> ExpectationReport {
    let of_rows = recorded.kind == "row";
    ExpectationReport {
        name: recorded.name.clone(),
        scope: recorded.kind.clone(),
        condition: recorded.condition.clone(),
        action: recorded.action.clone(),
        passed: recorded.outcome == "passed",
        violations: recorded
            .observed
            .as_ref()
            .filter(|_| of_rows)
            .and_then(|rows| rows.parse().ok()),
        observed: recorded.observed.clone().filter(|_| !of_rows),
    }
}
