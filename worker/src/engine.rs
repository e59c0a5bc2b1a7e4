//! Runs tasks as Ballista does, and adds what it leaves out: which splits a task has, and why it failed.

use std::fmt::{Debug, Display, Formatter};
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::config::BALLISTA_JOB_NAME;
use ballista_core::error::BallistaError;
use ballista_core::serde::protobuf::{RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport};
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use corpusmill_operators::{FailureCause, TaskFailure, WriteRows, WriteShards, failpoint};
use corpusmill_traces::Span;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;

/// Makes tasks.
pub(crate) struct StepEngine {
    inner: DefaultExecutionEngine,
    worker: Arc<str>,
}

impl StepEngine {
    /// An engine whose failures name `worker`.
    pub(crate) fn new(worker: &str) -> Self {
        Self {
            inner: DefaultExecutionEngine::new(),
            worker: worker.into(),
        }
    }
}

impl ExecutionEngine for StepEngine {
    fn create_query_stage_exec(
        &self,
        job: JobId,
        stage: usize,
        task: usize,
        partitions: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let fail = |error| told(error, &self.worker);
        let (plan, writes) = with_splits(plan, &partitions).map_err(fail)?;
        let inner = self
            .inner
            .create_query_stage_exec(job, stage, task, partitions, plan, work_dir, config)
            .map_err(fail)?;
        let worker = Arc::clone(&self.worker);
        let job = job_name(config);
        Ok(Arc::new(Task {
            inner,
            writes,
            worker,
            job,
        }))
    }
}

/// Tells the writer of rows which splits the partitions of this task are; also says whether the task writes any.
///
/// A plan counts the partitions of its own task, from 0; their numbers in the whole step come beside it.
fn with_splits(plan: Arc<dyn ExecutionPlan>, partitions: &[usize]) -> Result<(Arc<dyn ExecutionPlan>, bool)> {
    let mut writes = false;
    let plan = plan.transform_up(|node| {
        writes |= node.is::<WriteShards>();
        match node.downcast_ref::<WriteRows>() {
            Some(rows) => {
                writes = true;
                Ok(Transformed::yes(
                    Arc::new(rows.of_partitions(partitions)?) as Arc<dyn ExecutionPlan>
                ))
            }
            None => Ok(Transformed::no(node)),
        }
    })?;
    Ok((plan.data, writes))
}

struct Task {
    inner: Arc<dyn QueryStageExecutor>,
    /// It writes splits of a step; otherwise it writes for other tasks.
    writes: bool,
    worker: Arc<str>,
    /// What the coordinator calls the job.
    job: String,
}

impl Debug for Task {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Debug::fmt(&self.inner, f)
    }
}

impl Display for Task {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl QueryStageExecutor for Task {
    async fn execute_query_stage(&self, task: usize, context: Arc<TaskContext>) -> Result<Vec<ShuffleWritePartition>> {
        if self.writes {
            failpoint::hit("split-begins");
        }
        let id = context.task_id().unwrap_or_default();
        let span = Span::task(&self.job, &id).with("worker", &self.worker);
        let written = self.inner.execute_query_stage(task, context).await;
        span.end(written.as_ref().err().map(ToString::to_string).as_deref());
        let written = written.map_err(|error| told(error, &self.worker))?;
        if !self.writes {
            failpoint::hit("exchange-written");
        }
        Ok(written)
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        self.inner.collect_plan_metrics()
    }

    fn collect_runtime_stats_reports(&self) -> Vec<RuntimeStatsReport> {
        self.inner.collect_runtime_stats_reports()
    }

    fn collect_window_state_reports(&self) -> Result<Vec<WindowStateReport>> {
        self.inner.collect_window_state_reports()
    }

    fn collect_column_stats(&self) -> Vec<TaskColumnStats> {
        self.inner.collect_column_stats()
    }
}

/// The name of the job that a task is of, in the settings that came with it.
fn job_name(config: &SessionConfig) -> String {
    let entry = config
        .options()
        .entries()
        .into_iter()
        .find(|e| e.key == BALLISTA_JOB_NAME);
    entry.and_then(|entry| entry.value).unwrap_or_default()
}

/// The error with its cause in words that arrive: the scheduler hands on text only.
///
/// No error stays one that the scheduler would repair by running tasks again, lost shuffles above all.
fn told(error: DataFusionError, worker: &str) -> DataFusionError {
    let mut failure = TaskFailure {
        worker: Some(worker.to_owned()),
        ..TaskFailure::of(&error)
    };
    if failure.cause == FailureCause::Engine && is_of_the_network(&error) {
        failure.cause = FailureCause::Transient;
    }
    DataFusionError::Execution(failure.to_text())
}

/// How Arrow's errors begin that are made of the status of a call.
const BROKEN_OFF: &str = "Ipc error: code: '";

fn is_of_the_network(error: &DataFusionError) -> bool {
    // A body that breaks off in the middle comes as an error of Arrow's, with the status of the call as its text, and
    // Ballista wraps it in errors that name no source.
    if error.to_string().contains(BROKEN_OFF) {
        return true;
    }
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<BallistaError>() {
            Some(
                BallistaError::FetchFailed(..)
                | BallistaError::GrpcError(_)
                | BallistaError::GrpcConnectionError(_)
                | BallistaError::TonicError(_)
                | BallistaError::IoError(_),
            ) => true,
            Some(BallistaError::DataFusionError(inner)) => is_of_the_network(inner),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::error::ArrowError;

    use super::*;

    #[test]
    fn a_lost_shuffle_is_no_fault_of_the_statement() {
        let lost = BallistaError::FetchFailed("w1".into(), 1, 0, "connection refused".into());
        let error = DataFusionError::External(Box::new(lost)).context("while joining");
        let failure = TaskFailure::find(&told(error, "w2 (/tmp)").to_string()).unwrap();
        assert_eq!(failure.cause, FailureCause::Transient);
        let body = "code: 'Unknown error', message: \"h2 protocol error: error reading a body from connection\"";
        let broken = || ArrowError::IpcError(body.into());
        for inner in [
            Box::new(broken()) as Box<dyn std::error::Error + Send + Sync>,
            Box::new(BallistaError::ArrowError(Box::new(broken()))),
            Box::new(BallistaError::ArrowError(Box::new(ArrowError::IpcError(
                broken().to_string(),
            )))),
        ] {
            let failure = TaskFailure::find(&told(DataFusionError::External(inner), "w2 (/tmp)").to_string()).unwrap();
            assert_eq!(failure.cause, FailureCause::Transient, "{failure:?}");
        }
        let error = DataFusionError::from(ArrowError::IpcError("Unexpected magic".into()));
        let failure = TaskFailure::find(&told(error, "w2 (/tmp)").to_string()).unwrap();
        assert_eq!(failure.cause, FailureCause::Engine);
        let error = DataFusionError::Execution("division by zero".into());
        let failure = TaskFailure::find(&told(error, "w2 (/tmp)").to_string()).unwrap();
        assert_eq!(failure.cause, FailureCause::Engine);
        assert!(failure.message.contains("division by zero"));
        assert_eq!(failure.worker.as_deref(), Some("w2 (/tmp)"));
    }
}
