//! What was once written stays readable, and is still written the same way.
//!
//! `CORPUSMILL_BLESS=1 cargo test` writes the golden files anew: only together with a new version of the format.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::*;
use corpusmill_corpus::*;

use crate::fixture::*;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn bless() -> bool {
    std::env::var_os("CORPUSMILL_BLESS").is_some()
}

/// Two rows of every type that has an encoding, the second NULL.
fn every_type() -> Vec<(&'static str, ArrayRef)> {
    let mut list = ListBuilder::new(Int32Builder::new());
    list.append_value([Some(1), Some(-2)]);
    list.append_null();
    let mut holes = ListBuilder::new(StringBuilder::new());
    holes.append_value([Some("a"), None]);
    holes.append_null();
    let mut floats = FixedSizeListBuilder::new(Float32Builder::new(), 2);
    floats.values().append_slice(&[-0.0, f32::NAN, 0.0, 0.0]);
    floats.append(true);
    floats.append(false);
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for (key, value) in [("b", 2), ("a", 1)] {
        map.keys().append_value(key);
        map.values().append_value(value);
    }
    map.append(true).unwrap();
    map.append(false).unwrap();
    let part: ArrayRef = Arc::new(Int8Array::from(vec![Some(5), None]));
    let fields = Fields::from(vec![
        Field::new("x", DataType::Int8, true),
        Field::new("gone", DataType::Utf8, true),
    ]);
    let gone = new_null_array(&DataType::Utf8, 2);
    let structure = StructArray::new(fields, vec![part, gone], Some(vec![true, false].into()));
    vec![
        ("boolean", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("integer", Arc::new(Int16Array::from(vec![Some(-7), None]))),
        ("unsigned", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None]))),
        ("float", Arc::new(Float32Array::from(vec![Some(0.1), None]))),
        (
            "decimal",
            Arc::new(
                Decimal128Array::from(vec![Some(-12_345), None])
                    .with_precision_and_scale(9, 2)
                    .unwrap(),
            ),
        ),
        ("text", Arc::new(StringViewArray::from(vec![Some("ünï"), None]))),
        (
            "binary",
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some([1u8, 2]), None].into_iter(), 2).unwrap(),
            ),
        ),
        ("date", Arc::new(Date32Array::from(vec![Some(19_000), None]))),
        ("time", Arc::new(Time32SecondArray::from(vec![Some(3_600), None]))),
        (
            "instant",
            Arc::new(TimestampSecondArray::from(vec![Some(1_700_000_000), None]).with_timezone("+02:00")),
        ),
        ("local", Arc::new(TimestampNanosecondArray::from(vec![Some(5), None]))),
        (
            "duration",
            Arc::new(DurationMillisecondArray::from(vec![Some(9), None])),
        ),
        ("list", Arc::new(list.finish())),
        ("list_with_null", Arc::new(holes.finish())),
        ("floats", Arc::new(floats.finish())),
        ("struct", Arc::new(structure)),
        ("map", Arc::new(map.finish())),
    ]
}

#[test]
fn canonical_encoding_is_what_it_was() {
    let mut lines = String::new();
    for (name, array) in every_type() {
        let batch = RecordBatch::try_from_iter_with_nullable([(name, array.clone(), true)]).unwrap();
        let digest = RowDigest::of(&batch.slice(0, 1)).unwrap();
        let keys = key_hashes(&[array]).unwrap();
        lines.push_str(&format!(
            "{name} digest {digest} key {:016x} null {:016x}\n",
            keys[0], keys[1]
        ));
        assert_eq!(
            RowDigest::of(&batch.slice(1, 1)).unwrap().sum,
            xxh128_of_nothing(),
            "{name}"
        );
    }
    let path = golden("canonical-v1.txt");
    if bless() {
        std::fs::write(&path, &lines).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), lines);
}

/// `xxh3_128` of the empty input, from the specification's test vectors: a row of NULLs is no bytes.
fn xxh128_of_nothing() -> u128 {
    0x99aa_06d3_0147_98d8_6001_c324_468d_497f
}

/// Every file below a folder, by its path in it.
fn files(folder: &std::path::Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let (mut found, mut folders) = (std::collections::BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_corpus_is_written_and_read_as_it_was() {
    let path = golden("warehouse-v1");
    run(async {
        let rows = posts(40);
        let fresh = tempfile::tempdir().unwrap();
        let target = if bless() {
            std::fs::remove_dir_all(&path).ok();
            path.clone()
        } else {
            fresh.path().to_owned()
        };
        let warehouse = Warehouse::open(target.to_str().unwrap(), &StoreOptions::new()).unwrap();
        build(&warehouse, "posts", 0, &rows, &["split"], SMALL).await;
        let (old, new) = (files(&path), files(&target));
        assert_eq!(old.keys().collect::<Vec<_>>(), new.keys().collect::<Vec<_>>());
        for (name, bytes) in &old {
            assert!(*bytes == new[name], "{name} is written differently than it was");
        }
        let warehouse = Warehouse::open(path.to_str().unwrap(), &StoreOptions::new()).unwrap();
        let (name, version) = warehouse.resolve("posts").await.unwrap();
        let reader = CorpusReader::open(&warehouse, &name, version).await.unwrap();
        let report = verify(&reader, |_, _| {}).await.unwrap();
        assert!(report.is_sound(), "{report:?}");
        let stored = to_stored(&rows, &stored_schema(&rows.schema()).unwrap()).unwrap();
        assert_eq!(RowDigest::of(&stored).unwrap(), report.digest);
    });
}

#[test]
fn schemas_are_read_back_from_their_json() {
    let storable = every_type()
        .into_iter()
        .filter(|(name, _)| !matches!(*name, "time" | "duration"));
    let batch = RecordBatch::try_from_iter_with_nullable(storable.map(|(n, a)| (n, a, true))).unwrap();
    let columns = columns_of(&batch.schema()).unwrap();
    let json = serde_json::to_string_pretty(&columns).unwrap();
    let path = golden("columns-v1.json");
    if bless() {
        std::fs::write(&path, &json).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), json);
    let back: Vec<Column> = serde_json::from_str(&json).unwrap();
    assert_eq!(arrow_schema(&back), stored_schema(&batch.schema()).unwrap());
    // What is stored is stored as it is.
    assert_eq!(stored_schema(&arrow_schema(&back)).unwrap(), arrow_schema(&back));
    for refused in ["time", "duration"] {
        let array = every_type().into_iter().find(|(n, _)| *n == refused).unwrap().1;
        let e = stored_schema(&Schema::new(vec![Field::new(refused, array.data_type().clone(), true)])).unwrap_err();
        assert!(
            e.to_string()
                .contains(&format!("column `{refused}`: a corpus cannot hold")),
            "{e}"
        );
    }
}
