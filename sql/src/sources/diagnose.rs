//! What is wrong with a source file: found by reading it again after a scan failed.
//!
//! The engine's messages about files lack the file, and its line numbers count from the start of a piece that a
//! partition read. So when a statement has failed, its CSV and JSON files are read again, with nothing but this check
//! in mind; a scan that works costs nothing.

mod csv_check;
mod json_check;

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::{TableProvider, source_as_provider};
use datafusion::logical_expr::LogicalPlan;
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::sync::Arc;

use crate::error::{Fault, SqlError, engine_message};
use crate::session::Session;

/// Explains why running `plan` ended in `error`.
pub(crate) async fn diagnose(session: &Session, error: DataFusionError, plan: &LogicalPlan) -> SqlError {
    let error = match SqlError::from(unshared(error)) {
        SqlError::Engine(error) => error,
        own => return own,
    };
    if let Some(own) = own_message(&error) {
        return own;
    }
    if is_about_data(&error) {
        for table in scanned_tables(plan) {
            if let Some(message) = check_table(session, &table).await {
                return SqlError::Source(Fault::new(message).with_cause(error));
            }
        }
    }
    if let Some(path) = missing_file(&error) {
        return SqlError::Source(
            Fault::new(format!(
                "'{path}' was there when the statement was planned and is gone now"
            ))
            .with_cause(error),
        );
    }
    SqlError::Engine(error)
}

/// Takes the error out of the wrapper that several partitions share, where this is its last holder.
fn unshared(error: DataFusionError) -> DataFusionError {
    match error {
        DataFusionError::Shared(inner) => match Arc::try_unwrap(inner) {
            Ok(error) => unshared(error),
            Err(shared) => DataFusionError::Shared(shared),
        },
        DataFusionError::Context(context, inner) => match unshared(*inner) {
            DataFusionError::External(inner) => DataFusionError::External(inner),
            other => DataFusionError::Context(context, Box::new(other)),
        },
        DataFusionError::ArrowError(inner, backtrace) => match *inner {
            datafusion::arrow::error::ArrowError::ExternalError(inner) => match inner.downcast::<DataFusionError>() {
                Ok(inner) => unshared(*inner),
                Err(inner) => DataFusionError::External(inner),
            },
            other => DataFusionError::ArrowError(Box::new(other), backtrace),
        },
        other => other,
    }
}

/// One of our errors that other holders still share: its words are kept, its value cannot be.
fn own_message(error: &DataFusionError) -> Option<SqlError> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(own) = current.downcast_ref::<SqlError>() {
            let message = own.to_string();
            return Some(match own {
                SqlError::Python(_) => SqlError::Python(Fault::new(message)),
                _ => SqlError::Source(Fault::new(message)),
            });
        }
        source = current.source();
    }
    None
}

/// Errors of parsers and casts, in contrast to those of memory, disks and networks.
fn is_about_data(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::ArrowError(_, _) | DataFusionError::Execution(_) => true,
        DataFusionError::External(inner) => inner.is::<datafusion::arrow::error::ArrowError>(),
        DataFusionError::IoError(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

fn missing_file(error: &DataFusionError) -> Option<String> {
    match error.find_root() {
        DataFusionError::ObjectStore(inner) => match inner.as_ref() {
            object_store::Error::NotFound { path, .. } => Some(path.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// Listing tables that a plan reads, each once.
fn scanned_tables(plan: &LogicalPlan) -> Vec<Arc<dyn TableProvider>> {
    let mut tables: Vec<Arc<dyn TableProvider>> = Vec::new();
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(table) = source_as_provider(&scan.source)
            && !tables.iter().any(|known| Arc::ptr_eq(known, &table))
        {
            tables.push(table);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match walked {
        Ok(_) => tables,
        Err(_) => Vec::new(),
    }
}

async fn check_table(session: &Session, table: &Arc<dyn TableProvider>) -> Option<String> {
    let listing = (table.as_ref() as &dyn std::any::Any).downcast_ref::<ListingTable>()?;
    let format = &listing.options().format;
    let csv = format.downcast_ref::<CsvFormat>();
    let is_json = format.downcast_ref::<JsonFormat>().is_some();
    if csv.is_none() && !is_json {
        return None;
    }
    let stored = stored_schema(listing);
    for url in listing.table_paths() {
        let store = session.context().runtime_env().object_store(url).ok()?;
        let state = session.context().state();
        let mut files: Vec<ObjectMeta> = url
            .list_all_files(&state, store.as_ref(), &listing.options().file_extension)
            .await
            .ok()?
            .try_collect()
            .await
            .ok()?;
        files.sort_by(|a, b| a.location.cmp(&b.location));
        for file in files {
            let bytes = match read(store.as_ref(), &file).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    return Some(format!(
                        "{}: cannot be read: {}",
                        shown(url.object_store().as_str(), &file),
                        engine_message(&error)
                    ));
                }
            };
            let fault = match csv {
                Some(csv) => csv_check::check(&bytes, csv, &stored),
                None => json_check::check(&bytes, &stored),
            };
            if let Some(fault) = fault {
                return Some(format!("{}{fault}", shown(url.object_store().as_str(), &file)));
            }
        }
    }
    None
}

/// Columns of the table that are stored in its files.
fn stored_schema(listing: &ListingTable) -> datafusion::arrow::datatypes::Schema {
    let partitions = &listing.options().table_partition_cols;
    let fields: Vec<_> = listing
        .schema()
        .fields()
        .iter()
        .filter(|field| !partitions.iter().any(|(name, _)| name == field.name()))
        .cloned()
        .collect();
    datafusion::arrow::datatypes::Schema::new(fields)
}

async fn read(store: &dyn ObjectStore, file: &ObjectMeta) -> Result<bytes::Bytes, DataFusionError> {
    Ok(store.get(&file.location).await?.bytes().await?)
}

/// A path for local files, a URL for others.
fn shown(store: &str, file: &ObjectMeta) -> String {
    if store.starts_with("file:") {
        format!("/{}", file.location)
    } else {
        format!("{}/{}", store.trim_end_matches('/'), file.location)
    }
}

/// Line and column of the first bytes that are not UTF-8.
fn utf8_fault(bytes: &[u8]) -> Option<String> {
    let error = std::str::from_utf8(bytes).err()?;
    let at = error.valid_up_to();
    let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    let found: Vec<String> = bytes[at..].iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    Some(format!(
        ":{line}: not UTF-8 at byte {at} of the file (found {}); convert the file, for example with iconv -f latin1 -t utf8",
        found.join(" ")
    ))
}
