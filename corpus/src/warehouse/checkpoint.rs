//! Checkpoints of Delta's log (Delta protocol, "Checkpoints"): what is left of commits that a writer cleaned up.
//!
//! A checkpoint has no `commitInfo`, which is where a commit names its manifest. But every build of ours commits a
//! transaction of its own name with the version that it made, and checkpoints keep transactions.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;

use crate::error::{CorpusError, Result};
use crate::store::read_whole;

/// Application id of the transaction of a build: this and the build.
const APPLICATION: &str = "corpusmill:";

/// What `_last_checkpoint` says, as far as it is needed.
#[derive(Debug, Deserialize)]
pub(super) struct LastCheckpoint {
    /// Version of the checkpoint.
    pub(super) version: u64,
    #[serde(default)]
    parts: Option<u32>,
}

/// Reads the hint of a log to its newest checkpoint, if it has one.
pub(super) async fn hint(store: &dyn ObjectStore, log: &Path) -> Result<Option<LastCheckpoint>> {
    let path = log.clone().join("_last_checkpoint");
    match read_whole(store, &path).await {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| CorpusError::format(&path, format!("is not the hint to a checkpoint: {e}"))),
        Err(CorpusError::Store {
            source: object_store::Error::NotFound { .. },
            ..
        }) => Ok(None),
        Err(other) => Err(other),
    }
}

impl LastCheckpoint {
    /// Names of the files.
    pub(super) fn names(&self) -> Vec<String> {
        let version = self.version;
        match self.parts {
            None => vec![format!("{version:020}.checkpoint.parquet")],
            Some(parts) => (1..=parts)
                .map(|part| format!("{version:020}.checkpoint.{part:010}.{parts:010}.parquet"))
                .collect(),
        }
    }
}

/// Names of the files of the newest checkpoint that has all its parts, among the names of a log's objects.
pub(super) fn newest<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    // By version, and by what the files of one checkpoint share: several writers may have made one each.
    let mut found: BTreeMap<(u64, &str), Vec<&str>> = BTreeMap::new();
    for name in names {
        let Some((version, rest)) = name.split_once(".checkpoint.") else {
            continue;
        };
        let (Ok(version), Some(rest)) = (version.parse(), rest.strip_suffix("parquet")) else {
            continue;
        };
        let shared = rest
            .split_once('.')
            .filter(|(part, of)| part.len() == 10 && of.len() == 11);
        found
            .entry((version, shared.map_or(rest, |(_, of)| of)))
            .or_default()
            .push(name);
    }
    let complete = |(shared, names): (&str, &Vec<&str>)| {
        let parts = shared.trim_end_matches('.').parse::<usize>();
        parts.map_or(true, |parts| parts == names.len())
    };
    let newest = found
        .into_iter()
        .rev()
        .find(|((_, shared), names)| complete((shared, names)));
    newest.map_or_else(Vec::new, |(_, names)| names.into_iter().map(str::to_owned).collect())
}

/// Builds whose transactions the files of a checkpoint hold, by the version that they made.
///
/// # Errors
/// [`CorpusError::Parquet`] if a file is not Parquet, [`CorpusError::Store`] if it cannot be read.
pub(super) async fn builds(store: &dyn ObjectStore, log: &Path, files: &[String]) -> Result<BTreeMap<u64, String>> {
    let mut builds = BTreeMap::new();
    for name in files {
        let path = log.clone().join(name.as_str());
        // It holds a line for each file of the table, so it is small, and its few columns lie all over it.
        let bytes = read_whole(store, &path).await?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(CorpusError::parquet(&path))?;
        let columns = ProjectionMask::columns(builder.parquet_schema(), ["txn.appId", "txn.version"]);
        let batches = builder.with_projection(columns).build();
        for batch in batches.map_err(CorpusError::parquet(&path))? {
            let batch = batch.map_err(CorpusError::arrow(format!("{path}: transactions")))?;
            let transactions = transactions(&batch).map_err(|detail| CorpusError::format(&path, detail))?;
            builds.extend(transactions.into_iter().filter_map(|(application, version)| {
                let build = application.strip_prefix(APPLICATION)?;
                Some((u64::try_from(version).ok()?, build.to_owned()))
            }));
        }
    }
    Ok(builds)
}

fn transactions(batch: &RecordBatch) -> Result<Vec<(String, i64)>, String> {
    // A checkpoint without any transaction may lack the column.
    let Some(column) = batch.column_by_name("txn") else {
        return Ok(Vec::new());
    };
    let transactions = column.as_struct_opt().ok_or("column `txn` is not a struct")?;
    let field = |name: &str, data_type| {
        let values = transactions
            .column_by_name(name)
            .ok_or_else(|| format!("`txn` has no `{name}`"))?;
        cast(values, data_type).map_err(|e| format!("`txn.{name}`: {e}"))
    };
    let (applications, versions) = (field("appId", &DataType::Utf8)?, field("version", &DataType::Int64)?);
    let (applications, versions) = (applications.as_string::<i32>(), versions.as_primitive::<Int64Type>());
    let rows = (0..batch.num_rows()).filter(|row| applications.is_valid(*row) && versions.is_valid(*row));
    Ok(rows
        .map(|row| (applications.value(row).to_owned(), versions.value(row)))
        .collect())
}

/// Key of the manifest of a build below the corpus's folder.
pub(super) fn manifest_of(build: &str) -> String {
    format!("_corpusmill/manifests/{build}.json")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_newest_whole_checkpoint_is_taken() {
        let name = |version: u64, rest: &str| format!("{version:020}.checkpoint.{rest}");
        let names = [
            name(5, "parquet"),
            name(9, "0000000001.0000000002.parquet"),
            name(9, "0000000002.0000000002.parquet"),
            name(12, "0000000002.0000000002.parquet"),
            format!("{:020}.json", 13),
            "_last_checkpoint".to_owned(),
        ];
        let taken = newest(names.iter().map(String::as_str));
        assert_eq!(taken, names[1..3], "version 12 lacks a part");
        assert_eq!(newest([names[0].as_str()].into_iter()), [names[0].clone()]);
        let uuid = name(14, "80a083e8-7026-4e79-81be-64bd76c43a11.parquet");
        assert_eq!(newest([uuid.as_str()].into_iter()), [uuid]);
        assert!(newest([names[4].as_str()].into_iter()).is_empty());
        let hint: LastCheckpoint = serde_json::from_str(r#"{"version":9,"size":3,"parts":2}"#).unwrap();
        assert_eq!(hint.names(), names[1..3]);
    }

    #[tokio::test]
    async fn builds_are_found_by_their_transactions() {
        use arrow::array::{ArrayRef, Int64Array, StringArray, StructArray};
        use arrow::datatypes::Field;
        use object_store::ObjectStoreExt;
        let applications: ArrayRef = Arc::new(StringArray::from(vec![Some("corpusmill:b1"), None, Some("spark-7")]));
        let versions: ArrayRef = Arc::new(Int64Array::from(vec![Some(4), None, Some(9)]));
        let field = |name: &str, data_type| Arc::new(Field::new(name, data_type, true));
        let txn: ArrayRef = Arc::new(StructArray::from(vec![
            (field("appId", DataType::Utf8), applications),
            (field("version", DataType::Int64), versions),
        ]));
        let batch = RecordBatch::try_from_iter([("txn", txn)]).unwrap();
        let mut bytes = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let (store, log) = (object_store::memory::InMemory::new(), Path::from("c/_delta_log"));
        store.put(&log.clone().join("x.parquet"), bytes.into()).await.unwrap();
        let found = builds(&store, &log, &["x.parquet".to_owned()]).await.unwrap();
        assert_eq!(found, BTreeMap::from([(4, "b1".to_owned())]));
        store.put(&log.clone().join("x.parquet"), "PAR?".into()).await.unwrap();
        let damaged = builds(&store, &log, &["x.parquet".to_owned()])
            .await
            .unwrap_err()
            .to_string();
        assert!(damaged.contains("c/_delta_log/x.parquet"), "{damaged}");
    }
}
