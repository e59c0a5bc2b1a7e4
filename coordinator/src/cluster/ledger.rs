//! Decides which job gets a free vcore, and keeps the scheduler's count of them right.
//!
//! A free vcore goes to the job that has the fewest, so that one whose tasks hang takes no more than its share for
//! long; a job that asks for a label gets vcores of the workers that have it, and no others.
//!
//! When a worker is lost, Ballista 55 rolls stages back and forgets the tasks that ran on the *other* workers: their
//! vcores are never given back, and a worker that lost all of them that way gets no task for ever. What was bound is
//! written down here, so that it can be given back between two jobs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::Result;
use ballista_core::serde::protobuf::ExecutorHeartbeat;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata};
use ballista_scheduler::cluster::{BoundTask, ClusterState, ClusterStateEventStream, ExecutorSlot};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::task_manager::JobInfoCache;

/// The state of a cluster, with a ledger of vcores.
pub(super) struct Ledger {
    inner: Arc<dyn ClusterState>,
    bound: Mutex<HashMap<String, u32>>,
    /// What executors said of themselves, by their ids.
    members: Mutex<HashMap<String, Member>>,
    /// Labels that jobs ask for, by their names.
    wanted: Mutex<HashMap<String, String>>,
}

/// What a worker said of itself when it joined.
#[derive(Debug, Clone, Default)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) labels: BTreeSet<String>,
}

/// A job that asks for vcores.
struct Asking {
    id: JobId,
    info: JobInfoCache,
    /// Tasks of it that run.
    running: usize,
    label: Option<String>,
}

impl Ledger {
    pub(super) fn over(inner: Arc<dyn ClusterState>) -> Self {
        Self {
            inner,
            bound: Mutex::default(),
            members: Mutex::default(),
            wanted: Mutex::default(),
        }
    }

    /// The executor `executor` is about to register.
    pub(super) fn joins(&self, executor: &str, member: Member) {
        lock(&self.members).insert(executor.to_owned(), member);
    }

    /// Whether an executor has a label.
    pub(super) fn has(&self, executor: &str, label: &str) -> bool {
        self.member(executor).labels.contains(label)
    }

    /// What an executor said of itself.
    pub(super) fn member(&self, executor: &str) -> Member {
        lock(&self.members).get(executor).cloned().unwrap_or_default()
    }

    /// The job called `job` runs where this label is; anywhere without one.
    pub(super) fn wants(&self, job: &str, label: Option<&str>) {
        match label {
            Some(label) => lock(&self.wanted).insert(job.to_owned(), label.to_owned()),
            None => lock(&self.wanted).remove(job),
        };
    }

    /// The jobs, those with the fewest running tasks first.
    async fn asking(&self, jobs: &HashMap<JobId, JobInfoCache>) -> Vec<Asking> {
        let mut asking = Vec::with_capacity(jobs.len());
        for (id, info) in jobs {
            let graph = info.execution_graph.read().await;
            let tasks = graph.stages().values().filter_map(|stage| stage.task_infos());
            let running = tasks
                .flatten()
                .filter(|task| matches!(task.task_status, Status::Running(_)));
            asking.push(Asking {
                id: id.clone(),
                info: info.clone(),
                running: running.count(),
                label: lock(&self.wanted).get(graph.job_name()).cloned(),
            });
        }
        asking.sort_by_key(|job| job.running);
        asking
    }

    /// Gives back all that is bound; to be called when no job runs.
    pub(super) async fn settle(&self) -> Result<()> {
        let left: Vec<ExecutorSlot> = {
            let mut bound = lock(&self.bound);
            bound.drain().filter(|(_, vcores)| *vcores > 0).collect()
        };
        if left.is_empty() {
            return Ok(());
        }
        tracing::debug!(?left, "vcores that the scheduler forgot are given back");
        self.inner.unbind_tasks(left).await
    }

    /// Takes what is given back off the ledger; nothing is given back twice.
    fn take(&self, slots: Vec<ExecutorSlot>) -> Vec<ExecutorSlot> {
        let mut bound = lock(&self.bound);
        slots
            .into_iter()
            .map(|(executor, vcores)| {
                let held = bound.entry(executor.clone()).or_default();
                let vcores = vcores.min(*held);
                *held -= vcores;
                (executor, vcores)
            })
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl ClusterState for Ledger {
    async fn init(&self) -> Result<()> {
        self.inner.init().await
    }

    async fn bind_schedulable_tasks(
        &self,
        distribution: TaskDistributionPolicy,
        jobs: Arc<HashMap<JobId, JobInfoCache>>,
        executors: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        let mut tasks = Vec::new();
        for job in self.asking(&jobs).await {
            let mut executors = executors.clone();
            if let Some(label) = &job.label {
                let members = lock(&self.members);
                let with_label = members.iter().filter(|(_, member)| member.labels.contains(label));
                let with_label = with_label.map(|(executor, _)| executor.clone());
                let alive = |executor: &String| executors.as_ref().is_none_or(|alive| alive.contains(executor));
                executors = Some(with_label.filter(alive).collect());
            }
            let job = Arc::new(HashMap::from([(job.id, job.info)]));
            let bound = self.inner.bind_schedulable_tasks(distribution.clone(), job, executors);
            tasks.extend(bound.await?);
        }
        let mut bound = lock(&self.bound);
        for (executor, task) in &tasks {
            *bound.entry(executor.clone()).or_default() += task.vcores_consumed;
        }
        Ok(tasks)
    }

    async fn unbind_tasks(&self, slots: Vec<ExecutorSlot>) -> Result<()> {
        let slots = self.take(slots);
        self.inner.unbind_tasks(slots).await
    }

    async fn register_executor(&self, metadata: ExecutorMetadata, data: ExecutorData) -> Result<()> {
        self.inner.register_executor(metadata, data).await
    }

    async fn save_executor_metadata(&self, metadata: ExecutorMetadata) -> Result<()> {
        self.inner.save_executor_metadata(metadata).await
    }

    async fn get_executor_metadata(&self, executor: &str) -> Result<ExecutorMetadata> {
        self.inner.get_executor_metadata(executor).await
    }

    async fn registered_executor_metadata(&self) -> Vec<ExecutorMetadata> {
        self.inner.registered_executor_metadata().await
    }

    async fn save_executor_heartbeat(&self, heartbeat: ExecutorHeartbeat) -> Result<()> {
        self.inner.save_executor_heartbeat(heartbeat).await
    }

    async fn remove_executor(&self, executor: &str) -> Result<()> {
        lock(&self.bound).remove(executor);
        lock(&self.members).remove(executor);
        self.inner.remove_executor(executor).await
    }

    fn executor_heartbeats(&self) -> HashMap<String, ExecutorHeartbeat> {
        self.inner.executor_heartbeats()
    }

    fn get_executor_heartbeat(&self, executor: &str) -> Option<ExecutorHeartbeat> {
        self.inner.get_executor_heartbeat(executor)
    }

    async fn cluster_state_events(&self) -> Result<ClusterStateEventStream> {
        self.inner.cluster_state_events().await
    }
}

#[cfg(test)]
mod tests {
    use ballista_scheduler::cluster::memory::InMemoryClusterState;

    use super::*;

    #[test]
    fn nothing_is_given_back_twice() {
        let ledger = Ledger::over(Arc::new(InMemoryClusterState::default()));
        ledger.bound.lock().unwrap().insert("w".into(), 3);
        assert_eq!(ledger.take(vec![("w".into(), 2)]), [("w".to_owned(), 2)]);
        assert_eq!(ledger.take(vec![("w".into(), 2)]), [("w".to_owned(), 1)]);
        assert_eq!(
            ledger.take(vec![("w".into(), 2), ("x".into(), 1)]),
            [("w".to_owned(), 0), ("x".to_owned(), 0)]
        );
    }
}
