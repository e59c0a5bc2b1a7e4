//! `exact_sum(x)` and `exact_avg(x)`: sums of floats that give the same bits in any order and any grouping.
//!
//! In a corpus they take the place of `sum` and `avg` (see `reproducible.rs`): partial sums are merged in whatever
//! order partitions finish, and rounding would tell.

use std::sync::Arc;

use corpusmill_kernels::ExactSum;
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::cast::{as_binary_array, as_float64_array};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::text_function::kernel_error;

pub(crate) fn sum() -> AggregateUDF {
    AggregateUDF::new_from_impl(ExactAggregate::new("exact_sum", false))
}

pub(crate) fn avg() -> AggregateUDF {
    AggregateUDF::new_from_impl(ExactAggregate::new("exact_avg", true))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactAggregate {
    name: &'static str,
    mean: bool,
    signature: Signature,
}

impl ExactAggregate {
    fn new(name: &'static str, mean: bool) -> Self {
        ExactAggregate {
            name,
            mean,
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl AggregateUDFImpl for ExactAggregate {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [data_type] if data_type.is_numeric() || data_type.is_null() => Ok(vec![DataType::Float64]),
            _ => plan_err!("{} takes one number", self.name),
        }
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(ExactAccumulator {
            sum: ExactSum::new(),
            mean: self.mean,
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(
            format!("{}[sum]", args.name),
            DataType::Binary,
            true,
        ))])
    }
}

#[derive(Debug)]
struct ExactAccumulator {
    sum: ExactSum,
    mean: bool,
}

impl Accumulator for ExactAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = cast(&values[0], &DataType::Float64)?;
        self.sum.add_array(as_float64_array(&values)?);
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for bytes in as_binary_array(&states[0])?.iter().flatten() {
            self.sum.merge(&ExactSum::from_bytes(bytes).map_err(kernel_error)?);
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.sum.to_bytes()))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let count = self.sum.count();
        if count == 0 {
            return Ok(ScalarValue::Float64(None));
        }
        let sum = self.sum.value();
        Ok(ScalarValue::Float64(Some(if self.mean {
            sum / count as f64
        } else {
            sum
        })))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
