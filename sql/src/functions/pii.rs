//! `pii_spans(s [, kinds])` and `pii_redact(s [, kinds])`: personal data, found by pattern and check digit.

use std::sync::Arc;

use corpusmill_kernels::{PiiKinds, pii_redact, pii_spans, pii_spans_type};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ScalarUDF;

use super::text_function::{TextFunction, kernel_error};

const OPTIONS: &[(&str, Option<&str>)] = &[("kinds", Some("all"))];

fn kinds(options: &[&str]) -> Result<PiiKinds> {
    options[0].parse().map_err(kernel_error)
}

pub(crate) fn spans() -> ScalarUDF {
    TextFunction::new(
        "pii_spans",
        OPTIONS,
        |options| kinds(options).map(|_| pii_spans_type()),
        |text, options| Ok(Arc::new(pii_spans(text, &kinds(options)?).map_err(kernel_error)?)),
    )
    .into_udf()
}

pub(crate) fn redact() -> ScalarUDF {
    TextFunction::new(
        "pii_redact",
        OPTIONS,
        |options| kinds(options).map(|_| DataType::Utf8),
        |text, options| Ok(Arc::new(pii_redact(text, &kinds(options)?).map_err(kernel_error)?)),
    )
    .into_udf()
}
