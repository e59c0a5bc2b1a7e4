//! Videos and sound for tests, which ffmpeg makes from its own sources.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::place::not_run_here;

/// Says whether ffmpeg is there; says by name that the test cannot run where it is not. CI must have it.
#[must_use]
pub fn has_ffmpeg(test: &str) -> bool {
    let version = Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).status();
    let there = version.is_ok_and(|status| status.success());
    assert!(
        there || std::env::var_os("CI").is_none(),
        "CI must have ffmpeg (tools/setup system)"
    );
    if !there {
        not_run_here(test, "no ffmpeg (tools/setup system)");
    }
    there
}

/// Runs ffmpeg in a folder with these arguments, which are parted by blanks.
///
/// # Errors
/// When it is not there or does not end well: shows what it said.
pub fn ffmpeg(folder: &Path, arguments: &str) -> Result<()> {
    let ended = Command::new("ffmpeg")
        .args(["-hide_banner", "-nostdin", "-loglevel", "error", "-y"])
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()?;
    if !ended.status.success() {
        bail!("ffmpeg {arguments}: {}", String::from_utf8_lossy(&ended.stderr));
    }
    Ok(())
}
