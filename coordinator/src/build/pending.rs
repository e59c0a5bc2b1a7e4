//! Whether a refresh would give another version than the newest.

use corpusmill_sql::CreateCorpus;

use super::Build;
use crate::error::Result;
use crate::report::BuildState;

impl Build<'_> {
    /// A digest of what a refresh would be made of; `None` when the newest version was made of just that.
    ///
    /// # Errors
    /// When the definition does not plan.
    pub(crate) async fn pending(mut self, corpus: &CreateCorpus) -> Result<Option<String>> {
        let Some((logical, version)) = self.base.as_ref().map(|base| (base.logical_time, base.version)) else {
            return Ok(Some("no version yet".to_owned()));
        };
        let planned = self.plan_at(corpus, logical, true).await;
        self.workspace.objects.end_history();
        let planned = planned?;
        let stale = planned.before.iter().any(|step| !step.reused);
        let made = !stale && self.made(&corpus.name, version, &planned.fingerprint).await?;
        Ok((!made).then_some(planned.fingerprint))
    }

    /// Whether the version was made of what has this fingerprint.
    pub(super) async fn made(&self, corpus: &str, version: u64, fingerprint: &str) -> Result<bool> {
        let builds = self.workspace.catalog.builds_of(corpus).await?;
        Ok(builds.iter().any(|row| {
            matches!(row.state, BuildState::Committed | BuildState::Unchanged)
                && row.version == Some(version)
                && row.fingerprint == fingerprint
        }))
    }
}
