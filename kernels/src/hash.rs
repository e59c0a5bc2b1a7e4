//! `content_hash`: a 128-bit hash of the values of a row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeBinaryArray, FixedSizeBinaryBuilder};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{KernelError, Result};

mod canonical;

use canonical::ColumnEncoder;

/// Hashes the values of each row over any number of columns of any types.
///
/// Returns `FixedSizeBinary(16)`: the xxh3-128 hash, big-endian (as `xxhsum` prints it), of the row's canonical
/// encoding. `NULL` where every column is `NULL`; a `NULL` beside other values is a value of its own.
///
/// The encoding is free of how a value is stored, and unambiguous:
/// - every value is a tag and a body of known length, so `('a', 'bc')` and `('ab', 'c')` differ, and `NULL` differs
///   from the empty string;
/// - integers of any width and sign hash by value; floats as `f64`, with `-0.0` as `0.0` and every NaN the same;
///   decimals without trailing zeros; timestamps and times in nanoseconds, with time zone as an instant;
/// - strings, binary, lists in all their layouts (plain, large, view, fixed-size, dictionary, run-end) are the same;
/// - structs hash by position of their fields, not by name.
///
/// An integer does not equal the float, nor a string the binary, with the same value.
///
/// # Errors
/// When there is no column, columns differ in length, or a column holds a union.
pub fn content_hash(columns: &[ArrayRef]) -> Result<FixedSizeBinaryArray> {
    let Some(first) = columns.first() else {
        return Err(KernelError::InvalidOption {
            option: "content_hash",
            value: String::new(),
            problem: "it was given no column".into(),
            fix: "write content_hash(column, …)".into(),
        });
    };
    if let Some(other) = columns.iter().find(|c| c.len() != first.len()) {
        return Err(KernelError::LengthMismatch {
            function: "content_hash",
            left: first.len(),
            right: other.len(),
        });
    }
    let nulls: Vec<_> = columns.iter().map(|c| c.logical_nulls()).collect();
    let encoders = columns
        .iter()
        .map(|c| ColumnEncoder::new(c.as_ref()))
        .collect::<Result<Vec<_>>>()?;
    let mut out = FixedSizeBinaryBuilder::with_capacity(first.len(), 16);
    let mut row_bytes = Vec::with_capacity(256);
    for row in 0..first.len() {
        if nulls.iter().all(|n| n.as_ref().is_some_and(|n| n.is_null(row))) {
            out.append_null();
            continue;
        }
        row_bytes.clear();
        for encoder in &encoders {
            encoder.encode(row, &mut row_bytes);
        }
        out.append_value(xxh3_128(&row_bytes).to_be_bytes())?;
    }
    Ok(out.finish())
}

/// Hashes one column: [`content_hash`] of it alone.
///
/// # Errors
/// When the column holds a union.
pub fn content_hash_of<A: Array + Clone + 'static>(column: &A) -> Result<FixedSizeBinaryArray> {
    content_hash(&[Arc::new(column.clone())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Field, Int32Type, TimeUnit};
    use proptest::prelude::*;

    fn hex(columns: &[ArrayRef]) -> Vec<Option<String>> {
        let hash = content_hash(columns).unwrap();
        hash.iter()
            .map(|h| h.map(|h| h.iter().map(|b| format!("{b:02x}")).collect()))
            .collect()
    }

    fn strings(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    #[test]
    fn golden_values_never_change_between_releases() {
        let got = hex(&[
            strings(&[Some("abc"), Some(""), None]),
            Arc::new(Int64Array::from(vec![Some(-7), None, None])),
        ]);
        assert_eq!(got, [Some(GOLDEN[0].to_string()), Some(GOLDEN[1].to_string()), None]);
    }
    const GOLDEN: [&str; 2] = ["646f4578b48f8e865e37a6c3013e6403", "2630a2f823996163b30ae52932e4d237"];

    #[test]
    fn columns_are_not_confusable() {
        let ab = hex(&[strings(&[Some("a")]), strings(&[Some("bc")])]);
        assert_ne!(ab, hex(&[strings(&[Some("ab")]), strings(&[Some("c")])]));
        assert_ne!(ab, hex(&[strings(&[Some("abc")])]));
        assert_ne!(
            hex(&[strings(&[Some("")]), strings(&[None])]),
            hex(&[strings(&[None]), strings(&[Some("")])])
        );
        assert_ne!(
            hex(&[strings(&[Some("1")])]),
            hex(&[Arc::new(Int64Array::from(vec![1]))])
        );
    }

    #[test]
    fn the_same_values_in_other_types_hash_the_same() {
        let s = strings(&[Some("añb"), None, Some(""), Some("a longer string than twelve")]);
        let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        for t in [DataType::LargeUtf8, DataType::Utf8View, dictionary] {
            assert_eq!(hex(&[cast(&s, &t).unwrap()]), hex(std::slice::from_ref(&s)), "{t}");
        }
        let i: ArrayRef = Arc::new(Int8Array::from(vec![Some(5), None, Some(0), Some(127)]));
        for t in [DataType::Int64, DataType::UInt8, DataType::UInt64, DataType::Int32] {
            assert_eq!(hex(&[cast(&i, &t).unwrap()]), hex(std::slice::from_ref(&i)), "{t}");
        }
        let ts: ArrayRef = Arc::new(TimestampSecondArray::from(vec![Some(1_700_000_000), None, Some(-1)]));
        for unit in [TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
            assert_eq!(
                hex(&[cast(&ts, &DataType::Timestamp(unit, None)).unwrap()]),
                hex(std::slice::from_ref(&ts))
            );
        }
        let d: ArrayRef = Arc::new(
            Decimal128Array::from(vec![Some(1500), Some(0)])
                .with_precision_and_scale(10, 3)
                .unwrap(),
        );
        let shorter: ArrayRef = Arc::new(
            Decimal128Array::from(vec![Some(15), Some(0)])
                .with_precision_and_scale(9, 1)
                .unwrap(),
        );
        assert_eq!(hex(&[d]), hex(&[shorter]));
    }

    #[test]
    fn floats_are_canonical() {
        let odd_nan = f64::from_bits(0xfff8_0000_0000_0001);
        let f = hex(&[Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, odd_nan, 1.5]))]);
        assert_eq!((&f[0], &f[2]), (&f[1], &f[3]));
        assert_eq!(f[4], hex(&[Arc::new(Float32Array::from(vec![1.5]))])[0]);
        assert_ne!(f[0], hex(&[Arc::new(Int64Array::from(vec![0]))])[0]);
    }

    #[test]
    fn nested_values_are_not_confusable() {
        let list = |v: Vec<Option<Vec<Option<i32>>>>| -> ArrayRef {
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(v))
        };
        let rows = hex(&[list(vec![
            Some(vec![Some(1), Some(2)]),
            Some(vec![Some(1)]),
            Some(vec![]),
            None,
            Some(vec![None]),
            Some(vec![Some(1), Some(2)]),
        ])]);
        assert_eq!(rows[0], rows[5]);
        assert_eq!(rows[3], None);
        let distinct: std::collections::HashSet<_> = rows.iter().collect();
        assert_eq!(distinct.len(), 5);
        let flat: ArrayRef = Arc::new(FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
            [Some(vec![Some(1), Some(2)])],
            2,
        ));
        assert_eq!(hex(&[flat])[0], rows[0]);
        let a = Arc::new(Field::new("a", DataType::Utf8, true));
        let b = Arc::new(Field::new("b", DataType::Utf8, true));
        let pair = StructArray::from(vec![
            (a, strings(&[Some("x"), Some("xy")])),
            (b, strings(&[Some("yz"), Some("z")])),
        ]);
        let pair = hex(&[Arc::new(pair)]);
        assert_ne!(pair[0], pair[1]);
    }

    #[test]
    fn what_cannot_be_hashed_says_so() {
        assert!(content_hash(&[]).unwrap_err().to_string().contains("no column"));
        let error = content_hash(&[strings(&[None]), strings(&[None, None])])
            .unwrap_err()
            .to_string();
        assert!(error.contains("1 and 2 rows"), "{error}");
    }

    proptest! {
        #[test]
        fn hashes_agree_exactly_when_rows_do(rows in prop::collection::vec((prop::option::of("[ab]{0,2}"), prop::option::of("[ab]{0,2}")), 1..40)) {
            let (a, b): (Vec<_>, Vec<_>) = rows.iter().cloned().unzip();
            let got = hex(&[Arc::new(StringArray::from(a)), Arc::new(StringArray::from(b))]);
            for (x, hash_x) in rows.iter().zip(&got) {
                for (y, hash_y) in rows.iter().zip(&got) {
                    prop_assert_eq!(x == y, hash_x == hash_y);
                }
                prop_assert_eq!(hash_x.is_none(), x.0.is_none() && x.1.is_none());
            }
        }

        #[test]
        fn a_slice_hashes_as_its_rows(values in prop::collection::vec(prop::option::of(any::<i64>()), 2..20), cut: prop::sample::Index) {
            let whole: ArrayRef = Arc::new(Int64Array::from(values.clone()));
            let at = cut.index(values.len());
            prop_assert_eq!(&hex(&[whole.slice(at, values.len() - at)])[..], &hex(&[whole])[at..]);
        }
    }
}
