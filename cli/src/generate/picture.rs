//! Pictures drawn from a number, and edited copies of them.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{ExtendedColorType, ImageEncoder, ImageFormat, Rgb, RgbImage};

use super::rng::{Domain, Rng};

/// A picture, its width and height in pixels, and its size in bytes.
pub(crate) type Written = (Picture, (u32, u32), u64);

/// The pictures of a data set: so many originals, each with up to four edited copies.
#[derive(Debug, Clone)]
pub(crate) struct Gallery {
    seed: u64,
    /// Number of originals.
    pub(crate) originals: u64,
}

/// One picture file and the truth about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) filename: String,
    /// File name of the original, for a copy.
    pub(crate) copy_of: Option<String>,
    pub(crate) change: Option<Change>,
    pub(crate) png: bool,
}

/// What was done to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Shrink,
    Crop,
    Flip,
    Rotate,
    Blur,
    Brighten,
    Grey,
    Border,
    Recompress,
    Stamp,
}

const CHANGES: [(Change, &str); 10] = [
    (Change::Shrink, "shrink"),
    (Change::Crop, "crop"),
    (Change::Flip, "flip"),
    (Change::Rotate, "rotate"),
    (Change::Blur, "blur"),
    (Change::Brighten, "brighten"),
    (Change::Grey, "grey"),
    (Change::Border, "border"),
    (Change::Recompress, "recompress"),
    (Change::Stamp, "stamp"),
];

impl Change {
    /// The name that the ground truth and the file name use.
    pub(crate) fn name(self) -> &'static str {
        CHANGES
            .iter()
            .find(|(change, _)| *change == self)
            .map_or("", |(_, name)| name)
    }
}

impl Gallery {
    pub(crate) fn new(seed: u64, originals: u64) -> Self {
        Self { seed, originals }
    }

    /// The files that stem from one original: itself first, then its copies.
    pub(crate) fn family(&self, original: u64) -> Vec<Picture> {
        let mut rng = Rng::new(self.seed, Domain::Picture, original);
        let png = rng.chance(250);
        let extension = |png| if png { "png" } else { "jpg" };
        let filename = format!("img-{original:07}.{}", extension(png));
        let mut family = vec![Picture {
            filename: filename.clone(),
            copy_of: None,
            change: None,
            png,
        }];
        let copies = rng.skewed(5);
        let first = rng.below(CHANGES.len() as u64) as usize;
        for i in 0..copies as usize {
            let (change, name) = CHANGES[(first + i * 3) % CHANGES.len()];
            let png = change != Change::Recompress && rng.chance(250);
            family.push(Picture {
                filename: format!("img-{original:07}-{name}.{}", extension(png)),
                copy_of: Some(filename.clone()),
                change: Some(change),
                png,
            });
        }
        family
    }

    /// The file name of any picture, popular ones more often; `None` where there are none.
    pub(crate) fn any(&self, rng: &mut Rng) -> Option<String> {
        if self.originals == 0 {
            return None;
        }
        let mut family = self.family(rng.skewed(self.originals));
        let at = rng.skewed(family.len() as u64) as usize;
        Some(family.swap_remove(at).filename)
    }

    /// Draws the original with this number and writes it and its copies into `folder`.
    ///
    /// Returns the pictures with width and height in pixels and size in bytes.
    ///
    /// # Errors
    /// When a file cannot be encoded or written.
    pub(crate) fn write(&self, original: u64, folder: &Path) -> Result<Vec<Written>> {
        let drawn = draw(&mut Rng::new(self.seed, Domain::Picture, original ^ (1 << 40)));
        let mut written = Vec::new();
        for picture in self.family(original) {
            let image = picture
                .change
                .map_or_else(|| drawn.clone(), |change| apply(change, &drawn));
            let bytes = encode(&image, &picture)?;
            let path = folder.join(&picture.filename);
            std::fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
            written.push((picture, image.dimensions(), bytes.len() as u64));
        }
        Ok(written)
    }
}

fn encode(image: &RgbImage, picture: &Picture) -> Result<Vec<u8>> {
    let mut out = Cursor::new(Vec::new());
    if picture.png {
        image.write_to(&mut out, ImageFormat::Png)?;
    } else {
        let quality = if picture.change == Some(Change::Recompress) {
            30
        } else {
            88
        };
        let (width, height) = image.dimensions();
        JpegEncoder::new_with_quality(&mut out, quality).write_image(image, width, height, ExtendedColorType::Rgb8)?;
    }
    Ok(out.into_inner())
}

/// A gradient, a few discs and bars, and coarse grain: enough structure for perceptual hashes to tell apart.
fn draw(rng: &mut Rng) -> RgbImage {
    let (width, height) = (96 + rng.below(160) as u32, 96 + rng.below(120) as u32);
    let colour = |rng: &mut Rng| [rng.below(256) as i64, rng.below(256) as i64, rng.below(256) as i64];
    let (from, to, down) = (colour(rng), colour(rng), rng.chance(500));
    let shapes: Vec<_> = (0..4 + rng.below(8))
        .map(|_| {
            let at = (rng.below(width.into()) as i64, rng.below(height.into()) as i64);
            (rng.chance(600), at, 6 + rng.below(48) as i64, colour(rng))
        })
        .collect();
    let grain: Vec<i64> = (0..64).map(|_| rng.below(24) as i64 - 12).collect();
    RgbImage::from_fn(width, height, |x, y| {
        let (position, length) = if down { (y, height) } else { (x, width) };
        let (position, length) = (i64::from(position), i64::from(length));
        let mut pixel = [0i64; 3];
        for c in 0..3 {
            pixel[c] = from[c] + (to[c] - from[c]) * position / length;
        }
        for (disc, (cx, cy), size, colour) in &shapes {
            let (dx, dy) = (i64::from(x) - cx, i64::from(y) - cy);
            let inside = if *disc {
                dx * dx + dy * dy < size * size
            } else {
                dx.abs() < *size && dy.abs() < size / 4
            };
            if inside {
                pixel = *colour;
            }
        }
        let noise = grain[((x / 5 % 8) + (y / 5 % 8) * 8) as usize];
        Rgb(pixel.map(|c| (c + noise).clamp(0, 255) as u8))
    })
}

fn apply(change: Change, image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    match change {
        // A triangle filter needs only + − × ÷, so its bytes are the same on every machine.
        Change::Shrink => imageops::resize(image, width * 3 / 5, height * 3 / 5, FilterType::Triangle),
        Change::Crop => imageops::crop_imm(image, width / 20, height / 20, width * 9 / 10, height * 9 / 10).to_image(),
        Change::Flip => imageops::flip_horizontal(image),
        Change::Rotate => imageops::rotate90(image),
        Change::Blur => box_blur(image),
        Change::Brighten => map(image, |p| p.map(|c| c.saturating_add(28))),
        Change::Grey => map(image, |[r, g, b]| {
            let grey = (u32::from(r) * 299 + u32::from(g) * 587 + u32::from(b) * 114) / 1000;
            [grey as u8; 3]
        }),
        Change::Border => {
            let mut framed = RgbImage::from_pixel(width + 16, height + 16, Rgb([250, 250, 250]));
            imageops::replace(&mut framed, image, 8, 8);
            framed
        }
        Change::Recompress => image.clone(),
        Change::Stamp => {
            let mut stamped = image.clone();
            for y in height - height / 8..height - height / 16 {
                for x in (width / 2..width * 15 / 16).filter(|x| x % 6 < 4) {
                    stamped.put_pixel(x, y, Rgb([255, 255, 255]));
                }
            }
            stamped
        }
    }
}

fn map(image: &RgbImage, f: impl Fn([u8; 3]) -> [u8; 3]) -> RgbImage {
    let mut out = image.clone();
    out.pixels_mut().for_each(|p| p.0 = f(p.0));
    out
}

/// The mean of 3×3 neighbours, in whole numbers.
fn box_blur(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    RgbImage::from_fn(width, height, |x, y| {
        let (mut sum, mut count) = ([0u32; 3], 0);
        for ny in y.saturating_sub(1)..(y + 2).min(height) {
            for nx in x.saturating_sub(1)..(x + 2).min(width) {
                let p = image.get_pixel(nx, ny).0;
                (0..3).for_each(|c| sum[c] += u32::from(p[c]));
                count += 1;
            }
        }
        Rgb(sum.map(|s| (s / count) as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_shares_its_look_but_not_its_bytes() {
        let image = draw(&mut Rng::new(1, Domain::Picture, 1));
        for (change, name) in CHANGES {
            let changed = apply(change, &image);
            assert_eq!(changed == image, change == Change::Recompress, "{name}");
        }
    }

    #[test]
    fn every_name_that_posts_use_is_a_file() {
        let gallery = Gallery::new(5, 20);
        let names: Vec<String> = (0..20).flat_map(|i| gallery.family(i)).map(|p| p.filename).collect();
        assert!(
            names.len() > 25 && names.iter().any(|n| n.ends_with(".png")),
            "{names:?}"
        );
        for i in 0..200 {
            let any = gallery.any(&mut Rng::new(5, Domain::Media, i)).unwrap();
            assert!(names.contains(&any), "{any}");
        }
    }

    #[test]
    fn files_are_read_back_with_the_size_that_was_noted() {
        let folder = std::env::temp_dir().join(format!("corpusmill-pictures-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (picture, (width, height), bytes) in Gallery::new(3, 4).write(2, &folder).unwrap() {
            let path = folder.join(&picture.filename);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
            let image = image::open(&path).unwrap();
            assert_eq!((image.width(), image.height()), (width, height));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
