//! Runs steps on the workers of a cluster, and says that one is done only when it is known to be right.
//!
//! ```text
//!   attempt:  job ─► ended well? ─► history without incident? ─► one receipt for each split? ─► receipts moved
//!                       │ no               │ no                        │ no
//!                       └──────────────────┴───────────────────────────┴─► the next attempt, or the reason why not
//!
//!   with an exchange      the attempt's receipts lie in a folder of their own; a bad attempt is forgotten as a whole
//!   without one           receipts lie in the step's folder at once; only splits without a receipt are tried again
//! ```

use std::collections::BTreeSet;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::config::{
    BALLISTA_ADAPTIVE_PLANNER_ENABLED, BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE,
    BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK,
};
use ballista_core::extension::SessionConfigExt as _;
use corpusmill_operators::{Destination, FailureCause, OperatorError, Receipt, TaskFailure, is_spill_limit};
use corpusmill_sql::SqlError;
use corpusmill_traces::Span;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt as _;

use super::job::{Job, Verdict};
use super::progress::Progress;
use super::scheduler::Cluster;
use super::step_plan::{StepPlan, attempt_folder};
use crate::error::{CoordinatorError, Result};
use crate::events::Event;
use crate::runner::{Runner, Step};

/// First pause between two attempts; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Attempts after which a job that the scheduler refuses in its own words is given up.
const REFUSALS_MAX: usize = 3;
/// Bytes of one message between workers.
const MESSAGE_BYTES: usize = 256 << 20;

/// Runs the plan of a step as jobs of a cluster.
#[derive(Clone)]
pub(crate) struct BallistaRunner {
    cluster: Arc<Cluster>,
    context: Arc<TaskContext>,
}

impl Debug for BallistaRunner {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BallistaRunner")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// What came of one attempt.
enum Attempt {
    /// Every split has its receipt.
    Done(Vec<Receipt>),
    /// Something is missing or not to be trusted.
    Again(String),
}

impl BallistaRunner {
    /// Runs steps on `cluster` with the settings of `context`.
    pub(crate) fn new(cluster: Arc<Cluster>, context: Arc<TaskContext>) -> Self {
        Self { cluster, context }
    }

    async fn attempt(&self, step: &Step, plan: &StepPlan, refusals: &mut usize, began: Instant) -> Result<Attempt> {
        let fail = |error| CoordinatorError::engine(&step.place, &step.location, error);
        let name = format!("{}-{}", step.name.replace(' ', "-"), uuid::Uuid::new_v4().simple());
        let folder = if plan.exchange {
            attempt_folder(plan.staging(), &name)
        } else {
            plan.staging().clone()
        };
        let done = self.receipts(&folder).await.map_err(fail)?;
        let missing: BTreeSet<u32> = plan.splits.difference(&done.splits()).copied().collect();
        if missing.is_empty() {
            return Ok(Attempt::Done(done.receipts));
        }
        let physical = plan.attempt(folder.clone(), &missing).map_err(fail)?;
        match self.job(step, &name, physical, plan.exchange, began).await? {
            Verdict::Cancelled => return Err(CoordinatorError::Cancelled),
            Verdict::Sound => {}
            Verdict::Suspicious(reason) => return Ok(Attempt::Again(reason)),
            Verdict::Refused(reason) if *refusals + 1 < REFUSALS_MAX => {
                *refusals += 1;
                return Ok(Attempt::Again(reason));
            }
            Verdict::Refused(reason) => return Err(fail(DataFusionError::Execution(reason))),
            Verdict::Failed(failure) => return failed(step, failure).map(Attempt::Again),
        }
        let found = self.receipts(&folder).await.map_err(fail)?;
        if let Some(reason) = unfit(plan, &found) {
            return Ok(Attempt::Again(reason));
        }
        if plan.exchange {
            self.publish(&found.receipts, plan.staging()).await.map_err(fail)?;
        }
        Ok(Attempt::Done(found.receipts))
    }

    /// Runs one job to its end.
    async fn job(
        &self,
        step: &Step,
        name: &str,
        plan: Arc<dyn ExecutionPlan>,
        exchange: bool,
        began: Instant,
    ) -> Result<Verdict> {
        let name = format!("{}/{name}", step.build);
        let span = Span::job(&step.build, &step.name, &name);
        // Workers learn from the name whose tasks they run.
        let config = job_config(&self.context).with_ballista_job_name(&name);
        let context = Arc::new(SessionContext::new_with_config(config));
        let label = step.label.as_deref();
        let job = Job::submit(&self.cluster, &name, context, plan, exchange, label).await?;
        let verdict = job
            .watch(&step.cancel, |seen| step.events.event(told(step, seen, began)))
            .await;
        if !matches!(verdict, Ok(Verdict::Sound)) {
            self.cluster.forgot();
        }
        match &verdict {
            Ok(Verdict::Sound) => span.end(None),
            Ok(Verdict::Cancelled) => span.end(Some("cancelled")),
            Ok(Verdict::Suspicious(reason) | Verdict::Refused(reason)) => span.end(Some(reason)),
            Ok(Verdict::Failed(failure)) => span.end(Some(&failure.message)),
            Err(error) => span.end(Some(&error.to_string())),
        }
        verdict
    }

    /// The receipts in a folder.
    async fn receipts(&self, folder: &Destination) -> Result<Found, DataFusionError> {
        let (store, prefix) = (folder.store(&self.context)?, folder.prefix()?);
        let listed = store.list(Some(&prefix)).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|source| OperatorError::Store {
            path: prefix.to_string(),
            source,
        })?;
        let taken = Receipt::collect(&store, &prefix).await?;
        Ok(Found {
            objects: listed.len(),
            receipts: taken.into_values().collect(),
        })
    }

    async fn publish(&self, receipts: &[Receipt], staging: &Destination) -> Result<(), DataFusionError> {
        let (store, prefix) = (staging.store(&self.context)?, staging.prefix()?);
        for receipt in receipts {
            receipt.put(&store, &prefix).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Runner for BallistaRunner {
    async fn run(&self, step: &Step, plan: Arc<dyn ExecutionPlan>) -> Result<Vec<Receipt>> {
        let fail = |error| CoordinatorError::engine(&step.place, &step.location, error);
        let began = Instant::now();
        let config = job_config(&self.context);
        let plan = StepPlan::new(plan, config.options()).map_err(fail)?;
        if !self.cluster.has_worker(step.label.as_deref()).await {
            let (with, flag) = match &step.label {
                Some(label) => (format!(" with the label {label}"), format!("--label {label} ")),
                None => (String::new(), String::new()),
            };
            step.events.event(Event::Warning(format!(
                "{}: no worker{with} is connected; waiting for one (corpusmill worker {flag}--coordinator …)",
                step.name
            )));
        }
        let (mut refusals, mut pause) = (0, PAUSE);
        let mut last = String::new();
        for attempt in 1..=self.cluster.options.attempts {
            match self.attempt(step, &plan, &mut refusals, began).await? {
                Attempt::Done(receipts) => return Ok(receipts),
                Attempt::Again(reason) => last = reason,
            }
            tracing::warn!(build = %step.build, step = %step.name, attempt, reason = %last, "the step is run again");
            step.events.event(Event::Warning(format!(
                "{}: run again after attempt {attempt}: {last}",
                step.name
            )));
            tokio::select! {
                () = step.cancel.cancelled() => return Err(CoordinatorError::Cancelled),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(CoordinatorError::Cluster(format!(
            "{}: step {} did not end well in {} attempts, the last one because {last}; run the same statement again when \
             the workers are well",
            step.place, step.name, self.cluster.options.attempts
        )))
    }
}

/// The session's settings, and those of a job of the cluster.
fn job_config(context: &TaskContext) -> SessionConfig {
    context
        .session_config()
        .clone()
        .upgrade_for_ballista()
        .set_bool(BALLISTA_ADAPTIVE_PLANNER_ENABLED, false)
        .set_usize(BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK, 1)
        .set_usize(BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE, MESSAGE_BYTES)
}

/// What lies in a folder of receipts.
struct Found {
    /// Objects, of which there may be several for a split.
    objects: usize,
    /// One receipt for each split.
    receipts: Vec<Receipt>,
}

impl Found {
    fn splits(&self) -> BTreeSet<u32> {
        self.receipts.iter().map(|receipt| receipt.split).collect()
    }
}

/// Why these receipts are not those of a whole step, if they are not.
fn unfit(plan: &StepPlan, found: &Found) -> Option<String> {
    let splits = found.splits();
    if let Some(missing) = plan.splits.difference(&splits).next() {
        return Some(format!("split {missing} has no receipt although the job ended"));
    }
    if let Some(stranger) = splits.difference(&plan.splits).next() {
        return Some(format!("split {stranger} has a receipt and is none of the step's"));
    }
    let twice = plan.exchange && found.objects != splits.len();
    twice.then(|| format!("{} splits have {} receipts", splits.len(), found.objects))
}

/// What a task that failed means for the step: gives the reason to try again, or the error that ends it.
fn failed(step: &Step, failure: TaskFailure) -> Result<String> {
    match failure.cause {
        FailureCause::Transient => Ok(failure.message),
        FailureCause::DiskFull => Err(CoordinatorError::DiskFull {
            place: step.place.clone(),
            location: match (failure.object, failure.worker) {
                (Some(object), _) => format!("{} (writing {object})", step.location),
                (None, Some(worker)) => format!("spilled and exchanged rows of {worker}"),
                (None, None) => step.location.clone(),
            },
        }),
        FailureCause::OutOfMemory => Err(CoordinatorError::OutOfMemory {
            place: step.place.clone(),
            holder: failure.worker.unwrap_or_else(|| "a worker".to_owned()),
            fix: match is_spill_limit(&failure.message) {
                true => "give it more with --spill-limit, or more --memory-limit so that less is spilled",
                false => "give it more with --memory-limit, or fewer tasks that share it with --vcores",
            },
            message: failure.message,
        }),
        FailureCause::Refused => Err(CoordinatorError::Operator {
            place: step.place.clone(),
            source: Box::new(match failure.violation {
                Some(violation) => OperatorError::Violation(violation).into(),
                None => DataFusionError::Execution(failure.message.clone()),
            }),
            message: failure.message,
            transient: false,
        }),
        FailureCause::Engine => Err(SqlError::Engine(DataFusionError::Execution(failure.message)).into()),
    }
}

fn told(step: &Step, seen: Progress, began: Instant) -> Event {
    Event::Progress {
        build: step.build.clone(),
        step: step.name.clone(),
        rows_read: seen.rows_read,
        rows_expected: None,
        bytes_read: seen.bytes_read,
        rows_written: seen.rows_written,
        spilled_bytes: seen.spilled_bytes,
        splits_done: seen.splits_done,
        tasks: Some(seen.tasks),
        elapsed: began.elapsed(),
    }
}
