//! Models by name: described by the crate that reads them, again when their files change.

use std::sync::Arc;

use corpusmill_operators::{encoders, with_sources};
use corpusmill_sql::{CreateModel, Model, StatementKind};

use super::CatalogObjects;
use crate::catalog::Space;
use crate::error::{CoordinatorError, Result};

impl CatalogObjects {
    /// The model of that name, its files as they are now.
    pub(super) async fn model_of(&self, name: &str) -> Result<Option<Arc<Model>>> {
        let Some(object) = self.catalog.object(Space::Model, name).await? else {
            return Ok(None);
        };
        let statement = Self::statement(&object)?;
        let StatementKind::CreateModel(create) = &statement.kind else {
            return Err(CoordinatorError::Object(format!("{name} is not a model")));
        };
        let model = describe_model(create).await?;
        self.note(|seen| {
            seen.functions.insert(format!("model {name}"), model.spec.identity());
        });
        Ok(Some(Arc::new(model)))
    }
}

/// Reads and checks a model.
///
/// # Errors
/// [`CoordinatorError::Object`] that says which file, setting or column does not fit.
pub(crate) async fn describe_model(create: &CreateModel) -> Result<Model> {
    let fail =
        |why: String| CoordinatorError::Object(format!("CREATE MODEL {}: uri = '{}': {why}", create.name, create.uri));
    let encoders = encoders().map_err(|e| fail(with_sources(&e)))?;
    let spec = encoders.describe(&create.source()).await;
    let spec = spec.map_err(|e| fail(with_sources(e.as_ref())))?;
    Model::new(create, spec).map_err(fail)
}
