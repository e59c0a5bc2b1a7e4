use image::{DynamicImage, ImageFormat};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// A picture whose channels all differ, with some pixels that are not opaque; `make_pictures.py` makes the same.
fn picture(width: usize, height: usize, mode: Mode) -> Picture {
    let mut pixels = Vec::new();
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        for channel in 0..mode.channels() {
            let value = match channel {
                0 => x * x / 7 + y * 3 + x * y / 50,
                1 => x * 5 + y * y / 11,
                2 => x / 9 * 37 + y / 13 * 91,
                _ => [0, 255, 128, x * 7 + y * 3][(x / 5 + y / 3) % 4],
            };
            pixels.push((value % 256) as u8);
        }
    }
    Picture {
        width,
        height,
        mode,
        pixels,
    }
}

#[derive(Deserialize)]
struct Reference {
    made_by: String,
    resized: Vec<Resized>,
    blurred: Vec<Blurred>,
}

#[derive(Deserialize)]
struct Resized {
    from: (usize, usize),
    to: (usize, usize),
    mode: String,
    method: String,
    filter: String,
    hash: String,
}

#[derive(Deserialize)]
struct Blurred {
    from: (usize, usize),
    mode: String,
    radius: f32,
    hash: String,
}

/// FNV-1a, which takes a line of Python.
fn hash(bytes: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

fn reference() -> Reference {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/pictures.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn resizing_gives_the_bytes_of_pillow_and_torchvision() {
    let reference = reference();
    assert!(reference.resized.len() > 100, "{}", reference.made_by);
    for case in reference.resized {
        let (mode, method, filter) = (
            case.mode.parse().unwrap(),
            case.method.parse().unwrap(),
            case.filter.parse().unwrap(),
        );
        let from = picture(case.from.0, case.from.1, mode);
        let resized = from.resized(case.to.0, case.to.1, filter, method).unwrap();
        assert_eq!(
            (resized.width, resized.height, resized.mode),
            (case.to.0, case.to.1, mode)
        );
        assert_eq!(
            hash(&resized.pixels),
            case.hash,
            "{:?} to {:?} {} {} {}",
            case.from,
            case.to,
            case.mode,
            case.method,
            case.filter
        );
    }
}

#[test]
fn blurring_gives_the_bytes_of_pillow() {
    let reference = reference();
    assert!(reference.blurred.len() > 10, "{}", reference.made_by);
    for case in reference.blurred {
        let blurred = picture(case.from.0, case.from.1, case.mode.parse().unwrap()).blurred(case.radius);
        assert_eq!(
            hash(&blurred.pixels),
            case.hash,
            "{:?} {} {}",
            case.from,
            case.mode,
            case.radius
        );
    }
}

proptest! {
    #[test]
    fn one_colour_stays_one_colour(
        width in 1usize..40, height in 1usize..40, to_width in 1usize..90, to_height in 1usize..90,
        colour in any::<[u8; 3]>(), radius in 0f32..30.0,
    ) {
        let plain = Picture { width, height, mode: Mode::Rgb, pixels: colour.repeat(width * height) };
        for (filter, method) in [
            (Filter::Bilinear, Method::Pillow), (Filter::Bicubic, Method::Pillow), (Filter::Lanczos, Method::Pillow),
            (Filter::Bilinear, Method::Torchvision), (Filter::Bicubic, Method::Torchvision),
        ] {
            let resized = plain.resized(to_width, to_height, filter, method).unwrap();
            prop_assert_eq!(resized.pixels.len(), to_width * to_height * 3);
            // Weights of few bits need not add up to one, so torchvision is off by one at times.
            let off = resized.pixels.iter().zip(colour.iter().cycle()).map(|(a, b)| a.abs_diff(*b)).max();
            prop_assert!(off.unwrap() <= u8::from(method == Method::Torchvision), "{:?}", off);
        }
        prop_assert_eq!(plain.blurred(radius), plain);
    }
}

proptest! {
    #[test]
    fn damaged_files_do_no_harm(
        format in 0usize..5, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        kept in any::<prop::sample::Index>(), cut in any::<bool>(),
    ) {
        let formats = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp];
        let mut bytes = file(&dynamic(&picture(40, 30, Mode::Rgb)), formats[format]);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if cut {
            bytes.truncate(kept.index(bytes.len()));
        }
        if let Some(picture) = Picture::decode(&bytes, None) {
            prop_assert_eq!(picture.pixels.len(), picture.width * picture.height * picture.mode.channels());
            prop_assert!((picture.width * picture.height) as u64 <= PIXELS_MAX);
        }
    }
}

#[test]
fn what_would_be_too_large_is_not_made() {
    let tall = picture(1, 3000, Mode::L);
    assert!(tall.resized(0, 10, Filter::Bilinear, Method::Pillow).is_none());
    assert!(tall.resized(100_000, 3000, Filter::Bilinear, Method::Pillow).is_none());
    assert!(
        tall.resized(100_000, 1, Filter::Bilinear, Method::Torchvision)
            .is_none(),
        "between the passes"
    );
    assert!(
        tall.resized(usize::MAX, usize::MAX, Filter::Bilinear, Method::Pillow)
            .is_none()
    );
}

fn file(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn dynamic(picture: &Picture) -> DynamicImage {
    image::load_from_memory(&picture.png()).unwrap()
}

#[test]
fn what_is_written_is_read_again() {
    for mode in Mode::ALL {
        let before = picture(31, 22, mode);
        let info = picture_info(&before.png()).unwrap();
        let wanted = ("png", 31, 22, 1, mode);
        assert_eq!((info.format, info.width, info.height, info.frames, info.mode), wanted);
        assert_eq!(Picture::decode(&before.png(), None), Some(before));
    }
}

#[test]
fn modes_are_made_of_each_other() {
    let colours = picture(9, 8, Mode::Rgba);
    let grey = Picture::decode(&colours.png(), Some(Mode::L)).unwrap();
    let both = Picture::decode(&colours.png(), Some(Mode::La)).unwrap();
    let opaque = Picture::decode(&colours.png(), Some(Mode::Rgb)).unwrap();
    for (at, [red, green, blue, alpha]) in colours.pixels.as_chunks::<4>().0.iter().enumerate() {
        let luma = (f64::from(*red) * 0.299 + f64::from(*green) * 0.587 + f64::from(*blue) * 0.114).round();
        assert!((luma - f64::from(grey.pixels[at])).abs() <= 1.0);
        assert_eq!(both.pixels[2 * at..2 * at + 2], [grey.pixels[at], *alpha]);
        assert_eq!(opaque.pixels[3 * at..3 * at + 3], [*red, *green, *blue]);
    }
    let spread = Picture::decode(&grey.png(), Some(Mode::Rgb)).unwrap();
    assert!(
        spread
            .pixels
            .chunks(3)
            .all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2])
    );
    assert_eq!(Picture::decode(&grey.png(), Some(Mode::L)), Some(grey));
}

/// An animation of three pictures.
fn animation() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for shade in [20, 120, 220] {
        let frame = image::RgbaImage::from_pixel(12, 10, image::Rgba([shade, 0, 0, 255]));
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    bytes
}

#[test]
fn every_format_is_told_and_cut_files_are_none() {
    let plain = dynamic(&picture(120, 90, Mode::Rgb));
    for (format, name) in [
        (ImageFormat::Jpeg, "jpeg"),
        (ImageFormat::Png, "png"),
        (ImageFormat::WebP, "webp"),
        (ImageFormat::Gif, "gif"),
        (ImageFormat::Bmp, "bmp"),
    ] {
        let whole = file(&plain, format);
        let info = picture_info(&whole).unwrap();
        assert_eq!((info.format, info.width, info.height, info.frames), (name, 120, 90, 1));
        for kept in [
            0,
            1,
            3,
            20,
            whole.len() / 3,
            whole.len() / 2,
            whole.len() * 9 / 10,
            whole.len() - 30,
        ] {
            assert!(
                picture_info(&whole[..kept]).is_none(),
                "{name}, {kept} of {} bytes",
                whole.len()
            );
        }
        // The beginning of one format before another's bytes.
        let other = if name == "jpeg" {
            b"\x89PNG\r\n\x1a\n"
        } else {
            b"\xff\xd8\xff\xe0\0\x10JF"
        };
        let mislabelled = [other, &whole[8..]].concat();
        assert!(picture_info(&mislabelled).is_none(), "{name} that says to be another");
    }
    let moving = animation();
    assert_eq!(picture_info(&moving).unwrap().frames, 3);
    assert!(picture_info(&moving[..moving.len() - 20]).is_none());
    assert!(picture_info(b"").is_none() && picture_info(b"GIF89a").is_none() && picture_info(b"no picture").is_none());
}

#[test]
fn a_decompression_bomb_is_none() {
    // A PNG of 3 kB that says to have 30,000 × 30,000 pixels, the first line of which is there.
    let mut bomb = picture(16, 16, Mode::L).png();
    bomb[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    let crc = crc(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    assert!(picture_info(&bomb).is_none());
    // The same in a GIF, whose size is not guarded.
    let mut bomb = animation();
    bomb[6..10].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    assert!(picture_info(&bomb).is_none());
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))
        })
    })
}

#[test]
fn a_jpeg_ends_at_its_end_marker() {
    let whole = file(&dynamic(&picture(60, 50, Mode::Rgb)), ImageFormat::Jpeg);
    assert_eq!(jpeg_length(&whole), Some(whole.len()));
    let more = [whole.as_slice(), b"\xff\xd9 more"].concat();
    assert_eq!(jpeg_length(&more), Some(whole.len()));
    assert_eq!(Picture::decode(&more, None), Picture::decode(&whole, None));
    assert!(jpeg_length(&whole[..whole.len() - 1]).is_none() && jpeg_length(&whole[1..]).is_none());
}
