//! Builds that are stopped or killed go on, and give what an undisturbed build gives.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use corpusmill_tests::{Ended, Place, Program};
use serde_json::Value;

/// How long anything here may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(240);

const SQL: &str = "
CREATE EXTERNAL TABLE IF NOT EXISTS posts STORED AS CSV LOCATION 'posts/' OPTIONS ('format.has_header' 'true');
CREATE MATERIALIZED VIEW IF NOT EXISTS clean AS
  SELECT post_id, normalize_text(body, 'NFKC') AS body, lang_id(body)['lang'] AS lang FROM posts;
CREATE OR REFRESH CORPUS text (PRIMARY KEY (post_id)) WITH (shards = 4) AS SELECT * FROM clean;
";

/// A place with a pipeline over enough files that a build takes a while.
fn place() -> Result<Place> {
    let place = Place::new()?;
    for file in 0..12 {
        let mut text = String::from("post_id,body\n");
        for row in 0..1_500 {
            let id = file * 1_500 + row;
            text.push_str(&format!(
                "{id},post number {id} speaks of things that {} people did in {}\n",
                id % 97,
                id % 31
            ));
        }
        place.write(&format!("posts/part-{file:02}.csv"), text)?;
    }
    place.write("text.sql", SQL)?;
    Ok(place)
}

fn arguments() -> [&'static str; 8] {
    [
        "run",
        "text.sql",
        "-o",
        "json",
        "--as-of",
        "2026-07-01",
        "--target-partitions",
        "4",
    ]
}

fn digest(out: &str) -> Result<String> {
    let build: Value = serde_json::from_str(out.trim().lines().last().context("nothing was printed")?)?;
    Ok(build["digest"].as_str().context("no digest was printed")?.to_owned())
}

/// What an undisturbed build gives.
fn undisturbed() -> Result<String> {
    let place = place()?;
    digest(&Program::new(&place, &arguments())?.run()?.succeeded()?)
}

/// Files below a folder with this extension.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        // A folder may be gone again: the build goes on meanwhile.
        for path in std::fs::read_dir(next)
            .into_iter()
            .flatten()
            .filter_map(|e| Some(e.ok()?.path()))
        {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found
}

/// Waits until a step has left something behind; returns false when the build was faster.
fn underway(child: &mut Child, place: &Place) -> Result<bool> {
    let warehouse = place.home().join("warehouse");
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        if !files(&warehouse, "json").is_empty() || !files(&warehouse, "parquet").is_empty() {
            return Ok(true);
        }
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        std::thread::yield_now();
    }
    bail!("the build left nothing behind in {DEADLINE:?}")
}

#[test]
fn a_killed_build_goes_on_and_gives_the_same_rows() -> Result<()> {
    let wanted = undisturbed()?;
    let place = place()?;
    let mut child = Program::new(&place, &arguments())?.start()?;
    let alive = underway(&mut child, &place)?;
    child.kill()?;
    child.wait()?;
    assert!(alive, "the build ended before it could be killed: make the data larger");
    assert!(
        files(&place.home().join("warehouse/text/_delta_log"), "json").is_empty(),
        "half a corpus was published"
    );
    let again = Program::new(&place, &arguments())?.run()?;
    assert_eq!(digest(&again.succeeded()?)?, wanted);
    Program::new(&place, &["verify", "text"])?.run()?.succeeded()?;
    Ok(())
}

#[test]
fn control_c_stops_cleanly_and_the_same_command_goes_on() -> Result<()> {
    let wanted = undisturbed()?;
    let place = place()?;
    let mut child = Program::new(&place, &arguments())?.start()?;
    let alive = underway(&mut child, &place)?;
    let asked = Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    let ended = Ended::from(child.wait_with_output()?);
    assert!(
        alive && asked.success(),
        "the build ended before it could be stopped: make the data larger"
    );
    let error = ended.failed(130)?;
    assert!(error.contains("run the same command"), "{error}");
    let again = Program::new(&place, &arguments())?.run()?;
    assert_eq!(digest(&again.succeeded()?)?, wanted);
    Ok(())
}

#[test]
fn two_writers_do_not_meet() -> Result<()> {
    let place = place()?;
    let mut child = Program::new(&place, &arguments())?.start()?;
    let alive = underway(&mut child, &place)?;
    let second = Program::new(&place, &["run", "-c", "CREATE VIEW v AS SELECT 1 AS n"])?.run()?;
    // Reading is free meanwhile.
    let reader = Program::new(&place, &["corpora"])?.run()?;
    let first = Ended::from(child.wait_with_output()?);
    assert!(
        alive,
        "the build ended before anybody could meet it: make the data larger"
    );
    first.succeeded()?;
    reader.succeeded()?;
    let error = second.failed(75)?;
    assert!(error.contains("in use by another corpusmill process"), "{error}");
    Ok(())
}
