//! Builds of a coordinator take turns, and run where the label is that they ask for.

use std::process::{Child, Command};

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Ended, Place, Program, Sandbox, not_run_here, python};
use serde_json::Value;

use crate::health::until;

/// A small corpus of that name.
fn corpus(name: &str, with: &str) -> String {
    format!(
        "CREATE OR REFRESH CORPUS {name} (PRIMARY KEY (id)) WITH (shards = 2{with}) AS
           SELECT value AS id, md5(CAST(value AS VARCHAR)) AS body FROM generate_series(1, 1000);"
    )
}

/// A submit that runs, and its standard error.
struct Submitted {
    child: Child,
    log: String,
}

fn submit(sandbox: &Sandbox, name: &str, sql: &str) -> Result<Submitted> {
    let (file, log) = (format!("{name}.sql"), format!("{name}.log"));
    sandbox.place().write(&file, sql)?;
    let child = sandbox.submit(&file)?.log_to(&log)?.start()?;
    Ok(Submitted { child, log })
}

impl Submitted {
    fn said(&self, place: &Place) -> Result<String> {
        Ok(std::fs::read_to_string(place.path().join(&self.log))?)
    }

    fn wait_until_it_says(&self, place: &Place, text: &str) -> Result<()> {
        until(text, || Ok(self.said(place)?.contains(text))).with_context(|| self.said(place).unwrap_or_default())
    }

    fn interrupt(&self) -> Result<()> {
        let asked = Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status()?;
        ensure!(asked.success());
        Ok(())
    }

    fn end(self) -> Result<Ended> {
        Ok(Ended::from(self.child.wait_with_output()?))
    }
}

/// States and reasons of the builds, newest first.
fn builds(place: &Place) -> Result<Vec<(String, String, String)>> {
    let listed = Program::new(place, &["builds", "-o", "json"])?.run()?.succeeded()?;
    let listed: Vec<Value> = serde_json::from_str(&listed)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |build: &Value| (text(&build["object"]), text(&build["state"]), text(&build["error"]));
    Ok(listed.iter().map(row).collect())
}

#[test]
fn builds_wait_in_order_and_one_that_waits_can_be_stopped() -> Result<()> {
    let mut sandbox = Sandbox::with_arguments(Place::new()?, &["--max-builds", "1"])?;
    // Without a worker the first build keeps its turn.
    let first = submit(&sandbox, "a", &corpus("a", ""))?;
    first.wait_until_it_says(sandbox.place(), "no worker is connected")?;
    let second = submit(&sandbox, "b", &corpus("b", ""))?;
    let reason = "waiting: 1 build before yours (a), and 1 may run at a time";
    second.wait_until_it_says(sandbox.place(), reason)?;
    let same = submit(&sandbox, "again", &corpus("a", ""))?;
    same.wait_until_it_says(sandbox.place(), "waiting: a is being built by another script")?;
    let last = submit(&sandbox, "c", &corpus("c", ""))?;
    last.wait_until_it_says(
        sandbox.place(),
        "waiting: 2 builds before yours (a, b), and 1 may run at a time",
    )?;
    // A query needs no turn.
    let asked = [
        "submit",
        "-c",
        "SELECT 40 + 2 AS n",
        "--coordinator",
        sandbox.url(),
        "-o",
        "csv",
    ];
    let asked = Program::new(sandbox.place(), &asked)?.run()?.succeeded()?;
    ensure!(asked.contains("42"), "{asked}");
    let waiting: Vec<_> = builds(sandbox.place())?
        .into_iter()
        .filter(|(_, state, _)| state == "waiting")
        .collect();
    let objects: Vec<&str> = waiting.iter().map(|(object, ..)| object.as_str()).collect();
    assert_eq!(objects, ["c", "a", "b"]);
    assert_eq!(waiting[2].2, reason);

    second.interrupt()?;
    second.end()?;
    until("the second is gone", || {
        Ok(!builds(sandbox.place())?.iter().any(|(object, ..)| object == "b"))
    })?;
    last.wait_until_it_says(
        sandbox.place(),
        "waiting: 1 build before yours (a), and 1 may run at a time",
    )?;
    sandbox.worker(None)?;
    first.end()?.succeeded()?;
    last.end()?.succeeded()?;
    // The second of one corpus finds the version that the first made.
    let same = same.end()?.succeeded()?;
    ensure!(same.contains("unchanged"), "{same}");
    let states = builds(sandbox.place())?;
    ensure!(
        states
            .iter()
            .all(|(_, state, _)| ["committed", "unchanged"].contains(&state.as_str())),
        "{states:?}"
    );
    assert_eq!((sandbox.place().commits("a")?, sandbox.place().commits("c")?), (1, 1));
    ensure!(!sandbox.place().home().join("warehouse/b/_delta_log").exists());
    Ok(())
}

#[test]
fn a_build_that_hangs_and_one_that_dies_leave_the_others_alone() -> Result<()> {
    let test = "a_build_that_hangs_and_one_that_dies_leave_the_others_alone";
    let Some(python) = python(&["pyarrow"]) else {
        not_run_here(test, "no Python with pyarrow");
        return Ok(());
    };
    let environment = [
        ("CORPUSMILL_PYTHON", &*python.display().to_string()),
        ("CORPUSMILL_PYTHON_TIMEOUT_S", "25"),
    ];
    let mut sandbox = Sandbox::with_environment(Place::new()?, &environment)?;
    sandbox.worker(None)?;
    sandbox.worker(None)?;
    sandbox.wait_for_workers(2)?;
    let bad = |name: &str, body: &str| {
        let work = sandbox.place().path().display();
        format!(
            "CREATE OR REPLACE FUNCTION f_{name}(id BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import os, signal, time
def f_{name}(id):
    open('{work}/{name}.ran', 'w').close()
    {body}
    return id
$$;
CREATE OR REFRESH CORPUS {name} (PRIMARY KEY (id)) WITH (shards = 2) AS
  SELECT f_{name}(value) AS id FROM generate_series(1, 100);"
        )
    };
    let hangs = submit(&sandbox, "hangs", &bad("hangs", "time.sleep(600)"))?;
    until("it hangs", || Ok(sandbox.place().path().join("hangs.ran").exists()))?;
    let good = submit(&sandbox, "good", &corpus("good", ""))?;
    good.end()?.succeeded().with_context(|| sandbox.logs())?;
    let still = builds(sandbox.place())?;
    ensure!(
        still
            .iter()
            .any(|(object, state, _)| object == "hangs" && state == "running"),
        "{still:?}"
    );
    let dies = submit(&sandbox, "dies", &bad("dies", "os.kill(os.getpid(), signal.SIGKILL)"))?;
    let (died, hung) = (dies.end()?, hangs.end()?);
    assert_eq!((died.code, hung.code), (Some(1), Some(1)));
    let good = submit(&sandbox, "better", &corpus("better", ""))?;
    good.end()?.succeeded().with_context(|| sandbox.logs())?;
    for (name, commits) in [("good", true), ("better", true), ("hangs", false), ("dies", false)] {
        assert_eq!(sandbox.place().commits(name).is_ok_and(|n| n == 1), commits, "{name}");
    }
    assert_eq!(sandbox.logs().matches("joined as").count(), 2, "{}", sandbox.logs());
    Ok(())
}

#[test]
fn a_build_runs_where_its_label_is() -> Result<()> {
    let mut sandbox = Sandbox::new(Place::new()?)?;
    // It would die of the first shard that it writes.
    sandbox.worker(Some("shard-written"))?;
    sandbox.wait_for_workers(1)?;
    let labelled = submit(&sandbox, "a", &corpus("a", ", worker_label = 'gpu'"))?;
    labelled.wait_until_it_says(sandbox.place(), "no worker with the label gpu is connected")?;
    let folder = sandbox.place().path().join("work");
    sandbox.worker_in(&folder, &["--label", "gpu,large"], None)?;
    let built = labelled.end()?.succeeded().with_context(|| sandbox.logs())?;
    ensure!(built.contains("committed"), "{built}");
    ensure!(!sandbox.is_gone(0)?, "the worker without the label wrote a shard");
    // The label decides where it runs, not what comes out.
    let place = Place::new()?;
    place.write("a.sql", corpus("a", ""))?;
    let here = Program::new(&place, &["run", "a.sql", "-o", "json"])?
        .run()?
        .succeeded()?;
    let digest = |out: &str| -> Result<Value> {
        let build: Value = serde_json::from_str(out.trim().lines().last().context("nothing was printed")?)?;
        Ok(build["digest"].clone())
    };
    assert_eq!(digest(&built)?, digest(&here)?);
    Ok(())
}
