//! The end of a build: what the catalogue keeps, what the person is told, what is swept.

use corpusmill_corpus::Manifest;

use super::{Build, Planned, gate, manifest};
use crate::catalog::BuildEnd;
use crate::error::Result;
use crate::layout::{corpus_folder, staging_folder};
use crate::report::{BuildReport, BuildState, StepReport};

impl Build<'_> {
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
        Ok(())
    }
}
