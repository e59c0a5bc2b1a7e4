//! Rows to write, and a small build that writes them as the coordinator does.

use std::sync::Arc;

use arrow::array::*;
use arrow::compute::take_record_batch;
use arrow::datatypes::*;
use corpusmill_corpus::*;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

/// Posts of all kinds of columns: `n` rows, the same for the same `n`.
pub(crate) fn posts(n: usize) -> RecordBatch {
    let ids: Vec<String> = (0..n).map(|i| format!("p{i:05}")).collect();
    let texts: Vec<Option<String>> = (0..n)
        .map(|i| (i % 7 != 3).then(|| format!("post {i} — ünï🙂 {}", "x".repeat(i % 40))))
        .collect();
    let splits: Vec<&str> = (0..n)
        .map(|i| ["train", "valid", "test"][usize::from(i % 10 == 8) + 2 * usize::from(i % 10 == 9)])
        .collect();
    let mut tokens = ListBuilder::new(Int32Builder::new());
    let mut embeddings = FixedSizeListBuilder::new(Float32Builder::new(), 4);
    for i in 0..n {
        if i % 11 == 5 {
            tokens.append_null();
        } else {
            tokens.append_value((0..(i * 13) % 60).map(|t| Some((t * 31 + i) as i32 % 30_000)));
        }
        embeddings
            .values()
            .append_slice(&[i as f32, 0.5, -1.25, 1e-3 * i as f32]);
        embeddings.append(i % 13 != 1);
    }
    let images: Vec<Option<Vec<u8>>> = (0..n)
        .map(|i| (i % 3 != 0).then(|| [&[0xff, 0xd8, 0xff, 0xe0][..], &vec![i as u8; i % 50]].concat()))
        .collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("post_id", Arc::new(StringArray::from(ids))),
        ("text", Arc::new(StringViewArray::from_iter(texts))),
        ("split", Arc::new(StringArray::from(splits))),
        (
            "label",
            Arc::new(Int32Array::from_iter(
                (0..n).map(|i| (i % 17 != 2).then_some(i as i32 % 5)),
            )),
        ),
        (
            "score",
            Arc::new(Float64Array::from_iter_values((0..n).map(|i| i as f64 / 3.0))),
        ),
        (
            "ok",
            Arc::new(BooleanArray::from_iter((0..n).map(|i| Some(i % 2 == 0)))),
        ),
        (
            "day",
            Arc::new(Date32Array::from_iter_values((0..n).map(|i| 19_000 + i as i32))),
        ),
        (
            "seen",
            Arc::new(
                TimestampNanosecondArray::from_iter_values((0..n).map(|i| i as i64 * 1_000_001_000))
                    .with_timezone("UTC"),
            ),
        ),
        (
            "price",
            Arc::new(
                Decimal128Array::from_iter_values((0..n).map(|i| i as i128 * 105))
                    .with_precision_and_scale(12, 2)
                    .unwrap(),
            ),
        ),
        ("tokens", Arc::new(tokens.finish())),
        ("embedding", Arc::new(embeddings.finish())),
        ("image", Arc::new(BinaryArray::from_iter(images))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, n != "post_id"))).unwrap()
}

/// Writes a version of a corpus as a build does, and gives its manifest.
pub(crate) async fn build(
    warehouse: &Warehouse,
    name: &str,
    version: u64,
    rows: &RecordBatch,
    partition_by: &[&str],
    options: ShardOptions,
) -> Manifest {
    let (root, shards) = (warehouse.corpus_root(name).unwrap(), 3);
    let hashes = key_hashes(&[rows.column(0).clone()]).unwrap();
    let mut groups: std::collections::BTreeMap<(Vec<Option<String>>, u32), Vec<u32>> = Default::default();
    for (row, hash) in hashes.iter().enumerate() {
        let value = |c: &&str| partition_value(c, rows.column_by_name(c).unwrap(), row).unwrap();
        groups
            .entry((partition_by.iter().map(value).collect(), shard_of(*hash, shards)))
            .or_default()
            .push(row as u32);
    }
    let mut files = Vec::new();
    for ((values, shard), mut members) in groups {
        members.sort_by_key(|row| hashes[*row as usize]);
        let partition: Vec<_> = partition_by.iter().map(|c| (*c).to_owned()).zip(values).collect();
        let path = shard_path(&partition, 0, shard, &format!("b{version}"), "a0");
        let place = ShardPlace {
            root: root.clone(),
            path,
            partition,
            generation: 0,
            shard,
        };
        let mut writer = ShardWriter::new(warehouse.store().clone(), place, rows.schema_ref(), options).unwrap();
        writer
            .write(&take_record_batch(rows, &UInt32Array::from(members)).unwrap())
            .await
            .unwrap();
        files.push(writer.finish().await.unwrap());
    }
    files.sort_by(ShardFile::slot_order);
    let lengths_path = format!("_corpusmill/lengths/b{version}.bin");
    let lengths = write_lengths(warehouse.store(), &root, &lengths_path, &files)
        .await
        .unwrap();
    let moment = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap();
    let mut manifest = Manifest {
        format: MANIFEST_FORMAT,
        corpus: name.into(),
        version,
        build: format!("b{version}"),
        parent: version.checked_sub(1),
        created_at: moment,
        logical_time: moment,
        sql: "CREATE CORPUS …".into(),
        primary_key: vec!["post_id".into()],
        partition_by: partition_by.iter().map(|p| (*p).into()).collect(),
        shards,
        columns: columns_of(rows.schema_ref()).unwrap(),
        inputs: vec![Input {
            name: "posts".into(),
            location: "posts.parquet".into(),
            version: "xxh3:1".into(),
            rows: Some(9),
        }],
        functions: vec![Function {
            name: "tokenize".into(),
            digest: "xxh3:2".into(),
        }],
        steps: vec![Step {
            name: "write".into(),
            rows_in: Some(9),
            rows_out: 9,
            splits: 2,
            bytes: 77,
        }],
        drops: [("has_label".to_owned(), 3)].into(),
        quarantined: Default::default(),
        quarantine_files: vec![],
        expectations: vec![Expectation {
            name: "enough".into(),
            kind: "corpus".into(),
            condition: "count(*) >= 1".into(),
            action: "fail build".into(),
            outcome: "passed".into(),
            observed: Some("9".into()),
        }],
        rows: 0,
        bytes: 0,
        digest: RowDigest::default(),
        lengths,
        masked: vec![],
        cpu: "x86_64".into(),
        shard_files: vec![],
        more: Default::default(),
    };
    manifest.set_shard_files(files);
    commit(warehouse, &root, &manifest).await;
    manifest
}

/// Writes the manifest and a Delta commit that names it.
pub(crate) async fn commit(warehouse: &Warehouse, root: &Path, manifest: &Manifest) {
    let path = format!("_corpusmill/manifests/{}.json", manifest.build);
    put(warehouse, &join(root, &path), manifest.to_json().unwrap().into_bytes()).await;
    let mut actions = vec![
        serde_json::json!({"commitInfo": {"timestamp": 1, "operation": "WRITE", "corpusmill": {"manifest": path}}}),
        serde_json::json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
        serde_json::json!({"metaData": {"id": "0", "format": {"provider": "parquet", "options": {}}, "configuration": {},
            "schemaString": delta_schema(&manifest.schema()).to_string(), "partitionColumns": manifest.partition_by}}),
    ];
    for file in &manifest.shard_files {
        let values: serde_json::Map<_, _> = file
            .partition
            .iter()
            .map(|(k, v)| (k.clone(), v.clone().into()))
            .collect();
        actions.push(
            serde_json::json!({"add": {"path": file.path.replace('%', "%25"), "partitionValues": values,
            "size": file.bytes, "modificationTime": 0, "dataChange": true, "stats": file.delta_stats()}}),
        );
    }
    let text: String = actions.iter().map(|a| format!("{a}\n")).collect();
    let log = root
        .clone()
        .join("_delta_log")
        .join(format!("{:020}.json", manifest.version));
    put(warehouse, &log, text.into_bytes()).await;
}

fn delta_schema(schema: &Schema) -> serde_json::Value {
    let of = |t: &DataType| match t {
        DataType::Utf8 => "string",
        DataType::Int32 => "integer",
        DataType::Float64 => "double",
        DataType::Float32 => "float",
        DataType::Boolean => "boolean",
        DataType::Date32 => "date",
        DataType::Timestamp(_, _) => "timestamp",
        DataType::Binary => "binary",
        DataType::Decimal128(_, _) => "decimal(12,2)",
        other => panic!("{other}"),
    };
    let field = |f: &FieldRef| {
        let kind = match f.data_type() {
            DataType::List(i) | DataType::FixedSizeList(i, _) => {
                serde_json::json!({"type": "array", "elementType": of(i.data_type()), "containsNull": true})
            }
            other => of(other).into(),
        };
        serde_json::json!({"name": f.name(), "type": kind, "nullable": f.is_nullable(), "metadata": {}})
    };
    serde_json::json!({"type": "struct", "fields": schema.fields().iter().map(field).collect::<Vec<_>>()})
}

pub(crate) fn join(root: &Path, below: &str) -> Path {
    Path::parse(format!("{root}/{below}")).unwrap()
}

pub(crate) async fn put(warehouse: &Warehouse, path: &Path, bytes: Vec<u8>) {
    warehouse.store().put(path, PutPayload::from(bytes)).await.unwrap();
}

pub(crate) async fn get(warehouse: &Warehouse, path: &Path) -> Vec<u8> {
    warehouse
        .store()
        .get(path)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap()
        .to_vec()
}

/// A warehouse in memory.
pub(crate) fn memory() -> Warehouse {
    Warehouse::over(Arc::new(object_store::memory::InMemory::new()), Path::from("warehouse"))
}

/// Small blocks, so that few rows make many.
pub(crate) const SMALL: ShardOptions = ShardOptions {
    block_rows: 16,
    zstd_level: 3,
};

/// All rows of a version in slot order.
pub(crate) async fn all_rows(reader: &CorpusReader) -> RecordBatch {
    use futures::TryStreamExt;
    let batches: Vec<RecordBatch> = reader.scan(None, 3).map_ok(|(_, b)| b).try_collect().await.unwrap();
    arrow::compute::concat_batches(&reader.schema(), &batches).unwrap()
}

/// Runs a future.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
