//! `CREATE EXTERNAL TABLE`: opened through the engine's formats, Delta through its log.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::DataFusionError;
use datafusion::datasource::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::logical_expr::{CreateExternalTable as EngineTable, DdlStatement, LogicalPlan};
use futures::TryStreamExt;
use object_store::ObjectStore;

use crate::catalog::Scope;
use crate::error::{Fault, Result, SqlError, engine_message, nearest};
use crate::session::Session;
use crate::source_text::SqlText;
use crate::sources::{delta, location};
use crate::statement::CreateExternalTable;

/// Names that the nearest is looked for in.
const NAMES_MAX: usize = 1_000;

/// Opens the files that a `CREATE EXTERNAL TABLE` names.
pub(crate) async fn open_external_table(
    session: &Session,
    table: &CreateExternalTable,
    text: &SqlText,
) -> Result<Arc<dyn TableProvider>> {
    if table.format == "DELTA" {
        return delta::open(session, table, text).await;
    }
    let state = session.context().state();
    // The engine looks the table's own name up while it plans the definition, which would lead back here.
    let itself = Arc::new(EmptyTable::new(Arc::new(Schema::empty())));
    let planning = state.statement_to_plan((*table.definition).clone());
    let plan = Scope::with_stand_in(&table.name, itself, Box::pin(planning))
        .await
        .map_err(|error| {
            let fault = Fault::at(text, Some(text.start), engine_message(&error));
            SqlError::Plan(fault.with_cause(error))
        })?;
    let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(definition)) = plan else {
        return Err(SqlError::Plan(Fault::at(
            text,
            Some(text.start),
            "expected CREATE EXTERNAL TABLE",
        )));
    };
    check_files_exist(session, &definition, &table.name, text).await?;
    location::listing_table(&state, &definition).await.map_err(|error| {
        SqlError::Source(
            Fault::at(
                text,
                Some(text.start),
                format!(
                    "table '{}' cannot be opened as {}: {}",
                    table.name,
                    table.format,
                    engine_message(&error)
                ),
            )
            .with_cause(error),
        )
    })
}

/// The engine takes a location without files for an empty table; a person mistyped a path.
async fn check_files_exist(session: &Session, definition: &EngineTable, name: &str, text: &SqlText) -> Result<()> {
    let state = session.context().state();
    for location in &definition.locations {
        let missing = |why: String| {
            SqlError::Source(
                Fault::at(
                    text,
                    crate::plan_errors::find_word(text, location).or(Some(text.start)),
                    format!("table '{name}': {why}"),
                )
                .with_help("paths are relative to the folder that corpusmill runs in; a folder ends with '/'"),
            )
        };
        let url = location::parse(location)
            .map_err(|error| missing(format!("'{location}' is not a path or URL: {error}")))?;
        let cannot = |error: DataFusionError| {
            if is_missing(&error) {
                return missing(format!("there is no file at '{location}'"));
            }
            missing(format!("'{location}' cannot be listed: {}", engine_message(&error)))
        };
        let store = session.context().runtime_env().object_store(&url).map_err(cannot)?;
        let listed = match url.list_all_files(&state, store.as_ref(), "").await {
            Ok(mut files) => files.try_next().await,
            Err(error) => Err(error),
        };
        match listed {
            Ok(Some(_)) => {}
            Err(error) if !is_missing(&error) => return Err(cannot(error)),
            Ok(None) | Err(_) => match nearest_beside(store.as_ref(), &url).await.map_err(cannot)? {
                Some(near) => {
                    return Err(missing(format!(
                        "there is no file at '{location}' (did you mean '{near}'?)"
                    )));
                }
                None => return Err(missing(format!("there is no file at '{location}'"))),
            },
        }
    }
    Ok(())
}

fn is_missing(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::ObjectStore(inner) if matches!(**inner, object_store::Error::NotFound { .. }))
}

/// The nearest name in the folder of a location where nothing is. A web server cannot list: it has no nearest.
///
/// # Errors
/// What is wrong with the store as a whole, such as a bucket that is not there.
async fn nearest_beside(store: &dyn ObjectStore, url: &ListingTableUrl) -> Result<Option<String>, DataFusionError> {
    if !["s3", "s3a", "gs", "az", "abfs", "abfss", "file"].contains(&url.scheme()) || url.get_glob().is_some() {
        return Ok(None);
    }
    let wanted = url.prefix();
    let mut parts: Vec<_> = wanted.parts().collect();
    parts.pop();
    let folder: object_store::path::Path = parts.into_iter().collect();
    let listed = match store.list_with_delimiter(Some(&folder)).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        listed => listed?,
    };
    let objects = listed.objects.iter().map(|object| &object.location);
    let names = objects
        .chain(&listed.common_prefixes)
        .filter_map(|path| path.filename());
    let wanted = wanted.filename().unwrap_or_default();
    Ok(nearest(wanted, names.take(NAMES_MAX).map(str::to_owned)))
}
