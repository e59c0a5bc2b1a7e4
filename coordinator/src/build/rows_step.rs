//! A step whose rows are kept as they come: a view, a hash list, what a build adds to the history of its corpus.

use std::sync::Arc;
use std::time::Instant;

use corpusmill_operators::{Receipt, RowFile, RowSink, WriteRows, failpoint};
use corpusmill_sql::{Session, SqlError};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _};

use crate::error::{CoordinatorError, Result};
use crate::events::Event;
use crate::report::StepReport;
use crate::runner::Step;
use crate::workspace::Workspace;

/// What is run, and where its rows go.
pub(super) struct RowsStep<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) session: &'a Session,
    pub(super) step: Step,
    /// Its place among the steps of its build, from 1, and how many there are.
    pub(super) number: usize,
    pub(super) of: usize,
    /// Folder of the files, in the warehouse.
    pub(super) folder: String,
    /// Folder of the receipts, of this run alone.
    pub(super) staging: String,
    pub(super) logical: &'a LogicalPlan,
    pub(super) physical: Arc<dyn ExecutionPlan>,
}

impl RowsStep<'_> {
    /// Runs the plan from its beginning: how rows fall into its partitions depends on timing, so receipts of different
    /// runs do not fit together. Gives the files, their paths relative to the folder.
    pub(super) async fn run(self) -> Result<(StepReport, Vec<RowFile>)> {
        let began = Instant::now();
        let layout = &self.workspace.layout;
        let splits = self.physical.output_partitioning().partition_count();
        self.workspace.event(Event::StepStarted {
            build: self.step.build.clone(),
            step: self.step.name.clone(),
            number: self.number,
            of: self.of,
            splits,
            splits_done: 0,
        });
        let sink = RowSink {
            folder: layout.folder(&self.folder),
            staging: layout.folder(&self.staging),
            step: self.step.name.clone(),
            splits: None,
        };
        let sink = Arc::new(WriteRows::new(self.physical, Arc::new(sink)));
        let context = self.session.context().state().task_ctx();
        // A cluster may cut the plan into other splits than this process does.
        let splits = match self.workspace.run_step(context, &self.step, sink).await {
            Ok(receipts) => receipts.len(),
            Err(CoordinatorError::Sql(SqlError::Engine(error))) => {
                return Err(self.session.explain_error(error, self.logical).await.into());
            }
            Err(other) => return Err(other),
        };
        failpoint::hit("view-done");
        let step = self.step;
        let taken = Receipt::collect(layout.store(), &layout.path(&self.staging)).await;
        let taken = taken.map_err(|e| CoordinatorError::engine(&step.place, &step.location, e.into()))?;
        if taken.len() != splits {
            return Err(CoordinatorError::Invalid(format!(
                "{}: {} of {splits} splits have a receipt although the step ended; run the statement again",
                step.place,
                taken.len()
            )));
        }
        let report = StepReport {
            name: step.name,
            reused: false,
            splits: splits as u32,
            rows_in: taken.values().map(|r| r.rows_in).sum(),
            rows_out: taken.values().map(|r| r.rows_out).sum(),
            bytes: taken.values().map(|r| r.bytes).sum(),
            elapsed: began.elapsed(),
        };
        let files = taken.into_values().flat_map(|receipt| receipt.rows_files);
        Ok((report, files.collect()))
    }
}
