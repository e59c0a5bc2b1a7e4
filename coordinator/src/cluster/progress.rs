//! How far a job is, from the metrics of its finished tasks.

use std::collections::BTreeSet;
use std::sync::Arc;

use ballista_core::serde::protobuf::task_status::Status;
use ballista_scheduler::state::execution_stage::ExecutionStage;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{MetricValue, MetricsSet};

use super::evidence::Stages;
use crate::events::Tasks;

/// How far a job is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Rows that finished tasks read from sources.
    pub(super) rows_read: u64,
    /// Bytes that they read.
    pub(super) bytes_read: u64,
    /// Rows that they wrote, as rows of a corpus or view.
    pub(super) rows_written: u64,
    /// Bytes that they put on disk because memory was short.
    pub(super) spilled_bytes: u64,
    /// Stages and tasks.
    pub(super) tasks: Tasks,
    /// Tasks of the last stage that ended.
    pub(super) splits_done: usize,
}

impl Progress {
    /// Adds up the stages of a job.
    pub(super) fn of(stages: &Stages) -> Self {
        let mut progress = Self::default();
        let mut workers = BTreeSet::new();
        progress.tasks.stages = stages.len() as u64;
        for stage in stages.values() {
            progress.tasks.stages_done += u64::from(matches!(stage, ExecutionStage::Successful(_)));
            let (plan, metrics) = match stage {
                ExecutionStage::Running(stage) => (&stage.plan, stage.stage_metrics.as_deref().unwrap_or_default()),
                ExecutionStage::Successful(stage) => (&stage.plan, stage.stage_metrics.as_slice()),
                _ => continue,
            };
            progress.add_metrics(plan, metrics, &mut 0);
            for task in stage.task_infos().unwrap_or_default() {
                match &task.task_status {
                    Status::Running(running) => {
                        progress.tasks.running += 1;
                        workers.insert(&running.executor_id);
                    }
                    Status::Successful(_) => {
                        progress.tasks.done += 1;
                        progress.splits_done += usize::from(stage.output_links().is_empty());
                    }
                    Status::Failed(_) => progress.tasks.done += 1,
                }
            }
        }
        progress.tasks.workers = workers.len() as u64;
        progress
    }

    /// Metrics are listed node by node, parents first, nodes without metrics left out.
    fn add_metrics(&mut self, plan: &Arc<dyn ExecutionPlan>, metrics: &[MetricsSet], next: &mut usize) {
        if plan.metrics().is_some() {
            if plan.is::<DataSourceExec>() {
                self.rows_read += output_rows_of(metrics, *next).unwrap_or(0);
                self.bytes_read += metrics.get(*next).map_or(0, bytes_scanned);
            } else if ["WriteRows", "WriteShards"].contains(&plan.name()) {
                self.rows_written += output_rows_of(metrics, *next).unwrap_or(0);
            }
            let spilled = metrics.get(*next).and_then(MetricsSet::spilled_bytes);
            self.spilled_bytes += spilled.unwrap_or(0) as u64;
            *next += 1;
        }
        for child in plan.children() {
            self.add_metrics(child, metrics, next);
        }
    }
}

/// Rows that the node at `position` put out, if it said so.
pub(super) fn output_rows_of(metrics: &[MetricsSet], position: usize) -> Option<u64> {
    metrics.get(position)?.output_rows().map(|rows| rows as u64)
}

fn bytes_scanned(metrics: &MetricsSet) -> u64 {
    let scanned =
        metrics.sum(|metric| matches!(metric.value(), MetricValue::Count { name, .. } if name == "bytes_scanned"));
    scanned.map_or(0, |value| value.as_usize() as u64)
}
