//! `normalize_text(s [, form = 'NFKC'])`: Unicode form, character references, invisible characters, white space.

use std::sync::Arc;

use corpusmill_kernels::text::{Form, normalize};
use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::ScalarUDF;

use super::text_function::{TextFunction, kernel_error};

pub(crate) fn function() -> ScalarUDF {
    TextFunction::new(
        "normalize_text",
        &[("form", Some("NFKC"))],
        |_| Ok(DataType::Utf8),
        |text, options| {
            let form: Form = options[0].parse().map_err(kernel_error)?;
            Ok(Arc::new(normalize(text, form).map_err(kernel_error)?))
        },
    )
    .into_udf()
}
