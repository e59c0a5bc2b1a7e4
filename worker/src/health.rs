//! What a worker says of itself on its port for health.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use corpusmill_health::{Kind, Metric, View, Watched};

/// Whether a worker takes part, and how often it began to.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// The executor that runs tasks; none between two.
    executor: Mutex<Option<String>>,
    joins: AtomicU64,
}

impl Part {
    /// Takes part as `executor`.
    pub(crate) fn joined(&self, executor: &str) {
        self.joins.fetch_add(1, Ordering::Relaxed);
        self.set(Some(executor.to_owned()));
    }

    /// Takes part no more.
    pub(crate) fn left(&self) {
        self.set(None);
    }

    fn set(&self, executor: Option<String>) {
        *self.executor.lock().unwrap_or_else(PoisonError::into_inner) = executor;
    }

    fn takes_part(&self) -> bool {
        self.executor.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

#[async_trait]
impl Watched for Part {
    async fn view(&self) -> View {
        let joins = self.joins.load(Ordering::Relaxed) as f64;
        let takes_part = self.takes_part();
        let reason = || "it waits for its coordinator: look at --coordinator, and at its log".to_owned();
        View {
            not_ready: (!takes_part).then(reason),
            ready_as: None,
            metrics: vec![
                Metric::new(
                    Kind::Gauge,
                    "corpusmill_worker_joined",
                    "1 while it takes tasks of a coordinator.",
                )
                .is(f64::from(u8::from(takes_part))),
                Metric::new(
                    Kind::Counter,
                    "corpusmill_worker_joins_total",
                    "Times that it joined a coordinator.",
                )
                .is(joins),
            ],
        }
    }
}
