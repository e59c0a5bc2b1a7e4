//! Pictures as they are, as pixels, in another size, and blurred; NULL for bytes that are no whole picture within the
//! limits, the same rows for each of them and for `pdq`.
//!
//! - `image_info(bytes)` → `Struct<format: Utf8, width: Int32, height: Int32, frames: Int32, mode: Utf8>`
//! - `decode_image(bytes [, mode])` → `Struct<width: Int32, height: Int32, channels: Int32, pixels: Binary>`
//! - `resize_image(bytes, width, height [, filter => 'bicubic' [, method => 'pillow']])` → PNG, `Binary`
//! - `blur(bytes, radius)` → PNG, `Binary`
//!
//! Sizes and radii may differ from row to row, `mode`, `filter` and `method` are constants.

use std::sync::Arc;

use corpusmill_kernels::KernelError;
use corpusmill_kernels::pictures::{Filter, Method, Mode, Picture, RADIUS_MAX, SIDE_MAX, picture_info};
use datafusion::arrow::array::{Array, ArrayRef, BinaryArray, Int32Builder, Int64Array, StringBuilder, StructArray};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::cast::{as_float64_array, as_int64_array};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use super::media::{Files, coerced, files, named, over_columns};
use super::text_function::kernel_error;

pub(crate) fn info() -> ScalarUDF {
    Images::udf(What::Info)
}

pub(crate) fn decode() -> ScalarUDF {
    Images::udf(What::Decode)
}

pub(crate) fn resize() -> ScalarUDF {
    Images::udf(What::Resize)
}

pub(crate) fn blur() -> ScalarUDF {
    Images::udf(What::Blur)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Info,
    Decode,
    Resize,
    Blur,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Info => "image_info",
            What::Decode => "decode_image",
            What::Resize => "resize_image",
            What::Blur => "blur",
        }
    }

    fn usage(self) -> &'static str {
        match self {
            What::Info => "image_info(bytes)",
            What::Decode => "decode_image(bytes [, mode => 'RGB'])",
            What::Resize => {
                "resize_image(bytes, width, height [, filter => 'bicubic' [, method => 'pillow']]), \
                 the filter before the method"
            }
            What::Blur => "blur(bytes, radius)",
        }
    }

    /// Names and types of the arguments, the number of those that must be there, and where constants begin.
    fn arguments(self) -> (&'static [&'static str], &'static [DataType], usize, usize) {
        const TEXT: DataType = DataType::Utf8;
        const WHOLE: DataType = DataType::Int64;
        match self {
            What::Info => (&["bytes"], &[], 0, 1),
            What::Decode => (&["bytes", "mode"], &[TEXT], 0, 1),
            What::Resize => (
                &["bytes", "width", "height", "filter", "method"],
                &[WHOLE, WHOLE, TEXT, TEXT],
                2,
                3,
            ),
            What::Blur => (&["bytes", "radius"], &[DataType::Float64], 1, 2),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Images {
    what: What,
    signature: Signature,
}

impl Images {
    fn udf(what: What) -> ScalarUDF {
        ScalarUDF::new_from_impl(Images {
            what,
            signature: named(what.arguments().0),
        })
    }

    fn fields(&self) -> Fields {
        let fields = match self.what {
            What::Info => vec![
                ("format", DataType::Utf8),
                ("width", DataType::Int32),
                ("height", DataType::Int32),
                ("frames", DataType::Int32),
                ("mode", DataType::Utf8),
            ],
            _ => vec![
                ("width", DataType::Int32),
                ("height", DataType::Int32),
                ("channels", DataType::Int32),
                ("pixels", DataType::Binary),
            ],
        };
        let fields = fields
            .into_iter()
            .map(|(name, data_type)| Field::new(name, data_type, true));
        fields.collect()
    }
}

/// What the constants of a call say.
#[derive(Default)]
struct Options {
    mode: Option<Mode>,
    filter: Option<Filter>,
    method: Option<Method>,
}

impl Options {
    /// `constants` are those that are given; NULL is as if it were left out.
    fn read<'a>(what: What, constants: impl IntoIterator<Item = Option<&'a ScalarValue>>) -> Result<Options> {
        let (names, _, _, first) = what.arguments();
        let mut options = Options::default();
        for (name, value) in names[first..].iter().zip(constants) {
            let text = match value {
                Some(value) if value.is_null() => continue,
                Some(value) => value.try_as_str().flatten(),
                None => None,
            };
            let Some(text) = text else {
                return plan_err!("{name} of {} is a constant text in quotes", what.name());
            };
            match *name {
                "mode" => options.mode = Some(text.parse().map_err(kernel_error)?),
                "filter" => options.filter = Some(text.parse().map_err(kernel_error)?),
                _ => options.method = Some(text.parse().map_err(kernel_error)?),
            }
        }
        if options.method == Some(Method::Torchvision) && options.filter == Some(Filter::Lanczos) {
            return Err(kernel_error(KernelError::InvalidOption {
                option: "filter",
                value: "lanczos".into(),
                problem: "torchvision has it for pictures of Pillow alone, which it gives to Pillow".into(),
                fix: "write method => 'pillow', or filter => 'bicubic'".into(),
            }));
        }
        Ok(options)
    }
}

impl ScalarUDFImpl for Images {
    fn name(&self) -> &str {
        self.what.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.what {
            What::Info | What::Decode => DataType::Struct(self.fields()),
            What::Resize | What::Blur => DataType::Binary,
        })
    }

    /// Looks at the constants too, so that a wrong one is told when the statement is planned.
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<Arc<Field>> {
        let (_, _, _, first) = self.what.arguments();
        Options::read(self.what, args.scalar_arguments.iter().skip(first).copied())?;
        Ok(Arc::new(Field::new(self.name(), self.return_type(&[])?, true)))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let (_, rest, required, _) = self.what.arguments();
        coerced(self.name(), self.what.usage(), types, required, rest)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (_, _, _, first) = self.what.arguments();
        let constants = args.args.iter().skip(first).map(|value| match value {
            ColumnarValue::Scalar(value) => Some(value),
            ColumnarValue::Array(_) => None,
        });
        let options = Options::read(self.what, constants)?;
        let scalars: Vec<bool> = args
            .args
            .iter()
            .map(|value| matches!(value, ColumnarValue::Scalar(_)))
            .collect();
        over_columns(&args, |columns| {
            let pictures = files(columns)?;
            let result: ArrayRef = match self.what {
                What::Info => Arc::new(infos(&pictures, self.fields())?),
                What::Decode => Arc::new(decoded(&pictures, options.mode, self.fields())?),
                What::Resize => Arc::new(resized(&pictures, columns, &scalars, &options)?),
                What::Blur => Arc::new(blurred(&pictures, columns, &scalars)?),
            };
            Ok(result)
        })
    }
}

fn infos(pictures: &BinaryArray, fields: Fields) -> Result<StructArray> {
    let (mut formats, mut modes) = (StringBuilder::new(), StringBuilder::new());
    let mut numbers = [(); 3].map(|()| Int32Builder::with_capacity(pictures.len()));
    let mut valid = Vec::with_capacity(pictures.len());
    for picture in pictures {
        let info = picture.and_then(picture_info);
        valid.push(info.is_some());
        formats.append_option(info.map(|info| info.format));
        modes.append_option(info.map(|info| info.mode.name()));
        let of_picture = info.map(|info| [info.width, info.height, info.frames]);
        for (at, column) in numbers.iter_mut().enumerate() {
            column.append_option(of_picture.map(|numbers| numbers[at] as i32));
        }
    }
    let mut columns: Vec<ArrayRef> = vec![Arc::new(formats.finish())];
    columns.extend(numbers.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef));
    columns.push(Arc::new(modes.finish()));
    Ok(StructArray::try_new(fields, columns, Some(NullBuffer::from(valid)))?)
}

fn decoded(pictures: &BinaryArray, mode: Option<Mode>, fields: Fields) -> Result<StructArray> {
    let mut numbers = [(); 3].map(|()| Int32Builder::with_capacity(pictures.len()));
    let mut pixels = Files::new("decode_image", pictures.len());
    let mut valid = Vec::with_capacity(pictures.len());
    for picture in pictures {
        let picture = picture.and_then(|bytes| Picture::decode(bytes, mode));
        valid.push(picture.is_some());
        let sizes = picture
            .as_ref()
            .map(|picture| [picture.width, picture.height, picture.mode.channels()]);
        for (at, column) in numbers.iter_mut().enumerate() {
            column.append_option(sizes.map(|sizes| sizes[at] as i32));
        }
        pixels.push(picture.as_ref().map(|picture| picture.pixels.as_slice()))?;
    }
    let mut columns: Vec<ArrayRef> = Vec::new();
    columns.extend(numbers.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef));
    columns.push(Arc::new(pixels.finish()));
    Ok(StructArray::try_new(fields, columns, Some(NullBuffer::from(valid)))?)
}

fn resized(pictures: &BinaryArray, columns: &[ArrayRef], scalars: &[bool], options: &Options) -> Result<BinaryArray> {
    let method = options.method.unwrap_or(Method::Pillow);
    let filter = options.filter.unwrap_or(Filter::Bicubic);
    let (widths, heights) = (as_int64_array(&columns[1])?, as_int64_array(&columns[2])?);
    for (name, sides, constant) in [("width", widths, scalars[1]), ("height", heights, scalars[2])] {
        let wrong = |side: i64| !(1..=SIDE_MAX as i64).contains(&side);
        if let (true, Some(side)) = (constant, sides.iter().flatten().find(|side| wrong(*side))) {
            return exec_err!("{name} of resize_image is from 1 to {SIDE_MAX} pixels, found {side}");
        }
    }
    let mut made = Files::new("resize_image", pictures.len());
    for (row, picture) in pictures.iter().enumerate() {
        let side = |sides: &Int64Array| match sides.is_valid(row) {
            true => usize::try_from(sides.value(row)).ok(),
            false => None,
        };
        let size = side(widths).zip(side(heights));
        let resized = size.and_then(|(width, height)| {
            let picture = Picture::decode(picture?, None)?;
            picture.resized(width, height, filter, method)
        });
        made.push(resized.map(|picture| picture.png()).as_deref())?;
    }
    Ok(made.finish())
}

fn blurred(pictures: &BinaryArray, columns: &[ArrayRef], scalars: &[bool]) -> Result<BinaryArray> {
    let radii = as_float64_array(&columns[1])?;
    let right = |radius: &f64| (0.0..=f64::from(RADIUS_MAX)).contains(radius);
    if let (true, Some(radius)) = (scalars[1], radii.iter().flatten().find(|radius| !right(radius))) {
        return exec_err!("radius of blur is from 0 to {RADIUS_MAX} pixels, found {radius}");
    }
    let mut made = Files::new("blur", pictures.len());
    for (picture, radius) in pictures.iter().zip(radii) {
        let picture = match (picture, radius.filter(right)) {
            (Some(bytes), Some(radius)) => Picture::decode(bytes, None).map(|picture| picture.blurred(radius as f32)),
            _ => None,
        };
        made.push(picture.map(|picture| picture.png()).as_deref())?;
    }
    Ok(made.finish())
}
