//! A Gaussian blur, to the byte that of Pillow's `ImageFilter.GaussianBlur`: three passes of a box along each axis.
//!
//! Gwosdek, Grewenig, Bruhn & Weickert, "Theoretical Foundations of Gaussian Convolution by Extended Box Filtering"
//! (SSVM 2011): a box whose two outermost pixels count in part has any width.

use super::{Mode, Picture, transposed};

/// Largest radius of a blur, in pixels.
pub const RADIUS_MAX: f32 = 1000.0;

const PASSES: u8 = 3;
/// Weights are in parts of this.
const ONE: u32 = 1 << 24;

impl Picture {
    /// Blurs by a Gaussian whose standard deviation is `radius` pixels; opacity too.
    ///
    /// # Panics
    /// If `radius` is not from 0 to [`RADIUS_MAX`].
    #[must_use]
    pub fn blurred(&self, radius: f32) -> Picture {
        assert!((0.0..=RADIUS_MAX).contains(&radius), "a radius from 0 to {RADIUS_MAX}");
        let mut picture = self.clone();
        if radius > 0.0 {
            picture.pixels = match self.mode {
                Mode::L => self.blurred_pixels::<1>(radius),
                Mode::La => self.blurred_pixels::<2>(radius),
                Mode::Rgb => self.blurred_pixels::<3>(radius),
                Mode::Rgba => self.blurred_pixels::<4>(radius),
            };
        }
        picture
    }

    fn blurred_pixels<const C: usize>(&self, radius: f32) -> Vec<u8> {
        let reach = box_reach(radius);
        let along_rows = box_rows::<C>(&self.pixels, self.width, reach);
        let turned = transposed::<C>(&along_rows, self.width);
        let along_columns = box_rows::<C>(&turned, self.height, reach);
        transposed::<C>(&along_columns, self.height)
    }
}

/// How far the box reaches to each side so that three of them make the Gaussian: whole pixels and a part.
fn box_reach(radius: f32) -> f32 {
    let variance = radius * radius / f32::from(PASSES);
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let mut part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
    part /= 6.0 * (variance - (whole + 1.0) * (whole + 1.0));
    whole + part
}

fn box_rows<const C: usize>(pixels: &[u8], width: usize, reach: f32) -> Vec<u8> {
    let whole = reach as usize;
    let weight = (ONE as f32 / (reach * 2.0 + 1.0)) as u32;
    let outermost = (ONE - (whole as u32 * 2 + 1) * weight) / 2;
    let mut from = pixels.as_chunks::<C>().0.to_vec();
    let mut to = from.clone();
    for _ in 0..PASSES {
        for (row, result) in from.chunks_exact(width).zip(to.chunks_exact_mut(width)) {
            box_row(row, result, whole, weight, outermost);
        }
        std::mem::swap(&mut from, &mut to);
    }
    from.into_flattened()
}

/// Pixels beyond an end are those at the end.
fn box_row<const C: usize>(row: &[[u8; C]], result: &mut [[u8; C]], whole: usize, weight: u32, outermost: u32) {
    let at = |place: isize| &row[place.clamp(0, row.len() as isize - 1) as usize];
    let reach = whole as isize;
    let mut sums = [0u32; C];
    for place in -reach..=reach {
        for (sum, value) in sums.iter_mut().zip(at(place)) {
            *sum += u32::from(*value);
        }
    }
    for (x, pixel) in (0isize..).zip(result) {
        let (before, after) = (at(x - reach - 1), at(x + reach + 1));
        let leaves = at(x - reach);
        for channel in 0..C {
            let ends = u32::from(before[channel]) + u32::from(after[channel]);
            let sum = sums[channel] * weight + ends * outermost;
            pixel[channel] = ((sum + ONE / 2) / ONE) as u8;
            sums[channel] = sums[channel] + u32::from(after[channel]) - u32::from(leaves[channel]);
        }
    }
}
