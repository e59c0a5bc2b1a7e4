//! Videos and sound are decoded by the program `ffmpeg` (5.1 or newer), one process a file.
//!
//! ```text
//! bytes ─▶ temporary file ─▶ ffmpeg -i … pipe:1 ─▶ at most 512 MiB, in at most 300 s ─▶ bytes
//! ```
//! Containers that name other files or addresses (playlists, image sequences) are not read, and no protocol but that of
//! files is: the bytes are a stranger's. A file that cannot be decoded to its end, or not within the limits, is `None`.
//!
//! Environment: `CORPUSMILL_FFMPEG` names the program (default `ffmpeg`), `CORPUSMILL_FFMPEG_TIMEOUT_S` the seconds that
//! one file may take (default 300).

use std::io::{self, Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use corpusmill_kernels::pictures::PIXELS_MAX;
use datafusion::common::{DataFusionError, Result, plan_err};

use crate::python::blocking;

/// Seconds that one file may take; the process ends itself after as many of processor time, should this one be gone.
const TIMEOUT_S: u64 = 300;
/// Bytes of what one file is decoded to.
const OUTPUT_BYTES_MAX: u64 = 512 << 20;
/// Bytes of the last words that are kept for the log.
const LAST_WORDS_BYTES: u64 = 2048;
/// Containers that hold all that they play.
const CONTAINERS: &str = "3gp,aac,ac3,aiff,amr,asf,au,avi,caf,dv,eac3,flac,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,\
    mp3,mp4,mpeg,mpegts,mpegvideo,mxf,nut,ogg,opus,w64,wav,webm,wv";

/// Refuses to plan a function where the program is not there.
pub(crate) fn check(function: &str) -> Result<()> {
    static FOUND: OnceLock<()> = OnceLock::new();
    if FOUND.get().is_some() {
        return Ok(());
    }
    let version = Command::new(program())
        .args(["-hide_banner", "-version"])
        .stdin(Stdio::null())
        .output();
    match version {
        Ok(output) if output.status.success() => {
            let _ = FOUND.set(());
            Ok(())
        }
        Ok(output) => plan_err!("{}", missing(function, &format!("it ended with {}", output.status))),
        Err(error) => plan_err!("{}", missing(function, &error.to_string())),
    }
}

fn program() -> String {
    std::env::var("CORPUSMILL_FFMPEG").unwrap_or_else(|_| "ffmpeg".into())
}

fn missing(function: &str, why: &str) -> String {
    format!(
        "{function} needs the program '{}', which cannot be started: {why}; install it where statements are planned and \
         run (apt-get install ffmpeg), or set CORPUSMILL_FFMPEG to where it is",
        program()
    )
}

fn timeout() -> Duration {
    let seconds = std::env::var("CORPUSMILL_FFMPEG_TIMEOUT_S")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .filter(|seconds| *seconds > 0)
        .unwrap_or(TIMEOUT_S);
    Duration::from_secs(seconds)
}

/// Decodes a file as `arguments` say, and gives what comes out; `None` where it cannot be, with the reason in the log.
///
/// # Errors
/// When the program or a temporary file is not there.
pub(crate) fn decode(function: &str, file: &[u8], arguments: &[&str]) -> Result<Option<Vec<u8>>> {
    if file.is_empty() {
        return Ok(None);
    }
    let input = nameless(file).map_err(|error| {
        let folder = std::env::temp_dir();
        let told = format!(
            "{function} cannot write a temporary file in {}: {error}",
            folder.display()
        );
        DataFusionError::IoError(io::Error::new(error.kind(), told))
    })?;
    let limit = timeout();
    let mut command = Command::new(program());
    command
        .args(["-hide_banner", "-nostdin", "-loglevel", "error", "-xerror"])
        .args(["-timelimit", &limit.as_secs().to_string()])
        .args(["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS])
        .args(["-threads", "1", "-max_pixels", &PIXELS_MAX.to_string()])
        // Opened by this name the file can be read in any order, as a pipe cannot.
        .args(["-i", "file:/dev/stdin"])
        .args([
            "-threads",
            "1",
            "-filter_threads",
            "1",
            "-map_metadata",
            "-1",
            "-bitexact",
        ])
        .args(arguments)
        .arg("pipe:1");
    command.stdin(input);
    match blocking(|| Process::start(command).and_then(|process| process.output(limit))) {
        Ok(Output::Whole(output)) => Ok(Some(output)),
        Ok(Output::Broken(why)) => {
            tracing::debug!(function, bytes = file.len(), why, "a file cannot be decoded");
            Ok(None)
        }
        Err(error) => {
            let told = missing(function, &error.to_string());
            Err(DataFusionError::Execution(told))
        }
    }
}

/// A temporary file that has no name, so that nothing is left of it whatever happens to this process.
fn nameless(file: &[u8]) -> io::Result<Stdio> {
    let mut temporary = tempfile::tempfile()?;
    temporary.write_all(file)?;
    temporary.rewind()?;
    Ok(temporary.into())
}

enum Output {
    Whole(Vec<u8>),
    Broken(String),
}

/// A running program, which is ended when it is dropped.
struct Process {
    child: Child,
}

impl Process {
    fn start(mut command: Command) -> io::Result<Process> {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Process { child })
    }

    fn output(mut self, limit: Duration) -> io::Result<Output> {
        let deadline = Instant::now() + limit;
        let missing = || io::Error::other("a pipe is missing");
        let stdout = self.child.stdout.take().ok_or_else(missing)?;
        let stderr = self.child.stderr.take().ok_or_else(missing)?;
        let output = read_aside("ffmpeg-output", stdout, OUTPUT_BYTES_MAX + 1)?;
        let words = read_aside("ffmpeg-words", stderr, LAST_WORDS_BYTES)?;
        let late = || {
            tracing::warn!(
                "ffmpeg took longer than {} s for a file, and was ended",
                limit.as_secs()
            );
            Ok(Output::Broken(format!("it took longer than {} s", limit.as_secs())))
        };
        let bytes = match output.recv_timeout(limit) {
            Ok(bytes) => bytes?,
            Err(_) => return late(),
        };
        if bytes.len() as u64 > OUTPUT_BYTES_MAX {
            let why = format!("decoded, it has more than {OUTPUT_BYTES_MAX} bytes");
            return Ok(Output::Broken(why));
        }
        // It has closed its output, so it is about to end.
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => return late(),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let words = words.recv_timeout(Duration::from_secs(1));
        let words = words.ok().and_then(Result::ok).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        // Files that are cut off end well, with a remark.
        let cut = ["prematurely", "partial file"]
            .iter()
            .any(|remark| words.contains(remark));
        match status.success() && !cut {
            true => Ok(Output::Whole(bytes)),
            false => Ok(Output::Broken(words)),
        }
    }
}

/// Reads a pipe in a thread, which ends with the process: a read cannot be given up, waiting for a thread can.
fn read_aside(name: &str, pipe: impl Read + Send + 'static, most: u64) -> io::Result<Receiver<io::Result<Vec<u8>>>> {
    let (sender, receiver) = sync_channel(1);
    std::thread::Builder::new().name(name.into()).spawn(move || {
        let mut pipe = pipe;
        let mut bytes = Vec::new();
        let read = pipe.by_ref().take(most).read_to_end(&mut bytes);
        let more = bytes.len() as u64 == most;
        let _ = sender.send(read.map(|_| bytes));
        // What is too much of words is read and forgotten; what is too much of output ends the process.
        if more {
            let _ = io::copy(&mut pipe, &mut io::sink());
        }
    })?;
    Ok(receiver)
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
