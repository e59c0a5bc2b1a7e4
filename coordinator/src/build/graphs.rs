//! Connected components of a graph with many edges: its edges as a step, then rounds until nothing changes.

use std::sync::Arc;

use corpusmill_operators::RowFile;
use corpusmill_sql::{FileTable, Graph, GraphCall, Session, SqlText};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;

use super::rows_step::RowsStep;
use crate::error::{CoordinatorError, Result};
use crate::inputs::{rows_expected, rows_of_sources};
use crate::layout::staging_folder;
use crate::objects::data_file;
use crate::report::StepReport;
use crate::runner::Step;
use crate::workspace::Workspace;

/// Rounds after which something is wrong: they are about the square of the logarithm of the nodes, mostly far fewer.
const ROUNDS_MAX: usize = 200;

/// What the graphs of a statement are prepared with.
pub(super) struct Graphs<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) session: &'a Session,
    /// The step that asks for them; theirs differ in the name only.
    pub(super) step: Step,
    /// The query, for what it does that is not reproducible.
    pub(super) query: &'a SqlText,
    /// Decided on so far.
    pub(super) prepared: Vec<Option<Arc<Graph>>>,
}

impl Graphs<'_> {
    /// Decides on the graphs that a query asks for, up to the first that has so many edges that one task is not to hold
    /// them, or up to `limit` graphs in all: finds the components of that one. Gives the steps that were run, after `before`
    /// others, and whether there is such a graph: then the query is to be planned again.
    pub(super) async fn decide(
        &mut self,
        calls: Vec<GraphCall>,
        limit: usize,
        before: usize,
    ) -> Result<(Vec<StepReport>, bool)> {
        let mut done = Done { before, steps: vec![] };
        for call in calls {
            if self.prepared.len() >= limit {
                break;
            }
            let logical = self.session.check_reproducible(call.edges, self.query)?;
            let physical = self.session.physical(&logical).await?;
            let edges = rows_expected(physical.as_ref()).unwrap_or_else(|| rows_of_sources(&physical));
            if edges < self.session.component_edges_max() {
                self.prepared.push(None);
                continue;
            }
            let graph = self.find(&mut done, &logical).await?;
            let found = graph.is_some();
            self.prepared.push(graph.map(Arc::new));
            if found {
                return Ok((done.steps, true));
            }
        }
        Ok((done.steps, false))
    }

    /// Finds the components of a graph; `None` for one without edges.
    async fn find(&self, done: &mut Done, edges: &LogicalPlan) -> Result<Option<Graph>> {
        let number = self.prepared.len() + 1;
        let files = self.step(done, &format!("graph {number} edges"), edges).await?;
        if files.files.is_empty() {
            return Ok(None);
        }
        self.contract(done, number, files).await.map(Some)
    }

    async fn contract(&self, done: &mut Done, number: usize, files: Files) -> Result<Graph> {
        let objects = &self.workspace.objects;
        let edges = objects.row_table(&files.folder, &files.files).await?;
        let name = format!("graph {number} pairs");
        let mut pairs = self.pairs(done, &name, &Graph::pairs(&edges)?).await?;
        let mut digest = self.digest(&pairs).await?;
        for round in 1..=ROUNDS_MAX {
            let name = format!("graph {number} round {round}");
            let next = self.pairs(done, &name, &Graph::round(&pairs)?).await?;
            let next_digest = self.digest(&next).await?;
            if next_digest == digest {
                return Ok(Graph { edges, stars: next });
            }
            (pairs, digest) = (next, next_digest);
        }
        Err(CoordinatorError::Invalid(format!(
            "{}: the components of a graph were not found in {ROUNDS_MAX} rounds; SET corpusmill.component_edges_max to more than its edges finds them in one task",
            self.step.place
        )))
    }

    async fn pairs(&self, done: &mut Done, name: &str, logical: &LogicalPlan) -> Result<FileTable> {
        let files = self.step(done, name, logical).await?;
        Ok(FileTable {
            schema: Graph::pairs_schema(),
            partition_columns: vec![],
            root: self.workspace.layout.folder(&files.folder).url().to_string(),
            files: files.files.iter().map(data_file).collect(),
        })
    }

    /// Runs one step; gives its files that have rows.
    async fn step(&self, done: &mut Done, name: &str, logical: &LogicalPlan) -> Result<Files> {
        let run = uuid::Uuid::new_v4().simple().to_string();
        let staging = format!(
            "{}/{}-{}",
            staging_folder(&self.step.build),
            name.replace(' ', "-"),
            &run[..8]
        );
        let folder = format!("{staging}-rows");
        let number = done.before + done.steps.len() + 1;
        let rows = RowsStep {
            workspace: self.workspace,
            session: self.session,
            step: Step {
                name: name.to_owned(),
                ..self.step.clone()
            },
            number,
            of: number + 1,
            folder: folder.clone(),
            staging,
            logical,
            physical: self.session.physical(logical).await?,
        };
        let (report, files) = rows.run().await?;
        self.workspace.step_finished(&self.step.build, &report);
        done.steps.push(report);
        let files = files.into_iter().filter(|file| file.rows > 0).collect();
        Ok(Files { folder, files })
    }

    /// The pairs of a round in two numbers.
    async fn digest(&self, pairs: &FileTable) -> Result<String> {
        let plan = Graph::digest(pairs)?;
        let run = async {
            let frame = self.session.context().execute_logical_plan(plan.clone()).await?;
            frame.collect().await
        };
        let batches = match run.await {
            Ok(batches) => batches,
            Err(error) => return Err(self.session.explain_error(error, &plan).await.into()),
        };
        let options = FormatOptions::default();
        let mut numbers = Vec::new();
        for batch in &batches {
            for column in batch.columns() {
                let formatter = ArrayFormatter::try_new(column, &options).map_err(DataFusionError::from)?;
                numbers.extend((0..batch.num_rows()).map(|row| formatter.value(row).to_string()));
            }
        }
        Ok(numbers.join(" "))
    }
}

/// Steps of a build.
struct Done {
    /// How many there were before.
    before: usize,
    steps: Vec<StepReport>,
}

/// The files of a step, and the folder of the warehouse that they are in.
struct Files {
    folder: String,
    files: Vec<RowFile>,
}
