//! What was written is read back: rows, slots, lengths, projections, masks.

use arrow::array::*;
use arrow::compute::{concat_batches, lexsort_to_indices, take_record_batch};
use corpusmill_corpus::*;

use crate::fixture::*;

fn by_id(batch: &RecordBatch) -> RecordBatch {
    let column = arrow::compute::SortColumn {
        values: batch.column(0).clone(),
        options: None,
    };
    take_record_batch(batch, &lexsort_to_indices(&[column], None).unwrap()).unwrap()
}

#[test]
fn rows_come_back_with_their_partitions() {
    run(async {
        let (warehouse, rows) = (memory(), posts(200));
        build(&warehouse, "c", 0, &rows, &["split"], SMALL).await;
        let reader = CorpusReader::open(&warehouse, "c", 0).await.unwrap();
        let stored = to_stored(&rows, &stored_schema(&rows.schema()).unwrap()).unwrap();
        let back = all_rows(&reader).await;
        assert_eq!(by_id(&back), stored);
        assert_eq!(RowDigest::of(&back).unwrap(), reader.manifest().digest);
        let report = verify(&reader, |_, _| {}).await.unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert_eq!((report.rows, report.digest), (200, reader.manifest().digest));
    });
}

#[test]
fn columns_are_chosen_and_ordered() {
    run(async {
        let warehouse = memory();
        build(&warehouse, "c", 0, &posts(50), &["split"], SMALL).await;
        let reader = CorpusReader::open(&warehouse, "c", 0).await.unwrap();
        let whole = reader.read_block(0, 0, None).await.unwrap();
        let some = reader
            .read_block(0, 0, Some(&["tokens", "split", "post_id"]))
            .await
            .unwrap();
        let index = |n| whole.schema().index_of(n).unwrap();
        assert_eq!(
            some,
            whole
                .project(&[index("tokens"), index("split"), index("post_id")])
                .unwrap()
        );
        let partition_only = reader.read_block(0, 0, Some(&["split"])).await.unwrap();
        assert_eq!(partition_only.num_rows(), whole.num_rows());
        let none = reader.read_block(0, 0, Some(&[])).await.unwrap();
        assert_eq!((none.num_rows(), none.num_columns()), (whole.num_rows(), 0));
        let e = reader.read_block(0, 0, Some(&["tokns"])).await.unwrap_err().to_string();
        assert!(
            e.contains("column `tokns`") && e.contains("did you mean `tokens`"),
            "{e}"
        );
        assert!(reader.read_block(99, 0, None).await.is_err() && reader.read_block(0, 99, None).await.is_err());
    });
}

#[test]
fn slots_and_places_agree() {
    run(async {
        let warehouse = memory();
        let manifest = build(&warehouse, "c", 0, &posts(200), &["split"], SMALL).await;
        let map = SlotMap::new(&manifest);
        assert_eq!((map.slots(), map.locate(200)), (200, None));
        let mut expected = Vec::new();
        for (shard, file) in manifest.shard_files.iter().enumerate() {
            for (block, b) in file.blocks.iter().enumerate() {
                expected.extend((0..b.rows as usize).map(|row| RowPlace { shard, block, row }));
            }
        }
        for (slot, place) in expected.into_iter().enumerate() {
            assert_eq!(map.locate(slot as u64), Some(place));
            assert_eq!(map.slot(place), Some(slot as u64));
        }
    });
}

#[test]
fn lengths_are_read_in_any_range() {
    run(async {
        let warehouse = memory();
        build(&warehouse, "c", 0, &posts(200), &["split"], SMALL).await;
        let reader = CorpusReader::open(&warehouse, "c", 0).await.unwrap();
        let rows = all_rows(&reader).await;
        let tokens = rows.column_by_name("tokens").unwrap().as_list::<i32>();
        let expected: Vec<u32> = (0..200)
            .map(|i| {
                if tokens.is_null(i) {
                    0
                } else {
                    tokens.value_length(i) as u32
                }
            })
            .collect();
        let lengths = reader.lengths().await.unwrap();
        for range in [0..200, 0..1, 199..200, 17..113, 5..5] {
            let read = lengths.read("tokens", range.clone()).await.unwrap();
            assert_eq!(read, expected[range.start as usize..range.end as usize], "{range:?}");
        }
        assert_eq!(
            lengths.total("tokens").unwrap(),
            expected.iter().map(|l| u64::from(*l)).sum::<u64>()
        );
        assert!(
            lengths
                .read("tokens", 0..201)
                .await
                .unwrap_err()
                .to_string()
                .contains("200 rows")
        );
        assert!(
            lengths
                .read("text", 0..1)
                .await
                .unwrap_err()
                .to_string()
                .contains("list column `text`")
        );
    });
}

#[test]
fn lengths_of_many_blocks_are_read_in_pieces() {
    run(async {
        let mut list = ListBuilder::new(Int32Builder::new());
        (0..40_000).for_each(|i| list.append_value((0..i % 5).map(Some)));
        let ids = StringArray::from_iter_values((0..40_000).map(|i| format!("{i}")));
        let rows = RecordBatch::try_from_iter([
            ("post_id", std::sync::Arc::new(ids) as ArrayRef),
            ("tokens", std::sync::Arc::new(list.finish()) as ArrayRef),
        ])
        .unwrap();
        let warehouse = memory();
        build(&warehouse, "c", 0, &rows, &[], ShardOptions::default()).await;
        let reader = CorpusReader::open(&warehouse, "c", 0).await.unwrap();
        let tokens = all_rows(&reader).await;
        let expected: Vec<u32> = (0..40_000)
            .map(|i| tokens.column(1).as_list::<i32>().value_length(i) as u32)
            .collect();
        let lengths = reader.lengths().await.unwrap();
        assert_eq!(
            lengths.read("tokens", 16_000..33_000).await.unwrap(),
            expected[16_000..33_000]
        );
        for block in 0..4 {
            let before: u64 = expected[..(block * 16_384).min(40_000)]
                .iter()
                .map(|l| u64::from(*l))
                .sum();
            assert_eq!(lengths.total_before("tokens", block as u64).unwrap(), before);
        }
    });
}

#[test]
fn verify_finds_keys_that_are_twice_or_misplaced() {
    run(async {
        let warehouse = memory();
        let rows = posts(30);
        let twice = concat_batches(&rows.schema(), &[rows.clone(), rows.slice(3, 1)]).unwrap();
        build(&warehouse, "c", 0, &twice, &["split"], SMALL).await;
        let reader = CorpusReader::open(&warehouse, "c", 0).await.unwrap();
        let report = verify(&reader, |_, _| {}).await.unwrap();
        assert_eq!(report.fault_count, 1, "{report:?}");
        assert!(
            report.faults[0].detail.contains("key p00003 is there twice"),
            "{report:?}"
        );

        let mut manifest = build(&warehouse, "c", 1, &rows, &[], SMALL).await;
        manifest.shard_files[0].shard = 7;
        let reader = CorpusReader::over(&warehouse, "c", manifest).unwrap();
        let report = verify(&reader, |_, _| {}).await.unwrap();
        assert!(report.faults[0].detail.contains("belongs to shard 0"), "{report:?}");
    });
}

#[test]
fn a_column_that_was_added_later_is_null() {
    run(async {
        let warehouse = memory();
        let mut manifest = build(&warehouse, "c", 0, &posts(20), &[], SMALL).await;
        manifest.columns.push(Column {
            name: "added".into(),
            kind: ColumnType::Float32,
            nullable: true,
        });
        let reader = CorpusReader::over(&warehouse, "c", manifest).unwrap();
        let block = reader.read_block(0, 0, Some(&["added"])).await.unwrap();
        assert_eq!(block.column(0).null_count(), block.num_rows());
        assert!(verify(&reader, |_, _| {}).await.unwrap().is_sound());
    });
}

#[test]
fn values_that_do_not_fit_name_column_and_fix() {
    run(async {
        let warehouse = memory();
        let root = warehouse.corpus_root("c").unwrap();
        let place = |partition| ShardPlace {
            root: root.clone(),
            path: "s.parquet".into(),
            partition,
            generation: 0,
            shard: 0,
        };
        let numbers: ArrayRef = std::sync::Arc::new(UInt64Array::from(vec![1, u64::MAX]));
        let batch = RecordBatch::try_from_iter([("hash", numbers)]).unwrap();
        let mut writer = ShardWriter::new(warehouse.store().clone(), place(vec![]), batch.schema_ref(), SMALL).unwrap();
        let e = writer.write(&batch).await.unwrap_err().to_string();
        assert!(e.contains("`hash`") && e.contains("DECIMAL(20, 0)"), "{e}");
        writer.abort().await.unwrap();

        let rows = posts(10);
        let train = vec![("split".to_owned(), Some("train".to_owned()))];
        let mut writer = ShardWriter::new(warehouse.store().clone(), place(train), rows.schema_ref(), SMALL).unwrap();
        let e = writer.write(&rows).await.unwrap_err().to_string();
        assert!(e.contains("`split`: row 8") && e.contains("partition"), "{e}");

        let unknown = vec![("nope".to_owned(), None)];
        assert!(ShardWriter::new(warehouse.store().clone(), place(unknown), rows.schema_ref(), SMALL).is_err());
        for options in [
            ShardOptions { block_rows: 0, ..SMALL },
            ShardOptions {
                zstd_level: 99,
                ..SMALL
            },
        ] {
            assert!(ShardWriter::new(warehouse.store().clone(), place(vec![]), rows.schema_ref(), options).is_err());
        }
    });
}
