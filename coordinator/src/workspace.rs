//! What the statements of one script share.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use datafusion::execution::TaskContext;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::events::{Event, Events};
use crate::layout::Layout;
use crate::objects::CatalogObjects;
use crate::report::{ExpectationReport, StepReport};
use crate::runner::{LocalRunner, Runner};

/// The home of a coordinator, as builds see it.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) catalog: Catalog,
    pub(crate) layout: Layout,
    pub(crate) objects: Arc<CatalogObjects>,
    pub(crate) events: Arc<dyn Events>,
    pub(crate) cancel: CancellationToken,
    pub(crate) as_of: Option<DateTime<Utc>>,
    evidence: Mutex<Vec<ExpectationReport>>,
}

impl Workspace {
    /// A workspace over an open home.
    pub(crate) fn new(
        catalog: Catalog,
        layout: Layout,
        events: Arc<dyn Events>,
        cancel: CancellationToken,
        as_of: Option<DateTime<Utc>>,
    ) -> Self {
        let objects = Arc::new(CatalogObjects::new(catalog.clone(), layout.clone()));
        Self { catalog, layout, objects, events, cancel, as_of, evidence: Mutex::default() }
    }

    /// Tells an event.
    pub(crate) fn event(&self, event: Event) {
        self.events.event(event);
    }

    /// Tells that a step is complete.
    pub(crate) fn step_finished(&self, build: &str, step: &StepReport) {
        self.event(Event::StepFinished {
            build: build.to_owned(),
            step: step.name.clone(),
            reused: step.reused,
            rows_in: step.rows_in,
            rows_out: step.rows_out,
            bytes: step.bytes,
            elapsed: step.elapsed,
        });
    }

    /// Where the warehouse is, for error messages.
    pub(crate) fn location(&self) -> &str {
        self.layout.warehouse().location()
    }

    /// What runs plans: this process.
    pub(crate) fn runner(&self, context: Arc<TaskContext>) -> impl Runner + use<> {
        LocalRunner::new(context)
    }

    /// Keeps what the expectations of a failing build saw, for the catalogue.
    pub(crate) fn keep_evidence(&self, evidence: Vec<ExpectationReport>) {
        *self.evidence.lock().unwrap_or_else(PoisonError::into_inner) = evidence;
    }

    /// Takes what was kept.
    pub(crate) fn take_evidence(&self) -> Vec<ExpectationReport> {
        std::mem::take(&mut self.evidence.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
