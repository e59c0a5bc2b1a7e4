//! The same rows give the same bytes and the same digest, whatever way they come.

use arrow::array::*;
use arrow::compute::{concat_batches, take_record_batch};
use corpusmill_corpus::*;
use proptest::prelude::*;

use crate::fixture::*;

async fn write(batches: &[RecordBatch]) -> (ShardFile, Vec<u8>) {
    let warehouse = memory();
    let root = warehouse.corpus_root("c").unwrap();
    let place = ShardPlace {
        root: root.clone(),
        path: "s.parquet".into(),
        partition: vec![],
        generation: 0,
        shard: 0,
    };
    let mut writer = ShardWriter::new(warehouse.store().clone(), place, batches[0].schema_ref(), SMALL).unwrap();
    for batch in batches {
        writer.write(batch).await.unwrap();
    }
    let file = writer.finish().await.unwrap();
    let mut bytes = get(&warehouse, &join(&root, "s.parquet")).await;
    bytes.extend(get(&warehouse, &join(&root, &file.lengths.as_ref().unwrap().path)).await);
    (file, bytes)
}

/// Columns whose Arrow layout is another and whose values are the same.
fn other_layout(batch: &RecordBatch) -> RecordBatch {
    use arrow::compute::cast;
    use arrow::datatypes::DataType::*;
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(f, a)| {
        let target = match f.name().as_str() {
            "post_id" => LargeUtf8,
            "text" => Utf8,
            "split" => Dictionary(Box::new(Int8), Box::new(Utf8)),
            "image" => BinaryView,
            _ => f.data_type().clone(),
        };
        (f.name().clone(), cast(a, &target).unwrap(), f.is_nullable())
    });
    RecordBatch::try_from_iter_with_nullable(columns.collect::<Vec<_>>()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn slicing_changes_neither_bytes_nor_digest(n in 1usize..120, cuts in prop::collection::vec(0usize..120, 0..12)) {
        let rows = posts(n);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(n)).chain([0, n]).collect();
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|w| rows.slice(w[0], w[1] - w[0])).collect();
        let (whole, whole_bytes) = run(write(std::slice::from_ref(&rows)));
        let (cut, cut_bytes) = run(write(&pieces));
        prop_assert_eq!(&whole, &cut);
        prop_assert!(whole_bytes == cut_bytes);
        // Through another layout, and through buffers that were put together anew.
        let (other, other_bytes) = run(write(&[concat_batches(&other_layout(&rows).schema(), &[other_layout(&rows)]).unwrap()]));
        prop_assert_eq!(&whole, &other);
        prop_assert!(whole_bytes == other_bytes);
    }

    #[test]
    fn digest_does_not_know_the_order(order in Just((0u32..60).collect::<Vec<_>>()).prop_shuffle(), cut in 0usize..60) {
        let rows = posts(60);
        let shuffled = take_record_batch(&rows, &UInt32Array::from(order)).unwrap();
        let mut digest = RowDigest::of(&shuffled.slice(cut, 60 - cut)).unwrap();
        digest.merge(RowDigest::of(&shuffled.slice(0, cut)).unwrap());
        prop_assert_eq!(digest, RowDigest::of(&rows).unwrap());
    }

    #[test]
    fn any_change_of_a_value_changes_the_digest(row in 0usize..40, column in 0usize..12, other in 0usize..40) {
        let rows = posts(40);
        let indices: Vec<u32> = (0..40).map(|i| if i == row { other as u32 } else { i as u32 }).collect();
        let changed = arrow::compute::take(rows.column(column), &UInt32Array::from(indices), None).unwrap();
        let same = changed.to_data() == rows.column(column).to_data();
        let mut columns = rows.columns().to_vec();
        columns[column] = changed;
        let changed = RecordBatch::try_new(rows.schema(), columns).unwrap();
        prop_assert_eq!(RowDigest::of(&changed).unwrap() == RowDigest::of(&rows).unwrap(), same);
    }

    #[test]
    fn digests_are_read_back(rows in any::<u64>(), sum in any::<u128>()) {
        let digest = RowDigest { rows, sum };
        prop_assert_eq!(digest.to_string().parse::<RowDigest>().unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        prop_assert_eq!(serde_json::from_str::<RowDigest>(&json).unwrap(), digest);
    }
}

#[test]
fn floats_that_are_equal_digest_equally() {
    let of = |v: Vec<f64>| {
        let array: ArrayRef = std::sync::Arc::new(Float64Array::from(v));
        RowDigest::of(&RecordBatch::try_from_iter([("f", array)]).unwrap()).unwrap()
    };
    assert_eq!(of(vec![0.0, f64::NAN]), of(vec![-0.0, -f64::NAN]));
    assert_ne!(of(vec![0.0]), of(vec![f64::MIN_POSITIVE]));
}

#[test]
fn a_new_nullable_column_leaves_the_digest_as_it_is() {
    let rows = posts(10);
    let mut columns: Vec<_> = rows
        .schema()
        .fields()
        .iter()
        .map(|f| f.name().clone())
        .zip(rows.columns().to_vec())
        .collect();
    columns.push((
        "added".into(),
        arrow::array::new_null_array(&arrow::datatypes::DataType::Int64, 10),
    ));
    let wider = RecordBatch::try_from_iter(columns).unwrap();
    assert_eq!(RowDigest::of(&wider).unwrap(), RowDigest::of(&rows).unwrap());
}

#[test]
fn layout_of_nested_columns_has_no_part_in_the_digest() {
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Field};
    let rows = posts(30);
    let item = |t| std::sync::Arc::new(Field::new("other", t, true));
    for target in [
        DataType::LargeList(item(DataType::Int32)),
        DataType::ListView(item(DataType::Int32)),
    ] {
        let tokens = cast(rows.column_by_name("tokens").unwrap(), &target).unwrap();
        let one = RecordBatch::try_from_iter([("tokens", tokens)]).unwrap();
        let plain = rows.project(&[rows.schema().index_of("tokens").unwrap()]).unwrap();
        assert_eq!(RowDigest::of(&one).unwrap(), RowDigest::of(&plain).unwrap(), "{target}");
    }
}

#[test]
fn blocks_have_the_size_that_was_asked_for() {
    let (file, bytes) = run(write(&[posts(16 * 3 + 1)]));
    assert_eq!(file.blocks.iter().map(|b| b.rows).collect::<Vec<_>>(), [16, 16, 16, 1]);
    assert_eq!(file.blocks[0].offset, 4);
    assert!(file.blocks.windows(2).all(|w| w[0].offset + w[0].length == w[1].offset));
    assert_eq!(file.footer.offset + file.footer.length, file.bytes);
    assert_eq!(file.xxh3, Checksum::of(&bytes[..file.bytes as usize]));
    let total = file.lengths.unwrap().columns[0].total;
    let expected: usize = (0..49).filter(|i| i % 11 != 5).map(|i| (i * 13) % 60).sum();
    assert_eq!(total, expected as u64);
}
