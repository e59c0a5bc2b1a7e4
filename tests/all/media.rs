//! Pictures, videos and sound from files to corpora: what is whole is decoded, what is broken is a quarantined row.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Place, Program, Sandbox, dataset, ffmpeg, has_ffmpeg, not_run_here};
use serde_json::Value;

fn csv(place: &Place, sql: &str) -> Result<String> {
    Program::new(place, &["run", "-c", sql, "-o", "csv"])?
        .run()?
        .succeeded()
}

/// A tune of pure tones, none of which is like that of another key.
fn tune(key: u32) -> String {
    format!("aevalsrc=exprs='0.4*sin(2*PI*t*220*pow(2,mod(floor(t*3)*{key},24)/12))':s=44100:d=12")
}

/// A video, edited copies of it, a clip, another video, and files that are broken in several ways.
fn videos(place: &Place) -> Result<()> {
    let folder = place.path().join("videos");
    std::fs::create_dir_all(&folder)?;
    let make = |arguments: &str| ffmpeg(&folder, arguments);
    let [first, second] = [tune(5), tune(7)];
    make(&format!(
        "-f lavfi -i mandelbrot=size=320x240:rate=10:end_scale=0.00003:end_pts=400 -f lavfi -i {first} -t 12 -c:v mpeg4 -q:v 3 -c:a aac -movflags +faststart original.mp4"
    ))?;
    make(
        "-i original.mp4 -vf scale=200:150,eq=brightness=0.05 -c:v libvpx -b:v 900k -c:a libvorbis -b:a 64k smaller.webm",
    )?;
    make("-ss 2 -i original.mp4 -t 3 -c:v mpeg4 -q:v 3 -c:a aac clip.mp4")?;
    make(&format!(
        "-f lavfi -i testsrc=size=320x240:rate=10 -f lavfi -i {second} -t 12 -c:v mpeg4 -q:v 3 -c:a libmp3lame other.mkv"
    ))?;
    make(&format!("-f lavfi -i {first} -t 12 sound.wav"))?;
    let whole = std::fs::read(folder.join("original.mp4"))?;
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes);
    write("broken-cut.mp4", &whole[..whole.len() / 2])?;
    let mut damaged = whole.clone();
    damaged[whole.len() / 2..whole.len() / 2 + 4000].fill(0x55);
    write("broken-damaged.mp4", &damaged)?;
    let whole = std::fs::read(folder.join("smaller.webm"))?;
    write("broken-cut.webm", &whole[..whole.len() / 2])?;
    write("broken-text.mp4", b"<html>not found</html>")?;
    // What would make ffmpeg read another file of this machine.
    let playlist = format!(
        "#EXTM3U\n#EXT-X-TARGETDURATION:12\n#EXTINF:12,\nfile://{}/original.mp4\n#EXT-X-ENDLIST\n",
        folder.display()
    );
    write("broken-playlist.mp4", playlist.as_bytes())?;
    write("broken-list.mp4", b"ffconcat version 1.0\nfile original.mp4\n")?;
    Ok(())
}

/// Every row of a query's one column.
fn column(place: &Place, sql: &str) -> Result<Vec<String>> {
    Ok(csv(place, sql)?.lines().skip(1).map(str::to_owned).collect())
}

#[test]
fn frames_are_those_that_are_shown() -> Result<()> {
    if !has_ffmpeg("frames_are_those_that_are_shown") {
        return Ok(());
    }
    let place = Place::new()?;
    // Ten pictures a second, each brighter by two than the one before.
    let shades = "-f lavfi -i color=black:size=64x48:rate=10,format=gray,geq=lum='2*N' -t 5 -c:v ffv1 shades.mkv";
    ffmpeg(place.path(), shades)?;
    for (fps, more) in [(1.0, ""), (2.0, ", fps => 2"), (0.5, ", fps => 0.5"), (4.0, ", 4.0")] {
        let sql = format!(
            "SELECT concat(f['ts'], ' ', substr(encode(decode_image(f['image'], 'L')['pixels'], 'hex'), 1, 2)) AS shown
             FROM (SELECT unnest(video_frames(content{more})) AS f FROM read_blob('shades.mkv')) ORDER BY f['ts']"
        );
        let shown = column(&place, &sql)?;
        ensure!(
            shown.len() == (5.0 * fps) as usize + usize::from(fps == 0.5),
            "{fps}: {shown:?}"
        );
        for (place, row) in (0u8..).zip(&shown) {
            let (ts, grey) = row.split_once(' ').with_context(|| row.clone())?;
            ensure!(ts.parse::<f64>()? == f64::from(place) / fps, "{fps}: {shown:?}");
            // At a time between two pictures the earlier one is shown.
            let expected = 2.0 * (f64::from(place) / fps * 10.0).floor();
            let grey = f64::from(u8::from_str_radix(grey, 16)?);
            ensure!((grey - expected).abs() <= 3.0, "{fps}: {shown:?}");
        }
    }
    Ok(())
}

const SCRIPT: &str = "
    CREATE MATERIALIZED VIEW hashed AS
      SELECT filename, vpdq(content, fps => 2) AS frames, audio_fingerprint(content) AS sound FROM read_blob('videos/*');
    CREATE CORPUS known (
        PRIMARY KEY (filename), CONSTRAINT whole EXPECT (frames IS NOT NULL) ON VIOLATION QUARANTINE ROW
      ) WITH (shards = 2) AS
      SELECT filename, frames, sound, video_cluster_id, video_is_representative, video_share, video_linked_to
      FROM video_duplicates(TABLE hashed, key => 'filename', frames => 'frames');";

#[test]
fn edited_videos_are_found_and_broken_ones_quarantined() -> Result<()> {
    if !has_ffmpeg("edited_videos_are_found_and_broken_ones_quarantined") {
        return Ok(());
    }
    let place = Place::new()?;
    videos(&place)?;
    place.write("videos.sql", SCRIPT)?;
    let run = ["run", "videos.sql", "-o", "json", "--target-partitions", "2"];
    Program::new(&place, &run)?.run()?.succeeded()?;
    let whole = "SELECT concat(split_part(filename, '/', -1), ' ', min(split_part(filename, '/', -1)) OVER (PARTITION BY video_cluster_id))
                 FROM known ORDER BY filename";
    let found = column(&place, whole)?;
    let wanted = [
        "clip.mp4 clip.mp4",
        "original.mp4 original.mp4",
        "other.mkv other.mkv",
        "smaller.webm original.mp4",
    ];
    assert_eq!(found, wanted);
    let quarantined = column(
        &place,
        "SELECT split_part(filename, '/', -1) FROM known.quarantine ORDER BY 1",
    )?;
    let wanted = [
        "cut.mp4",
        "cut.webm",
        "damaged.mp4",
        "list.mp4",
        "playlist.mp4",
        "text.mp4",
    ]
    .map(|name| format!("broken-{name}"));
    assert_eq!(quarantined, [&wanted[..], &["sound.wav".to_owned()]].concat());
    // Of the sound: one tune in three containers and codecs, a clip that is too short, and another tune.
    let distances = "SELECT concat(split_part(b.filename, '/', -1), ' ', audio_fingerprint_distance(a.sound, b.sound))
                     FROM hashed a JOIN hashed b ON b.filename <> a.filename AND b.sound IS NOT NULL
                     WHERE a.filename LIKE '%original.mp4' AND b.filename NOT LIKE '%broken%' ORDER BY b.filename";
    let distances = column(&place, distances)?;
    let distance = |name: &str| -> Result<Option<f64>> {
        let found = distances.iter().find_map(|row| row.strip_prefix(name));
        let found = found.with_context(|| format!("{name}: {distances:?}"))?.trim();
        Ok((!found.is_empty()).then(|| found.parse()).transpose()?)
    };
    for name in ["smaller.webm", "sound.wav"] {
        ensure!(distance(name)?.is_some_and(|distance| distance < 0.1), "{distances:?}");
    }
    ensure!(
        distance("other.mkv")?.is_some_and(|distance| distance > 0.25),
        "{distances:?}"
    );
    ensure!(distance("clip.mp4")?.is_none(), "{distances:?}");
    Ok(())
}

fn digest(out: &str) -> Result<String> {
    let documents = serde_json::Deserializer::from_str(out)
        .into_iter::<Value>()
        .collect::<Result<Vec<_>, _>>()?;
    let build = documents.iter().find(|document| document["corpus"] == "known");
    let digest = build.and_then(|build| build["digest"].as_str());
    Ok(digest.with_context(|| format!("no digest: {out}"))?.to_owned())
}

#[test]
fn videos_are_the_same_on_a_cluster() -> Result<()> {
    if !has_ffmpeg("videos_are_the_same_on_a_cluster") {
        return Ok(());
    }
    let place = Place::new()?;
    videos(&place)?;
    place.write("videos.sql", SCRIPT)?;
    let run = ["run", "videos.sql", "-o", "json", "--target-partitions", "1"];
    let here = digest(&Program::new(&place, &run)?.run()?.succeeded()?)?;
    let mut sandbox = Sandbox::new(Place::new()?)?;
    std::os::unix::fs::symlink(place.path().join("videos"), sandbox.place().path().join("videos"))?;
    let script = sandbox.place().write("videos.sql", SCRIPT)?.display().to_string();
    for _ in 0..2 {
        sandbox.worker(None)?;
    }
    sandbox.wait_for_workers(2)?;
    let out = sandbox
        .submit(&script)?
        .run()?
        .succeeded()
        .with_context(|| sandbox.logs())?;
    assert_eq!(digest(&out)?, here);
    Ok(())
}

#[test]
fn fingerprints_are_those_of_fpcalc() -> Result<()> {
    let test = "fingerprints_are_those_of_fpcalc";
    if !has_ffmpeg(test) {
        return Ok(());
    }
    if Command::new("fpcalc").arg("-version").output().is_err() {
        not_run_here(test, "no fpcalc (tools/setup system)");
        return Ok(());
    }
    let place = Place::new()?;
    let make = |arguments: &str| ffmpeg(place.path(), arguments);
    let tune = tune(5).replace("d=12", "d=130");
    make(&format!(
        "-f lavfi -i {tune} -f lavfi -i anoisesrc=a=0.02:seed=1:d=130 -filter_complex amix=inputs=2 a.wav"
    ))?;
    make("-i a.wav -ac 2 -ar 48000 -c:a aac b.m4a")?;
    make("-i a.wav -ar 11025 -t 20 -c:a flac c.flac")?;
    make("-i a.wav -ac 2 -ar 22050 -t 7 -c:a libmp3lame d.mp3")?;
    let sql = "SELECT concat(filename, ' ', array_to_string(audio_fingerprint(content), ',')) AS sound
               FROM read_blob('[a-d].*') ORDER BY filename";
    let place_of = |row: &str| {
        row.trim_matches('"')
            .split_once(' ')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    let found = column(&place, sql)?;
    assert_eq!(found.len(), 4, "{found:?}");
    for row in found {
        let (name, numbers) = place_of(&row).with_context(|| row.clone())?;
        let fpcalc = Command::new("fpcalc")
            .args(["-raw", "-plain", "-ignore-errors"])
            .arg(&name)
            .current_dir(place.path())
            .output()?;
        ensure!(fpcalc.status.success(), "{name}: {fpcalc:?}");
        assert_eq!(numbers, String::from_utf8(fpcalc.stdout)?.trim(), "{name}");
    }
    Ok(())
}

#[test]
fn a_program_that_is_missing_is_told_when_the_statement_is_planned() -> Result<()> {
    let place = Place::new()?;
    place.write("a.mp4", "no video")?;
    for call in ["video_frames(content)", "vpdq(content)", "audio_fingerprint(content)"] {
        let sql = format!("EXPLAIN SELECT {call} FROM read_blob('a.mp4')");
        let error = Program::new(&place, &["run", "-c", &sql])?
            .env("CORPUSMILL_FFMPEG", "/nowhere/ffmpeg")
            .run()?
            .failed(1)?;
        for part in [
            "needs the program '/nowhere/ffmpeg'",
            "apt-get install ffmpeg",
            "CORPUSMILL_FFMPEG",
        ] {
            ensure!(error.contains(part), "{call}: {error}");
        }
    }
    Ok(())
}

/// Runs a statement with a decoder that does what a shell script says; gives whether the row has frames, and the
/// arguments of the decoder.
fn with_decoder(does: &str) -> Result<(String, String)> {
    let place = Place::new()?;
    place.write("a.mp4", "no video")?;
    let temporary = place.path().join("tmp");
    std::fs::create_dir(&temporary)?;
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *-version*) exit 0;; esac\necho $$ > pid\necho \"$*\" > arguments\n{does}\n"
    );
    let program = place.write("decoder", script)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let sql = "SELECT video_frames(content) IS NOT NULL AS frames FROM read_blob('a.mp4')";
    let out = Program::new(&place, &["run", "-c", sql, "-o", "csv"])?
        .env("CORPUSMILL_FFMPEG", &program.display().to_string())
        .env("CORPUSMILL_FFMPEG_TIMEOUT_S", "2")
        .env("TMPDIR", &temporary.display().to_string())
        .run()?
        .succeeded()?;
    let pid = std::fs::read_to_string(place.path().join("pid"))?;
    ensure!(!Path::new("/proc").join(pid.trim()).exists(), "the decoder still runs");
    ensure!(
        std::fs::read_dir(&temporary)?.next().is_none(),
        "a temporary file was left"
    );
    let arguments = std::fs::read_to_string(place.path().join("arguments"))?;
    Ok((out.lines().nth(1).unwrap_or_default().to_owned(), arguments))
}

#[test]
fn a_decoder_that_misbehaves_is_ended_and_the_row_has_no_frames() -> Result<()> {
    let began = Instant::now();
    for does in [
        "exec sleep 10000",
        "exec 1>&-; exec sleep 10000",
        "kill -9 $$",
        "exit 3",
        "echo no frames",
        "exit 0",
    ] {
        let (frames, arguments) = with_decoder(does)?;
        ensure!(frames == "false", "{does}: {frames}");
        for part in [
            "-protocol_whitelist file ",
            "-format_whitelist 3gp,",
            "-max_pixels 89478485 ",
            "-timelimit 2 ",
        ] {
            ensure!(arguments.contains(part), "{arguments}");
        }
    }
    ensure!(
        began.elapsed() < Duration::from_secs(120),
        "it took {:?}",
        began.elapsed()
    );
    Ok(())
}

#[test]
fn broken_pictures_are_quarantined() -> Result<()> {
    let place = Place::new()?;
    std::os::unix::fs::symlink(dataset()?.join("media"), place.path().join("whole"))?;
    let pictures = std::fs::read_dir(place.path().join("whole"))?.collect::<Result<Vec<_>, _>>()?;
    let picture = std::fs::read(pictures[0].path())?;
    place.write("broken/cut", &picture[..picture.len() / 2])?;
    place.write("broken/text", "<html>not found</html>")?;
    let sql = "CREATE CORPUS pictures (
                 PRIMARY KEY (filename), CONSTRAINT whole EXPECT (image_info(content) IS NOT NULL) ON VIOLATION QUARANTINE ROW
               ) AS SELECT filename, content, resize_image(content, 32, 32) AS small
               FROM (SELECT * FROM read_blob('whole/*') UNION ALL SELECT * FROM read_blob('broken/*'))";
    Program::new(&place, &["run", "-c", sql])?.run()?.succeeded()?;
    let rows = "SELECT concat(count(*), ' ', count(small), ' ', min(image_info(small)['width'])) FROM pictures";
    assert_eq!(
        column(&place, rows)?,
        [format!("{} {} 32", pictures.len(), pictures.len())]
    );
    let quarantined = column(&place, "SELECT filename FROM pictures.quarantine ORDER BY filename")?;
    assert_eq!(quarantined, ["broken/cut", "broken/text"]);
    Ok(())
}
