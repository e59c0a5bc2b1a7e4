//! Functions in Python that hang, die or write where they must not: the statement fails, nothing else does.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Ended, Place, Program, not_run_here, python};

/// A function that misbehaves in its second batch, until the file `well` is there.
fn script(place: &Place, misbehave: &str) -> Result<()> {
    let work = place.path().display();
    let sql = format!(
        "CREATE OR REPLACE FUNCTION f(id BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import os, signal, sys, time
batches = 0
def f(id):
    global batches
    batches += 1
    os.write(1, b'written to standard output\\n')
    print('printed')
    os.system('echo from a child')
    if batches == 2 and not os.path.exists('{work}/well'):
        with open('{work}/pid', 'w') as file:
            file.write(str(os.getpid()))
        {misbehave}
    return id
$$;
CREATE OR REFRESH CORPUS c (PRIMARY KEY (id)) WITH (shards = 2) AS SELECT f(value) AS id FROM generate_series(1, 1000);"
    );
    place.write("f.sql", sql)?;
    Ok(())
}

fn run(place: &Place, python: &str) -> Result<Ended> {
    let arguments = [
        "run",
        "f.sql",
        "-o",
        "json",
        "--batch-size",
        "100",
        "--target-partitions",
        "1",
    ];
    Program::new(place, &arguments)?
        .env("CORPUSMILL_PYTHON", python)
        .env("CORPUSMILL_PYTHON_TIMEOUT_S", "6")
        .run()
}

/// Runs a corpus over a function that misbehaves and then does not; gives the error of the first run.
fn recovers(test: &str, misbehave: &str) -> Result<Option<String>> {
    let Some(python) = python(&["pyarrow"]) else {
        not_run_here(test, "no Python with pyarrow");
        return Ok(None);
    };
    let python = python.display().to_string();
    let place = Place::new()?;
    script(&place, misbehave)?;
    let error = run(&place, &python)?.failed(1)?;
    ensure!(!error.contains("panicked") && error.contains("function f"), "{error}");
    ensure!(
        !place.home().join("warehouse/c/_delta_log").exists(),
        "half a corpus was published"
    );
    let pid = std::fs::read_to_string(place.path().join("pid")).context("the function never misbehaved")?;
    let process = format!("/proc/{}/cmdline", pid.trim());
    let left = std::fs::read(process).unwrap_or_default();
    ensure!(
        !String::from_utf8_lossy(&left).contains("python"),
        "the function's process is still there"
    );
    place.write("well", "")?;
    let build: serde_json::Value = serde_json::from_str(&run(&place, &python)?.succeeded()?)?;
    assert_eq!((&build["rows"], &build["version"]), (&1000.into(), &0.into()));
    Ok(Some(error))
}

#[test]
fn a_function_that_hangs_is_ended() -> Result<()> {
    let began = Instant::now();
    if let Some(error) = recovers("a_function_that_hangs_is_ended", "time.sleep(10_000)")? {
        ensure!(
            error.contains("one batch took longer than 6 s") && error.contains("CORPUSMILL_PYTHON_TIMEOUT_S"),
            "{error}"
        );
        ensure!(
            began.elapsed() < Duration::from_secs(60),
            "it took {:?}",
            began.elapsed()
        );
    }
    Ok(())
}

#[test]
fn a_function_that_is_killed_takes_nothing_along() -> Result<()> {
    let killed = "sys.stderr.write('its last words'); sys.stderr.flush(); os.kill(os.getpid(), signal.SIGKILL)";
    if let Some(error) = recovers("a_function_that_is_killed_takes_nothing_along", killed)? {
        ensure!(
            error.contains("signal: 9") && error.contains("its last words"),
            "{error}"
        );
    }
    Ok(())
}

#[test]
fn a_function_that_exits_takes_nothing_along() -> Result<()> {
    if let Some(error) = recovers("a_function_that_exits_takes_nothing_along", "sys.exit(3)")? {
        ensure!(error.contains("exit status: 3"), "{error}");
    }
    Ok(())
}
