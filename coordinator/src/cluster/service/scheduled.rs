//! Starts what the schedules say, while this coordinator leads: each run is a script like those that people submit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use corpusmill_operators::with_sources;
use corpusmill_proto::control::SubmitRequest;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::Service;
use crate::catalog::{RunRow, rfc3339};
use crate::cluster::scripts::Script;
use crate::error::{CoordinatorError, Result};
use crate::home::Right;
use crate::schedules::{RunEnd, Schedules, Times, triggers};
use crate::workspace::Workspace;

/// How often it is looked what is due.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether what triggered corpora read has changed.
const POLL: Duration = Duration::from_secs(10);

/// A run's script, and why it is stopped.
struct Running {
    script: Arc<Script>,
    replaced: CancellationToken,
}

/// Scripts of the runs that are under way, by corpus and logical time.
type Scripts = Arc<Mutex<HashMap<(String, i64), Running>>>;

impl Service {
    /// Keeps the schedules until `over`; `right` is what this process leads by, where it has it already.
    pub(super) async fn keep_schedules(
        self: &Arc<Self>,
        workspace: Arc<Workspace>,
        mut right: Option<Arc<Right>>,
        over: CancellationToken,
    ) {
        let mut schedules = Schedules::new(Arc::clone(&workspace), Utc::now());
        let (running, mut polled) = (Scripts::default(), None);
        while !over.is_cancelled() {
            if let Err(error) = self
                .look(&workspace, &mut right, &mut schedules, (&running, &mut polled))
                .await
            {
                tracing::warn!(%error, "the schedules are looked at again later");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = over.cancelled() => {}
            }
        }
    }

    async fn look(
        self: &Arc<Self>,
        workspace: &Arc<Workspace>,
        right: &mut Option<Arc<Right>>,
        schedules: &mut Schedules,
        (running, polled): (&Scripts, &mut Option<Instant>),
    ) -> Result<()> {
        if right.is_none() {
            // A home without schedules is left to others until a script wants to write.
            if schedules.scheduled().await?.is_empty() && workspace.catalog.open_runs().await?.is_empty() {
                return Ok(());
            }
            *right = match self.home.right(workspace).await {
                Ok(right) => Some(right),
                // A command writes there; it is over soon.
                Err(CoordinatorError::Locked { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
        }
        if polled.is_none_or(|polled| polled.elapsed() >= POLL) {
            *polled = Some(Instant::now());
            self.look_for_changes(schedules).await?;
        }
        let due = schedules.due(Utc::now()).await?;
        for run in due.stop {
            if let Some(running) = running.lock().await.get(&(run.corpus, run.logical_ms)) {
                running.replaced.cancel();
                running.script.cancel.cancel();
            }
        }
        for run in due.start {
            let timeout = schedules.timeout(&run.corpus);
            let run = schedules.started(&run, Utc::now()).await?;
            let (service, workspace, running) = (Arc::clone(self), Arc::clone(workspace), Arc::clone(running));
            tokio::spawn(async move {
                if let Err(error) = service.run_scheduled(workspace, run, timeout, &running).await {
                    tracing::warn!(%error, "what became of a run is not known");
                }
            });
        }
        Ok(())
    }

    /// Enters runs of the corpora with triggers whose inputs have changed.
    async fn look_for_changes(&self, schedules: &mut Schedules) -> Result<()> {
        for scheduled in schedules.scheduled().await? {
            if scheduled.suspended || !matches!(scheduled.times, Times::OnUpdate) {
                continue;
            }
            match triggers::changed(&self.looking(), &scheduled).await {
                Ok(Some(cause)) => schedules.triggered(&scheduled, &cause, Utc::now()).await?,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(corpus = scheduled.name, %error, "whether its inputs changed is not known")
                }
            }
        }
        Ok(())
    }

    /// Runs one run to its end, and keeps how it ended.
    async fn run_scheduled(
        &self,
        workspace: Arc<Workspace>,
        run: RunRow,
        timeout: Option<Duration>,
        running: &Scripts,
    ) -> Result<()> {
        let schedules = Schedules::new(workspace, Utc::now());
        let script = match self.queue(format!("<schedule of {}>", run.corpus)) {
            Ok(script) => script,
            Err(full) => {
                let (error, transient) = (full.message().to_owned(), true);
                return schedules
                    .ended(&run, RunEnd::Failed { error, transient }, Utc::now())
                    .await;
            }
        };
        let key = (run.corpus.clone(), run.logical_ms);
        let replaced = CancellationToken::new();
        let entry = Running {
            script: Arc::clone(&script),
            replaced: replaced.clone(),
        };
        running.lock().await.insert(key.clone(), entry);
        let work = self.run(&script, request(&run));
        let (result, late) = in_time(work, timeout, &script.cancel).await;
        self.outcomes.count(&result);
        script.ended(&result);
        running.lock().await.remove(&key);
        let failed = |error: &CoordinatorError, transient| RunEnd::Failed {
            error: with_sources(error),
            transient,
        };
        let end = match &result {
            Ok(()) => RunEnd::Succeeded,
            // The coordinator that leads next goes on with it.
            Err(CoordinatorError::Deposed { .. }) => return Ok(()),
            Err(_) if script.is_abandoned() || self.shutdown.is_cancelled() => return Ok(()),
            Err(_) if replaced.is_cancelled() => RunEnd::Replaced,
            Err(_) if late => RunEnd::Failed {
                error: format!(
                    "it took longer than {} s, its timeout",
                    timeout.unwrap_or_default().as_secs()
                ),
                transient: false,
            },
            Err(error @ CoordinatorError::Cancelled) => failed(error, false),
            Err(error) => failed(error, error.retry()),
        };
        schedules.ended(&run, end, Utc::now()).await
    }
}

/// Waits for the end of `work`, which `cancel` stops cleanly; gives whether it was stopped because it took too long.
async fn in_time(
    work: impl Future<Output = Result<()>>,
    timeout: Option<Duration>,
    cancel: &CancellationToken,
) -> (Result<()>, bool) {
    let Some(timeout) = timeout else {
        return (work.await, false);
    };
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => (result, false),
        () = tokio::time::sleep(timeout) => {
            cancel.cancel();
            (work.await, true)
        }
    }
}

fn request(run: &RunRow) -> SubmitRequest {
    let name = run.corpus.replace('"', "\"\"");
    let time = DateTime::from_timestamp_millis(run.logical_ms).unwrap_or_default();
    SubmitRequest {
        text: format!(
            "REFRESH CORPUS \"{name}\" AS OF TIMESTAMP '{}'",
            rfc3339(run.logical_ms)
        ),
        origin: format!("<schedule of {}>", run.corpus),
        base_dir: String::new(),
        as_of_ms: Some(time.timestamp_millis()),
    }
}
