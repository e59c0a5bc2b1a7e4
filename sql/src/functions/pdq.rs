//! Perceptual hashes of pictures; a hash is text of 64 hexadecimal digits, as hash lists hold them.
//!
//! - `pdq(bytes)` → `Struct<hash: Utf8, quality: Int32>`, NULL for bytes that are no picture
//! - `pdq_dihedral(bytes)` → `List<Utf8>`: of the picture, turned left by 90°, 180°, 270°, and mirrored in four ways
//! - `pdq_distance(a, b)` → `Int32`: bits in which two hashes differ; of several, written one behind the other, the nearest

use std::sync::Arc;

use corpusmill_kernels::hamming::least_distance;
use corpusmill_kernels::pdq::{PdqHash, hash_text, parse_hash, pdq_of_file};
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, Int32Array, Int32Builder, ListBuilder, StringArray, StringBuilder, StructArray,
};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::cast::as_binary_array;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::text_function::{strings, text_type};

pub(crate) fn hash() -> ScalarUDF {
    Pdq::udf(What::Hash)
}

pub(crate) fn dihedral() -> ScalarUDF {
    Pdq::udf(What::Dihedral)
}

pub(crate) fn distance() -> ScalarUDF {
    Pdq::udf(What::Distance)
}

/// Reads a hash as it is written.
pub(crate) fn parse(text: &str) -> Result<PdqHash> {
    parse_hash(text).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        exec_datafusion_err!(
            "'{shown}' is not a PDQ hash: expected 64 hexadecimal digits, such as pdq(content)['hash']"
        )
    })
}

/// Reads one or more hashes, written one behind the other.
pub(crate) fn parse_all(text: &str) -> Result<Vec<PdqHash>> {
    let text = text.trim();
    if text.len() <= 64 || !text.is_ascii() {
        return Ok(vec![parse(text)?]);
    }
    let (hashes, rest) = text.as_bytes().as_chunks::<64>();
    let rest = (!rest.is_empty()).then_some(rest);
    let hashes = hashes.iter().map(<[u8; 64]>::as_slice).chain(rest);
    hashes.map(|hash| parse(&String::from_utf8_lossy(hash))).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Hash,
    Dihedral,
    Distance,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Pdq {
    what: What,
    signature: Signature,
}

fn hash_fields() -> Fields {
    Fields::from(vec![
        Field::new("hash", DataType::Utf8, true),
        Field::new("quality", DataType::Int32, true),
    ])
}

impl Pdq {
    fn udf(what: What) -> ScalarUDF {
        ScalarUDF::new_from_impl(Pdq {
            what,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    }
}

impl ScalarUDFImpl for Pdq {
    fn name(&self) -> &str {
        match self.what {
            What::Hash => "pdq",
            What::Dihedral => "pdq_dihedral",
            What::Distance => "pdq_distance",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.what {
            What::Hash => DataType::Struct(hash_fields()),
            What::Dihedral => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
            What::Distance => DataType::Int32,
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match (self.what, types) {
            (What::Distance, [a, b]) => Ok(vec![text_type(self.name(), a)?, text_type(self.name(), b)?]),
            (What::Distance, _) => plan_err!("pdq_distance takes two hashes"),
            (_, [bytes]) if bytes.is_binary() || bytes.is_null() => Ok(vec![DataType::Binary]),
            _ => plan_err!(
                "{} takes the bytes of a picture, such as read_blob's content",
                self.name()
            ),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let arrays = args
            .args
            .iter()
            .map(|value| value.to_array(rows))
            .collect::<Result<Vec<ArrayRef>>>()?;
        let result: ArrayRef = match (self.what, arrays.as_slice()) {
            (What::Distance, [a, b]) => Arc::new(distances(&strings(a)?, &strings(b)?)?),
            (What::Hash, [bytes]) => Arc::new(hashes(as_binary_array(&cast(bytes, &DataType::Binary)?)?)?),
            (What::Dihedral, [bytes]) => all_hashes(as_binary_array(&cast(bytes, &DataType::Binary)?)?),
            _ => return plan_err!("{} was given a wrong number of arguments", self.name()),
        };
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

fn hashes(files: &BinaryArray) -> Result<StructArray> {
    let mut hashes = StringBuilder::with_capacity(files.len(), 64 * files.len());
    let mut qualities = Int32Builder::with_capacity(files.len());
    let mut valid = Vec::with_capacity(files.len());
    for file in files {
        let found = file.and_then(pdq_of_file);
        valid.push(found.is_some());
        hashes.append_option(found.map(|found| hash_text(&found.hashes[0])));
        qualities.append_option(found.map(|found| i32::from(found.quality)));
    }
    let columns: Vec<ArrayRef> = vec![Arc::new(hashes.finish()), Arc::new(qualities.finish())];
    Ok(StructArray::try_new(
        hash_fields(),
        columns,
        Some(NullBuffer::from(valid)),
    )?)
}

fn all_hashes(files: &BinaryArray) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for file in files {
        let found = file.and_then(pdq_of_file);
        if let Some(found) = &found {
            found
                .hashes
                .iter()
                .for_each(|hash| lists.values().append_value(hash_text(hash)));
        }
        lists.append(found.is_some());
    }
    Arc::new(lists.finish())
}

fn distances(a: &StringArray, b: &StringArray) -> Result<Int32Array> {
    a.iter()
        .zip(b)
        .map(|pair| match pair {
            (Some(a), Some(b)) => Ok(least_distance(&parse_all(a)?, &parse_all(b)?).map(|bits| bits as i32)),
            _ => Ok(None),
        })
        .collect()
}
