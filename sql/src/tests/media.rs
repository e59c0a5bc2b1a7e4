//! Pictures, and what is computed from hashes of frames and sound; videos themselves are in the tests of the whole.

use corpusmill_kernels::pictures::{Filter, Method, Mode, Picture};
use tempfile::TempDir;

use super::{failure, open_with, rows};
use crate::session::Session;

fn picture(mode: Mode) -> Picture {
    let pixels = (0..60 * 40 * mode.channels()).map(|at| (at * at / 97 + at) as u8);
    Picture {
        width: 60,
        height: 40,
        mode,
        pixels: pixels.collect(),
    }
}

/// Three pictures, and bytes that are none: cut off, of a size that is not true, and text.
fn session() -> (TempDir, Session) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    for (name, mode) in [("a.png", Mode::Rgb), ("b.png", Mode::L), ("c.png", Mode::Rgba)] {
        write(name, &picture(mode).png());
    }
    let whole = picture(Mode::Rgb).png();
    write("x.png", &whole[..whole.len() / 2]);
    write(
        "y.png",
        &[&whole[..16], &[0x7f, 0xff, 0xff, 0xff], &whole[20..]].concat(),
    );
    write("z.png", b"<html>not found</html>");
    let path = folder.path().display();
    let session = open_with(&format!(
        "CREATE VIEW files AS SELECT right(filename, 5) AS name, content FROM read_blob('{path}/*.png')"
    ));
    (folder, session)
}

#[tokio::test]
async fn pictures_are_told_and_decoded() {
    let (_folder, session) = session();
    let found = rows(
        &session,
        "SELECT name, i['format'], i['width'], i['height'], i['frames'], i['mode'] FROM (SELECT name, image_info(content) AS i FROM files)",
    )
    .await;
    assert_eq!(
        found,
        [
            "a.png|png|60|40|1|RGB",
            "b.png|png|60|40|1|L",
            "c.png|png|60|40|1|RGBA",
            "x.png|-|-|-|-|-",
            "y.png|-|-|-|-|-",
            "z.png|-|-|-|-|-"
        ]
    );
    let found = rows(
        &session,
        "SELECT name, d['channels'], length(encode(d['pixels'], 'hex')) / 2, length(encode(r['pixels'], 'hex')) / 2 FROM
         (SELECT name, decode_image(content) AS d, decode_image(content, mode => 'RGB') AS r FROM files WHERE name < 'd')",
    )
    .await;
    assert_eq!(found, ["a.png|3|7200|7200", "b.png|1|2400|7200", "c.png|4|9600|7200"]);
}

#[tokio::test]
async fn what_is_no_picture_is_null_for_every_function() {
    let (_folder, session) = session();
    let found = rows(
        &session,
        "SELECT name, image_info(content) IS NULL, decode_image(content) IS NULL, resize_image(content, 9, 9) IS NULL,
                blur(content, 2) IS NULL, pdq(content) IS NULL FROM files WHERE name > 'd'",
    )
    .await;
    let nulls = |name: &str| format!("{name}|true|true|true|true|true");
    assert_eq!(found, ["x.png", "y.png", "z.png"].map(nulls));
    let of_null = "SELECT image_info(NULL), decode_image(NULL), resize_image(NULL, 9, 9), blur(NULL, 1)";
    assert_eq!(rows(&session, of_null).await, ["-|-|-|-"]);
}

#[tokio::test]
async fn pictures_are_resized_and_blurred_as_the_kernels_do_it() {
    let (folder, session) = session();
    let original = picture(Mode::Rgb);
    let expected = |picture: Picture, name: &str| std::fs::write(folder.path().join(name), picture.png()).unwrap();
    for (call, wanted) in [
        (
            "resize_image(content, 20, 30)",
            original.resized(20, 30, Filter::Bicubic, Method::Pillow),
        ),
        (
            "resize_image(content, 20, 30, filter => 'lanczos')",
            original.resized(20, 30, Filter::Lanczos, Method::Pillow),
        ),
        (
            "resize_image(content, height => 30, width => 20, filter => 'bilinear', method => 'torchvision')",
            original.resized(20, 30, Filter::Bilinear, Method::Torchvision),
        ),
        (
            "resize_image(content, image_info(content)['width'] / 3, 30, NULL, NULL)",
            original.resized(20, 30, Filter::Bicubic, Method::Pillow),
        ),
        ("blur(content, radius => 2.5)", Some(original.blurred(2.5))),
        ("blur(content, 0)", Some(original.clone())),
    ] {
        expected(wanted.unwrap(), "wanted.bin");
        let sql = format!(
            "SELECT {call} = (SELECT content FROM read_blob('{}/wanted.bin')) FROM files WHERE name = 'a.png'",
            folder.path().display()
        );
        assert_eq!(rows(&session, &sql).await, ["true"], "{call}");
    }
    // Where a size comes from the row and cannot be, the row has no picture.
    let per_row =
        "SELECT name, resize_image(content, ascii(name) - 97, 5) IS NULL, blur(content, 97 - ascii(name)) IS NULL
                   FROM files WHERE name < 'd'";
    let found = rows(&session, per_row).await;
    assert_eq!(found, ["a.png|true|false", "b.png|false|true", "c.png|false|true"]);
}

#[tokio::test]
async fn wrong_arguments_of_pictures_are_told() {
    let (_folder, session) = session();
    for (call, wanted) in [
        (
            "resize_image(content, 0, 9)",
            "width of resize_image is from 1 to 65535 pixels, found 0",
        ),
        (
            "resize_image(content, 9, 70000)",
            "height of resize_image is from 1 to 65535 pixels, found 70000",
        ),
        (
            "resize_image(content, 9)",
            "resize_image is called as resize_image(bytes, width, height [",
        ),
        ("resize_image(content, 9, 9, 'bicubik')", "did you mean 'bicubic'?"),
        (
            "resize_image(content, 9, 9, 'bicubic', 'pilow')",
            "did you mean 'pillow'?",
        ),
        (
            "resize_image(content, 9, 9, name)",
            "filter of resize_image is a constant text in quotes",
        ),
        (
            "resize_image(content, 9, 9, 'lanczos', 'torchvision')",
            "method => 'pillow'",
        ),
        (
            "decode_image(content, 'RGBX')",
            "unknown mode of a picture 'RGBX': expected one of L, LA, RGB, RGBA",
        ),
        (
            "decode_image(content, channels => 3)",
            "Unknown parameter name 'channels'",
        ),
        ("image_info(name)", "bytes are such as read_blob's content"),
        ("blur(content, -1)", "radius of blur is from 0 to 1000 pixels, found -1"),
    ] {
        let message = failure(&session, &format!("SELECT {call} FROM files")).await;
        assert!(message.contains(wanted), "{call}\n{message}");
    }
}

/// Videos of two scenes, a clip of the first, noise of low quality, and none.
const FRAMES: &str = "
CREATE VIEW scenes(scene, h) AS SELECT value, encode(sha256(CAST(value AS VARCHAR)), 'hex') FROM generate_series(0, 9);
CREATE VIEW videos AS
  SELECT id, array_agg(named_struct('hash', h, 'quality', CASE WHEN id = 5 THEN 20 ELSE 90 END) ORDER BY scene) AS frames
  FROM (VALUES (1, 0, 4), (2, 0, 4), (3, 0, 1), (4, 5, 9), (5, 0, 4), (6, 1, 5)) AS v(id, first, last)
  JOIN scenes ON scene BETWEEN first AND last GROUP BY id
  UNION ALL SELECT 7, NULL;
";

#[tokio::test]
async fn videos_are_linked_by_the_frames_that_both_share() {
    let session = open_with(FRAMES);
    let of = |more: &str| {
        format!(
            "SELECT id, min(id) OVER (PARTITION BY video_cluster_id), video_is_representative, video_share, video_linked_to
             FROM video_duplicates(TABLE videos, key => 'id', frames => 'frames'{more}) ORDER BY id"
        )
    };
    assert_eq!(
        rows(&session, &of("")).await,
        [
            "1|1|true|1.0|-",
            "2|1|false|1.0|1",
            "3|3|true|1.0|-",
            "4|4|true|1.0|-",
            "5|5|true|1.0|-",
            "6|1|false|0.8|1",
            "7|7|true|1.0|-"
        ]
    );
    let found = rows(&session, &of(", min_share => 0.81")).await;
    assert_eq!(found[5], "6|6|true|1.0|-");
    // A clip is in its film, but only two fifths of the film are in the clip; the last video is in the middle of both.
    let found = rows(&session, &of(", min_share => 0.4, keep => 'id DESC'")).await;
    assert_eq!(found[2], "3|1|false|0.2|2");
    let found = rows(&session, &of(", min_quality => 10")).await;
    assert_eq!(found[4], "5|1|false|1.0|1");
    let shares = rows(
        &session,
        "SELECT s['a_in_b'], s['b_in_a'], s['least'] FROM (
           SELECT vpdq_shares(vpdq_hashes(a.frames), vpdq_hashes(b.frames), max_distance => 10) AS s
           FROM videos a, videos b WHERE a.id = 3 AND b.id = 1)",
    )
    .await;
    assert_eq!(shares, ["1.0|0.4|0.4"]);
    assert_eq!(
        rows(
            &session,
            "SELECT vpdq_shares(vpdq_hashes(frames), NULL), vpdq_hashes(NULL) FROM videos WHERE id = 1"
        )
        .await,
        ["-|-"]
    );
}

#[tokio::test]
async fn wrong_arguments_of_videos_are_told() {
    let session = open_with(FRAMES);
    for (sql, wanted) in [
        (
            "SELECT * FROM video_duplicates(TABLE videos, key => 'id', frames => 'frames', min_share => 1.2)",
            "min_share of video_duplicates is above 0 and at most 1, found 1.2",
        ),
        (
            "SELECT * FROM video_duplicates(TABLE videos, key => 'id', frames => 'frames', max_distance => 40)",
            "max_distance of video_duplicates is from 0 to 31 bits, found 40",
        ),
        (
            "SELECT * FROM video_duplicates(TABLE videos, key => 'id', frames => 'id')",
            "vpdq_hashes takes a list of {hash, quality}, such as vpdq(content)",
        ),
        ("SELECT vpdq_shares('abc', 'abc')", "'abc' is not a PDQ hash"),
    ] {
        let message = failure(&session, sql).await;
        assert!(message.contains(wanted), "{sql}\n{message}");
    }
}

#[tokio::test]
async fn fingerprints_are_compared_where_they_fit_best() {
    let session = open_with(
        "CREATE VIEW sounds AS SELECT array_agg(value * value * 1000003 ORDER BY value) AS a FROM generate_series(1, 60);",
    );
    let found = rows(
        &session,
        "SELECT audio_fingerprint_distance(a, a), audio_fingerprint_distance(a, array_slice(a, 11, 60), 2) = 0,
                audio_fingerprint_distance(a, array_slice(a, 11, 60), seconds => 1) > 0.2,
                audio_fingerprint_distance(a, array_slice(a, 1, 5)), audio_fingerprint_distance(a, NULL) FROM sounds",
    )
    .await;
    assert_eq!(found, ["0.0|true|true|-|-"]);
    let message = failure(
        &session,
        "SELECT audio_fingerprint_distance(a, a, seconds => -1) FROM sounds",
    )
    .await;
    assert!(
        message.contains("seconds of audio_fingerprint_distance are from 0 to 3600, found -1"),
        "{message}"
    );
}
