//! What goes wrong inside a task of a cluster ends its statement with the reason and the place, and nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Ended, Place, Program, Sandbox, not_run_here, python};
use serde_json::Value;

use crate::full_disk::Disk;

/// Four files of rows that do not compress, and a corpus with an exchange over them.
fn noise() -> Result<Place> {
    const SQL: &str = "
CREATE EXTERNAL TABLE IF NOT EXISTS noise STORED AS CSV LOCATION 'noise/';
CREATE OR REFRESH CORPUS c (PRIMARY KEY (id)) WITH (shards = 4) AS
  SELECT id, count(*) AS n, max(sha512(CAST(id AS VARCHAR))) AS noise FROM noise GROUP BY id;
";
    let place = Place::new()?;
    for file in 0..4 {
        let ids: Vec<String> = (0..15_000).map(|row| (file * 15_000 + row).to_string()).collect();
        place.write(&format!("noise/{file}.csv"), format!("id\n{}\n", ids.join("\n")))?;
    }
    place.write("c.sql", SQL)?;
    Ok(place)
}

/// What one process gives with all the memory and disk that it wants.
fn embedded() -> Result<String> {
    let out = Program::new(&noise()?, &["run", "c.sql", "-o", "json"])?
        .run()?
        .succeeded()?;
    let build: Value = serde_json::from_str(out.trim().lines().last().context("nothing was printed")?)?;
    Ok(build["digest"].as_str().context("no digest was printed")?.to_owned())
}

#[test]
fn a_full_disk_of_a_worker_is_named() -> Result<()> {
    let expected = embedded()?;
    let place = noise()?;
    let folder = place.path().join("small");
    let Some(disk) = Disk::mount(&folder, 1 << 20)? else {
        not_run_here("a_full_disk_of_a_worker_is_named", "mounting a tmpfs is not allowed");
        return Ok(());
    };
    let mut sandbox = Sandbox::new(place)?;
    sandbox.worker_in(&folder, &[], None)?;
    sandbox.wait_for_workers(1)?;
    let error = sandbox.submit("c.sql")?.run()?.failed(1)?;
    for part in [
        "c.sql:3",
        "no space left",
        "exchanged rows of worker-",
        &folder.display().to_string(),
    ] {
        ensure!(error.contains(part), "`{part}` is not in the message:\n{error}");
    }
    ensure!(!error.contains("warehouse"), "the warehouse has space:\n{error}");
    let log = sandbox.place().home().join("warehouse/c/_delta_log");
    ensure!(!log.exists(), "half a corpus was published");
    disk.grow(256 << 20)?;
    assert_eq!(sandbox.digest("c.sql")?, expected, "{}", sandbox.logs());
    drop(sandbox);
    Ok(())
}

#[test]
fn a_worker_with_little_memory_spills_or_says_what_to_do() -> Result<()> {
    let expected = embedded()?;
    let mut sandbox = Sandbox::new(noise()?)?;
    let folder = sandbox.place().path().join("work");
    let tiny = sandbox.worker_in(&folder, &["--memory-limit", "1M"], None)?;
    sandbox.wait_for_workers(1)?;
    let error = sandbox.submit("c.sql")?.run()?.failed(1)?;
    for part in [
        "c.sql:3",
        ": worker-",
        "may not hold or spill so much",
        "--memory-limit",
        "--vcores",
    ] {
        ensure!(error.contains(part), "`{part}` is not in the message:\n{error}");
    }
    assert_eq!(error.matches("Failed to allocate").count(), 1, "{error}");
    sandbox.terminate(tiny)?;
    // Less than the rows need, and enough to sort them in parts.
    sandbox.worker_in(&folder, &["--memory-limit", "24M"], None)?;
    sandbox.wait_for_workers(2)?;
    assert_eq!(sandbox.digest("c.sql")?, expected, "{}", sandbox.logs());
    Ok(())
}

/// A function whose second batch misbehaves, and a corpus over it with a version for each `name`.
fn function(body: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION f(id BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import os, signal, time
def f(id):
    print('to standard output')
    {body}
    return id
$$;
CREATE OR REFRESH CORPUS c (PRIMARY KEY (id)) WITH (shards = 2) AS SELECT f(value) AS id FROM generate_series(1, 1000);"
    )
}

fn submit(sandbox: &Sandbox, sql: &str) -> Result<Ended> {
    sandbox.place().write("f.sql", sql)?;
    sandbox.submit("f.sql")?.run()
}

#[test]
fn functions_in_python_that_misbehave_fail_their_statement_only() -> Result<()> {
    let Some(python) = python(&["pyarrow"]) else {
        not_run_here(
            "functions_in_python_that_misbehave_fail_their_statement_only",
            "no Python with pyarrow",
        );
        return Ok(());
    };
    let python = python.display().to_string();
    let environment = [
        ("CORPUSMILL_PYTHON", python.as_str()),
        ("CORPUSMILL_PYTHON_TIMEOUT_S", "6"),
    ];
    let mut sandbox = Sandbox::with_environment(Place::new()?, &environment)?;
    sandbox.worker(None)?;
    sandbox.worker(None)?;
    sandbox.wait_for_workers(2)?;
    for (body, said) in [
        ("time.sleep(10_000)", "one batch took longer than 6 s"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal: 9"),
        ("return id.slice(1)", "returned 999 rows, expected 1000"),
        ("raise ValueError('row 7 is poison')", "ValueError: row 7 is poison"),
    ] {
        let began = Instant::now();
        let error = submit(&sandbox, &function(body))?.failed(1)?;
        ensure!(
            error.contains("f.sql:8") && error.contains("function f"),
            "{body}:\n{error}"
        );
        ensure!(error.contains(said), "{body}: `{said}` is not in the message:\n{error}");
        ensure!(
            began.elapsed() < Duration::from_secs(60),
            "{body} took {:?}",
            began.elapsed()
        );
        let log = sandbox.place().home().join("warehouse/c/_delta_log");
        ensure!(!log.exists(), "{body}: half a corpus was published");
    }
    // The same workers are well, and the next statement does not go on with what a broken function made.
    let out = submit(&sandbox, &function("pass"))?.succeeded()?;
    let build: Value = serde_json::from_str(out.trim().lines().last().unwrap_or_default())?;
    assert_eq!(
        (&build["rows"], &build["version"], &build["resumed"]),
        (&1000.into(), &0.into(), &false.into())
    );
    assert_eq!(sandbox.logs().matches("joined as").count(), 2, "{}", sandbox.logs());
    Ok(())
}
