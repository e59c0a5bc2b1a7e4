//! `psi_counts(expected, actual)`: population stability index of two columns of counts, one row a bucket.
//!
//! What `psi('column', previous())` in an `EXPECT CORPUS` is rewritten to. NULL counts as 0. The result does not depend
//! on the order of the rows: buckets are sorted by their counts before they are summed.

use std::sync::Arc;

use corpusmill_kernels::psi;
use datafusion::arrow::array::{Array, ArrayRef, UInt64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::cast::{as_list_array, as_uint64_array};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

pub(crate) fn function() -> AggregateUDF {
    AggregateUDF::new_from_impl(PsiCounts {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PsiCounts {
    signature: Signature,
}

impl AggregateUDFImpl for PsiCounts {
    fn name(&self) -> &str {
        "psi_counts"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [_, _] => Ok(vec![DataType::UInt64, DataType::UInt64]),
            _ => plan_err!("psi_counts takes two columns of counts"),
        }
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Buckets::default()))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let item = Arc::new(Field::new_list_field(DataType::UInt64, true));
        Ok(["expected", "actual"]
            .iter()
            .map(|side| {
                let name = format!("{}[{side}]", args.name);
                Arc::new(Field::new(name, DataType::List(Arc::clone(&item)), true))
            })
            .collect())
    }
}

/// Pairs of counts: expected, actual.
#[derive(Debug, Default)]
struct Buckets(Vec<(u64, u64)>);

fn counts(array: &ArrayRef) -> Result<Vec<u64>> {
    let array = cast(array, &DataType::UInt64)?;
    let array: &UInt64Array = as_uint64_array(&array)?;
    Ok(array.iter().map(Option::unwrap_or_default).collect())
}

impl Accumulator for Buckets {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.extend(counts(&values[0])?.into_iter().zip(counts(&values[1])?));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (expected, actual) = (as_list_array(&states[0])?, as_list_array(&states[1])?);
        for row in 0..expected.len() {
            self.update_batch(&[expected.value(row), actual.value(row)])?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let list = |values: Vec<u64>| {
            let values: Vec<ScalarValue> = values
                .into_iter()
                .map(|value| ScalarValue::UInt64(Some(value)))
                .collect();
            ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::UInt64))
        };
        let (expected, actual) = self.0.iter().copied().unzip();
        Ok(vec![list(expected), list(actual)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.sort_unstable();
        let (expected, actual): (Vec<u64>, Vec<u64>) = self.0.iter().copied().unzip();
        let index = psi(&expected, &actual);
        Ok(ScalarValue::Float64((!index.is_nan()).then_some(index)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.capacity() * size_of::<(u64, u64)>()
    }
}
