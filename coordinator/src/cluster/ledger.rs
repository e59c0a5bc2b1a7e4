//! Keeps the scheduler's count of free vcores right.
//!
//! When a worker is lost, Ballista 55 rolls stages back and forgets the tasks that ran on the *other* workers: their
//! vcores are never given back, and a worker that lost all of them that way gets no task for ever. What was bound is
//! written down here, so that it can be given back between two jobs.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::Result;
use ballista_core::serde::protobuf::ExecutorHeartbeat;
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata};
use ballista_scheduler::cluster::{BoundTask, ClusterState, ClusterStateEventStream, ExecutorSlot};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::task_manager::JobInfoCache;

/// The state of a cluster, with a ledger of vcores.
pub(super) struct Ledger {
    inner: Arc<dyn ClusterState>,
    bound: Mutex<HashMap<String, u32>>,
}

impl Ledger {
    pub(super) fn over(inner: Arc<dyn ClusterState>) -> Self {
        Self {
            inner,
            bound: Mutex::default(),
        }
    }

    /// Gives back all that is bound; to be called when no job runs.
    pub(super) async fn settle(&self) -> Result<()> {
        let left: Vec<ExecutorSlot> = {
            let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
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
        let tasks = self.inner.bind_schedulable_tasks(distribution, jobs, executors).await?;
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.bound
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(executor);
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
