//! What tasks work with: everything from the one session of the dialect.

use std::path::Path;
use std::sync::Arc;

use ballista_core::extension::SessionConfigExt as _;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use ballista_core::{ConfigProducer, RuntimeProducer};
use corpusmill_sql::{NoObjects, PlanCodec, SessionOptions, session};

use crate::error::Result;

/// Functions, codec, settings and object stores of tasks.
pub(crate) struct Environment {
    pub(crate) functions: Arc<BallistaFunctionRegistry>,
    pub(crate) codec: Arc<PlanCodec>,
    pub(crate) config: ConfigProducer,
    pub(crate) runtime: RuntimeProducer,
}

impl Environment {
    /// Opens the session; rows are spilled into `folder`, at most so many bytes of them.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub(crate) fn open(folder: &Path, spill_limit_bytes: Option<u64>) -> Result<Self> {
        let options = SessionOptions {
            spill_dir: Some(folder.join("spill")),
            spill_limit_bytes,
            ..SessionOptions::default()
        };
        let session = session(&options, Arc::new(NoObjects))?;
        let state = session.context().state();
        let config = state.config().clone().upgrade_for_ballista();
        let runtime = Arc::clone(state.runtime_env());
        Ok(Self {
            functions: Arc::new(BallistaFunctionRegistry::from(&state)),
            codec: Arc::new(PlanCodec::over(Arc::new(BallistaPhysicalExtensionCodec::default()))),
            config: Arc::new(move || config.clone()),
            runtime: Arc::new(move |_| Ok(Arc::clone(&runtime))),
        })
    }
}
