//! Scripts that were left to a coordinator are listed, watched and stopped from elsewhere, and a vacuum runs beside them.

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Place, Program, Sandbox};
use serde_json::Value;

use crate::health::until;

const SQL: &str = "CREATE OR REFRESH CORPUS c (PRIMARY KEY (id)) WITH (shards = 2) AS
  SELECT value AS id, md5(CAST(value AS VARCHAR)) AS body FROM generate_series(1, 1000);";

/// A command that asks the coordinator of `sandbox`.
fn ask(sandbox: &Sandbox, arguments: &[&str]) -> Result<Program> {
    let at = ["--coordinator", sandbox.url(), "-o", "json"];
    Program::new(sandbox.place(), &[arguments, &at].concat())
}

fn listed(sandbox: &Sandbox, what: &str) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&ask(sandbox, &[what])?.run()?.succeeded()?)?)
}

/// Submits a file and leaves it there; gives the id of the script.
fn detach(sandbox: &Sandbox, name: &str, sql: &str) -> Result<String> {
    sandbox.place().write(name, sql)?;
    let id = ask(sandbox, &["submit", "--detach", name])?.run()?.succeeded()?;
    Ok(id.trim().to_owned())
}

fn state(sandbox: &Sandbox, script: &str) -> Result<String> {
    let scripts = listed(sandbox, "scripts")?;
    let found = scripts.iter().find(|known| known["script"] == script);
    Ok(found.context("it is not listed")?["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

#[test]
fn a_script_is_left_watched_and_stopped() -> Result<()> {
    let mut sandbox = Sandbox::new(Place::new()?)?;
    // Without a worker it stays where it is.
    let script = detach(&sandbox, "c.sql", SQL)?;
    until("it runs", || Ok(state(&sandbox, &script)? == "running"))?;
    let stopped = detach(&sandbox, "d.sql", &SQL.replace("CORPUS c", "CORPUS d"))?;
    let told = ask(&sandbox, &["cancel", &stopped])?.run()?.succeeded();
    told.context("cancel")?;
    until("it ended", || Ok(state(&sandbox, &stopped)? == "ended"))?;
    assert_eq!(
        ask(&sandbox, &["watch", &stopped])?.run()?.code,
        Some(130),
        "{}",
        sandbox.logs()
    );

    let watching = ask(&sandbox, &["watch", &script])?.start()?;
    let folder = sandbox.place().path().join("work");
    sandbox.worker_in(&folder, &["--name", "first", "--label", "gpu,large"], None)?;
    let ended = corpusmill_tests::Ended::from(watching.wait_with_output()?);
    let told = ended.succeeded()?;
    ensure!(told.contains("\"committed\"") && told.contains("\"digest\""), "{told}");
    assert_eq!(state(&sandbox, &script)?, "ended");
    let workers = listed(&sandbox, "workers")?;
    assert_eq!(workers.len(), 1);
    assert_eq!(workers[0]["name"], "first");
    assert_eq!(workers[0]["labels"], serde_json::json!(["gpu", "large"]));

    // Rows belong to whoever submitted the query.
    let asked = detach(&sandbox, "q.sql", "SELECT 40 + 2 AS n")?;
    until("the query ran", || Ok(state(&sandbox, &asked)? == "ended"))?;
    let watched = ask(&sandbox, &["watch", &asked])?.run()?.succeeded()?;
    ensure!(!watched.contains("42"), "{watched}");
    let failing = detach(&sandbox, "f.sql", "SELECT * FROM nothing")?;
    let failed = ask(&sandbox, &["watch", &failing])?.run()?.failed(1)?;
    ensure!(failed.contains("f.sql:1") && failed.contains("nothing"), "{failed}");
    let unknown = ask(&sandbox, &["watch", "nobody"])?.run()?.failed(1)?;
    ensure!(unknown.contains("there is no script nobody"), "{unknown}");
    Ok(())
}

#[test]
fn a_vacuum_beside_a_build_takes_nothing_of_it() -> Result<()> {
    let mut sandbox = Sandbox::new(Place::new()?)?;
    let call = |sandbox: &Sandbox, how: &str| -> Result<String> {
        let sql = format!("CALL vacuum({how})");
        ask(sandbox, &["submit", "-c", &sql])?.run()?.succeeded()
    };
    let orphan = sandbox.place().home().join("warehouse/_staging/lost/step/0.json");
    std::fs::create_dir_all(orphan.parent().context("it has a folder")?)?;
    std::fs::write(&orphan, "{}")?;
    // It has begun, and waits for a worker.
    let script = detach(&sandbox, "c.sql", SQL)?;
    until("it runs", || Ok(state(&sandbox, &script)? == "running"))?;
    let dry = call(&sandbox, "older_than_hours => 0, dry_run => TRUE")?;
    ensure!(
        dry.contains("would_remove") && dry.contains("_staging/lost/step/0.json"),
        "{dry}"
    );
    ensure!(orphan.exists());
    let swept = call(&sandbox, "older_than_hours => 0")?;
    ensure!(swept.contains("\"removed\"") && !orphan.exists(), "{swept}");
    sandbox.worker(None)?;
    ask(&sandbox, &["watch", &script])?
        .run()?
        .succeeded()
        .with_context(|| sandbox.logs())?;
    let nothing = call(&sandbox, "older_than_hours => 0")?;
    ensure!(!nothing.contains("parquet"), "{nothing}");
    Program::new(sandbox.place(), &["verify", "c"])?.run()?.succeeded()?;

    for (sql, told) in [
        ("CALL sweep()", "there is no procedure sweep; there is vacuum("),
        ("CALL vacuum(24)", "write older_than_hours => 24"),
        ("CALL vacuum(older_then_hours => 1)", "did you mean older_than_hours?"),
        ("CALL vacuum(older_than_hours => 'x')", "a whole number is needed"),
        ("CALL vacuum(dry_run => 1)", "TRUE or FALSE is needed"),
    ] {
        let failed = Program::new(&Place::new()?, &["run", "-c", sql])?.run()?.failed(1)?;
        ensure!(failed.contains(told), "{sql}: {failed}");
    }
    Ok(())
}
