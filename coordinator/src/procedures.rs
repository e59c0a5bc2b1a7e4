//! Procedures: what `CALL` runs.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use corpusmill_sql::{Call, Statement};

use crate::catalog::{Space, rfc3339};
use crate::error::{CoordinatorError, Result};
use crate::events::Outcome;
use crate::inspect::{self, Table};
use crate::maintenance;
use crate::names::nearest;
use crate::report::RunState;
use crate::schedules::{self, Scheduled};
use crate::workspace::Workspace;

/// Runs that are entered at once.
const BACKFILL_MAX: usize = 10_000;

/// What can be called, as it is written.
const PROCEDURES: &str =
    "vacuum(older_than_hours => 24, dry_run => false) and backfill('corpus', from_ts => '…', to_ts => '…')";

/// Runs `CALL procedure(…)`.
///
/// # Errors
/// [`CoordinatorError::Invalid`] when there is no such procedure or argument, and what the procedure fails with.
pub(crate) async fn call(workspace: &Workspace, statement: &Statement, call: &Call) -> Result<Outcome> {
    let arguments = Arguments { statement, call };
    match call.procedure.as_str() {
        "vacuum" => vacuum(workspace, &arguments).await,
        "backfill" => backfill(workspace, &arguments).await,
        other => Err(arguments.invalid(&format!("there is no procedure {other}; there is {PROCEDURES}"))),
    }
}

/// Removes the files that no version and no build needs; gives a row for each.
async fn vacuum(workspace: &Workspace, arguments: &Arguments<'_>) -> Result<Outcome> {
    arguments.only(0, &["older_than_hours", "dry_run"])?;
    let hours = arguments.number("older_than_hours")?.unwrap_or(24);
    let dry_run = arguments.truth("dry_run")?.unwrap_or(false);
    let older_than = Duration::from_secs(hours.saturating_mul(3_600));
    let swept = maintenance::vacuum(workspace, older_than, dry_run).await?;
    let name = if dry_run { "would_remove" } else { "removed" };
    Table::new().text(name, swept.files.iter().map(Some)).rows()
}

/// Enters the runs that a schedule would have had from one time to another; gives a row for each.
async fn backfill(workspace: &Workspace, arguments: &Arguments<'_>) -> Result<Outcome> {
    let name = arguments.first("the corpus, in quotes")?;
    arguments.only(1, &["from_ts", "to_ts", "reprocess", "dry_run"])?;
    let object = workspace.catalog.object(Space::Relation, &name).await?;
    let scheduled = object.as_ref().map(Scheduled::of).transpose()?.flatten();
    let scheduled = scheduled.ok_or_else(|| arguments.invalid(&format!("{name} is no corpus with a schedule")))?;
    let (from, to) = (arguments.time("from_ts")?, arguments.time("to_ts")?);
    if from > to || to > Utc::now() {
        return Err(arguments.invalid("from_ts must come before to_ts, and to_ts must have passed"));
    }
    let again: &[RunState] = match arguments.text("reprocess").as_deref() {
        None | Some("none") => &[RunState::Skipped],
        Some("failed") => &[RunState::Skipped, RunState::Failed],
        Some("completed") => &[RunState::Skipped, RunState::Failed, RunState::Succeeded],
        Some(other) => return Err(arguments.invalid(&format!("reprocess => '{other}': none, failed or completed"))),
    };
    let dry_run = arguments.truth("dry_run")?.unwrap_or(false);
    let known = workspace.catalog.runs_of(&name).await?;
    let mut rows = Vec::new();
    for time in scheduled
        .times
        .between(from - TimeDelta::milliseconds(1), to, BACKFILL_MAX)
    {
        let before = known.iter().find(|run| run.logical_ms == time.timestamp_millis());
        let action = match before.map(|run| run.state) {
            None => "runs",
            Some(state) if again.contains(&state) => "runs again",
            Some(RunState::Queued | RunState::Running) => "runs already",
            Some(_) => "is kept",
        };
        if !dry_run && action.starts_with("runs") && action != "runs already" {
            let run = schedules::queued(&name, time, "backfill");
            match before {
                None => {
                    workspace.catalog.enter_run(&run).await?;
                }
                Some(_) => workspace.catalog.keep_run(&run).await?,
            }
        }
        rows.push((rfc3339(time.timestamp_millis()), action));
    }
    Table::new()
        .text("logical_time", rows.iter().map(|(time, _)| Some(time)))
        .text("action", rows.iter().map(|(_, action)| Some(action)))
        .rows()
}

/// What a procedure is called with.
struct Arguments<'a> {
    statement: &'a Statement,
    call: &'a Call,
}

impl Arguments<'_> {
    /// Every argument behind the first `unnamed` has one of these names.
    fn only(&self, unnamed: usize, names: &[&str]) -> Result<()> {
        for (place, (name, value)) in self.call.arguments.iter().enumerate() {
            let Some(name) = name else {
                if place < unnamed {
                    continue;
                }
                return Err(self.invalid(&format!(
                    "its arguments have names: write {} => {value}",
                    names.first().unwrap_or(&"name")
                )));
            };
            if !names.contains(&name.as_str()) {
                let meant = nearest(name, names.iter().copied());
                return Err(self.invalid(&format!("it takes no argument {name}{meant}")));
            }
        }
        Ok(())
    }

    fn get(&self, wanted: &str) -> Option<&str> {
        let named = |(name, _): &&(Option<String>, String)| name.as_deref() == Some(wanted);
        self.call.arguments.iter().find(named).map(|(_, value)| value.as_str())
    }

    /// The first argument, which needs no name: a text.
    fn first(&self, what: &str) -> Result<String> {
        let given = self.call.arguments.first().filter(|(name, _)| name.is_none());
        let text = given.and_then(|(_, value)| unquoted(value));
        text.ok_or_else(|| self.invalid(&format!("its first argument is {what}")))
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(unquoted)
    }

    fn time(&self, name: &str) -> Result<DateTime<Utc>> {
        let text = self.text(name);
        let text =
            text.ok_or_else(|| self.invalid(&format!("{name} => '…' is missing: a time, such as '2026-11-01'")))?;
        inspect::timestamp(&text)
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let read = |value: &str| {
            let wrong = || self.invalid(&format!("{name} => {value}: a whole number is needed, such as 24"));
            value.trim().parse().map_err(|_| wrong())
        };
        self.get(name).map(read).transpose()
    }

    fn truth(&self, name: &str) -> Result<Option<bool>> {
        let read = |value: &str| match value.trim().to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.invalid(&format!("{name} => {value}: TRUE or FALSE is needed"))),
        };
        self.get(name).map(read).transpose()
    }

    fn invalid(&self, why: &str) -> CoordinatorError {
        let location = self.statement.location();
        CoordinatorError::Invalid(format!("{location}: CALL {}: {why}", self.call.procedure))
    }
}

/// The text of a literal in quotes.
fn unquoted(value: &str) -> Option<String> {
    let inside = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inside.replace("''", "'"))
}
