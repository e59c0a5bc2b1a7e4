//! Exports, read back by readers of this file and by Python's.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use arrow::array::*;
use arrow::datatypes::*;
use corpusmill_corpus::*;

use crate::fixture::*;
use crate::python::python;

const ROWS: usize = 120;

async fn exported(format: ExportFormat, to: &Path, options: &ExportOptions) -> (RecordBatch, ExportReport) {
    let warehouse = memory();
    let mut manifest = build(&warehouse, "posts", 0, &posts(ROWS), &["split"], SMALL).await;
    manifest.masked = vec![SlotRange { start: 3, end: 5 }];
    let reader = CorpusReader::over(&warehouse, "posts", manifest).unwrap();
    let rows = all_rows(&reader).await;
    let kept: BooleanArray = (0..ROWS).map(|slot| Some(!(3..5).contains(&slot))).collect();
    let rows = arrow::compute::filter_record_batch(&rows, &kept).unwrap();
    let report = export(&reader, format, to.to_str().unwrap(), options, |_, _| {})
        .await
        .unwrap();
    assert_eq!((report.masked, report.rows + report.empty), (2, ROWS as u64 - 2));
    let again = export(&reader, format, to.to_str().unwrap(), options, |_, _| {})
        .await
        .unwrap_err()
        .to_string();
    assert!(again.contains("is there already"), "{again}");
    (rows, report)
}

fn small_files() -> ExportOptions {
    ExportOptions {
        file_bytes: 20_000,
        ..ExportOptions::default()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn tokens(rows: &RecordBatch, row: usize) -> Option<Vec<i32>> {
    let list = rows.column_by_name("tokens").unwrap().as_list::<i32>();
    list.is_valid(row)
        .then(|| list.value(row).as_primitive::<Int32Type>().values().to_vec())
}

#[test]
fn webdataset_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, report) = run(exported(ExportFormat::WebDataset, folder.path(), &small_files()));
    assert!(report.files.len() > 2, "{report:?}");
    let mut samples: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for number in 0..report.files.len() {
        let file = std::fs::File::open(folder.path().join(format!("posts-{number:06}.tar"))).unwrap();
        for entry in tar::Archive::new(file).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let (key, extension) = name.split_once('.').unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert!(
                samples
                    .entry(key.into())
                    .or_default()
                    .insert(extension.into(), bytes)
                    .is_none()
            );
        }
    }
    assert_eq!(samples.len(), rows.num_rows());
    for (row, sample) in samples.values().enumerate() {
        let json: serde_json::Value = serde_json::from_slice(&sample["json"]).unwrap();
        assert_eq!(json["post_id"], rows.column(0).as_string::<i32>().value(row));
        assert_eq!(
            json["score"].as_f64().unwrap(),
            rows.column(4).as_primitive::<Float64Type>().value(row)
        );
        assert_eq!(json["label"].is_null(), rows.column(3).is_null(row));
        let seen = chrono::DateTime::from_timestamp_micros(
            rows.column(7).as_primitive::<TimestampMicrosecondType>().value(row),
        );
        assert_eq!(
            json["seen"]
                .as_str()
                .unwrap()
                .parse::<chrono::DateTime<chrono::Utc>>()
                .unwrap(),
            seen.unwrap()
        );
        let array = sample.get("tokens.npy").map(|npy| {
            let header = u16::from_le_bytes([npy[8], npy[9]]) as usize;
            assert_eq!((10 + header) % 64, 0);
            npy[10 + header..]
                .chunks(4)
                .map(|c| u32_at(c, 0) as i32)
                .collect::<Vec<_>>()
        });
        assert_eq!(array, tokens(&rows, row));
        assert_eq!(sample.contains_key("image.jpg"), rows.column(11).is_valid(row));
    }
    python(
        "webdataset_is_read_back",
        &["numpy"],
        r#"
import sys, tarfile, io, json, glob, numpy as np
n = 0
for path in sorted(glob.glob(sys.argv[1] + "/*.tar")):
    with tarfile.open(path) as t:
        rows = {}
        for m in t:
            key, ext = m.name.split(".", 1)
            rows.setdefault(key, {})[ext] = t.extractfile(m).read()
        for r in rows.values():
            i = int(json.loads(r["json"])["post_id"][1:])
            if "tokens.npy" in r:
                a = np.load(io.BytesIO(r["tokens.npy"]))
                assert a.dtype == np.int32 and a.tolist() == [(k * 31 + i) % 30000 for k in range((i * 13) % 60)]
            n += 1
assert n == 118, n
"#,
        &[folder.path()],
    );
}

#[test]
fn mds_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, report) = run(exported(ExportFormat::Mds, folder.path(), &small_files()));
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(index["version"], 2);
    let shards = index["shards"].as_array().unwrap();
    assert!(shards.len() > 1 && shards.len() + 1 == report.files.len());
    let mut row = 0;
    for shard in shards {
        assert_eq!(
            (&shard["format"], &shard["version"], &shard["compression"]),
            (&"mds".into(), &2.into(), &serde_json::Value::Null)
        );
        let bytes = std::fs::read(folder.path().join(shard["raw_data"]["basename"].as_str().unwrap())).unwrap();
        assert_eq!(shard["raw_data"]["bytes"], bytes.len());
        assert_eq!(shard["samples"], u32_at(&bytes, 0));
        let names: Vec<&str> = shard["column_names"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_str().unwrap())
            .collect();
        assert!(names.is_sorted());
        for sample in 0..u32_at(&bytes, 0) {
            let (begin, end) = (u32_at(&bytes, 4 + 4 * sample), u32_at(&bytes, 8 + 4 * sample));
            let sizes = shard["column_sizes"].as_array().unwrap();
            let mut heads = begin;
            let mut at = begin + 4 * sizes.iter().filter(|s| s.is_null()).count();
            let mut values = BTreeMap::new();
            for (name, size) in names.iter().zip(sizes) {
                let size = size.as_u64().map_or_else(
                    || {
                        heads += 4;
                        u32_at(&bytes, heads - 4)
                    },
                    |s| s as usize,
                );
                values.insert(*name, &bytes[at..at + size]);
                at += size;
            }
            assert_eq!(at, end);
            assert_eq!(
                values["post_id"],
                rows.column(0).as_string::<i32>().value(row).as_bytes()
            );
            assert_eq!(
                values["score"],
                rows.column(4).as_primitive::<Float64Type>().value(row).to_le_bytes()
            );
            let label = rows.column(3).as_primitive::<Int32Type>();
            let expected = if label.is_null(row) {
                "null".to_owned()
            } else {
                label.value(row).to_string()
            };
            assert_eq!(std::str::from_utf8(values["label"]).unwrap(), expected);
            let array = values["tokens"];
            assert_eq!(array[0], 1 << 2);
            let list: Vec<i32> = array[2..].chunks(4).map(|c| u32_at(c, 0) as i32).collect();
            assert_eq!(
                (usize::from(array[1]), &list),
                (list.len(), &tokens(&rows, row).unwrap_or_default())
            );
            row += 1;
        }
    }
    assert_eq!(row, rows.num_rows());
    python(
        "mds_is_read_back",
        &["streaming"],
        r#"
import sys, streaming
data = streaming.LocalDataset(sys.argv[1])
assert len(data) == 118
for sample in data:
    i = int(sample["post_id"][1:])
    assert sample["score"] == i / 3.0
    assert i % 11 == 5 or sample["tokens"].tolist() == [(k * 31 + i) % 30000 for k in range((i * 13) % 60)]
"#,
        &[folder.path()],
    );
}

#[test]
fn megatron_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, report) = run(exported(
        ExportFormat::Megatron,
        &folder.path().join("posts"),
        &ExportOptions::default(),
    ));
    let expected: Vec<Vec<i32>> = (0..rows.num_rows())
        .filter_map(|r| tokens(&rows, r))
        .filter(|t| !t.is_empty())
        .collect();
    assert_eq!(report.rows as usize, expected.len());
    let (bin, idx) = (
        std::fs::read(folder.path().join("posts.bin")).unwrap(),
        std::fs::read(folder.path().join("posts.idx")).unwrap(),
    );
    assert_eq!(&idx[..9], b"MMIDIDX\0\0");
    let u64_at = |at: usize| u64::from_le_bytes(idx[at..at + 8].try_into().unwrap()) as usize;
    let (sequences, marks) = (u64_at(18), u64_at(26));
    assert_eq!(
        (u64_at(9), idx[17], sequences, marks),
        (1, 4, expected.len(), expected.len() + 1)
    );
    assert_eq!(idx.len(), 34 + 12 * sequences + 8 * marks);
    for (s, right) in expected.iter().enumerate() {
        let (length, offset) = (u32_at(&idx, 34 + 4 * s), u64_at(34 + 4 * sequences + 8 * s));
        let read: Vec<i32> = bin[offset..offset + 4 * length]
            .chunks(4)
            .map(|c| u32_at(c, 0) as i32)
            .collect();
        assert_eq!(read, *right);
        assert_eq!(u64_at(34 + 12 * sequences + 8 * s), s);
    }
    assert_eq!(bin.len(), 4 * expected.iter().map(Vec::len).sum::<usize>());
}

#[test]
fn megatron_names_its_token_column() {
    run(async {
        let warehouse = memory();
        build(&warehouse, "posts", 0, &posts(5), &[], SMALL).await;
        let reader = CorpusReader::open(&warehouse, "posts", 0).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("x");
        for (columns, part) in [(vec!["text"], "tokens"), (vec!["tokns"], "did you mean `tokens`")] {
            let options = ExportOptions {
                columns: Some(columns.into_iter().map(Into::into).collect()),
                ..Default::default()
            };
            let e = export(
                &reader,
                ExportFormat::Megatron,
                to.to_str().unwrap(),
                &options,
                |_, _| {},
            )
            .await
            .unwrap_err();
            assert!(e.to_string().contains(part), "{e}");
        }
    });
}

#[test]
fn plain_parquet_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, report) = run(exported(ExportFormat::Parquet, folder.path(), &small_files()));
    let mut batches = Vec::new();
    for number in 0..report.files.len() {
        let file = std::fs::File::open(folder.path().join(format!("part-{number:05}.parquet"))).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap();
        batches.extend(reader.map(Result::unwrap));
    }
    assert_eq!(arrow::compute::concat_batches(&rows.schema(), &batches).unwrap(), rows);
}
