//! What a coordinator says of itself on its port for health.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use corpusmill_corpus::store_attempts;
use corpusmill_health::{Kind, Metric, View, Watched};

use super::Service;
use super::leadership::Lead;
use crate::error::{CoordinatorError, Result};

/// Scripts that ended since the start.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    succeeded: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
}

impl Outcomes {
    /// Counts the end of a script.
    pub(super) fn count(&self, result: &Result<()>) {
        let counter = match result {
            Ok(()) => &self.succeeded,
            Err(CoordinatorError::Cancelled) => &self.cancelled,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn metric(&self) -> Metric {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        Metric::new(
            Kind::Counter,
            "corpusmill_scripts_ended_total",
            "Scripts that ended, by how.",
        )
        .of("outcome", "succeeded", of(&self.succeeded))
        .of("outcome", "failed", of(&self.failed))
        .of("outcome", "cancelled", of(&self.cancelled))
    }
}

#[async_trait]
impl Watched for Service {
    async fn view(&self) -> View {
        let workers = self.cluster.workers().await;
        let vcores = workers.iter().map(|worker| f64::from(worker.vcores)).sum();
        let states: Vec<_> = self.scripts().iter().map(|script| script.info().state).collect();
        let scripts = |state| states.iter().filter(|of| **of == state).count() as f64;
        let (building, waiting) = self.home.admission.counts();
        let leads = f64::from(u8::from(self.leads().is_ok()));
        let store = store_attempts();
        let gauge = |name, help| Metric::new(Kind::Gauge, name, help);
        let counter = |name, help| Metric::new(Kind::Counter, name, help);
        View {
            not_ready: self
                .shutdown
                .is_cancelled()
                .then(|| "the coordinator is stopping".to_owned()),
            ready_as: match &*self.lead.borrow() {
                Lead::Here(_) => None,
                Lead::Elsewhere(Some(leader)) => Some(format!("follows {leader}")),
                Lead::Elsewhere(None) => Some("nobody leads at the moment".to_owned()),
            },
            metrics: vec![
                gauge("corpusmill_leads", "1 while this coordinator leads.").is(leads),
                gauge(
                    "corpusmill_builds",
                    "Statements that build, and that wait for their turn.",
                )
                .of("state", "running", building as f64)
                .of("state", "waiting", waiting as f64),
                gauge("corpusmill_workers", "Workers that were heard of in time.").is(workers.len() as f64),
                gauge("corpusmill_worker_vcores", "Tasks that these workers run side by side.").is(vcores),
                gauge("corpusmill_scripts", "Scripts that did not end yet, by state.")
                    .of("state", "queued", scripts("queued"))
                    .of("state", "running", scripts("running")),
                self.outcomes.metric(),
                counter("corpusmill_store_requests_total", "Requests to object stores.").is(store.requests as f64),
                counter(
                    "corpusmill_store_failures_total",
                    "Requests to object stores that failed, by how.",
                )
                .of("how", "refused", store.refused as f64)
                .of("how", "unanswered", store.unanswered as f64)
                .of("how", "broken", store.broken as f64),
            ],
        }
    }
}
