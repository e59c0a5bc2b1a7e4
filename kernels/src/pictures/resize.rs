//! Resizing that gives the bytes of Pillow's `Image.resize` and of torchvision's `resize` with antialiasing.
//!
//! Both weigh the pixels under a filter that is stretched by the scale, first along one axis and then along the other,
//! with weights that are rounded to whole numbers. They differ in how many bits these have, and in which axis is first:
//!
//! - Pillow 13: 22 bits; first along the columns where the height loses more than twice the pixels that the width loses,
//!   and otherwise along the rows. Colours are multiplied by their opacity before, and divided by it again.
//! - torchvision (`torch.nn.functional.interpolate(…, antialias=True)` of bytes): the most bits with which no weight of
//!   the axis is above 15; always along the rows first; opacity is a channel like the others.

use std::f64::consts::PI;
use std::str::FromStr;

use super::{Mode, PIXELS_MAX, Picture, SIDE_MAX};
use crate::error::{KernelError, Result};

/// Whose bytes are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `PIL.Image.resize`.
    Pillow,
    /// `torchvision.transforms.v2.functional.resize` of a tensor of bytes.
    Torchvision,
}

impl FromStr for Method {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "pillow" => Ok(Method::Pillow),
            "torchvision" => Ok(Method::Torchvision),
            _ => Err(KernelError::unknown_name(
                "method of resizing",
                name,
                &["pillow", "torchvision"],
            )),
        }
    }
}

/// How pixels are weighed by their distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// A triangle over 2 pixels.
    Bilinear,
    /// A cubic over 4 pixels, with a = −1/2.
    Bicubic,
    /// A sinc in a window, over 6 pixels; torchvision has none for tensors.
    Lanczos,
}

impl FromStr for Filter {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "bilinear" => Ok(Filter::Bilinear),
            "bicubic" => Ok(Filter::Bicubic),
            "lanczos" => Ok(Filter::Lanczos),
            _ => Err(KernelError::unknown_name(
                "filter of resizing",
                name,
                &["bilinear", "bicubic", "lanczos"],
            )),
        }
    }
}

impl Filter {
    /// Pixels to each side that have a weight, where nothing is stretched.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    /// The order of the operations decides the last bits.
    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        let distance = x.abs();
        match self {
            Filter::Bilinear if distance < 1.0 => 1.0 - distance,
            Filter::Bicubic if distance < 1.0 => (1.5 * distance - 2.5) * distance * distance + 1.0,
            Filter::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5,
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

impl Picture {
    /// Resizes to `width · height` pixels; `None` where that, or what lies between the two passes, has more than
    /// [`PIXELS_MAX`] pixels or none, and where a side is above [`SIDE_MAX`].
    #[must_use]
    pub fn resized(&self, width: usize, height: usize, filter: Filter, method: Method) -> Option<Picture> {
        if (width, height) == (self.width, self.height) {
            return Some(self.clone());
        }
        let sides = [self.width, self.height, width, height];
        if sides.iter().any(|side| *side == 0 || *side > SIDE_MAX) {
            return None;
        }
        let lost = |from: usize, to: usize| from as i64 - to as i64;
        let (narrower, lower) = (lost(self.width, width), lost(self.height, height));
        let columns_first = method == Method::Pillow && lower > 0 && lower > 2 * narrower;
        let between = match columns_first {
            true => (self.width, height),
            false => (width, self.height),
        };
        if [between, (width, height)]
            .iter()
            .any(|(width, height)| (width * height) as u64 > PIXELS_MAX)
        {
            return None;
        }
        let passes = Passes {
            along_rows: (width != self.width).then(|| Weights::new(self.width, width, filter, method)),
            along_columns: (height != self.height).then(|| Weights::new(self.height, height, filter, method)),
            columns_first,
            by_opacity: method == Method::Pillow,
        };
        let pixels = match self.mode {
            Mode::L => self.passed::<1>(&passes),
            Mode::La => self.passed::<2>(&passes),
            Mode::Rgb => self.passed::<3>(&passes),
            Mode::Rgba => self.passed::<4>(&passes),
        };
        Some(Picture {
            width,
            height,
            mode: self.mode,
            pixels,
        })
    }

    fn passed<const C: usize>(&self, passes: &Passes) -> Vec<u8> {
        match passes.by_opacity && matches!(self.mode, Mode::La | Mode::Rgba) {
            true => divided::<C>(passes.run::<C>(multiplied::<C>(self.pixels.clone()), self.width)),
            false => passes.run::<C>(self.pixels.clone(), self.width),
        }
    }
}

/// What is done to the pixels, in which order.
struct Passes {
    along_rows: Option<Weights>,
    along_columns: Option<Weights>,
    columns_first: bool,
    by_opacity: bool,
}

impl Passes {
    fn run<const C: usize>(&self, mut pixels: Vec<u8>, mut width: usize) -> Vec<u8> {
        for columns in [self.columns_first, !self.columns_first] {
            match (columns, &self.along_columns, &self.along_rows) {
                (true, Some(weights), _) => pixels = weights.columns(&pixels, width * C),
                (false, _, Some(weights)) => {
                    pixels = weights.rows::<C>(&pixels, width);
                    width = weights.spans.len();
                }
                _ => {}
            }
        }
        pixels
    }
}

/// Each colour times its opacity, which is the last channel.
fn multiplied<const C: usize>(mut pixels: Vec<u8>) -> Vec<u8> {
    for pixel in pixels.as_chunks_mut::<C>().0 {
        let (alpha, colours) = pixel.split_last_mut().expect("pixels have channels");
        for colour in colours {
            let product = u32::from(*colour) * u32::from(*alpha) + 128;
            *colour = (((product >> 8) + product) >> 8) as u8;
        }
    }
    pixels
}

fn divided<const C: usize>(mut pixels: Vec<u8>) -> Vec<u8> {
    for pixel in pixels.as_chunks_mut::<C>().0 {
        let (alpha, colours) = pixel.split_last_mut().expect("pixels have channels");
        if matches!(*alpha, 0 | 255) {
            continue;
        }
        for colour in colours {
            *colour = (255 * u32::from(*colour) / u32::from(*alpha)).min(255) as u8;
        }
    }
    pixels
}

/// Weights of the pixels that make up each pixel of the result, along one axis.
struct Weights {
    /// First pixel, and where its weights end.
    spans: Vec<(usize, usize)>,
    weights: Vec<i32>,
    /// 1 is this power of two.
    bits: u32,
}

impl Weights {
    fn new(from: usize, to: usize, filter: Filter, method: Method) -> Weights {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let most = support.ceil() as usize * 2 + 1;
        let shrink = 1.0 / stretch;
        let mut spans = Vec::with_capacity(to);
        let mut shares: Vec<f64> = Vec::new();
        for place in 0..to {
            let centre = (place as f64 + 0.5) * scale;
            // Numbers below zero become zero.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from).min(first + most);
            let start = shares.len();
            shares.extend((first..end).map(|x| filter.weight((x as f64 - centre + 0.5) * shrink)));
            let mut sum = 0.0;
            shares[start..].iter().for_each(|share| sum += share);
            if sum != 0.0 {
                shares[start..].iter_mut().for_each(|share| *share /= sum);
            }
            spans.push((first, shares.len()));
        }
        let bits = match method {
            Method::Pillow => 22,
            Method::Torchvision => {
                let greatest = shares.iter().copied().fold(0.0, f64::max);
                let fits = |bits: u32| (0.5 + greatest * f64::from(1 << (bits + 1))) < f64::from(1 << 15);
                (0..22).find(|bits| !fits(*bits)).unwrap_or(22)
            }
        };
        let one = f64::from(1 << bits);
        let rounded = |share: f64| (share * one + 0.5_f64.copysign(share)) as i32;
        Weights {
            spans,
            weights: shares.into_iter().map(rounded).collect(),
            bits,
        }
    }

    /// First pixel and weights of each pixel of the result.
    fn spans(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let starts = std::iter::once(0).chain(self.spans.iter().map(|(_, end)| *end));
        let spans = starts.zip(&self.spans);
        spans.map(|(start, (first, end))| (*first, &self.weights[start..*end]))
    }

    fn half(&self) -> i32 {
        (1 << self.bits) >> 1
    }

    fn byte(&self, sum: i32) -> u8 {
        (sum >> self.bits).clamp(0, 255) as u8
    }

    fn rows<const C: usize>(&self, pixels: &[u8], width: usize) -> Vec<u8> {
        let rows = pixels.len() / (width * C);
        let mut result = Vec::with_capacity(rows * self.spans.len() * C);
        for row in pixels.as_chunks::<C>().0.chunks_exact(width) {
            for (first, weights) in self.spans() {
                let mut sums = [self.half(); C];
                for (pixel, weight) in row[first..].iter().zip(weights) {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(*value) * weight;
                    }
                }
                result.extend(sums.map(|sum| self.byte(sum)));
            }
        }
        result
    }

    /// `stride` is the bytes of a row.
    fn columns(&self, pixels: &[u8], stride: usize) -> Vec<u8> {
        let mut result = Vec::with_capacity(self.spans.len() * stride);
        let mut sums = vec![0; stride];
        for (first, weights) in self.spans() {
            sums.fill(self.half());
            for (row, weight) in pixels[first * stride..].chunks_exact(stride).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(*value) * weight;
                }
            }
            result.extend(sums.iter().map(|sum| self.byte(*sum)));
        }
        result
    }
}
