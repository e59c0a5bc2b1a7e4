//! A coordinator builds corpora on time: by the clock, and when what they read has changed.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Place, Program, Sandbox};
use serde_json::Value;

use crate::health::until;

/// Each run has other rows, so that each makes a version.
const EVERY: &str = "CREATE OR REFRESH CORPUS ticks (PRIMARY KEY (id))
  WITH (shards = 1, catchup = 'all', overlap = 'queue') SCHEDULE EVERY 2 SECONDS
  AS SELECT value AS id, run_start() AS made_at FROM generate_series(1, 10);";

fn ask(sandbox: &Sandbox, sql: &str) -> Result<Vec<Value>> {
    let arguments = ["submit", "-c", sql, "--coordinator", sandbox.url(), "-o", "json"];
    let out = Program::new(sandbox.place(), &arguments)?.run()?.succeeded()?;
    Ok(serde_json::from_str(&out)?)
}

fn say(sandbox: &Sandbox, sql: &str) -> Result<String> {
    let arguments = ["submit", "-c", sql, "--coordinator", sandbox.url()];
    Program::new(sandbox.place(), &arguments)?.run()?.succeeded()
}

/// Logical times and states of the runs of a corpus, the newest first.
fn runs(sandbox: &Sandbox, corpus: &str) -> Result<Vec<(String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let runs = ask(sandbox, "SHOW SCHEDULED RUNS")?;
    let of = runs.iter().filter(|run| run["corpus"] == corpus);
    Ok(of
        .map(|run| (text(&run["logical_time"]), text(&run["state"])))
        .collect())
}

fn succeeded(sandbox: &Sandbox, corpus: &str) -> Result<usize> {
    let runs = runs(sandbox, corpus)?;
    Ok(runs.iter().filter(|(_, state)| state == "succeeded").count())
}

#[test]
fn a_corpus_is_built_on_time_over_a_killed_coordinator() -> Result<()> {
    let mut sandbox = Sandbox::new(Place::new()?)?;
    sandbox.worker(None)?;
    sandbox.wait_for_workers(1)?;
    say(&sandbox, EVERY)?;
    until("it was built three times", || Ok(succeeded(&sandbox, "ticks")? >= 3))?;
    sandbox.restart_coordinator(true)?;
    let before = succeeded(&sandbox, "ticks")?;
    until("it goes on", || Ok(succeeded(&sandbox, "ticks")? >= before + 3)).with_context(|| sandbox.logs())?;
    say(&sandbox, "ALTER CORPUS ticks SUSPEND SCHEDULE")?;
    until("what was due is done", || {
        Ok(runs(&sandbox, "ticks")?.iter().all(|(_, state)| state == "succeeded"))
    })?;
    let all = runs(&sandbox, "ticks")?;
    let times: BTreeSet<&String> = all.iter().map(|(time, _)| time).collect();
    assert_eq!(times.len(), all.len(), "a run for each moment");
    // Nothing was left out, also while the coordinator was dead: every second second from the first to the last.
    let seconds = |time: &str| -> Result<i64> { Ok(chrono::DateTime::parse_from_rfc3339(time)?.timestamp()) };
    let (last, first) = (seconds(&all[0].0)?, seconds(&all[all.len() - 1].0)?);
    assert_eq!(last - first, 2 * (all.len() as i64 - 1));
    // The first version is that of CREATE; each run made one more, and no more than one.
    assert_eq!(sandbox.place().commits("ticks")?, all.len() + 1);
    let listed = ask(&sandbox, "SHOW SCHEDULES")?;
    assert_eq!(listed[0]["state"], "suspended");
    assert_eq!(listed[0]["last_run"], all[0].0.as_str());
    ensure!(listed[0]["next_run"].is_null(), "{listed:?}");
    Ok(())
}

#[test]
fn what_reads_a_corpus_is_built_when_that_has_a_new_version() -> Result<()> {
    let mut sandbox = Sandbox::new(Place::new()?)?;
    sandbox.worker(None)?;
    sandbox.wait_for_workers(1)?;
    let made = |rows: u32| {
        format!(
            "CREATE OR REFRESH CORPUS raw (PRIMARY KEY (id)) WITH (shards = 1)
               AS SELECT value AS id FROM generate_series(1, {rows})"
        )
    };
    say(&sandbox, &made(10))?;
    let reader = "CREATE OR REFRESH CORPUS small (PRIMARY KEY (id)) WITH (shards = 1) TRIGGER ON UPDATE
                    AS SELECT id FROM raw WHERE id % 2 = 0";
    say(&sandbox, reader)?;
    say(&sandbox, &made(40))?;
    until("it was built again", || Ok(succeeded(&sandbox, "small")? >= 1)).with_context(|| sandbox.logs())?;
    let counted = ask(&sandbox, "SELECT count(*) AS n FROM small")?;
    assert_eq!(counted[0]["n"], 20);
    // Nothing has changed since: nothing more is run.
    let listed = ask(&sandbox, "SHOW SCHEDULES")?;
    assert_eq!(
        (&listed[0]["corpus"], &listed[0]["last_state"]),
        (&"small".into(), &"succeeded".into())
    );
    assert_eq!(runs(&sandbox, "small")?.len(), 1);

    // A trigger that would set itself off.
    let round = "CREATE OR REFRESH CORPUS raw (PRIMARY KEY (id)) WITH (shards = 1) TRIGGER ON UPDATE
                   AS SELECT id FROM small";
    let arguments = ["submit", "-c", round, "--coordinator", sandbox.url()];
    let refused = Program::new(sandbox.place(), &arguments)?.run()?.failed(1)?;
    ensure!(refused.contains("raw reads small reads raw"), "{refused}");
    Ok(())
}

#[test]
fn the_past_is_built_on_demand_and_what_is_wrong_is_said() -> Result<()> {
    let mut sandbox = Sandbox::new(Place::new()?)?;
    sandbox.worker(None)?;
    sandbox.wait_for_workers(1)?;
    let daily = EVERY.replace(
        "SCHEDULE EVERY 2 SECONDS",
        "SCHEDULE CRON '0 2 * * *' AT TIME ZONE 'Asia/Singapore'",
    );
    say(&sandbox, &daily)?;
    let call = |more: &str| {
        let sql = format!("CALL backfill('ticks', from_ts => '2026-03-01', to_ts => '2026-03-04'{more})");
        ask(&sandbox, &sql)
    };
    let dry = call(", dry_run => TRUE")?;
    let times: Vec<&str> = dry.iter().filter_map(|row| row["logical_time"].as_str()).collect();
    assert_eq!(
        times,
        [
            "2026-03-01T18:00:00.000Z",
            "2026-03-02T18:00:00.000Z",
            "2026-03-03T18:00:00.000Z"
        ]
    );
    ensure!(runs(&sandbox, "ticks")?.is_empty(), "a dry run enters nothing");
    call("")?;
    until("the past is built", || Ok(succeeded(&sandbox, "ticks")? == 3)).with_context(|| sandbox.logs())?;
    assert_eq!(sandbox.place().commits("ticks")?, 4);
    ensure!(call("")?.iter().all(|row| row["action"] == "is kept"));
    call(", reprocess => 'completed'")?;
    until("it is built again", || {
        let runs = runs(&sandbox, "ticks")?;
        Ok(runs.len() == 3 && runs.iter().all(|(_, state)| state == "succeeded"))
    })?;

    let place = Place::new()?;
    for (schedule, told) in [
        ("SCHEDULE CRON '0 25 * * *'", "no cron expression"),
        ("SCHEDULE CRON '0 2 31 2 *'", "never comes"),
        (
            "SCHEDULE CRON '0 2 * * *' AT TIME ZONE 'Asia/Singapur'",
            "did you mean Asia/Singapore?",
        ),
        ("SCHEDULE EVERY 3 FORTNIGHTS", "SECONDS, MINUTES, HOURS, DAYS or WEEKS"),
    ] {
        let sql = EVERY.replace("SCHEDULE EVERY 2 SECONDS", schedule);
        place.write("bad.sql", &sql)?;
        let refused = Program::new(&place, &["run", "bad.sql"])?.run()?.failed(1)?;
        ensure!(
            refused.contains(told) && refused.contains("bad.sql:"),
            "{schedule}: {refused}"
        );
    }
    let bad = EVERY.replace("overlap = 'queue'", "overlap = 'stop'");
    place.write("bad.sql", &bad)?;
    let refused = Program::new(&place, &["run", "bad.sql"])?.run()?.failed(1)?;
    ensure!(
        refused.contains("overlap = 'stop' must be skip, queue or replace"),
        "{refused}"
    );
    Ok(())
}
