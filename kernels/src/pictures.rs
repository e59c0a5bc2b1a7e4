//! Pictures as pixels: decoded within limits, resized and blurred as Pillow and torchvision do it, written as PNG.
//!
//! ```text
//! JPEG, PNG, WebP, GIF, BMP ─► whole? small enough? ─► decoded, upright ─► Picture ─► resized, blurred ─► png
//! ```

mod blur;
mod container;
mod resize;

use std::io::Cursor;
use std::panic::catch_unwind;
use std::str::FromStr;

use image::codecs::png::PngEncoder;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageFormat, ImageReader};

pub use blur::RADIUS_MAX;
pub use container::jpeg_length;
pub use resize::{Filter, Method};

use crate::error::{KernelError, Result};

/// Pixels of the largest picture that is decoded or made: Pillow's `MAX_IMAGE_PIXELS`.
pub const PIXELS_MAX: u64 = 89_478_485;
/// Rows or columns of the largest picture that is decoded or made: what a JPEG can have.
pub const SIDE_MAX: usize = 65_535;
/// Bytes of decoded pixels, of all their channels and bits.
const DECODED_BYTES_MAX: u64 = 512 << 20;

/// What the bytes of a pixel are, by Pillow's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Grey.
    L,
    /// Grey and opacity.
    La,
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue, opacity.
    Rgba,
}

impl Mode {
    const ALL: [Mode; 4] = [Mode::L, Mode::La, Mode::Rgb, Mode::Rgba];

    /// The name that Pillow has for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::L => "L",
            Mode::La => "LA",
            Mode::Rgb => "RGB",
            Mode::Rgba => "RGBA",
        }
    }

    /// Bytes of a pixel.
    #[must_use]
    pub fn channels(self) -> usize {
        match self {
            Mode::L => 1,
            Mode::La => 2,
            Mode::Rgb => 3,
            Mode::Rgba => 4,
        }
    }

    fn of(picture: &DynamicImage) -> Mode {
        match picture.color().channel_count() {
            1 => Mode::L,
            2 => Mode::La,
            3 => Mode::Rgb,
            _ => Mode::Rgba,
        }
    }
}

impl FromStr for Mode {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self> {
        let found = Mode::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| KernelError::unknown_name("mode of a picture", name, &Mode::ALL.map(Mode::name)))
    }
}

/// What a file of a picture says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureInfo {
    /// `jpeg`, `png`, `webp`, `gif` or `bmp`, as the bytes say.
    pub format: &'static str,
    /// Columns, when the picture stands upright.
    pub width: u32,
    /// Rows, when the picture stands upright.
    pub height: u32,
    /// Pictures of an animation; 1 where it is none.
    pub frames: u32,
    /// What the file decodes to; palettes become colours, 16 bits become 8.
    pub mode: Mode,
}

/// A picture of 8 bits a channel, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// What the bytes of a pixel are.
    pub mode: Mode,
    /// `width · height · mode.channels()` bytes.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// Decodes a JPEG, PNG, WebP, GIF (the first picture) or BMP, and turns it upright as its Exif orientation says.
    ///
    /// Without a `mode` it keeps its own. Grey from colours is Pillow's: (19595 R + 38470 G + 7471 B + 2¹⁵) / 2¹⁶. `None`
    /// for what is no such picture, is damaged or cut off, has more than [`PIXELS_MAX`] pixels or [`SIDE_MAX`] rows or
    /// columns, or needs more than 512 MiB.
    #[must_use]
    pub fn decode(bytes: &[u8], mode: Option<Mode>) -> Option<Picture> {
        let (picture, info) = decode(bytes)?;
        let (width, height) = (info.width as usize, info.height as usize);
        let mode = mode.unwrap_or(info.mode);
        let coloured = matches!(info.mode, Mode::Rgb | Mode::Rgba);
        let pixels = match mode {
            Mode::Rgb => picture.into_rgb8().into_raw(),
            Mode::Rgba => picture.into_rgba8().into_raw(),
            Mode::L if coloured => {
                let colours = picture.into_rgb8();
                colours.pixels().map(|pixel| luma(pixel.0)).collect()
            }
            Mode::La if coloured => {
                let colours = picture.into_rgba8();
                let grey = |[red, green, blue, alpha]: [u8; 4]| [luma([red, green, blue]), alpha];
                colours.pixels().flat_map(|pixel| grey(pixel.0)).collect()
            }
            Mode::L => picture.into_luma8().into_raw(),
            Mode::La => picture.into_luma_alpha8().into_raw(),
        };
        Some(Picture {
            width,
            height,
            mode,
            pixels,
        })
    }

    /// Writes a PNG without loss.
    ///
    /// # Panics
    /// If the picture has no pixels, or not as many bytes as its size and mode say.
    #[must_use]
    pub fn png(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let colours = match self.mode {
            Mode::L => ExtendedColorType::L8,
            Mode::La => ExtendedColorType::La8,
            Mode::Rgb => ExtendedColorType::Rgb8,
            Mode::Rgba => ExtendedColorType::Rgba8,
        };
        PngEncoder::new(&mut bytes)
            .write_image(&self.pixels, self.width as u32, self.height as u32, colours)
            .expect("memory takes a PNG of a picture that has pixels");
        bytes
    }
}

/// Reads what a file says of its picture, and decodes it to know that this is true; `None` as [`Picture::decode`].
#[must_use]
pub fn picture_info(bytes: &[u8]) -> Option<PictureInfo> {
    decode(bytes).map(|(_, info)| info)
}

/// Decodes within the limits, and turns upright.
pub(crate) fn decode(bytes: &[u8]) -> Option<(DynamicImage, PictureInfo)> {
    // A stranger's bytes may reach a slip of a decoder: that row is no picture, and the others go on.
    catch_unwind(|| decode_trusting(bytes)).ok().flatten()
}

fn decode_trusting(bytes: &[u8]) -> Option<(DynamicImage, PictureInfo)> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
    // Decoders fill up what is missing of some formats, so whether a file is whole is looked at before.
    let (format, frames) = match reader.format()? {
        ImageFormat::Jpeg => ("jpeg", jpeg_length(bytes).map(|_| 1)?),
        ImageFormat::Png => ("png", container::png_frames(bytes)?),
        ImageFormat::WebP => ("webp", container::webp_frames(bytes)?),
        ImageFormat::Gif => ("gif", container::gif_frames(bytes)?),
        ImageFormat::Bmp => ("bmp", 1),
        _ => return None,
    };
    let mut decoder = reader.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    let side = width.max(height) as usize;
    if pixels == 0 || pixels > PIXELS_MAX || side > SIDE_MAX || decoder.total_bytes() > DECODED_BYTES_MAX {
        return None;
    }
    let orientation = decoder.orientation().ok()?;
    let mut picture = DynamicImage::from_decoder(decoder).ok()?;
    picture.apply_orientation(orientation);
    let info = PictureInfo {
        format,
        width: picture.width(),
        height: picture.height(),
        frames,
        mode: Mode::of(&picture),
    };
    Some((picture, info))
}

fn luma([red, green, blue]: [u8; 3]) -> u8 {
    ((u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + (1 << 15)) >> 16) as u8
}

/// Rows become columns.
fn transposed<const C: usize>(pixels: &[u8], width: usize) -> Vec<u8> {
    let (pixels, _) = pixels.as_chunks::<C>();
    let columns = (0..width).flat_map(|x| pixels.iter().skip(x).step_by(width));
    columns.copied().collect::<Vec<[u8; C]>>().into_flattened()
}

#[cfg(test)]
mod tests;
