//! A byte is changed, or the end is missing: an error or the right rows, never others, and no panic.

use corpusmill_corpus::*;
use futures::StreamExt;
use object_store::ObjectStoreExt;
use proptest::prelude::*;

use crate::fixture::*;

/// Reads everything that a loader reads; `true` if some of it was refused. Panics if a row is not the right one.
async fn read_all(warehouse: &Warehouse, expected: &[arrow::array::RecordBatch], lengths: &[u32]) -> bool {
    let Ok(reader) = CorpusReader::open(warehouse, "c", 0).await else {
        return true;
    };
    let mut refused = false;
    let blocks: Vec<_> = reader.scan(None, 1).collect().await;
    assert_eq!(blocks.len(), expected.len());
    for (block, right) in blocks.iter().zip(expected) {
        match block {
            Ok((_, rows)) => assert_eq!(rows, right),
            Err(e) => {
                assert!(e.is_damage(), "{e}");
                assert!(e.to_string().contains("parquet"), "{e}");
                refused = true;
            }
        }
    }
    match reader.lengths().await {
        Err(_) => refused = true,
        Ok(open) => match open.read("tokens", 0..open.rows()).await {
            Ok(read) => assert_eq!(read, lengths),
            Err(_) => refused = true,
        },
    }
    refused
}

struct Written {
    warehouse: Warehouse,
    blocks: Vec<arrow::array::RecordBatch>,
    lengths: Vec<u32>,
    /// What a reader needs: shards, row lengths, manifest.
    files: Vec<object_store::path::Path>,
}

/// Written once, since every case needs it; each case damages a copy.
async fn written() -> Written {
    use std::sync::OnceLock;
    type Once = (
        Vec<(object_store::path::Path, Vec<u8>)>,
        Vec<arrow::array::RecordBatch>,
        Vec<u32>,
    );
    static ONCE: OnceLock<Once> = OnceLock::new();
    if ONCE.get().is_none() {
        let warehouse = memory();
        build(&warehouse, "c", 0, &posts(90), &["split"], SMALL).await;
        let reader = CorpusReader::open(&warehouse, "c", 0).await.unwrap();
        let blocks = reader.scan(None, 1).map(|b| b.unwrap().1).collect().await;
        let lengths = reader.lengths().await.unwrap().read("tokens", 0..90).await.unwrap();
        let mut objects = Vec::new();
        for object in warehouse
            .store()
            .list(None)
            .map(Result::unwrap)
            .collect::<Vec<_>>()
            .await
        {
            objects.push((object.location.clone(), get(&warehouse, &object.location).await));
        }
        ONCE.set((objects, blocks, lengths)).ok();
    }
    let (objects, blocks, lengths) = ONCE.get().unwrap();
    let warehouse = memory();
    let mut files = Vec::new();
    for (path, bytes) in objects {
        put(&warehouse, path, bytes.clone()).await;
        if !path.as_ref().contains("_delta_log") && !path.as_ref().contains("lengths/shards") {
            files.push(path.clone());
        }
    }
    files.sort_by_key(|path| (!path.as_ref().ends_with(".parquet"), path.clone()));
    Written {
        files,
        warehouse,
        blocks: blocks.clone(),
        lengths: lengths.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_changed_byte_is_found(file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), flip in 1u8..=255) {
        run(async {
            let w = written().await;
            let path = file.get(&w.files);
            let mut bytes = get(&w.warehouse, path).await;
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            put(&w.warehouse, path, bytes).await;
            let refused = read_all(&w.warehouse, &w.blocks, &w.lengths).await;
            // The mark at the beginning of a Parquet file is read by nobody but `verify`.
            if path.as_ref().ends_with(".parquet") && at < 4 {
                let reader = CorpusReader::open(&w.warehouse, "c", 0).await.unwrap();
                assert!(!verify(&reader, |_, _| {}).await.unwrap().is_sound());
            } else if !(path.as_ref().ends_with(".bin") && at < 8) {
                assert!(refused, "byte {at} of {path}");
            }
        });
    }

    #[test]
    fn a_missing_end_is_found(file in any::<prop::sample::Index>(), keep in any::<prop::sample::Index>()) {
        run(async {
            let w = written().await;
            let path = file.get(&w.files);
            let mut bytes = get(&w.warehouse, path).await;
            bytes.truncate(keep.index(bytes.len()));
            put(&w.warehouse, path, bytes).await;
            assert!(read_all(&w.warehouse, &w.blocks, &w.lengths).await, "{path}");
        });
    }

    #[test]
    fn bytes_of_any_kind_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        assert!(Manifest::from_json("m", &bytes).is_err());
        run(async {
            let warehouse = memory();
            let root = warehouse.corpus_root("c").unwrap();
            put(&warehouse, &join(&root, "l.bin"), bytes.clone()).await;
            let file = LengthsFile { path: "l.bin".into(), bytes: bytes.len() as u64, rows: 1, columns: vec![] };
            assert!(LengthsReader::open(warehouse.store().clone(), &root, &file).await.is_err());
            put(&warehouse, &join(&root, "_delta_log/00000000000000000000.json"), bytes).await;
            assert!(warehouse.manifest("c", 0).await.is_err());
        });
    }
}

#[test]
fn errors_name_file_block_and_fix() {
    run(async {
        let w = written().await;
        let mut bytes = get(&w.warehouse, &w.files[0]).await;
        bytes[100] ^= 1;
        put(&w.warehouse, &w.files[0], bytes.clone()).await;
        let reader = CorpusReader::open(&w.warehouse, "c", 0).await.unwrap();
        let e = reader.read_block(0, 0, None).await.unwrap_err().to_string();
        for part in [
            "warehouse/c/split=test/g0-s0000-b0-a0.parquet",
            "block 0 of",
            "checksum",
            "rebuild the corpus",
        ] {
            assert!(e.contains(part), "{part}: {e}");
        }
        bytes.truncate(50);
        put(&w.warehouse, &w.files[0], bytes).await;
        let reader = CorpusReader::open(&w.warehouse, "c", 0).await.unwrap();
        let e = reader.read_block(0, 0, None).await.unwrap_err().to_string();
        assert!(e.contains("truncated") && e.contains("footer"), "{e}");
        w.warehouse.store().delete(&w.files[0]).await.unwrap();
        let reader = CorpusReader::open(&w.warehouse, "c", 0).await.unwrap();
        let e = reader.read_block(0, 0, None).await.unwrap_err();
        assert!(e.is_damage() && !e.retry(), "{e}");
        let report = verify(&reader, |_, _| {}).await.unwrap();
        assert!(
            !report.is_sound() && report.faults[0].path.contains("split=test"),
            "{report:?}"
        );
    });
}

#[test]
fn a_newer_format_says_so() {
    let e = Manifest::from_json("m.json", br#"{"format": 2, "news": true}"#)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("m.json") && e.contains("format 2") && e.contains("newer corpusmill"),
        "{e}"
    );
}
