//! What the statements of one script share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use corpusmill_operators::{Receipt, with_sources};
use corpusmill_traces::Span;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, SetAside, Turn};
use crate::catalog::Catalog;
use crate::cluster::{BallistaRunner, Cluster};
use crate::error::{CoordinatorError, Result};
use crate::events::{Event, Events};
use crate::home::Home;
use crate::layout::Layout;
use crate::objects::CatalogObjects;
use crate::options::CoordinatorOptions;
use crate::report::{ExpectationReport, StepReport};
use crate::runner::{LocalRunner, Runner, Step};

/// The home of a coordinator, as builds see it.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) catalog: Catalog,
    pub(crate) layout: Layout,
    pub(crate) objects: Arc<CatalogObjects>,
    pub(crate) events: Arc<dyn Events>,
    /// Stops the script: a person did, or the right to write is lost.
    pub(crate) cancel: CancellationToken,
    admission: Arc<Admission>,
    pub(crate) as_of: Option<DateTime<Utc>>,
    /// The folder that relative paths in statements start from.
    pub(crate) base_dir: PathBuf,
    /// That is not the folder of this process.
    pub(crate) elsewhere: bool,
    pub(crate) cluster: Option<Arc<Cluster>>,
    evidence: Mutex<Vec<ExpectationReport>>,
}

impl Workspace {
    /// A workspace over an open home.
    pub(crate) fn new(home: &Home, options: &CoordinatorOptions) -> Self {
        // It writes once the script has the right to.
        let (catalog, layout) = (home.catalog.reader(), home.layout.clone());
        let objects = Arc::new(CatalogObjects::new(catalog.clone(), layout.clone()));
        let base_dir = options.base_dir.clone();
        Self {
            elsewhere: base_dir.is_some(),
            catalog,
            layout,
            objects,
            events: Arc::clone(&options.events),
            cancel: options.cancel.child_token(),
            admission: Arc::clone(&home.admission),
            as_of: options.as_of,
            base_dir: base_dir.or_else(|| std::env::current_dir().ok()).unwrap_or_default(),
            cluster: options.cluster.clone(),
            evidence: Mutex::default(),
        }
    }

    /// Waits for the turn of a statement that builds or changes `object`, and lets it be seen that it waits, and why.
    ///
    /// # Errors
    /// [`CoordinatorError::Cancelled`] when the script is stopped meanwhile; when the catalogue cannot be written.
    pub(crate) async fn turn(&self, object: &str) -> Result<Turn> {
        let ticket = uuid::Uuid::now_v7().simple().to_string();
        let mut turn = self.admission.enter(object);
        let mut told = String::new();
        let mut stopped = false;
        while !stopped && let Some(reason) = turn.reason() {
            if reason != told {
                self.event(Event::Waiting(reason.clone()));
                self.catalog.wait(&ticket, object, &reason).await?;
                told = reason;
            }
            tokio::select! {
                () = turn.changed() => {}
                () = self.cancel.cancelled() => stopped = true,
            }
        }
        if !told.is_empty() {
            self.catalog.wait_no_longer(&ticket).await?;
        }
        if stopped {
            Err(CoordinatorError::Cancelled)
        } else {
            Ok(turn)
        }
    }

    /// Waits until no other script of this process brings the view `name` up to date.
    ///
    /// # Errors
    /// [`CoordinatorError::Cancelled`] when the script is stopped meanwhile.
    pub(crate) async fn alone(&self, name: &str) -> Result<OwnedMutexGuard<()>> {
        tokio::select! {
            alone = self.admission.alone(name) => Ok(alone),
            () = self.cancel.cancelled() => Err(CoordinatorError::Cancelled),
        }
    }

    /// Keeps the scripts of this process from building `object` until this is dropped; `None` when one does, or waits to.
    pub(crate) fn set_aside(&self, object: &str) -> Option<SetAside> {
        self.admission.set_aside(object)
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

    /// A step of the build `build`, as runners know it; `place` is the statement in error messages.
    pub(crate) fn step(&self, build: &str, name: &str, place: String, label: Option<String>) -> Step {
        Step {
            build: build.to_owned(),
            name: name.to_owned(),
            place,
            location: self.location().to_owned(),
            label,
            events: Arc::clone(&self.events),
            cancel: self.cancel.clone(),
        }
    }

    /// Runs the plan of a step: on the cluster where there is one, in this process otherwise.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub(crate) async fn run_step(
        &self,
        context: Arc<TaskContext>,
        step: &Step,
        plan: Arc<dyn ExecutionPlan>,
    ) -> Result<Vec<Receipt>> {
        let runner: Box<dyn Runner> = match &self.cluster {
            Some(cluster) => Box::new(BallistaRunner::new(Arc::clone(cluster), context)),
            None => Box::new(LocalRunner::new(context)),
        };
        let span = Span::step(&step.build, &step.name);
        let ended = runner.run(step, plan).await;
        end(span, &ended);
        ended
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

/// Ends the span of what `ended` came from.
pub(crate) fn end<T>(span: Span, ended: &Result<T>) {
    span.end(ended.as_ref().err().map(|error| with_sources(error)).as_deref());
}
