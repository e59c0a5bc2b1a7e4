//! `CREATE EXTERNAL TABLE`: opened through the engine's formats, Delta through its log.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::TableProviderFactory;
use datafusion::datasource::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::logical_expr::{CreateExternalTable as EngineTable, DdlStatement, LogicalPlan};
use futures::TryStreamExt;

use crate::catalog::Scope;
use crate::error::{Fault, Result, SqlError, engine_message};
use crate::session::Session;
use crate::source_text::SqlText;
use crate::sources::delta;
use crate::statement::CreateExternalTable;

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
    ListingTableFactory::new()
        .create(&state, &definition)
        .await
        .map_err(|error| {
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
        let url = ListingTableUrl::parse(location)
            .map_err(|error| missing(format!("'{location}' is not a path or URL: {error}")))?;
        let store = session.context().runtime_env().object_store(&url)?;
        let mut files = url
            .list_all_files(&state, store.as_ref(), "")
            .await
            .map_err(|error| missing(format!("'{location}' cannot be listed: {}", engine_message(&error))))?;
        match files.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(missing(format!("there is no file at '{location}'"))),
            Err(error) => {
                return Err(missing(format!(
                    "there is no file at '{location}': {}",
                    engine_message(&error)
                )));
            }
        }
    }
    Ok(())
}
