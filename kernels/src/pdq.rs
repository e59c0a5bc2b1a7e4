//! PDQ: a perceptual hash of pictures, and a quality that says how much there is to hash.
//!
//! Facebook, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm" (2019), bit by bit as the C++
//! reference computes it from pixels: pictures above 512 × 512 are first sampled down to that by the nearest neighbour;
//! then luminance, two passes of a box filter, 64 × 64 samples, the 16 × 16 low frequencies of a cosine transform, and
//! one bit for each that is above the median.

use std::f64::consts::PI;

use crate::pictures::decode;

/// Pictures are sampled down to this many rows and columns.
const SAMPLED: usize = 512;
/// Smaller pictures have no hash: all bits 0, quality 0.
const HASHABLE: usize = 5;
const SIDE: usize = 64;
const LOW: usize = 16;

/// A PDQ hash: 256 bits, the first byte holds the highest ones, as its hexadecimal form is written.
pub type PdqHash = [u8; 32];

/// The hashes of a picture as it is, turned and mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pdq {
    /// Of the picture; turned left by 90°, 180° and 270°; mirrored left to right, upside down, along the two diagonals.
    pub hashes: [PdqHash; 8],
    /// From 0 (one colour) to 100; hashes of a picture below 50 say little.
    pub quality: u8,
}

/// Decodes JPEG, PNG, WebP, GIF (the first picture) or BMP, turns it upright as its Exif orientation says, and computes
/// [`pdq`] of its colours: grey is spread over them, transparency does not count, 16 bits become 8. `None` as
/// [`Picture::decode`](crate::pictures::Picture::decode).
#[must_use]
pub fn pdq_of_file(bytes: &[u8]) -> Option<Pdq> {
    let (picture, _) = decode(bytes)?;
    let rgb = picture.into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    Some(pdq(rgb.as_raw(), width, height))
}

/// Reads 64 hexadecimal digits, in either case.
#[must_use]
pub fn parse_hash(text: &str) -> Option<PdqHash> {
    let digits = text.trim().as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).map(|digit| digit as u8);
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

/// Writes a hash as 64 hexadecimal digits in lower case.
#[must_use]
pub fn hash_text(hash: &PdqHash) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    hash.iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// Computes the hash and the quality of a picture of `width · height` pixels of red, green and blue, row by row.
///
/// # Panics
/// If `rgb` does not have three bytes a pixel.
#[must_use]
pub fn pdq(rgb: &[u8], width: usize, height: usize) -> Pdq {
    assert_eq!(rgb.len(), width * height * 3, "three bytes a pixel");
    if width < HASHABLE || height < HASHABLE {
        return Pdq {
            hashes: [[0; 32]; 8],
            quality: 0,
        };
    }
    let (rows, columns, mut luma) = luminance(rgb, width, height);
    let mut other = vec![0f32; luma.len()];
    let (along_rows, along_columns) = (window(columns), window(rows));
    for _ in 0..2 {
        box_along_rows(&luma, &mut other, rows, columns, along_rows);
        box_along_columns(&other, &mut luma, rows, columns, along_columns);
    }
    let samples = decimate(&luma, rows, columns);
    let low = transform(&samples);
    Pdq {
        hashes: dihedral(&low),
        quality: quality(&samples),
    }
}

/// Counts the bits in which two hashes differ.
#[must_use]
pub fn pdq_distance(a: &PdqHash, b: &PdqHash) -> u32 {
    a.iter().zip(b).map(|(x, y)| (x ^ y).count_ones()).sum()
}

/// Rows, columns, and the luminance of each pixel.
fn luminance(rgb: &[u8], width: usize, height: usize) -> (usize, usize, Vec<f32>) {
    let (rows, columns) = if width > SAMPLED || height > SAMPLED {
        (SAMPLED, SAMPLED)
    } else {
        (height, width)
    };
    let mut luma = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        let line = &rgb[row * height / rows * width * 3..][..width * 3];
        for column in 0..columns {
            let at = column * width / columns * 3;
            let [red, green, blue] = [line[at], line[at + 1], line[at + 2]].map(f64::from);
            luma.push((0.299 * red + 0.587 * green + 0.114 * blue) as f32);
        }
    }
    (rows, columns, luma)
}

/// Width of the box for a side of so many pixels.
fn window(pixels: usize) -> usize {
    pixels.div_ceil(2 * SIDE)
}

/// Means of a sliding window over values that are `stride` apart. Sums are added up and taken off in `f32`, one after
/// the other, as in the reference: the order decides the last bits.
fn box_line(from: &[f32], to: &mut [f32], length: usize, stride: usize, window: usize) {
    let half = (window + 2) / 2;
    let (mut sum, mut count) = (0f32, 0f32);
    let (mut enters, mut leaves, mut writes) = (0, 0, 0);
    // The window grows to its half, then to its whole, slides, and shrinks.
    for _ in 0..(half - 1).min(length) {
        sum += from[enters];
        count += 1.0;
        enters += stride;
    }
    let (grow, slide, shrink) = (window - half + 1, length.saturating_sub(window), half - 1);
    for _ in 0..grow {
        sum += from[enters];
        count += 1.0;
        to[writes] = sum / count;
        enters += stride;
        writes += stride;
    }
    for _ in 0..slide {
        sum += from[enters];
        sum -= from[leaves];
        to[writes] = sum / count;
        enters += stride;
        leaves += stride;
        writes += stride;
    }
    for _ in 0..shrink {
        sum -= from[leaves];
        count -= 1.0;
        to[writes] = sum / count;
        leaves += stride;
        writes += stride;
    }
}

fn box_along_rows(from: &[f32], to: &mut [f32], rows: usize, columns: usize, window: usize) {
    for row in 0..rows {
        let line = row * columns;
        box_line(&from[line..], &mut to[line..], columns, 1, window);
    }
}

fn box_along_columns(from: &[f32], to: &mut [f32], rows: usize, columns: usize, window: usize) {
    for column in 0..columns {
        box_line(&from[column..], &mut to[column..], rows, columns, window);
    }
}

/// Takes 64 × 64 samples from the middles of a grid.
fn decimate(luma: &[f32], rows: usize, columns: usize) -> [[f32; SIDE]; SIDE] {
    let middle = |place: usize, pixels: usize| ((place as f64 + 0.5) * pixels as f64 / SIDE as f64) as usize;
    std::array::from_fn(|i| {
        let line = middle(i, rows) * columns;
        std::array::from_fn(|j| luma[line + middle(j, columns)])
    })
}

/// Sums the steps between neighbours, in hundredths of full contrast.
fn quality(samples: &[[f32; SIDE]; SIDE]) -> u8 {
    let step = |u: f32, v: f32| (((u - v) * 100.0) / 255.0) as i32;
    let mut sum = 0;
    for i in 0..SIDE {
        for j in 0..SIDE {
            if i + 1 < SIDE {
                sum += step(samples[i][j], samples[i + 1][j]).abs();
            }
            if j + 1 < SIDE {
                sum += step(samples[i][j], samples[i][j + 1]).abs();
            }
        }
    }
    (sum / 90).min(100) as u8
}

/// The low frequencies, without the constant ones, of the cosine transform of type II.
fn transform(samples: &[[f32; SIDE]; SIDE]) -> [[f32; LOW]; LOW] {
    let scale = (2.0 / SIDE as f64).sqrt();
    let cosines: [[f32; SIDE]; LOW] = std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            let angle = (PI / 2.0 / SIDE as f64) * (i + 1) as f64 * (2 * j + 1) as f64;
            (scale * angle.cos()) as f32
        })
    });
    let mut half = [[0f32; SIDE]; LOW];
    for i in 0..LOW {
        for j in 0..SIDE {
            let mut sum = 0f32;
            for k in 0..SIDE {
                sum += cosines[i][k] * samples[k][j];
            }
            half[i][j] = sum;
        }
    }
    let mut low = [[0f32; LOW]; LOW];
    for i in 0..LOW {
        for j in 0..LOW {
            let mut sum = 0f32;
            for k in 0..SIDE {
                sum += half[i][k] * cosines[j][k];
            }
            low[i][j] = sum;
        }
    }
    low
}

/// Hashes of the eight ways to turn and mirror a picture: each changes places and signs of the frequencies.
fn dihedral(low: &[[f32; LOW]; LOW]) -> [PdqHash; 8] {
    // The number of a frequency is one more than its index, so odd indices are the even frequencies.
    let odd = |i: usize| i.is_multiple_of(2);
    let flip = |value: f32, negative: bool| if negative { -value } else { value };
    [
        hash(|i, j| low[i][j]),
        hash(|i, j| flip(low[j][i], odd(i))),
        hash(|i, j| flip(low[i][j], odd(i) != odd(j))),
        hash(|i, j| flip(low[j][i], odd(j))),
        hash(|i, j| flip(low[i][j], odd(i))),
        hash(|i, j| flip(low[i][j], odd(j))),
        hash(|i, j| low[j][i]),
        hash(|i, j| flip(low[j][i], odd(i) != odd(j))),
    ]
}

/// One bit for each frequency above the median; the reference's first bit is the last of ours.
fn hash(value: impl Fn(usize, usize) -> f32) -> PdqHash {
    let values: [f32; LOW * LOW] = std::array::from_fn(|k| value(k / LOW, k % LOW));
    let mut sorted = values;
    sorted.sort_unstable_by(f32::total_cmp);
    // The reference's median of an even number of values is the lower of the two in the middle.
    let median = sorted[(LOW * LOW - 1) / 2];
    let mut hash = [0u8; 32];
    for (k, _) in values.iter().enumerate().filter(|(_, value)| **value > median) {
        hash[31 - k / 8] |= 1 << (k % 8);
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{DynamicImage, ImageFormat, RgbImage};

    use super::*;

    fn pixel(x: u32, y: u32) -> [u8; 3] {
        let red = x * x / 7 + y * 3 + (x * y) / 50;
        let green = x * 5 + y * y / 11;
        let blue = (x / 9) * 37 + (y / 13) * 91;
        [red, green, blue].map(|value| (value % 256) as u8)
    }

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb(pixel(x, y)))
    }

    /// Computed by the Python package `pdqhash` 0.2.8, which wraps the C++ reference; larger pictures were sampled by
    /// the nearest neighbour before.
    #[test]
    fn hashes_are_those_of_the_reference_to_the_bit() {
        for (width, height, quality, hashes) in REFERENCE {
            let found = pdq(picture(width, height).as_raw(), width as usize, height as usize);
            assert_eq!(found.hashes.each_ref().map(hash_text), hashes, "{width} × {height}");
            assert_eq!(found.quality, quality);
        }
    }
    const REFERENCE: [(u32, u32, u8, [&str; 8]); 3] = [
        (
            64,
            64,
            100,
            [
                "992423dd6623485e9bb0b20aa6f76c89491e6b65ca4b5adcd3939636d54cb69c",
                "8e2fce05634173e099f0dcf96e6d37354b19ad8daa44a56255b32d2832ac9c97",
                "cc7189773377e2f4cee538a0f3a2c6231c4bc1cf9f1ef07686c63c9cc0191836",
                "db7a64ad3614d94acca576533b289d9f1e4c0727ff110fc800e6878263f9163d",
                "9924dc226622b7a19bb06df5a6f79376491e949aca4ba523d39369c9954c4d63",
                "cc71768833761d0bcee5c75df3a239dc1c4b3e309f1e0d8986c6c3638019e7c9",
                "8e2f31fa67418c1f99f023076e7dc8ca4b195272aa445a9d55b3d2d736ac6368",
                "db7a9b52361426b5cca589ac3b2862601e4cf8d8ff11f03700e6787d63f9e9c2",
            ],
        ),
        (
            200,
            129,
            100,
            [
                "ca7f8e853f2a385f6ad57f80f72ad53fc07f88fda6c093803f88bf0025003d28",
                "c3e470ff1c2dd8e2e80cd8f24c2cd8e04c78671fa3c1673fb3c0673f9080663f",
                "dd2a202a487f8af53f80d52a807d6f81d52a2a57f795bb2a6ad515aa5455978a",
                "96a15a5549787248b95872581979724a192dcdb5f694cd95e695cd95e4d5cc95",
                "887f757f1d2adfa06ad5807fd5282ad4807f7f02a2c06e7f3f8040ff0100c2df",
                "9d2adfd5487d750a3f8022d5807d807cd52ad5a8f79544d56ad5ea5554556075",
                "c3f48f803e2f371dfc4d672fee3c271f4c7898e0a3c199c0b3c9d9c0b380d9c0",
                "96b1a5aa49788cb7b9588da719798db5192d324af694326ae695326ae4d5336a",
            ],
        ),
        (
            640,
            700,
            100,
            [
                "0002facc22e551517df901474d7d055534ff547492077dd5c76677f304d96d66",
                "4000e7ff2814ff7b0811ffea4000eeee0894fbf30889ffff0802fee60020f7fd",
                "555528aa5515ebaa3d3caaea5551abae45d5aaaa5556872e14119e6a555ca78e",
                "55554d5d5d4555d15d555500555544445dc171595ddd55455d57544c55755d77",
                "0000ffff0040beff68a9ffbf0000fefb10a0fbff0003da6b4064eb3f0009fafb",
                "5555d755755514553dfc55155555545145f55555555778d155316195555c5871",
                "40285a5d689558f44a110bdf602c1f1d68967fdf2acd1bd64a8267f984ad3fb6",
                "1555b2a25d41aa2e5d44aabf1555bbb355c186a65d54aaaa5d57a9b35575a288",
            ],
        ),
    ];

    fn bytes(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn formats_and_colour_modes_are_read_alike() {
        let plain = DynamicImage::from(picture(90, 70));
        let want = pdq(plain.as_rgb8().unwrap().as_raw(), 90, 70);
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
            assert_eq!(pdq_of_file(&bytes(&plain, format)), Some(want), "{format:?}");
        }
        for other in [
            DynamicImage::from(plain.to_rgba8()),
            DynamicImage::from(plain.to_rgb16()),
        ] {
            assert_eq!(pdq_of_file(&bytes(&other, ImageFormat::Png)), Some(want));
        }
        let grey = DynamicImage::from(plain.to_luma8());
        let spread = DynamicImage::from(grey.to_rgb8());
        let of = |picture: &DynamicImage| pdq_of_file(&bytes(picture, ImageFormat::Png));
        assert_eq!(of(&grey), of(&spread));
        assert!(pdq_of_file(b"no picture").is_none());
        let cut = bytes(&plain, ImageFormat::Png);
        assert!(pdq_of_file(&cut[..cut.len() / 2]).is_none());
    }

    #[test]
    fn turned_and_mirrored_pictures_have_the_hashes_that_were_foretold() {
        let plain = image::imageops::resize(&picture(40, 40), 256, 256, image::imageops::FilterType::Triangle);
        let of = |picture: &RgbImage| pdq(picture.as_raw(), 256, 256).hashes;
        let hashes = of(&plain);
        for (at, turned) in [
            (1, image::imageops::rotate270(&plain)),
            (2, image::imageops::rotate180(&plain)),
            (3, image::imageops::rotate90(&plain)),
        ] {
            let nearest = (0..8).min_by_key(|other| pdq_distance(&hashes[*other], &of(&turned)[0]));
            assert_eq!(nearest, Some(at));
        }
    }

    #[test]
    fn tiny_pictures_have_no_hash_and_texts_are_checked() {
        let tiny = pdq(&[200; 4 * 9 * 3], 4, 9);
        assert_eq!((tiny.hashes[0], tiny.quality), ([0; 32], 0));
        let hash = pdq(picture(64, 64).as_raw(), 64, 64).hashes[0];
        assert_eq!(parse_hash(&hash_text(&hash).to_uppercase()), Some(hash));
        assert!(parse_hash("abc").is_none() && parse_hash(&"g".repeat(64)).is_none());
        assert_eq!(pdq_distance(&hash, &hash.map(|byte| !byte)), 256);
    }

    /// Published test pictures, where they are; hashes of decoders differ by a bit or two.
    #[test]
    fn published_pictures_are_found_in_their_edited_copies() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/pdq");
        let read = |name: &str| pdq_of_file(&std::fs::read(folder.join(name)).unwrap()).unwrap();
        if !folder.is_dir() {
            eprintln!("not run here: published_pictures_are_found_in_their_edited_copies: no ../shared/data/pdq");
            return;
        }
        // From the reference's regression test (`pdq/cpp/reg_test/expected/out` of ThreatExchange).
        for (name, published) in [
            (
                "1-original",
                "d8f8f0cee0f4a84f0637022a078f67f0b36e2ed596621e1d33e6339c4e9c9b22",
            ),
            (
                "2-rotate-90",
                "30a10efdf1c83f429013d48d0ffffc52e34e0e35ada952a9d29605215aa9e5af",
            ),
            (
                "3-rotate-180",
                "2dad5a64b1a142e7d362a09857da895ae63b8c7fc23794b766b319361fc93188",
            ),
            (
                "4-rotate-270",
                "a5f0a457248995e8c9065c275aaa5498b61ba4bdf8fcf80387c32f8b5bfc4f05",
            ),
            (
                "5-flipx",
                "d8f80f33e0f417b20e37f5cd028f980fb36ed02a9662c1e233e64c634e9c64dd",
            ),
            (
                "6-flipy",
                "2da9259bb1a1bd1a5362576552da32a5e63b7380c2774b4866b346c91b89ce77",
            ),
        ] {
            let found = read(&format!("bridge-{name}.jpg"));
            let distance = pdq_distance(&found.hashes[0], &parse_hash(published).unwrap());
            assert!(distance <= 2 && found.quality == 100, "{name}: {distance} bits");
        }
        let original = read("bridge-1-original.jpg");
        for copy in [
            "aaa-orig",
            "blur-a-little",
            "high-contrast",
            "shrink-a-lot",
            "square-128x128",
            "square-256x256",
        ] {
            let copy = read(&format!("bridge-mod-{copy}.jpg"));
            assert!(pdq_distance(&original.hashes[0], &copy.hashes[0]) <= 31);
        }
        for turned in ["2-rotate-90", "3-rotate-180", "4-rotate-270", "5-flipx", "6-flipy"] {
            let turned = read(&format!("bridge-{turned}.jpg"));
            let nearest = original
                .hashes
                .iter()
                .map(|hash| pdq_distance(hash, &turned.hashes[0]))
                .min();
            assert!(nearest.unwrap() <= 31 && pdq_distance(&original.hashes[0], &turned.hashes[0]) > 31);
        }
    }
}
