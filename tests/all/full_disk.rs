//! A disk that is really full: each place that a build writes to, on a file system of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use corpusmill_tests::{Ended, Place, Program, not_run_here};

/// A small file system in memory; gone when it is dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts one of so many bytes; `None` where that is not allowed.
    pub(crate) fn mount(at: &Path, bytes: usize) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let options = format!("size={bytes}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .output()?;
        Ok(mount.status.success().then(|| Self(at.to_owned())))
    }

    pub(crate) fn grow(&self, bytes: usize) -> Result<()> {
        let options = format!("remount,size={bytes}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status()?;
        ensure!(status.success(), "the file system did not grow");
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a test that failed may have left a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

const SQL: &str = "CREATE CORPUS c (PRIMARY KEY (id), CONSTRAINT low EXPECT (id > 30000) ON VIOLATION QUARANTINE ROW)
  WITH (shards = 4) AS SELECT value AS id, repeat(md5(CAST(value AS VARCHAR)), 20) AS noise FROM generate_series(1, 60000);";

fn run(place: &Place, more: &[&str]) -> Result<Ended> {
    let arguments = [&["run", "c.sql", "-o", "json", "--target-partitions", "2"][..], more].concat();
    Program::new(place, &arguments)?.run()
}

fn digest(ended: Ended) -> Result<String> {
    let build: serde_json::Value = serde_json::from_str(&ended.succeeded()?)?;
    Ok(build["digest"].as_str().unwrap_or_default().to_owned())
}

/// Builds with `folder` of the home on a disk that is too small, then on one that is not.
///
/// `more` is part of the plan, and stays; `memory` is what makes the first run need the disk.
fn fills_up(test: &str, folder: &str, bytes: usize, more: &[&str], memory: &[&str], named: &str) -> Result<()> {
    let whole = Place::new()?;
    whole.write("c.sql", SQL)?;
    let wanted = digest(run(&whole, &[])?)?;
    let place = Place::new()?;
    place.write("c.sql", SQL)?;
    let Some(disk) = Disk::mount(&place.home().join(folder), bytes)? else {
        not_run_here(test, "mounting a tmpfs is not allowed");
        return Ok(());
    };
    let error = run(&place, &[more, memory].concat())?.failed(1)?;
    for part in ["c.sql:1: CREATE CORPUS c", "no space left", named] {
        ensure!(error.contains(part), "`{part}` is not in the message:\n{error}");
    }
    ensure!(!error.contains("panicked"), "{error}");
    ensure!(
        !place.home().join("warehouse/c/_delta_log").exists(),
        "half a corpus was published"
    );
    disk.grow(256 << 20)?;
    let again = run(&place, more)?;
    ensure!(again.err.contains("goes on from an earlier run"), "{}", again.err);
    assert_eq!(digest(again)?, wanted);
    Program::new(&place, &["verify", "c"])?.run()?.succeeded()?;
    drop(disk);
    Ok(())
}

#[test]
fn where_shards_are() -> Result<()> {
    fills_up("where_shards_are", "warehouse/c", 512 << 10, &[], &[], "warehouse/c/")
}

#[test]
fn where_quarantined_rows_are() -> Result<()> {
    let folder = "warehouse/c/_corpusmill/quarantine";
    fills_up("where_quarantined_rows_are", folder, 64 << 10, &[], &[], folder)
}

#[test]
fn where_receipts_are() -> Result<()> {
    fills_up(
        "where_receipts_are",
        "warehouse/_staging",
        4 << 10,
        &[],
        &[],
        "_staging/",
    )
}

#[test]
fn where_rows_are_spilled() -> Result<()> {
    let (rows, little) = (["--batch-size", "1024"], ["--memory-limit", "24M"]);
    fills_up(
        "where_rows_are_spilled",
        "spill",
        256 << 10,
        &rows,
        &little,
        "home/spill",
    )
}

#[test]
fn spilled_rows_have_a_bound_of_their_own() -> Result<()> {
    let place = Place::new()?;
    place.write("c.sql", SQL)?;
    let rows = ["--batch-size", "1024"];
    let little = ["--memory-limit", "24M", "--spill-limit", "1M"];
    let error = run(&place, &[rows.as_slice(), little.as_slice()].concat())?.failed(1)?;
    for part in ["c.sql:1: CREATE CORPUS c", "raise --spill-limit, or --memory-limit"] {
        ensure!(error.contains(part), "`{part}` is not in the message:\n{error}");
    }
    let whole = Place::new()?;
    whole.write("c.sql", SQL)?;
    // What the message says: with more memory the same bound is enough.
    let again = run(&place, &[rows.as_slice(), &["--spill-limit", "1M"]].concat())?;
    assert_eq!(digest(again)?, digest(run(&whole, &[])?)?);
    Ok(())
}

#[test]
fn a_build_that_holds_less_than_its_rows_is_the_same() -> Result<()> {
    // 100 MB of texts, twice sorted: for the window that finds equal ones, and into shards.
    let sql = "CREATE CORPUS c (PRIMARY KEY (id)) WITH (shards = 4) AS
  SELECT * FROM exact_duplicates(
    (SELECT value AS id, repeat(md5(CAST(value / 2 AS VARCHAR)), 16) AS body FROM generate_series(1, 200000)),
    key => 'id', columns => ['body']);";
    let digest_with = |more: &[&str]| {
        let place = Place::new()?;
        place.write("c.sql", sql)?;
        digest(run(&place, more)?)
    };
    let little = ["--memory-limit", "64M", "--batch-size", "128"];
    assert_eq!(digest_with(&little)?, digest_with(&[])?);
    Ok(())
}
