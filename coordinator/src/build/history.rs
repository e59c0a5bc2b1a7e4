//! What a build makes in steps before its rows: graphs ([`super::graphs`]), and the history of its corpus, with the texts that
//! `near_duplicates(…, against => 'history:corpus')` has not seen, and the bands that they are found by.
//!
//! ```text
//! HistoryCall ─▶ step "history texts" ─▶ step "history bands" ─▶ the query is planned again: it looks its texts up
//!                                                                   manifest: all generations, this one at the end
//! ```
//! The files count once the manifest that names them is committed.

use corpusmill_operators::RowFile;
use corpusmill_sql::HistoryCall;
use datafusion::logical_expr::LogicalPlan;

use super::graphs::Graphs;
use super::rows_step::RowsStep;
use super::{Build, Planned};
use crate::corpus_options::worker_label;
use crate::corpus_plan::CorpusPlan;
use crate::error::{CoordinatorError, Result};
use crate::inputs::plan_digest;
use crate::layout::{corpus_folder, staging_folder};
use crate::objects::HistoryFiles;
use crate::report::StepReport;
use crate::runner::Step;

/// Steps that a build has for its history.
pub(super) const STEPS: usize = 2;

/// The call of a statement that compares with the history of the corpus that it builds.
///
/// # Errors
/// When there are two that differ: a corpus has one history.
pub(super) fn own_call(calls: &[HistoryCall], corpus: &str) -> Result<Option<HistoryCall>> {
    let mut own = calls.iter().filter(|call| call.corpus == corpus);
    let Some(first) = own.next() else { return Ok(None) };
    let digest = |call: &HistoryCall| plan_digest(&call.texts, &[]);
    if own.any(|other| digest(other) != digest(first)) {
        return Err(CoordinatorError::Invalid(format!(
            "corpus {corpus}: its query compares with history:{corpus} in two ways; a corpus has one history: make one call, and read it twice through a view"
        )));
    }
    Ok(Some(first.clone()))
}

impl Build<'_> {
    /// Makes what the query needs in steps of its own, in the order in which it asks for it: the components of graphs, and
    /// the history with the texts of this build; then plans the query again, over them.
    pub(super) async fn prepare(&self, planned: &mut Planned, id: &str) -> Result<()> {
        let corpus = planned.plan.corpus.clone();
        let mut graphs = Graphs {
            workspace: self.workspace,
            session: self.session,
            step: self.runner_step(planned, id, "graph"),
            query: &corpus.query,
            prepared: vec![],
        };
        let mut planned_again = false;
        loop {
            let limit = planned
                .history_call
                .as_ref()
                .map_or(usize::MAX, |call| call.graphs_before);
            let calls = std::mem::take(&mut planned.plan.graphs);
            let (steps, found) = graphs.decide(calls, limit, planned.before.len()).await?;
            for report in steps {
                self.commit(planned, id, report).await?;
            }
            if !found {
                match planned.history_call.take() {
                    Some(call) => self.add_to_history(planned, id, call).await?,
                    None => break,
                }
            }
            planned.plan = CorpusPlan::new(self.session, self.statement, &corpus, &graphs.prepared).await?;
            planned.history_call = own_call(&planned.plan.history, &corpus.name)?;
            planned_again = true;
        }
        if planned_again {
            let all: Vec<u32> = (0..planned.plan.options.shards).collect();
            let annotated = planned.plan.annotated(self.session, &all).await?;
            planned.physical = self.physical(&annotated).await?;
        }
        Ok(())
    }

    /// Adds the texts of this build to the history.
    async fn add_to_history(&self, planned: &mut Planned, id: &str, call: HistoryCall) -> Result<()> {
        let corpus = planned.plan.corpus.name.clone();
        let objects = &self.workspace.objects;
        let mut history = match &self.base {
            Some(base) => HistoryFiles::of(base)?,
            None => vec![],
        };
        let texts = self.history_step(planned, id, "texts", &call.texts).await?;
        if !texts.is_empty() {
            let table = objects.row_table(&corpus_folder(&corpus), &texts).await?;
            let bands = self.history_step(planned, id, "bands", &call.bands(&table)?).await?;
            history.push(HistoryFiles {
                build: id.to_owned(),
                options: call.options,
                texts,
                bands,
            });
        }
        objects.begin_history(&corpus, &history, true).await?;
        planned.history = history;
        Ok(())
    }

    pub(super) fn runner_step(&self, planned: &Planned, id: &str, name: &str) -> Step {
        let label = worker_label(&planned.plan.corpus.options);
        self.workspace.step(id, name, self.place(), label)
    }

    async fn commit(&self, planned: &mut Planned, id: &str, report: StepReport) -> Result<()> {
        let seq = planned.before.len() as u32;
        self.workspace.catalog.commit_step(id, seq, &report).await?;
        planned.before.push(report);
        Ok(())
    }

    /// Writes the rows of a plan beside the corpus; gives the files that have any, by their paths in its folder.
    async fn history_step(
        &self,
        planned: &mut Planned,
        id: &str,
        what: &str,
        logical: &LogicalPlan,
    ) -> Result<Vec<RowFile>> {
        let corpus = &planned.plan.corpus;
        let logical = self.session.check_reproducible(logical.clone(), &corpus.query)?;
        let folder = format!("_corpusmill/history/{id}/{what}");
        let run = uuid::Uuid::new_v4().simple().to_string();
        let step = RowsStep {
            workspace: self.workspace,
            session: self.session,
            step: self.runner_step(planned, id, &format!("history {what}")),
            number: planned.before.len() + 1,
            of: planned.steps.max(planned.before.len() + 1),
            folder: format!("{}/{folder}", corpus_folder(&corpus.name)),
            staging: format!("{}/history-{what}-{}", staging_folder(id), &run[..8]),
            physical: self.physical(&logical).await?,
            logical: &logical,
        };
        let (report, files) = step.run().await?;
        self.workspace.step_finished(id, &report);
        self.commit(planned, id, report).await?;
        let there = files.into_iter().filter(|file| file.rows > 0);
        Ok(there
            .map(|file| RowFile {
                path: format!("{folder}/{}", file.path),
                ..file
            })
            .collect())
    }
}
