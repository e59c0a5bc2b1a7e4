//! The end of a build: what is published, what the catalogue keeps, what the person is told, what is swept.

use corpusmill_corpus::Manifest;
use corpusmill_operators::failpoint;

use super::{Build, Planned, gate, manifest};
use crate::catalog::{BuildEnd, now_ms};
use crate::error::{CoordinatorError, Result};
use crate::layout::{corpus_folder, staging_folder};
use crate::objects::HistoryFiles;
use crate::publish::{Intent, Publication};
use crate::report::{BuildReport, BuildState, StepReport};

impl Build<'_> {
    /// Commits the next version; gives it to the manifest.
    pub(super) async fn publish(&mut self, planned: &Planned, id: &str, manifest: &mut Manifest) -> Result<()> {
        let path = manifest::write(self, id, manifest).await?;
        failpoint::hit("before-commit");
        let publication = Publication {
            build: id,
            base: self.log.version(),
            foreign: self.foreign,
            add: &manifest.shard_files,
            remove: self.base.as_ref().map_or(&[], |base| &base.shard_files),
            schema: &planned.plan.schema,
            new_schema: self.base.as_ref().is_some_and(|base| {
                self.foreign || base.columns != manifest.columns || base.partition_by != manifest.partition_by
            }),
            partition_by: &planned.plan.corpus.partitioned_by,
            manifest: &path,
            time_ms: now_ms(),
        };
        if self.workspace.cancel.is_cancelled() {
            return Err(CoordinatorError::Cancelled);
        }
        let version = Intent::publish(self.workspace, &mut self.log, &publication).await?;
        failpoint::hit("after-commit");
        manifest.version = version;
        Ok(())
    }

    /// Ends a build in the catalogue, and removes its receipts.
    pub(super) async fn finish(
        &self,
        planned: &Planned,
        id: &str,
        manifest: &Manifest,
        state: BuildState,
        steps: Vec<StepReport>,
        note: Option<String>,
    ) -> Result<BuildReport> {
        let report = self.report(planned, id, manifest, state, steps, note);
        self.end(&report).await?;
        self.workspace.layout.remove(&staging_folder(id)).await?;
        Ok(report)
    }

    pub(super) async fn end(&self, report: &BuildReport) -> Result<()> {
        let end = BuildEnd {
            version: Some(report.version),
            rows: Some(report.rows),
            bytes: Some(report.bytes),
            digest: Some(report.digest.clone()),
            expectations: report.expectations.clone(),
            ..BuildEnd::default()
        };
        self.workspace
            .catalog
            .end_build(&report.build, report.state, &end)
            .await
    }

    pub(super) fn report(
        &self,
        planned: &Planned,
        id: &str,
        manifest: &Manifest,
        state: BuildState,
        steps: Vec<StepReport>,
        note: Option<String>,
    ) -> BuildReport {
        BuildReport {
            corpus: manifest.corpus.clone(),
            build: id.to_owned(),
            state,
            version: manifest.version,
            rows: manifest.rows,
            bytes: manifest.bytes,
            shards: manifest.shard_files.len(),
            digest: manifest.digest.to_string(),
            rows_in: manifest.rows + manifest.drops.values().sum::<u64>() + manifest.quarantined.values().sum::<u64>(),
            drops: manifest.drops.clone(),
            quarantined: manifest.quarantined.clone(),
            expectations: manifest.expectations.iter().map(gate::as_report).collect(),
            steps,
            elapsed: self.began.elapsed(),
            resumed: planned.resumed.is_some(),
            note,
        }
    }

    /// Removes the files of a build that made nothing new.
    pub(super) async fn discard(&self, manifest: &Manifest) -> Result<()> {
        let corpus = corpus_folder(&manifest.corpus);
        for path in manifest::files_of(manifest) {
            self.workspace.layout.remove_file(&format!("{corpus}/{path}")).await?;
        }
        let history = HistoryFiles::of(manifest)?;
        for path in history
            .iter()
            .filter(|added| added.build == manifest.build)
            .flat_map(HistoryFiles::paths)
        {
            self.workspace.layout.remove_file(&format!("{corpus}/{path}")).await?;
        }
        Ok(())
    }
}
