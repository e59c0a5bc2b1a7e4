//! What tasks work with: everything from the one session of the dialect.

use std::path::Path;
use std::sync::Arc;

use ballista_core::extension::{EndpointOverrideFn, SessionConfigExt as _};
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use ballista_core::{ConfigProducer, RuntimeProducer};
use corpusmill_access::Credentials;
use corpusmill_proto::member_endpoint;
use corpusmill_sql::{NoObjects, PlanCodec, SessionOptions, session};

use tonic::transport::Endpoint;

use crate::error::Result;

/// Functions, codec, settings and object stores of tasks.
pub(crate) struct Environment {
    pub(crate) functions: Arc<BallistaFunctionRegistry>,
    pub(crate) codec: Arc<PlanCodec>,
    pub(crate) config: ConfigProducer,
    pub(crate) runtime: RuntimeProducer,
    /// How other members of the cluster are dialled, where they ask for certificates.
    pub(crate) members: Option<EndpointOverrideFn>,
}

impl Environment {
    /// Opens the session; rows are spilled into `folder`, at most so many bytes of them. With credentials, shuffles are
    /// fetched inside TLS.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub(crate) fn open(
        folder: &Path,
        spill_limit_bytes: Option<u64>,
        credentials: Option<Arc<Credentials>>,
    ) -> Result<Self> {
        let options = SessionOptions {
            spill_dir: Some(folder.join("spill")),
            spill_limit_bytes,
            ..SessionOptions::default()
        };
        let session = session(&options, Arc::new(NoObjects))?;
        let state = session.context().state();
        let members = credentials.map(|credentials| {
            Arc::new(move |endpoint: Endpoint| member_endpoint(&endpoint, &credentials)) as EndpointOverrideFn
        });
        let mut config = state.config().clone().upgrade_for_ballista();
        if let Some(members) = &members {
            config = config.with_ballista_override_create_grpc_client_endpoint(Arc::clone(members));
        }
        let runtime = Arc::clone(state.runtime_env());
        Ok(Self {
            functions: Arc::new(BallistaFunctionRegistry::from(&state)),
            codec: Arc::new(PlanCodec::over(Arc::new(BallistaPhysicalExtensionCodec::default()))),
            config: Arc::new(move || config.clone()),
            runtime: Arc::new(move |_| Ok(Arc::clone(&runtime))),
            members,
        })
    }
}
