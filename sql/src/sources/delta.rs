//! `STORED AS DELTA`: the files of a snapshot, lowered to a plain Parquet scan.

use std::sync::Arc;

use datafusion::datasource::TableProvider;
use datafusion::datasource::listing::ListingTableUrl;
use deltalake_core::logstore::{StorageConfig, default_logstore};
use deltalake_core::{DeltaTable, DeltaTableError};
use object_store::prefix::PrefixStore;
use url::Url;

use crate::error::{Fault, Result, SqlError, engine_message};
use crate::plan_errors::find_word;
use crate::session::Session;
use crate::source_text::SqlText;
use crate::sources::{DataFile, FileTable};
use crate::statement::CreateExternalTable;

/// Features of the Delta protocol that change what the files of a table mean.
const UNSUPPORTED: [(&str, &str); 2] = [
    (
        "deletionVectors",
        "deletion vectors (rewrite it with REORG TABLE … APPLY (PURGE))",
    ),
    ("columnMapping", "column mapping (copy it into a table without)"),
];

/// Opens the newest snapshot, or `OPTIONS ('version' '3')`.
pub(super) async fn open(
    session: &Session,
    table: &CreateExternalTable,
    text: &SqlText,
) -> Result<Arc<dyn TableProvider>> {
    let fault = |message: String| {
        let place = table
            .locations
            .first()
            .and_then(|location| find_word(text, location))
            .or(Some(text.start));
        SqlError::Source(Fault::at(text, place, format!("table '{}': {message}", table.name)))
    };
    let [location] = table.locations.as_slice() else {
        return Err(fault("a Delta table has exactly one LOCATION".into()));
    };
    let root = ListingTableUrl::parse(format!("{}/", location.trim_end_matches('/')))
        .map_err(|error| fault(format!("'{location}' is not a path or URL: {error}")))?;
    let url =
        Url::parse(root.as_str()).map_err(|error| fault(format!("'{location}' is not a path or URL: {error}")))?;
    let store = session.context().runtime_env().object_store(&root);
    let store = store.map_err(|error| fault(format!("'{location}': {}", engine_message(&error))))?;
    // Delta's own builder knows few schemes, and would open the store again without our way of repeating requests.
    let inside = Arc::new(PrefixStore::new(Arc::clone(&store), root.prefix().clone()));
    let mut delta = DeltaTable::new(default_logstore(inside, store, &url, &StorageConfig::default()));
    match version_option(table).map_err(&fault)? {
        Some(version) => delta.load_version(version).await,
        None => delta.load().await,
    }
    .map_err(|error| {
        let why = advice(&error).unwrap_or_else(|| error.to_string());
        fault(format!("'{location}' is not a Delta table that can be read: {why}"))
    })?;
    let files = files_of(&delta, root.as_str()).map_err(fault)?;
    Ok(Arc::new(files))
}

/// What can be done about the store that the table lies in, when that is what failed.
fn advice(error: &DeltaTableError) -> Option<String> {
    corpusmill_corpus::store_advice(error).map(ToString::to_string)
}

fn version_option(table: &CreateExternalTable) -> Result<Option<u64>, String> {
    let datafusion::sql::parser::Statement::CreateExternalTable(definition) = table.definition.as_ref() else {
        return Ok(None);
    };
    let mut version = None;
    for (key, value) in &definition.options {
        let value = value.clone().into_string().unwrap_or_else(|| value.to_string());
        let key = key.trim_start_matches("format.");
        if key != "version" {
            return Err(format!("unknown option '{key}'; a Delta table takes 'version'"));
        }
        version = Some(
            value
                .parse()
                .map_err(|_| format!("version is '{value}', expected a number"))?,
        );
    }
    Ok(version)
}

fn files_of(delta: &DeltaTable, root: &str) -> Result<FileTable, String> {
    let snapshot = delta.snapshot().map_err(|error| error.to_string())?;
    if let Some(features) = snapshot.protocol().reader_features() {
        for feature in features {
            let name = feature.to_string();
            if let Some((_, what)) = UNSUPPORTED.iter().find(|(known, _)| *known == name)
                && name != "deletionVectors"
            {
                return Err(format!("it uses {what}, which is not supported"));
            }
        }
    }
    let properties = snapshot.metadata().configuration();
    if properties
        .get("delta.columnMapping.mode")
        .is_some_and(|mode| mode != "none")
    {
        return Err(format!("it uses {}, which is not supported", UNSUPPORTED[1].1));
    }
    let partition_columns: Vec<String> = snapshot.metadata().partition_columns().to_vec();
    let mut files = Vec::new();
    for file in snapshot.log_data().iter() {
        if file.deletion_vector_descriptor().is_some() {
            return Err(format!("it uses {}, which is not supported", UNSUPPORTED[0].1));
        }
        let mut values = file.partition_values_map();
        files.push(DataFile {
            path: file.object_store_path().to_string(),
            bytes: u64::try_from(file.size()).unwrap_or_default(),
            rows: file.num_records().map(|rows| rows as u64),
            partition_values: partition_columns
                .iter()
                .map(|column| values.remove(column).flatten())
                .collect(),
        });
    }
    // The log lists files in the order of its replay; a fixed order keeps plans the same from run to run.
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(FileTable {
        schema: snapshot.snapshot().arrow_schema(),
        partition_columns,
        root: root.to_string(),
        files,
    })
}
