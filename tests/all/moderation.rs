//! The example that the demo runs, over a small data set: what it publishes does not depend on how it ran.

use anyhow::{Context as _, Result};
use corpusmill_tests::{Place, Program, Sandbox, dataset, repository};
use serde_json::Value;

/// Puts the data set where examples/moderation.sql looks for it, and gives the path of that script.
fn script(place: &Place) -> Result<String> {
    let input = place.path().join("input");
    if !input.exists() {
        std::os::unix::fs::symlink(dataset()?, input)?;
    }
    Ok(repository().join("examples/moderation.sql").display().to_string())
}

/// Runs examples/moderation.sql in a fresh place, and returns the report of its corpus.
fn run(place: &Place, more: &[&str]) -> Result<Value> {
    let script = script(place)?;
    let arguments = [
        &["run", script.as_str(), "-o", "json", "--as-of", "2026-07-01"][..],
        more,
    ]
    .concat();
    report(&Program::new(place, &arguments)?.run()?.succeeded()?)
}

/// The report of the example's corpus, among all that a run printed.
fn report(out: &str) -> Result<Value> {
    let documents = serde_json::Deserializer::from_str(out)
        .into_iter::<Value>()
        .collect::<Result<Vec<_>, _>>()?;
    let build = documents
        .iter()
        .find(|document| document["corpus"] == "mod_text")
        .cloned();
    Ok(build.unwrap_or_default())
}

#[test]
fn the_example_gives_the_same_corpus_on_two_workers() -> Result<()> {
    let here = Place::new()?;
    let embedded = run(&here, &[])?;
    let mut sandbox = Sandbox::new(Place::new()?)?;
    sandbox.worker(None)?;
    sandbox.worker(None)?;
    sandbox.wait_for_workers(2)?;
    let script = script(sandbox.place())?;
    let ended = sandbox.submit(&script)?.run()?;
    let there = report(&ended.succeeded().with_context(|| sandbox.logs())?)?;
    for part in ["digest", "rows", "drops", "quarantined"] {
        assert_eq!(there[part], embedded[part], "{part}");
    }
    assert!(
        shards(&here)? == shards(sandbox.place())?,
        "the shards differ in their bytes"
    );
    Ok(())
}

/// Names and bytes of the shards.
fn shards(place: &Place) -> Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    for partition in std::fs::read_dir(place.home().join("warehouse/mod_text"))? {
        let partition = partition?.path();
        if partition
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("split="))
        {
            for file in std::fs::read_dir(partition)? {
                files.push(file?.path());
            }
        }
    }
    // Names carry build and attempt behind split and shard: in their order the files correspond.
    files.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (
            path.parent().map(ToOwned::to_owned),
            name.chars().take(8).collect::<String>(),
        )
    });
    files.into_iter().map(|path| Ok(std::fs::read(path)?)).collect()
}

#[test]
fn the_example_gives_the_same_corpus_however_it_runs() -> Result<()> {
    let (one, two) = (Place::new()?, Place::new()?);
    let first = run(&one, &["--target-partitions", "1"])?;
    let second = run(
        &two,
        &[
            "--target-partitions",
            "7",
            "--batch-size",
            "311",
            "--memory-limit",
            "256M",
        ],
    )?;
    assert!(first["rows"].as_u64().is_some_and(|rows| rows > 500), "{first}");
    assert_eq!(first["digest"], second["digest"]);
    let (a, b) = (shards(&one)?, shards(&two)?);
    assert_eq!(a.len(), 12, "three splits of four shards");
    assert!(a == b, "the shards differ in their bytes");

    // Nothing has changed, so there is no new version.
    let again = run(&one, &[])?;
    assert_eq!(
        (&again["state"], &again["version"]),
        (&Value::from("unchanged"), &Value::from(0))
    );
    Ok(())
}

#[test]
fn every_row_is_accounted_for() -> Result<()> {
    let place = Place::new()?;
    let build = run(&place, &[])?;
    let sum = |of: &Value| {
        of.as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, n)| n.as_u64())
            .sum::<u64>()
    };
    let rows_in = build["rows_in"].as_u64().unwrap_or_default();
    assert_eq!(rows_in, 1_500);
    let left_out = sum(&build["drops"]) + sum(&build["quarantined"]);
    assert_eq!(build["rows"].as_u64(), Some(rows_in - left_out), "{build}");
    let csv = |sql: &str| {
        Program::new(&place, &["run", "-c", sql, "-o", "csv"])?
            .run()?
            .succeeded()
    };
    let quarantined = csv("SELECT count(*) AS n FROM mod_text.quarantine")?;
    assert_eq!(quarantined, format!("n\n{}\n", sum(&build["quarantined"])));
    let leaks = csv(
        "SELECT count(*) AS n FROM (SELECT user_id FROM mod_text GROUP BY user_id HAVING count(DISTINCT split) > 1)",
    )?;
    assert_eq!(leaks, "n\n0\n");
    Ok(())
}
