//! `corpusmill._native._testing` (cargo feature `fixtures`): writes small corpora for the tests, with the corpus crate's
//! own writer and a Delta commit by hand.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::row::{RowConverter, SortField};
use corpusmill_batches::{BatchError, Result};
use corpusmill_corpus::{
    CorpusError, MANIFEST_FORMAT, Manifest, RowDigest, ShardFile, ShardOptions, ShardPlace, ShardWriter, SlotRange,
    StoreOptions, Warehouse, columns_of, key_hashes, partition_value, shard_of, shard_path, stored_schema, to_stored,
    write_lengths,
};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use pyo3::prelude::*;
use serde_json::json;

use crate::error::LoaderError;

/// How a fixture is laid out.
struct Recipe {
    primary_key: Vec<String>,
    partition_by: Vec<String>,
    shards: u32,
    block_rows: usize,
    masked: Vec<(u64, u64)>,
}

/// Writes a version of a corpus and gives its number; `table` is anything with `__arrow_c_stream__`.
#[pyfunction]
#[pyo3(signature = (warehouse, name, table, primary_key, partition_by=vec![], shards=1, block_rows=1024, masked=vec![]))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments in Python")]
fn write_corpus(
    warehouse: &str,
    name: &str,
    table: &Bound<'_, PyAny>,
    primary_key: Vec<String>,
    partition_by: Vec<String>,
    shards: u32,
    block_rows: usize,
    masked: Vec<(u64, u64)>,
) -> PyResult<u64> {
    let batches = crate::ffi::import_batches(table)?;
    let py = table.py();
    let recipe = Recipe {
        primary_key,
        partition_by,
        shards,
        block_rows,
        masked,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(py
        .detach(|| runtime.block_on(write(warehouse, name, &batches, recipe)))
        .map_err(LoaderError::from)?)
}

/// The canonical text of a filter, for the tests of its parser.
#[pyfunction]
fn canonical_filter(text: &str) -> PyResult<String> {
    Ok(corpusmill_batches::canonical_filter(text).map_err(LoaderError::from)?)
}

/// Registers the submodule.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let testing = PyModule::new(module.py(), "_testing")?;
    testing.add_function(wrap_pyfunction!(write_corpus, &testing)?)?;
    testing.add_function(wrap_pyfunction!(canonical_filter, &testing)?)?;
    module.add_submodule(&testing)
}

async fn write(location: &str, name: &str, batches: &[RecordBatch], recipe: Recipe) -> Result<u64> {
    let arrow = |what: &str| BatchError::arrow(format!("fixture: {what}"));
    let first = batches
        .first()
        .ok_or_else(|| BatchError::Plan("fixture: no batch, not even an empty one".into()))?;
    std::fs::create_dir_all(location).map_err(BatchError::io("fixture"))?;
    let warehouse = Warehouse::open(location, &StoreOptions::new())?;
    let root = warehouse.corpus_root(name)?;
    let schema = stored_schema(&first.schema())?;
    let all = concat_batches(&first.schema(), batches).map_err(arrow("joining batches"))?;
    let all = to_stored(&all, &schema)?;
    let version = match warehouse.versions(name).await {
        Ok(versions) => versions.last().map_or(0, |v| v + 1),
        Err(CorpusError::NotFound { .. }) => 0,
        Err(e) => return Err(e.into()),
    };
    let build = format!("b{version}");
    let mut files = Vec::new();
    for ((partition, shard), rows) in placed(&all, &recipe)? {
        let values: Vec<(String, Option<String>)> = recipe.partition_by.iter().cloned().zip(partition).collect();
        let path = shard_path(&values, 0, shard, &build, "a");
        let place = ShardPlace {
            root: root.clone(),
            path,
            partition: values,
            generation: 0,
            shard,
        };
        let options = ShardOptions {
            block_rows: recipe.block_rows,
            ..ShardOptions::default()
        };
        let mut writer = ShardWriter::new(warehouse.store().clone(), place, &schema, options)?;
        let rows = take_record_batch(&all, &UInt32Array::from(rows)).map_err(arrow("placing rows"))?;
        writer.write(&rows).await?;
        files.push(writer.finish().await?);
    }
    commit(&warehouse, &root, name, version, &build, files, &schema, recipe).await?;
    Ok(version)
}

type Place = (Vec<Option<String>>, u32);

/// Rows by partition and shard, sorted by (hash, key).
fn placed(all: &RecordBatch, recipe: &Recipe) -> Result<BTreeMap<Place, Vec<u32>>> {
    let column = |name: &String| -> Result<ArrayRef> {
        let found = all.column_by_name(name).cloned();
        found.ok_or_else(|| BatchError::Plan(format!("fixture: no column `{name}`")))
    };
    let keys = recipe.primary_key.iter().map(column).collect::<Result<Vec<_>>>()?;
    let hashes = key_hashes(&keys)?;
    let fields = keys.iter().map(|k| SortField::new(k.data_type().clone())).collect();
    let converter = RowConverter::new(fields).map_err(BatchError::arrow("fixture keys"))?;
    let sortable = converter
        .convert_columns(&keys)
        .map_err(BatchError::arrow("fixture keys"))?;
    let partitions = recipe.partition_by.iter().map(column).collect::<Result<Vec<_>>>()?;
    let mut places: BTreeMap<Place, Vec<u32>> = BTreeMap::new();
    for (row, hash) in hashes.iter().enumerate() {
        let values = partitions.iter().zip(&recipe.partition_by);
        let values = values
            .map(|(array, name)| Ok(partition_value(name, array, row)?))
            .collect::<Result<_>>()?;
        places
            .entry((values, shard_of(*hash, recipe.shards)))
            .or_default()
            .push(row as u32);
    }
    for rows in places.values_mut() {
        rows.sort_by_key(|r| (hashes[*r as usize], sortable.row(*r as usize)));
    }
    Ok(places)
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a commit, put together in one place"
)]
async fn commit(
    warehouse: &Warehouse,
    root: &Path,
    name: &str,
    version: u64,
    build: &str,
    files: Vec<ShardFile>,
    schema: &arrow::datatypes::Schema,
    recipe: Recipe,
) -> Result<()> {
    let epoch = Default::default();
    let mut manifest = Manifest {
        format: MANIFEST_FORMAT,
        corpus: name.to_owned(),
        version,
        build: build.to_owned(),
        parent: None,
        created_at: epoch,
        logical_time: epoch,
        sql: String::new(),
        primary_key: recipe.primary_key,
        partition_by: recipe.partition_by,
        shards: recipe.shards,
        columns: columns_of(schema)?,
        inputs: vec![],
        functions: vec![],
        steps: vec![],
        drops: BTreeMap::new(),
        quarantined: BTreeMap::new(),
        quarantine_files: vec![],
        expectations: vec![],
        rows: 0,
        bytes: 0,
        digest: RowDigest::default(),
        lengths: None,
        masked: recipe
            .masked
            .into_iter()
            .map(|(start, end)| SlotRange { start, end })
            .collect(),
        cpu: "fixture".into(),
        shard_files: vec![],
        more: BTreeMap::new(),
    };
    manifest.set_shard_files(files);
    let lengths = format!("_corpusmill/lengths/{build}.bin");
    manifest.lengths = write_lengths(warehouse.store(), root, &lengths, &manifest.shard_files).await?;
    let path = format!("_corpusmill/manifests/{build}.json");
    put(warehouse, root, &path, manifest.to_json()?).await?;
    let mut lines = vec![
        json!({"commitInfo": {"timestamp": 0, "operation": "WRITE", "corpusmill": {"manifest": path}}}),
        json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
        json!({"txn": {"appId": format!("corpusmill:{build}"), "version": version}}),
    ];
    for file in &manifest.shard_files {
        let values: BTreeMap<_, _> = file.partition.iter().cloned().collect();
        lines.push(json!({"add": {
            "path": file.path, "partitionValues": values, "size": file.bytes,
            "modificationTime": 0, "dataChange": true, "stats": file.delta_stats(),
        }}));
    }
    let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
    put(warehouse, root, &format!("_delta_log/{version:020}.json"), text).await
}

async fn put(warehouse: &Warehouse, root: &Path, below: &str, text: String) -> Result<()> {
    let path = Path::parse(format!("{root}/{below}")).map_err(|e| BatchError::Plan(format!("fixture: {e}")))?;
    let put = warehouse.store().put(&path, PutPayload::from(text)).await;
    put.map(drop).map_err(|source| {
        CorpusError::Store {
            action: "write",
            path: path.to_string(),
            source,
        }
        .into()
    })
}
