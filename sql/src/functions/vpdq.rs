//! How much videos share, by the hashes of their frames, as `vpdq` gives them.
//!
//! - `vpdq_hashes(frames [, min_quality => 50])` → `Utf8`: the hashes of at least that quality, one behind the other, in
//!   the order of their times; NULL where there are none
//! - `vpdq_shares(a, b [, max_distance => 31])` → `Struct<a_in_b, b_in_a, least: Float64>`: of two such texts, the share
//!   of each one's frames that are within so many bits of a frame of the other; NULL where one is NULL
//!
//! The numbers are constants.

use std::sync::Arc;

use corpusmill_kernels::hamming::DISTANCE_MAX;
use corpusmill_kernels::pdq::PdqHash;
use corpusmill_kernels::videos::frame_shares;
use datafusion::arrow::array::{Array, ArrayRef, Float64Builder, ListArray, StringArray, StringBuilder, StructArray};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::cast::{as_int32_array, as_list_array, as_string_array, as_struct_array};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};

use super::media::{constant_number, named, over_columns};
use super::text_function::{strings, text_type};
use super::{pdq, videos};

pub(crate) fn frame_hashes() -> ScalarUDF {
    Vpdq::udf(What::Hashes)
}

pub(crate) fn shares() -> ScalarUDF {
    Vpdq::udf(What::Shares)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Hashes,
    Shares,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Vpdq {
    what: What,
    signature: Signature,
}

fn share_fields() -> Fields {
    let field = |name: &str| Field::new(name, DataType::Float64, true);
    Fields::from(vec![field("a_in_b"), field("b_in_a"), field("least")])
}

impl Vpdq {
    fn udf(what: What) -> ScalarUDF {
        let arguments: &[&str] = match what {
            What::Hashes => &["frames", "min_quality"],
            What::Shares => &["a", "b", "max_distance"],
        };
        ScalarUDF::new_from_impl(Vpdq {
            what,
            signature: named(arguments),
        })
    }
}

/// The type of a list of hashed frames, whatever else is told of them.
fn is_frames(data_type: &DataType) -> bool {
    let DataType::List(item) = data_type else { return false };
    let DataType::Struct(fields) = item.data_type() else {
        return false;
    };
    let is =
        |name: &str, kind: fn(&DataType) -> bool| fields.find(name).is_some_and(|(_, field)| kind(field.data_type()));
    is("hash", DataType::is_string) && is("quality", DataType::is_integer)
}

impl ScalarUDFImpl for Vpdq {
    fn name(&self) -> &str {
        match self.what {
            What::Hashes => "vpdq_hashes",
            What::Shares => "vpdq_shares",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.what {
            What::Hashes => DataType::Utf8,
            What::Shares => DataType::Struct(share_fields()),
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let number = DataType::Float64;
        match (self.what, types) {
            (What::Hashes, [frames, rest @ ..]) if rest.len() < 2 && is_frames(frames) => {
                Ok([vec![frames.clone()], vec![number; rest.len()]].concat())
            }
            (What::Hashes, [DataType::Null, rest @ ..]) if rest.len() < 2 => {
                let item = Field::new_list_field(DataType::Struct(videos::hashed_frame()), true);
                Ok([vec![DataType::List(Arc::new(item))], vec![number; rest.len()]].concat())
            }
            (What::Hashes, _) => plan_err!("vpdq_hashes takes a list of {{hash, quality}}, such as vpdq(content)"),
            (What::Shares, [a, b, rest @ ..]) if rest.len() < 2 => {
                let texts = vec![text_type(self.name(), a)?, text_type(self.name(), b)?];
                Ok([texts, vec![number; rest.len()]].concat())
            }
            (What::Shares, _) => plan_err!("vpdq_shares takes the hashes of two videos, such as vpdq_hashes(frames)"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match self.what {
            What::Hashes => {
                let least = constant_number(self.name(), "min_quality", args.args.get(1), 50.0)?;
                over_columns(&args, |columns| {
                    Ok(Arc::new(joined(as_list_array(&columns[0])?, least)?) as ArrayRef)
                })
            }
            What::Shares => {
                let most = constant_number(self.name(), "max_distance", args.args.get(2), DISTANCE_MAX.into())?;
                if !(0.0..=256.0).contains(&most) || most.fract() != 0.0 {
                    return exec_err!("max_distance of vpdq_shares is a number of bits from 0 to 256, found {most}");
                }
                over_columns(&args, |columns| {
                    let (a, b) = (strings(&columns[0])?, strings(&columns[1])?);
                    Ok(Arc::new(compared(&a, &b, most as u32)?) as ArrayRef)
                })
            }
        }
    }
}

fn joined(videos: &ListArray, least: f64) -> Result<StringArray> {
    let mut texts = StringBuilder::with_capacity(videos.len(), 0);
    for frames in videos.iter() {
        let Some(frames) = frames else {
            texts.append_null();
            continue;
        };
        let frames = as_struct_array(&frames)?;
        let column = |name: &str, data_type: &DataType| match frames.column_by_name(name) {
            Some(column) => Ok(cast(column, data_type)?),
            None => exec_err!("a list of frames has no field '{name}'"),
        };
        let (hashes, qualities) = (column("hash", &DataType::Utf8)?, column("quality", &DataType::Int32)?);
        let (hashes, qualities) = (as_string_array(&hashes)?, as_int32_array(&qualities)?);
        let good = hashes.iter().zip(qualities).filter_map(|(hash, quality)| {
            let good = f64::from(quality?) >= least;
            hash.filter(|_| good)
        });
        let text: String = good.collect();
        texts.append_option((!text.is_empty()).then_some(text));
    }
    Ok(texts.finish())
}

fn compared(a: &StringArray, b: &StringArray, distance_max: u32) -> Result<StructArray> {
    let mut columns = [(); 3].map(|()| Float64Builder::with_capacity(a.len()));
    let mut valid = Vec::with_capacity(a.len());
    let hashes = |text: Option<&str>| -> Result<Vec<PdqHash>> { text.map_or(Ok(Vec::new()), pdq::parse_all) };
    for (a, b) in a.iter().zip(b) {
        let shares = frame_shares(&hashes(a)?, &hashes(b)?, distance_max);
        valid.push(shares.is_some());
        let shares = shares.map(|shares| [shares.a_in_b, shares.b_in_a, shares.least()]);
        for (at, column) in columns.iter_mut().enumerate() {
            column.append_option(shares.map(|shares| shares[at]));
        }
    }
    let columns = columns
        .iter_mut()
        .map(|column| Arc::new(column.finish()) as ArrayRef)
        .collect();
    Ok(StructArray::try_new(
        share_fields(),
        columns,
        Some(NullBuffer::from(valid)),
    )?)
}
