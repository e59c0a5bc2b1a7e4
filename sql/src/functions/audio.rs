//! Fingerprints of sound.
//!
//! - `audio_fingerprint(bytes [, seconds => 120])` → `List<UInt32>`: as `fpcalc -raw -length 120` prints it, of the first
//!   sound in a file of sound or video; empty for less than 2.7 s, NULL for bytes without whole sound within the limits
//!   of [`crate::ffmpeg`]
//! - `audio_fingerprint_distance(a, b [, seconds => 15])` → `Float64`: the least share of bits in which they differ, when
//!   one is moved against the other by up to so many seconds; NULL where they do not overlap in half of the shorter one
//!   and in 2 s
//!
//! `seconds` are constants.

use std::sync::Arc;

use corpusmill_kernels::audio::{SAMPLE_RATE, STEP_SAMPLES, bit_error_rate, fingerprint as fingerprint_of};
use datafusion::arrow::array::{ArrayRef, BinaryArray, Float64Array, ListArray, ListBuilder, UInt32Builder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::cast::{as_list_array, as_uint32_array};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};

use super::media::{coerced, constant_number, files, named, over_columns};
use crate::ffmpeg;

/// Most seconds of sound, and of a move.
const SECONDS_MAX: f64 = 3600.0;

pub(crate) fn fingerprint() -> ScalarUDF {
    Audio::udf(What::Fingerprint)
}

pub(crate) fn distance() -> ScalarUDF {
    Audio::udf(What::Distance)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Fingerprint,
    Distance,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Audio {
    what: What,
    signature: Signature,
}

impl Audio {
    fn udf(what: What) -> ScalarUDF {
        let arguments: &[&str] = match what {
            What::Fingerprint => &["bytes", "seconds"],
            What::Distance => &["a", "b", "seconds"],
        };
        ScalarUDF::new_from_impl(Audio {
            what,
            signature: named(arguments),
        })
    }

    fn seconds(&self, value: Option<&ColumnarValue>, default: f64) -> Result<f64> {
        let seconds = constant_number(self.name(), "seconds", value, default)?;
        if !(0.0..=SECONDS_MAX).contains(&seconds) {
            return exec_err!(
                "seconds of {} are from 0 to {SECONDS_MAX}, found {seconds}",
                self.name()
            );
        }
        Ok(seconds)
    }
}

fn numbers() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::UInt32, true)))
}

impl ScalarUDFImpl for Audio {
    fn name(&self) -> &str {
        match self.what {
            What::Fingerprint => "audio_fingerprint",
            What::Distance => "audio_fingerprint_distance",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.what {
            What::Fingerprint => numbers(),
            What::Distance => DataType::Float64,
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let is_list = |data_type: &DataType| data_type.is_list() || data_type.is_null();
        match (self.what, types) {
            (What::Fingerprint, types) => {
                let usage = "audio_fingerprint(bytes [, seconds => 120])";
                let types = coerced(self.name(), usage, types, 0, &[DataType::Float64])?;
                ffmpeg::check(self.name())?;
                Ok(types)
            }
            (What::Distance, [a, b, rest @ ..]) if rest.len() < 2 && is_list(a) && is_list(b) => {
                Ok([vec![numbers(); 2], vec![DataType::Float64; rest.len()]].concat())
            }
            (What::Distance, _) => {
                plan_err!("audio_fingerprint_distance is called as audio_fingerprint_distance(a, b [, seconds => 15])")
            }
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match self.what {
            What::Fingerprint => {
                let seconds = self.seconds(args.args.get(1), 120.0)?;
                let samples = (seconds * f64::from(SAMPLE_RATE)) as u32;
                over_columns(&args, |columns| {
                    Ok(Arc::new(fingerprints(&files(columns)?, self.name(), samples)?) as ArrayRef)
                })
            }
            What::Distance => {
                let seconds = self.seconds(args.args.get(2), 15.0)?;
                let window = (seconds * f64::from(SAMPLE_RATE) / f64::from(STEP_SAMPLES)) as usize;
                over_columns(&args, |columns| {
                    let (a, b) = (as_list_array(&columns[0])?, as_list_array(&columns[1])?);
                    Ok(Arc::new(distances(a, b, window)?) as ArrayRef)
                })
            }
        }
    }
}

fn fingerprints(sounds: &BinaryArray, function: &str, samples: u32) -> Result<ListArray> {
    let mut lists = ListBuilder::new(UInt32Builder::new());
    for sound in sounds {
        let decoded = match sound {
            Some(sound) => decode(sound, function, samples)?,
            None => None,
        };
        if let Some(samples) = &decoded {
            lists.values().append_slice(&fingerprint_of(samples));
        }
        lists.append(decoded.is_some());
    }
    Ok(lists.finish())
}

/// The first samples of the first sound in a file, resampled as Chromaprint's own reader does it.
fn decode(sound: &[u8], function: &str, samples: u32) -> Result<Option<Vec<i16>>> {
    let resample = format!(
        "aresample={SAMPLE_RATE}:resampler=swr:filter_size=16:phase_shift=8:linear_interp=1:cutoff=0.8\
         :internal_sample_fmt=s16p,aformat=sample_fmts=s16:channel_layouts=mono,atrim=end_sample={samples}"
    );
    let arguments = [
        ["-map", "0:a:0"],
        ["-af", &resample],
        ["-c:a", "pcm_s16le"],
        ["-f", "s16le"],
    ];
    let decoded = ffmpeg::decode(function, sound, arguments.as_flattened())?;
    Ok(decoded.map(|bytes| bytes.as_chunks().0.iter().copied().map(i16::from_le_bytes).collect()))
}

fn distances(a: &ListArray, b: &ListArray, window: usize) -> Result<Float64Array> {
    let values = |list: ArrayRef| -> Result<Vec<u32>> {
        let list = cast(&list, &DataType::UInt32)?;
        Ok(as_uint32_array(&list)?.iter().map(Option::unwrap_or_default).collect())
    };
    a.iter()
        .zip(b.iter())
        .map(|pair| match pair {
            (Some(a), Some(b)) => Ok(bit_error_rate(&values(a)?, &values(b)?, window)),
            _ => Ok(None),
        })
        .collect()
}
