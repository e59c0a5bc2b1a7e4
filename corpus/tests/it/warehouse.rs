//! Corpora and versions are found, and what is not there is said.

use corpusmill_corpus::*;
use object_store::path::Path;

use crate::fixture::*;

#[test]
fn names_and_versions_are_resolved() {
    run(async {
        let warehouse = memory();
        assert_eq!(warehouse.corpora().await.unwrap(), Vec::<String>::new());
        let e = warehouse.versions("mod_text").await.unwrap_err().to_string();
        assert!(e.contains("there are no corpora in warehouse"), "{e}");
        for version in 0..3 {
            build(
                &warehouse,
                "mod_text",
                version,
                &posts(5 + version as usize),
                &["split"],
                SMALL,
            )
            .await;
        }
        build(&warehouse, "images", 0, &posts(3), &[], SMALL).await;
        put(&warehouse, &Path::from("warehouse/_views/v/x.parquet"), vec![1]).await;
        put(&warehouse, &Path::from("warehouse/no_corpus/readme.txt"), vec![1]).await;
        assert_eq!(warehouse.corpora().await.unwrap(), ["images", "mod_text"]);
        assert_eq!(warehouse.versions("mod_text").await.unwrap(), [0, 1, 2]);
        for (text, version) in [
            ("mod_text@1", 1),
            ("mod_text@latest", 2),
            ("mod_text", 2),
            ("mod_text@v0", 0),
        ] {
            assert_eq!(warehouse.resolve(text).await.unwrap(), ("mod_text".to_owned(), version));
        }
        assert_eq!(warehouse.manifest("mod_text", 1).await.unwrap().rows, 6);
        for (text, part) in [
            ("mod_txt", "did you mean `mod_text`?"),
            ("zzz", "warehouse has images, mod_text"),
            ("mod_text@9", "has versions 0 to 2"),
            ("mod_text@new", "it has no tags: a version is mod_text@NUMBER"),
            ("../secret", "expected letters"),
            ("_views", "not beginning with"),
        ] {
            let e = warehouse.resolve(text).await.unwrap_err().to_string();
            assert!(e.contains(part), "{text}: {e}");
        }
    });
}

#[test]
fn commits_of_others_have_no_manifest() {
    run(async {
        let warehouse = memory();
        build(&warehouse, "c", 0, &posts(5), &[], SMALL).await;
        let log = Path::from("warehouse/c/_delta_log/00000000000000000001.json");
        put(
            &warehouse,
            &log,
            b"{\"commitInfo\":{\"operation\":\"OPTIMIZE\"}}\n".to_vec(),
        )
        .await;
        let e = warehouse.manifest("c", 1).await.unwrap_err().to_string();
        assert!(e.contains("OPTIMIZE") && e.contains("REFRESH CORPUS c FULL"), "{e}");
        let gone = warehouse.manifest("c", 7).await.unwrap_err().to_string();
        assert!(gone.contains("version `c@7`") && gone.contains("0 to 1"), "{gone}");
    });
}

#[test]
fn a_local_folder_is_a_warehouse() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().join("ware house");
        let warehouse = Warehouse::open(here.to_str().unwrap(), &StoreOptions::new()).unwrap();
        assert_eq!(warehouse.corpora().await.unwrap(), Vec::<String>::new());
        // A partition value that needs escaping, on a file system.
        let mut rows = posts(20);
        let split = std::sync::Arc::new(arrow::array::StringArray::from_iter(
            (0..20).map(|i| (i % 4 != 0).then_some("a/b %ü")),
        ));
        let mut columns = rows.columns().to_vec();
        columns[2] = split;
        rows = arrow::array::RecordBatch::try_new(rows.schema(), columns).unwrap();
        build(&warehouse, "c", 0, &rows, &["split"], SMALL).await;
        let again = Warehouse::open(
            &format!("file://{}", here.display()).replace(' ', "%20"),
            &StoreOptions::new(),
        )
        .unwrap();
        let reader = CorpusReader::open(&again, "c", 0).await.unwrap();
        assert!(verify(&reader, |_, _| {}).await.unwrap().is_sound());
        assert!(here.join("c/split=a%2Fb%20%25%C3%BC").is_dir());
    });
}

#[test]
fn locations_that_are_none_are_refused() {
    for (location, part) in [
        ("", "expected a local path"),
        ("ftp://x/y", "expected a local path"),
        ("s3//", ""),
    ] {
        match Warehouse::open(location, &StoreOptions::new()) {
            Err(e) => assert!(e.to_string().contains(part), "{e}"),
            Ok(_) => assert!(part.is_empty(), "{location} was taken"),
        }
    }
    let e = Warehouse::open("s3://", &StoreOptions::new()).unwrap_err().to_string();
    assert!(e.contains("s3://"), "{e}");
}
