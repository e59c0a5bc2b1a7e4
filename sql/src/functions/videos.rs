//! Frames of videos and their perceptual hashes; NULL for bytes that are no whole video within the limits of
//! [`crate::ffmpeg`].
//!
//! - `video_frames(bytes [, fps => 1.0])` → `List<Struct<ts: Float64, image: Binary>>`: the frame that is shown at each
//!   `ts`, in seconds from the first frame on, as JPEG
//! - `vpdq(bytes [, fps => 1.0])` → `List<Struct<ts: Float64, hash: Utf8, quality: Int32>>`: PDQ of those frames

use std::sync::Arc;

use corpusmill_kernels::pdq::{hash_text, pdq_of_file};
use corpusmill_kernels::pictures::jpeg_length;
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, Float64Builder, Int32Builder, ListArray, StringBuilder, StructArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};

use super::media::{Files, coerced, constant_number, files, named, over_columns};
use crate::ffmpeg;

/// Most frames a second.
const FPS_MAX: f64 = 120.0;

pub(crate) fn frames() -> ScalarUDF {
    Videos::udf(What::Frames)
}

pub(crate) fn hashes() -> ScalarUDF {
    Videos::udf(What::Hashes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Frames,
    Hashes,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Frames => "video_frames",
            What::Hashes => "vpdq",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Videos {
    what: What,
    signature: Signature,
}

/// The fields of a hashed frame.
pub(crate) fn hashed_frame() -> Fields {
    Fields::from(vec![
        Field::new("ts", DataType::Float64, true),
        Field::new("hash", DataType::Utf8, true),
        Field::new("quality", DataType::Int32, true),
    ])
}

impl Videos {
    fn udf(what: What) -> ScalarUDF {
        ScalarUDF::new_from_impl(Videos {
            what,
            signature: named(&["bytes", "fps"]),
        })
    }

    fn fields(&self) -> Fields {
        match self.what {
            What::Frames => Fields::from(vec![
                Field::new("ts", DataType::Float64, true),
                Field::new("image", DataType::Binary, true),
            ]),
            What::Hashes => hashed_frame(),
        }
    }
}

impl ScalarUDFImpl for Videos {
    fn name(&self) -> &str {
        self.what.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        let item = Field::new_list_field(DataType::Struct(self.fields()), true);
        Ok(DataType::List(Arc::new(item)))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let usage = format!("{}(bytes [, fps => 1.0])", self.name());
        let types = coerced(self.name(), &usage, types, 0, &[DataType::Float64])?;
        ffmpeg::check(self.name())?;
        Ok(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let name = self.what.name();
        let fps = constant_number(name, "fps", args.args.get(1), 1.0)?;
        if !(fps > 0.0 && fps <= FPS_MAX) {
            return exec_err!("fps of {name} is above 0 and at most {FPS_MAX}, found {fps}");
        }
        over_columns(&args, |columns| {
            let videos = files(columns)?;
            let (lengths, times, mut of_frames) = match self.what {
                What::Frames => listed(&videos, name, fps)?,
                What::Hashes => hashed(&videos, name, fps)?,
            };
            of_frames.insert(0, times);
            let valid: Vec<bool> = lengths.iter().map(Option::is_some).collect();
            let offsets = OffsetBuffer::from_lengths(lengths.iter().map(|length| length.unwrap_or(0)));
            let frames = StructArray::try_new(self.fields(), of_frames, None)?;
            let item = Arc::new(Field::new_list_field(DataType::Struct(self.fields()), true));
            let lists = ListArray::try_new(item, offsets, Arc::new(frames), Some(NullBuffer::from(valid)))?;
            Ok(Arc::new(lists) as ArrayRef)
        })
    }
}

/// How many frames each video has, and columns over all frames: their times, and what is told of them.
type Listed = (Vec<Option<usize>>, ArrayRef, Vec<ArrayRef>);

fn listed(videos: &BinaryArray, function: &'static str, fps: f64) -> Result<Listed> {
    let mut images = Files::new(function, videos.len());
    let (lengths, times) = each_frame(videos, function, fps, |frame| images.push(Some(frame)))?;
    Ok((lengths, times, vec![Arc::new(images.finish())]))
}

fn hashed(videos: &BinaryArray, function: &'static str, fps: f64) -> Result<Listed> {
    let (mut hashes, mut qualities) = (StringBuilder::new(), Int32Builder::new());
    let (lengths, times) = each_frame(videos, function, fps, |frame| {
        let found = pdq_of_file(frame);
        hashes.append_option(found.map(|found| hash_text(&found.hashes[0])));
        qualities.append_option(found.map(|found| i32::from(found.quality)));
        Ok(())
    })?;
    Ok((
        lengths,
        times,
        vec![Arc::new(hashes.finish()), Arc::new(qualities.finish())],
    ))
}

fn each_frame(
    videos: &BinaryArray,
    function: &str,
    fps: f64,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<(Vec<Option<usize>>, ArrayRef)> {
    let mut times = Float64Builder::new();
    let mut lengths = Vec::with_capacity(videos.len());
    for video in videos {
        let decoded = match video {
            Some(video) => decode(video, function, fps)?,
            None => None,
        };
        let frames = decoded.as_deref().and_then(split);
        for (place, frame) in frames.iter().flatten().enumerate() {
            times.append_value(place as f64 / fps);
            each(frame)?;
        }
        lengths.push(frames.map(|frames| frames.len()));
    }
    Ok((lengths, Arc::new(times.finish())))
}

/// The frames of a video as JPEGs, one behind the other.
fn decode(video: &[u8], function: &str, fps: f64) -> Result<Option<Vec<u8>>> {
    // At a time between two frames the earlier one is shown. Pictures that belong to sound are no videos.
    let shown = format!("setpts=PTS-STARTPTS,fps=fps={fps}:round=up");
    let arguments = [
        ["-map", "0:V:0"],
        ["-vf", &shown],
        ["-fps_mode", "passthrough"],
        ["-sws_flags", "bicubic+accurate_rnd+full_chroma_int+bitexact"],
        ["-c:v", "mjpeg"],
        ["-q:v", "2"],
        ["-f", "image2pipe"],
    ];
    ffmpeg::decode(function, video, arguments.as_flattened())
}

/// Cuts JPEGs that lie one behind the other apart; `None` where there is something else, or nothing.
fn split(mut frames: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !frames.is_empty() {
        let (frame, rest) = frames.split_at(jpeg_length(frames)?);
        found.push(frame);
        frames = rest;
    }
    (!found.is_empty()).then_some(found)
}
