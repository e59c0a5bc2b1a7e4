//! `run_start()` and `run_end()`: the logical time of a build, a constant while one statement is planned.

use chrono::{DateTime, Utc};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

/// A function of no arguments that gives `time` as `Timestamp(µs)`, in UTC and without a zone, so that it compares
/// with what files hold.
pub(crate) fn function(name: &'static str, time: DateTime<Utc>) -> ScalarUDF {
    ScalarUDF::new_from_impl(RunTimeFunction {
        name,
        micros: time.timestamp_micros(),
        signature: Signature::nullary(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RunTimeFunction {
    name: &'static str,
    micros: i64,
    signature: Signature,
}

impl RunTimeFunction {
    fn value(&self) -> ScalarValue {
        ScalarValue::TimestampMicrosecond(Some(self.micros), None)
    }
}

impl ScalarUDFImpl for RunTimeFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, None))
    }

    fn simplify(&self, _args: Vec<Expr>, _info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(ExprSimplifyResult::Simplified(lit(self.value())))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value()))
    }
}
