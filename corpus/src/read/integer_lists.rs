//! Decodes lists of 32-bit integers, which token columns are, straight from their pages.
//!
//! ```text
//! page (decompressed) ─┬─ repetition levels ─► a zero begins a row      ─► offsets
//!                      ├─ definition levels ─► all at the maximum, or give up
//!                      └─ DELTA_BINARY_PACKED or PLAIN                  ─► values
//! ```
//! The general reader spells out two 16-bit levels for each value and builds the lists from them, which costs several
//! times what the values cost (the test `is_faster` holds one against the other). Here levels stay packed. What this does not
//! cover (NULL or empty lists, other encodings, versions or codecs of pages) is left to the general reader, and so is
//! anything that looks wrong: its errors are the ones that a person reads.
//!
//! Follows the Parquet format's `Encodings.md`: RLE/bit-packing hybrid (3) and delta encoding (5).

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, ListArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, FieldRef};
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedPageReader;

/// Reads column `leaf` of a row group as lists of `item`; `None` where the general reader has to do it.
///
/// `item` is the field of the lists' elements, of type `Int32`; the result has as many lists as the group has rows.
pub(super) fn read<R: ChunkReader + 'static>(
    source: &Arc<R>,
    group: &RowGroupMetaData,
    leaf: usize,
    item: &FieldRef,
) -> Option<ArrayRef> {
    let chunk = group.columns().get(leaf)?;
    let column = chunk.column_descr();
    let is_covered =
        column.physical_type() == Type::INT32 && *item.data_type() == DataType::Int32 && column.max_rep_level() == 1;
    if !is_covered {
        return None;
    }
    let rows = usize::try_from(group.num_rows()).ok()?;
    let count = usize::try_from(chunk.num_values()).ok()?;
    // As many levels as values are checked below; until then the count only bounds what is reserved.
    let mut lists = Lists::with_capacity(rows, count.min(1 << 26));
    let mut pages = SerializedPageReader::new(source.clone(), chunk, rows, None).ok()?;
    while let Some(page) = pages.get_next_page().ok()? {
        let Page::DataPage {
            buf,
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            ..
        } = page
        else {
            return None;
        };
        let levels = usize::try_from(num_values).ok()?;
        let (repetition, rest) = level_bytes(&buf)?;
        let (definition, values) = level_bytes(rest)?;
        lists.begin_rows(repetition, levels)?;
        all_defined(definition, column.max_def_level(), levels)?;
        match encoding {
            Encoding::DELTA_BINARY_PACKED => delta_values(values, levels, &mut lists.values)?,
            Encoding::PLAIN => plain_values(values, levels, &mut lists.values)?,
            _ => return None,
        }
    }
    lists.finish(rows, count, item)
}

struct Lists {
    offsets: Vec<i32>,
    values: Vec<i32>,
}

impl Lists {
    fn with_capacity(rows: usize, values: usize) -> Self {
        Self {
            offsets: Vec::with_capacity(rows + 1),
            values: Vec::with_capacity(values),
        }
    }

    /// Notes where rows begin among the next `levels` values: where their repetition level is 0.
    fn begin_rows(&mut self, bytes: &[u8], levels: usize) -> Option<()> {
        let first = i32::try_from(self.values.len()).ok()?;
        i32::try_from(self.values.len().checked_add(levels)?).ok()?;
        let mut runs = Runs::new(bytes, 1, levels);
        let mut at = 0usize;
        while let Some(run) = runs.next()? {
            match run {
                Run::Repeated { value: 0, count } => {
                    self.offsets.extend((at..at + count).map(|i| first + i as i32));
                    at += count;
                }
                Run::Repeated { count, .. } => at += count,
                Run::Packed { bytes, count } => {
                    for (number, chunk) in bytes.chunks(8).enumerate() {
                        let mut word = [0xffu8; 8];
                        word[..chunk.len()].copy_from_slice(chunk);
                        let mut zeros = !u64::from_le_bytes(word);
                        while zeros != 0 {
                            let bit = number * 64 + zeros.trailing_zeros() as usize;
                            if bit < count {
                                self.offsets.push(first + (at + bit) as i32);
                            }
                            zeros &= zeros - 1;
                        }
                    }
                    at += count;
                }
            }
        }
        (at == levels).then_some(())
    }

    fn finish(mut self, rows: usize, count: usize, item: &FieldRef) -> Option<ArrayRef> {
        let begins_at_zero = self.offsets.first().is_none_or(|first| *first == 0);
        if self.offsets.len() != rows || self.values.len() != count || !begins_at_zero {
            return None;
        }
        self.offsets.push(i32::try_from(count).ok()?);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        let values = Arc::new(Int32Array::new(ScalarBuffer::from(self.values), None));
        let lists = ListArray::try_new(item.clone(), offsets, values, None).ok()?;
        Some(Arc::new(lists))
    }
}

/// Splits levels, which their length stands before, from what follows them.
fn level_bytes(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

/// Whether all of `levels` definition levels are `max`: no NULL and no empty list among them.
fn all_defined(bytes: &[u8], max: i16, levels: usize) -> Option<()> {
    let max = u64::try_from(max).ok()?;
    let width = u64::BITS - max.leading_zeros();
    let mut runs = Runs::new(bytes, width as usize, levels);
    while let Some(run) = runs.next()? {
        let is_max = match run {
            Run::Repeated { value, .. } => value == max,
            Run::Packed { bytes, count } => (0..count).all(|i| bits_at(bytes, i * width as usize, width) == Some(max)),
        };
        if !is_max {
            return None;
        }
    }
    Some(())
}

/// `width` bits, at most 32, from bit `at`.
fn bits_at(bytes: &[u8], at: usize, width: u32) -> Option<u64> {
    let mut word = [0u8; 8];
    let from = bytes.get(at / 8..)?;
    let length = from.len().min(8);
    word[..length].copy_from_slice(&from[..length]);
    Some((u64::from_le_bytes(word) >> (at % 8)) & ((1u64 << width) - 1))
}

enum Run<'a> {
    Repeated { value: u64, count: usize },
    Packed { bytes: &'a [u8], count: usize },
}

/// The runs of an RLE/bit-packing hybrid. `next` is `None` for malformed bytes, `Some(None)` behind the last level.
struct Runs<'a> {
    bytes: &'a [u8],
    width: usize,
    left: usize,
}

impl<'a> Runs<'a> {
    fn new(bytes: &'a [u8], width: usize, levels: usize) -> Self {
        Self {
            bytes,
            width,
            left: levels,
        }
    }

    fn next(&mut self) -> Option<Option<Run<'a>>> {
        if self.left == 0 {
            return Some(None);
        }
        let header = varint(&mut self.bytes)?;
        let run = if header & 1 == 0 {
            let count = usize::try_from(header >> 1).ok()?.min(self.left);
            let (value, rest) = self.bytes.split_at_checked(self.width.div_ceil(8))?;
            self.bytes = rest;
            let value = value.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            Run::Repeated { value, count }
        } else {
            let groups = usize::try_from(header >> 1).ok()?;
            let (bytes, rest) = self.bytes.split_at_checked(groups.checked_mul(self.width)?)?;
            self.bytes = rest;
            // The last group of a page is filled up to eight values.
            let count = groups.checked_mul(8)?.min(self.left);
            Run::Packed { bytes, count }
        };
        let (Run::Repeated { count, .. } | Run::Packed { count, .. }) = run;
        if count == 0 {
            return None;
        }
        self.left -= count;
        Some(Some(run))
    }
}

/// An unsigned LEB128 number of at most 64 bits, taken off the front.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn zigzag(bytes: &mut &[u8]) -> Option<i64> {
    let value = varint(bytes)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

fn plain_values(bytes: &[u8], count: usize, out: &mut Vec<i32>) -> Option<()> {
    let bytes = bytes.get(..count.checked_mul(4)?)?;
    let (words, _) = bytes.as_chunks::<4>();
    out.extend(words.iter().map(|word| i32::from_le_bytes(*word)));
    Some(())
}

/// Values that are unpacked at a time: mini-blocks hold a multiple of it.
const GROUP: usize = 32;

/// Decodes `count` values; sums wrap around as the format says.
fn delta_values(mut bytes: &[u8], count: usize, out: &mut Vec<i32>) -> Option<()> {
    let block = usize::try_from(varint(&mut bytes)?).ok()?;
    let minis = usize::try_from(varint(&mut bytes)?).ok()?;
    let total = usize::try_from(varint(&mut bytes)?).ok()?;
    let first = zigzag(&mut bytes)? as i32;
    let mini = block.checked_div(minis)?;
    if total != count || mini == 0 || mini % GROUP != 0 {
        return None;
    }
    if count == 0 {
        return Some(());
    }
    out.push(first);
    let (mut last, mut left) = (first, count - 1);
    while left > 0 {
        let least = zigzag(&mut bytes)? as i32;
        let (widths, rest) = bytes.split_at_checked(minis)?;
        bytes = rest;
        for width in widths {
            if left == 0 {
                // Mini-blocks behind the last value have a width and no bytes.
                break;
            }
            for _ in 0..mini / GROUP {
                // A last mini-block may be written to its end, or not.
                let packed = usize::from(*width) * GROUP / 8;
                let (group, rest) = match bytes.split_at_checked(packed) {
                    Some(both) => both,
                    None if left <= GROUP => (bytes, &[][..]),
                    None => return None,
                };
                let deltas = unpack(group, *width)?;
                bytes = rest;
                let taken = left.min(GROUP);
                out.extend(deltas[..taken].iter().map(|delta| {
                    last = last.wrapping_add(least).wrapping_add(*delta as i32);
                    last
                }));
                left -= taken;
                if left == 0 {
                    break;
                }
            }
        }
    }
    Some(())
}

/// Unpacks 32 numbers of `width` bits, least significant bit first; bits behind the end count as 0.
fn unpack(bytes: &[u8], width: u8) -> Option<[u32; GROUP]> {
    // Room to read eight bytes from wherever a number begins.
    let mut padded = [0u8; GROUP * 4 + 8];
    padded.get_mut(..bytes.len())?.copy_from_slice(bytes);
    macro_rules! by_width {
        ($($w:literal)*) => {
            match width {
                0 => Some([0; GROUP]),
                $($w => Some(unpack_width::<$w>(&padded)),)*
                _ => None,
            }
        };
    }
    by_width!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32)
}

#[inline]
fn unpack_width<const W: usize>(padded: &[u8; GROUP * 4 + 8]) -> [u32; GROUP] {
    let mask = if W == 32 { u32::MAX } else { (1u32 << W) - 1 };
    std::array::from_fn(|i| {
        let at = i * W;
        let word: [u8; 8] = std::array::from_fn(|byte| padded[at / 8 + byte]);
        (u64::from_le_bytes(word) >> (at % 8)) as u32 & mask
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use arrow::array::{Array, AsArray, Int32Builder, ListBuilder, RecordBatch};
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::Compression;
    use parquet::file::metadata::ParquetMetaDataReader;
    use parquet::file::properties::WriterProperties;
    use proptest::prelude::*;

    use super::*;

    fn written(lists: &ArrayRef, encoding: Encoding, compression: Compression) -> Bytes {
        let batch = RecordBatch::try_from_iter([("ids", lists.clone())]).unwrap();
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_encoding(encoding)
            .set_compression(compression)
            .set_data_page_size_limit(4096)
            .set_write_batch_size(64)
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        Bytes::from(writer.into_inner().unwrap())
    }

    fn item_of(lists: &ArrayRef) -> FieldRef {
        match lists.data_type() {
            DataType::List(item) => item.clone(),
            other => panic!("{other}"),
        }
    }

    fn fast(file: &Bytes, item: &FieldRef) -> Option<ArrayRef> {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(file).unwrap();
        read(&Arc::new(file.clone()), metadata.row_group(0), 0, item)
    }

    fn general(file: &Bytes) -> ArrayRef {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
        let mut batches = builder.with_batch_size(1 << 20).build().unwrap();
        batches.next().unwrap().unwrap().column(0).clone()
    }

    fn lists_of(rows: Vec<Option<Vec<i32>>>) -> ArrayRef {
        let mut builder = ListBuilder::new(Int32Builder::new());
        for row in rows {
            builder.append_option(row.map(|ids| ids.into_iter().map(Some).collect::<Vec<_>>()));
        }
        Arc::new(builder.finish())
    }

    fn ids() -> impl Strategy<Value = Vec<i32>> {
        let length = prop_oneof![1..4usize, 1..300usize];
        length.prop_flat_map(|n| {
            prop_oneof![
                prop::collection::vec(0..3i32, n),
                prop::collection::vec(0..50_000i32, n),
                prop::collection::vec(any::<i32>(), n),
                Just(vec![7; n]),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn equals_the_general_reader(rows in prop::collection::vec(ids(), 1..80), plain: bool, packed in 0..3usize) {
            let lists = lists_of(rows.into_iter().map(Some).collect());
            let encoding = if plain { Encoding::PLAIN } else { Encoding::DELTA_BINARY_PACKED };
            let codec = [Compression::UNCOMPRESSED, Compression::LZ4_RAW, Compression::SNAPPY][packed];
            let file = written(&lists, encoding, codec);
            let found = fast(&file, &item_of(&lists)).expect("no NULL and no empty list: it is covered");
            prop_assert_eq!(&found, &general(&file));
            prop_assert_eq!(&found, &lists);
        }

        #[test]
        fn damaged_pages_never_panic(
            rows in prop::collection::vec(ids(), 1..40),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let lists = lists_of(rows.into_iter().map(Some).collect());
            let file = written(&lists, Encoding::DELTA_BINARY_PACKED, Compression::UNCOMPRESSED);
            let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
            let (start, length) = metadata.row_group(0).column(0).byte_range();
            let mut bytes = file.to_vec();
            for (at, byte) in damage {
                bytes[start as usize + at.index(length as usize)] = byte;
            }
            if let Some(found) = read(&Arc::new(Bytes::from(bytes)), metadata.row_group(0), 0, &item_of(&lists)) {
                prop_assert_eq!(found.len(), lists.len());
                prop_assert_eq!(found.as_list::<i32>().values().len(), lists.as_list::<i32>().values().len());
            }
        }
    }

    #[test]
    fn null_and_empty_lists_are_left_to_the_general_reader() {
        for odd in [None, Some(vec![])] {
            let lists = lists_of(vec![Some(vec![1, 2]), odd, Some(vec![3])]);
            let file = written(&lists, Encoding::DELTA_BINARY_PACKED, Compression::UNCOMPRESSED);
            assert!(fast(&file, &item_of(&lists)).is_none());
            assert_eq!(&general(&file), &lists);
        }
    }

    #[test]
    fn is_faster() {
        let rows = (0..512).map(|row| Some((0..512).map(|i| (row * 31 + i * i * 17) % 30_000).collect()));
        let lists = lists_of(rows.collect());
        let file = written(&lists, Encoding::DELTA_BINARY_PACKED, Compression::LZ4_RAW);
        let item = item_of(&lists);
        let best = |work: &dyn Fn() -> ArrayRef| {
            let time = |_| {
                let start = Instant::now();
                assert_eq!(work().len(), lists.len());
                start.elapsed()
            };
            (0..15).map(time).min().unwrap_or(Duration::MAX)
        };
        let (ours, theirs) = (best(&|| fast(&file, &item).unwrap()), best(&|| general(&file)));
        println!("ours {ours:?}, the general reader {theirs:?}");
        assert!(ours < theirs, "ours {ours:?}, the general reader {theirs:?}");
    }
}
