//! What a plan reads, and what it depends on: the two digests that decide whether a step must run again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{ExecutionPlan, displayable};

/// The folder of one source with what was found in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// URL of the deepest folder that all its files are in, or the file itself when it is one.
    pub(crate) location: String,
    /// Files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Digest over path, size, time and tag of each file.
    pub(crate) fingerprint: String,
}

/// Everything that a plan reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// One entry for each source.
    pub(crate) sources: Vec<Input>,
    /// Digest over all of them.
    pub(crate) fingerprint: String,
}

/// Finds the files that `plan` reads.
pub(crate) fn inputs_of(plan: &Arc<dyn ExecutionPlan>) -> Inputs {
    let mut sources = Vec::new();
    collect(plan, &mut sources);
    sources.sort_by(|a, b| (&a.location, &a.fingerprint).cmp(&(&b.location, &b.fingerprint)));
    sources.dedup();
    let text = sources.iter().fold(String::new(), |mut text, source| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {}", source.location, source.fingerprint);
        text
    });
    Inputs {
        sources,
        fingerprint: digest(&text),
    }
}

fn collect(plan: &Arc<dyn ExecutionPlan>, sources: &mut Vec<Input>) {
    for child in plan.children() {
        collect(child, sources);
    }
    if !plan.children().is_empty() {
        return;
    }
    let scan = plan
        .downcast_ref::<DataSourceExec>()
        .and_then(|exec| exec.data_source().downcast_ref::<FileScanConfig>());
    if let Some(scan) = scan {
        sources.push(files_of(scan));
        return;
    }
    // A source that is no file scan stands for itself: values in the statement, or a listing that the operator shows.
    let shown = displayable(plan.as_ref()).one_line().to_string();
    sources.push(Input {
        location: plan.name().to_owned(),
        files: 0,
        bytes: 0,
        fingerprint: digest(&shown),
    });
}

fn files_of(scan: &FileScanConfig) -> Input {
    // A file may be cut into ranges for several partitions: by path, so that it counts once.
    let mut files: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for group in &scan.file_groups {
        for file in group.files() {
            let meta = &file.object_meta;
            let state = format!(
                "{} {} {}",
                meta.size,
                meta.last_modified.timestamp_micros(),
                meta.e_tag.as_deref().unwrap_or("")
            );
            files.insert(meta.location.to_string(), (meta.size, state));
        }
    }
    let mut text = String::new();
    for (path, (_, state)) in &files {
        let _ = writeln!(text, "{path} {state}");
    }
    let root = scan.object_store_url.as_str();
    Input {
        location: format!("{}/{}", root.trim_end_matches('/'), shared_folder(files.keys())),
        files: files.len() as u64,
        bytes: files.values().map(|(size, _)| size).sum(),
        fingerprint: digest(&text),
    }
}

fn shared_folder<'a>(mut paths: impl Iterator<Item = &'a String>) -> String {
    let Some(first) = paths.next() else {
        return String::new();
    };
    let mut shared: Vec<&str> = first.split('/').collect();
    for path in paths {
        let parts = path.split('/');
        let same = shared.iter().zip(parts).take_while(|(a, b)| *a == b).count();
        shared.truncate(same);
    }
    shared.join("/")
}

/// Rows that `plan` will give, as far as the sources' statistics say.
pub(crate) fn rows_expected(plan: &dyn ExecutionPlan) -> Option<u64> {
    let statistics = StatisticsContext::new().compute(plan, &StatisticsArgs::new()).ok()?;
    statistics.num_rows.get_value().map(|rows| *rows as u64)
}

/// Rows of the files that `plan` reads, as far as they are known.
pub(crate) fn rows_of_sources(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let children = plan.children();
    if children.is_empty() {
        return rows_expected(plan.as_ref()).unwrap_or(0);
    }
    children.into_iter().map(rows_of_sources).sum()
}

/// Digest of what a plan computes: its operators and expressions with all views inside, before optimisation.
pub(crate) fn plan_digest(plan: &LogicalPlan, extra: &[&str]) -> String {
    let mut text = without_counters(&plan.display_indent_schema().to_string());
    for part in extra {
        text.push('\n');
        text.push_str(part);
    }
    digest(&text)
}

/// The engine numbers the names that it makes up (`__correlated_sq_3`) through the life of a session; the numbers say
/// nothing about the plan.
fn without_counters(text: &str) -> String {
    let mut parts = text.split("__");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("__");
        let name = part
            .find(|c: char| !(c.is_ascii_lowercase() || c == '_'))
            .unwrap_or(part.len());
        out.push_str(&part[..name]);
        out.push_str(part[name..].trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}

/// Whether the rows of `plan` depend on the logical time.
pub(crate) fn uses_run_time(plan: &LogicalPlan) -> EngineResult<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarFunction(call) = expr
                    && matches!(call.func.name(), "run_start" | "run_end")
                {
                    found = true;
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// 128-bit xxh3 of `text` as hex: for "is it the same", not against an attacker.
pub(crate) fn digest(text: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_made_up_names_do_not_count() {
        assert_eq!(without_counters("a.x1 = __sq_12.x2, __sq_3"), "a.x1 = __sq_.x2, __sq_");
        assert_eq!(without_counters("v2"), "v2");
    }

    #[test]
    fn the_folder_that_files_share() {
        let shared = |paths: &[&str]| shared_folder(paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>().iter());
        assert_eq!(shared(&["a/b/x.parquet", "a/b/y.parquet"]), "a/b");
        assert_eq!(shared(&["a/b/x.parquet"]), "a/b/x.parquet");
        assert_eq!(shared(&["a/x", "b/x"]), "");
        assert_eq!(shared(&[]), "");
    }
}
