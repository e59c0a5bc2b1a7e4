//! `lang_id(s)` → `Struct{lang, score}`: the language of a text.

use std::sync::Arc;

use corpusmill_kernels::{lang_fields, lang_id};
use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::ScalarUDF;

use super::text_function::TextFunction;

pub(crate) fn function() -> ScalarUDF {
    TextFunction::new(
        "lang_id",
        &[],
        |_| Ok(DataType::Struct(lang_fields())),
        |text, _| Ok(Arc::new(lang_id(text))),
    )
    .into_udf()
}
