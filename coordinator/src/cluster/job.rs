//! One job of the scheduler: submitted, watched, stopped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::JobId;
use ballista_core::serde::protobuf::job_status::Status;
use corpusmill_operators::TaskFailure;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use tokio::sync::RwLockReadGuard;
use tokio_util::sync::CancellationToken;

use super::evidence;
use super::progress::Progress;
use super::scheduler::Cluster;
use crate::error::{CoordinatorError, Result};

/// How often a job is looked at.
const LOOK: Duration = Duration::from_millis(150);

/// How a job ended.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Well, and nothing in its history is suspicious.
    Sound,
    /// Something happened to it; its result is worth nothing.
    Suspicious(String),
    /// A task failed and said why.
    Failed(TaskFailure),
    /// The scheduler gave up, in its own words.
    Refused(String),
    /// A person stopped it.
    Cancelled,
}

/// A submitted job.
pub(super) struct Job<'a> {
    cluster: &'a Cluster,
    id: JobId,
    losses: u64,
    /// Rows go from one task to another, so that no repair is trusted.
    exchange: bool,
    name: String,
    label: Option<String>,
    /// It is one of those that run.
    _running: RwLockReadGuard<'a, ()>,
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        self.cluster.wants(&self.name, None);
        if self.cluster.losses() != self.losses {
            self.cluster.forgot();
        }
    }
}

/// What one look at a job saw.
enum Look {
    /// It waits or runs.
    Going(Progress, Option<String>),
    /// It ended.
    Ended(Verdict),
}

impl<'a> Job<'a> {
    /// Submits `plan`, to run where `label` is.
    ///
    /// # Errors
    /// [`CoordinatorError::Cluster`] when the scheduler takes no jobs.
    pub(super) async fn submit(
        cluster: &'a Cluster,
        name: &str,
        context: Arc<SessionContext>,
        plan: Arc<dyn ExecutionPlan>,
        exchange: bool,
        label: Option<&str>,
    ) -> Result<Self> {
        let running = cluster.settle().await?;
        let losses = cluster.losses();
        cluster.wants(name, label);
        let id = cluster
            .server
            .submit_physical_plan(name, context, plan, None)
            .await
            .map_err(refused)?;
        Ok(Self {
            cluster,
            id,
            losses,
            exchange,
            name: name.to_owned(),
            label: label.map(str::to_owned),
            _running: running,
        })
    }

    /// Waits for the end, and tells `progress` on the way.
    ///
    /// # Errors
    /// [`CoordinatorError::Cluster`] when the scheduler does not answer.
    pub(super) async fn watch(
        &self,
        cancel: &CancellationToken,
        mut progress: impl FnMut(Progress),
    ) -> Result<Verdict> {
        let mut still = Stillness::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => {
                    self.cancel().await?;
                    return Ok(Verdict::Cancelled);
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let (seen, suspicion) = match self.look().await? {
                Look::Ended(verdict) => return Ok(verdict),
                Look::Going(seen, suspicion) => (seen, suspicion),
            };
            progress(seen);
            let suspicion = suspicion.or(still.too_long(self.cluster, self.label.as_deref(), seen).await);
            if let Some(reason) = suspicion {
                self.cancel().await?;
                return Ok(Verdict::Suspicious(reason));
            }
        }
    }

    async fn cancel(&self) -> Result<()> {
        self.cluster.server.cancel_job(self.id.clone()).await.map_err(refused)
    }

    async fn look(&self) -> Result<Look> {
        let running = self.cluster.server.state.task_manager.get_running_job_cache();
        if let Some(job) = running.get(&self.id) {
            let graph = job.execution_graph.read().await;
            let progress = Progress::of(graph.stages());
            let suspicion = self.suspicion(|| evidence::so_far(graph.stages()));
            return Ok(Look::Going(progress, suspicion));
        }
        let status = self.cluster.jobs.get_job_status(&self.id).await.map_err(refused)?;
        Ok(match status.and_then(|status| status.status) {
            Some(Status::Successful(_)) => Look::Ended(self.judge().await?),
            Some(Status::Failed(failed)) => Look::Ended(match TaskFailure::find(&failed.error) {
                Some(failure) => Verdict::Failed(failure),
                None => match self.suspicion(|| None) {
                    Some(reason) => Verdict::Suspicious(reason),
                    None => Verdict::Refused(failed.error),
                },
            }),
            _ => Look::Going(Progress::default(), self.suspicion(|| None)),
        })
    }

    /// Says what makes this job's result worthless, if anything does: without an exchange nothing can, because every
    /// split stands for itself and its receipt is there or not.
    fn suspicion(&self, of_stages: impl FnOnce() -> Option<String>) -> Option<String> {
        if !self.exchange {
            return None;
        }
        if self.cluster.losses() != self.losses {
            return Some(format!("worker {} was lost while it ran", self.cluster.last_lost()));
        }
        of_stages()
    }

    async fn judge(&self) -> Result<Verdict> {
        let graph = self.cluster.jobs.get_execution_graph(&self.id).await.map_err(refused)?;
        let suspicion = match &graph {
            Some(graph) => self.suspicion(|| evidence::at_the_end(graph.stages())),
            None => self.suspicion(|| Some("its history is gone".to_owned())),
        };
        Ok(suspicion.map_or(Verdict::Sound, Verdict::Suspicious))
    }
}

fn refused(error: ballista_core::error::BallistaError) -> CoordinatorError {
    CoordinatorError::Cluster(format!("the scheduler does not answer: {error}"))
}

/// Since when a job stands still.
struct Stillness {
    last: Progress,
    changed: Instant,
}

impl Stillness {
    fn new() -> Self {
        Self {
            last: Progress::default(),
            changed: Instant::now(),
        }
    }

    /// Why the job should not be waited for any longer, if it should not. A job waits for workers as long as it takes.
    async fn too_long(&mut self, cluster: &Cluster, label: Option<&str>, seen: Progress) -> Option<String> {
        if seen != self.last {
            self.last = seen;
            self.changed = Instant::now();
        }
        let still = self.changed.elapsed();
        let limit = if seen.tasks.running == 0 {
            cluster.options.stall
        } else {
            cluster.options.silence
        };
        if still < limit {
            return None;
        }
        if !cluster.has_worker(label).await {
            self.changed = Instant::now();
            return None;
        }
        Some(format!(
            "it stood still for {} s with {} tasks running",
            still.as_secs(),
            seen.tasks.running
        ))
    }
}
