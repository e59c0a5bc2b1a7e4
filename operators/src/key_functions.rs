//! Two scalar functions that give a row its place: `corpus_key_hash(key…)` and `corpus_key_shard(hash, shards)`.
//!
//! They are functions, not code inside an operator, so that the optimizer can move a filter on the shard below the
//! costly parts of a query: a resumed build computes only the rows of the shards that it lacks.

use std::sync::Arc;

use corpusmill_corpus::{key_hashes, shard_of};
use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, UInt32Array, UInt64Array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, UInt64Type};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use crate::OperatorError;

/// `corpus_key_hash(key…) → UInt64`: xxh3-64 of the canonical encoding of the key columns (`corpus::key_hashes`);
/// NULL where any key column is NULL.
#[must_use]
pub fn key_hash_udf() -> ScalarUDF {
    ScalarUDF::new_from_impl(KeyHash {
        signature: Signature::variadic_any(Volatility::Immutable),
    })
}

/// `corpus_key_shard(hash UInt64, shards UInt32) → UInt32`: the shard of a hash; 0 for a NULL hash, so that a row
/// without a key can still be counted or quarantined somewhere.
#[must_use]
pub fn key_shard_udf() -> ScalarUDF {
    ScalarUDF::new_from_impl(KeyShard {
        signature: Signature::new(
            TypeSignature::Exact(vec![DataType::UInt64, DataType::UInt32]),
            Volatility::Immutable,
        ),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct KeyHash {
    signature: Signature,
}

impl ScalarUDFImpl for KeyHash {
    fn name(&self) -> &str {
        "corpus_key_hash"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::UInt64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns: Vec<ArrayRef> = ColumnarValue::values_to_arrays(&args.args)?;
        let hashes = key_hashes(&columns).map_err(OperatorError::from)?;
        let nulls = columns.iter().fold(None, |nulls, column| {
            NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref())
        });
        Ok(ColumnarValue::Array(Arc::new(UInt64Array::new(hashes.into(), nulls))))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct KeyShard {
    signature: Signature,
}

impl ScalarUDFImpl for KeyShard {
    fn name(&self) -> &str {
        "corpus_key_shard"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::UInt32)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [hash, ColumnarValue::Scalar(ScalarValue::UInt32(Some(shards)))] = args.args.as_slice() else {
            return exec_err!("corpus_key_shard takes a hash and the number of shards as a constant");
        };
        if *shards == 0 {
            return exec_err!("corpus_key_shard: a corpus has at least one shard");
        }
        let hash = hash.to_array(args.number_rows)?;
        let hash = hash.as_primitive::<UInt64Type>();
        let shard: UInt32Array = hash
            .iter()
            .map(|h| Some(h.map_or(0, |h| shard_of(h, *shards))))
            .collect();
        Ok(ColumnarValue::Array(Arc::new(shard)))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, StringArray};
    use datafusion::arrow::datatypes::Field;

    use super::*;

    fn call(udf: &ScalarUDF, args: Vec<ColumnarValue>, rows: usize, to: DataType) -> ArrayRef {
        let arg_fields = args
            .iter()
            .map(|a| Arc::new(Field::new("a", a.data_type(), true)))
            .collect::<Vec<_>>();
        let args = ScalarFunctionArgs {
            args,
            arg_fields,
            number_rows: rows,
            return_field: Arc::new(Field::new("r", to, true)),
            config_options: Arc::default(),
        };
        udf.invoke_with_args(args).unwrap().to_array(rows).unwrap()
    }

    #[test]
    fn places_follow_the_corpus_crate() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        let expected = key_hashes(&[ids.slice(2, 1), names.slice(2, 1)]).unwrap()[0];
        let columns = vec![ColumnarValue::Array(ids), ColumnarValue::Array(names)];
        let hashes = call(&key_hash_udf(), columns, 3, DataType::UInt64);
        let hashes = hashes.as_primitive::<UInt64Type>();
        assert!(hashes.is_null(1), "a row with a NULL key has no hash");
        assert_eq!(hashes.value(2), expected);

        let shards = ColumnarValue::Scalar(ScalarValue::UInt32(Some(7)));
        let column = ColumnarValue::Array(Arc::new(hashes.clone()));
        let placed = call(&key_shard_udf(), vec![column, shards], 3, DataType::UInt32);
        let placed = placed.as_any().downcast_ref::<UInt32Array>().unwrap();
        assert_eq!(placed.value(1), 0);
        assert_eq!(placed.value(2), shard_of(expected, 7));
    }
}
