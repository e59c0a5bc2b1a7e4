//! Runs the plan of one step, somewhere, and says which receipts it gave.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use corpusmill_operators::Receipt;
use datafusion::arrow::array::{Array as _, AsArray as _};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{MetricValue, MetricsSet};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _, execute_stream_partitioned};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{CoordinatorError, Result};
use crate::events::{Event, Events};
use crate::inputs::rows_expected;

/// A step to be run: what it is called, and who wants to know.
#[derive(Debug, Clone)]
pub struct Step {
    /// Id of the build.
    pub build: String,
    /// Name of the step.
    pub name: String,
    /// What a person calls the statement: `CREATE CORPUS posts`.
    pub place: String,
    /// The folder that it writes to, for error messages.
    pub location: String,
    /// It runs on workers with this label only.
    pub label: Option<String>,
    /// Told about progress.
    pub events: Arc<dyn Events>,
    /// Stops the step; splits that are finished stay finished.
    pub cancel: CancellationToken,
}

/// Runs the plan of a step to its end.
///
/// A plan's output is receipts: one row each, JSON, in the column `receipt`. A runner may run a split more than once
/// and may lose receipts: whoever commits the step reads them from storage. An error means that some splits are
/// missing; those that are finished need not run again.
#[async_trait]
pub trait Runner: Send + Sync + Debug {
    /// Runs `plan`; gives the receipts that it saw.
    ///
    /// # Errors
    /// What the plan failed with, or [`CoordinatorError::Cancelled`].
    async fn run(&self, step: &Step, plan: Arc<dyn ExecutionPlan>) -> Result<Vec<Receipt>>;
}

/// Runs plans in this process, all partitions side by side.
#[derive(Clone)]
pub struct LocalRunner {
    context: Arc<TaskContext>,
}

impl Debug for LocalRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalRunner")
            .field("session", &self.context.session_id())
            .finish()
    }
}

impl LocalRunner {
    /// Runs plans with the memory pool, spill folder and object stores of `context`.
    #[must_use]
    pub fn new(context: Arc<TaskContext>) -> Self {
        Self { context }
    }
}

/// How often progress is told.
const TICK: Duration = Duration::from_millis(250);

#[async_trait]
impl Runner for LocalRunner {
    async fn run(&self, step: &Step, plan: Arc<dyn ExecutionPlan>) -> Result<Vec<Receipt>> {
        let fail = |error| match CoordinatorError::engine(&step.place, &step.location, error) {
            // Whatever writes to the warehouse names the object: this was the other thing that is written.
            CoordinatorError::DiskFull { place, location } if location == step.location => CoordinatorError::DiskFull {
                place,
                location: format!("spilled rows, {}", spill_folders(&self.context)),
            },
            other => other,
        };
        let partitions = plan.output_partitioning().partition_count();
        let (sender, mut receiver) = mpsc::channel(partitions.max(1));
        let mut tasks = spawn(&plan, &self.context, &sender).map_err(fail)?;
        drop(sender);
        let began = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        let mut receipts: Vec<Receipt> = Vec::new();
        loop {
            tokio::select! {
                () = step.cancel.cancelled() => {
                    // Dropping the tasks drops their streams, and with them every writer.
                    tasks.shutdown().await;
                    return Err(CoordinatorError::Cancelled);
                }
                receipt = receiver.recv() => match receipt {
                    Some(receipt) => receipts.push(receipt),
                    None => break,
                },
                _ = tick.tick() => step.events.event(progress(step, &plan, &receipts, began)),
            }
        }
        let mut first = None;
        while let Some(ended) = tasks.join_next().await {
            let error = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(join) => DataFusionError::ExecutionJoin(Box::new(join)),
            };
            first.get_or_insert(error);
        }
        step.events.event(progress(step, &plan, &receipts, began));
        match first {
            Some(error) => Err(fail(error)),
            None => Ok(receipts),
        }
    }
}

fn spill_folders(context: &TaskContext) -> String {
    let runtime = context.runtime_env();
    let folders = runtime.disk_manager.temp_dir_paths();
    let shown: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    shown.join(", ")
}

/// One task for each partition; the first error closes the channel of the others.
fn spawn(
    plan: &Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
    sender: &mpsc::Sender<Receipt>,
) -> EngineResult<JoinSet<EngineResult<()>>> {
    let mut tasks = JoinSet::new();
    let stop = CancellationToken::new();
    for mut stream in execute_stream_partitioned(Arc::clone(plan), Arc::clone(context))? {
        let (sender, stop) = (sender.clone(), stop.clone());
        tasks.spawn(async move {
            let _stop_others = StopOnError {
                stop: stop.clone(),
                armed: true,
            };
            let run = async {
                while let Some(batch) = stream.next().await {
                    for receipt in receipts_in(&batch?)? {
                        if sender.send(receipt).await.is_err() {
                            return Ok(());
                        }
                    }
                }
                Ok(())
            };
            let result = tokio::select! {
                result = run => result,
                // Another partition failed: its error is the one to tell.
                () = stop.cancelled() => Ok(()),
            };
            if result.is_ok() {
                let mut guard = _stop_others;
                guard.armed = false;
            }
            result
        });
    }
    Ok(tasks)
}

struct StopOnError {
    stop: CancellationToken,
    armed: bool,
}

impl Drop for StopOnError {
    fn drop(&mut self) {
        if self.armed {
            self.stop.cancel();
        }
    }
}

fn receipts_in(batch: &datafusion::arrow::array::RecordBatch) -> EngineResult<Vec<Receipt>> {
    let column = batch.column(0).as_string::<i32>();
    (0..column.len())
        .map(|row| serde_json::from_str(column.value(row)).map_err(|e| DataFusionError::External(Box::new(e))))
        .collect()
}

fn progress(step: &Step, plan: &Arc<dyn ExecutionPlan>, receipts: &[Receipt], began: Instant) -> Event {
    let mut read = Reading::default();
    read.add(plan);
    Event::Progress {
        build: step.build.clone(),
        step: step.name.clone(),
        rows_read: read.rows,
        rows_expected: read.expected,
        bytes_read: read.bytes,
        rows_written: receipts.iter().map(|r| r.rows_out).sum(),
        spilled_bytes: read.spilled,
        splits_done: receipts.len(),
        tasks: None,
        elapsed: began.elapsed(),
    }
}

/// What the sources of a plan have read, and its operators have spilled.
#[derive(Default)]
struct Reading {
    rows: u64,
    bytes: u64,
    expected: Option<u64>,
    spilled: u64,
}

impl Reading {
    fn add(&mut self, plan: &Arc<dyn ExecutionPlan>) {
        for child in plan.children() {
            self.add(child);
        }
        let metrics = plan.metrics();
        let spilled = metrics.as_ref().and_then(MetricsSet::spilled_bytes);
        self.spilled += spilled.unwrap_or(0) as u64;
        if !plan.children().is_empty() {
            return;
        }
        if let Some(metrics) = metrics {
            self.rows += metrics.output_rows().unwrap_or(0) as u64;
            let scanned = metrics
                .sum(|metric| matches!(metric.value(), MetricValue::Count { name, .. } if name == "bytes_scanned"));
            self.bytes += scanned.map_or(0, |value| value.as_usize() as u64);
        }
        if plan.downcast_ref::<DataSourceExec>().is_some()
            && let Some(rows) = rows_expected(plan.as_ref())
        {
            *self.expected.get_or_insert(0) += rows;
        }
    }
}
