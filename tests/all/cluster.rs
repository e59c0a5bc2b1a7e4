//! The same SQL on a coordinator and workers as real processes gives the same corpus, whatever happens to a worker.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Ended, Place, Program, Sandbox};

/// Views without and with an exchange, a join, and the shards of a corpus.
pub(crate) const SQL: &str = "
CREATE EXTERNAL TABLE IF NOT EXISTS posts STORED AS CSV LOCATION 'posts/' OPTIONS ('format.has_header' 'true');
CREATE MATERIALIZED VIEW IF NOT EXISTS clean AS
  SELECT post_id, post_id % 97 AS topic, normalize_text(body, 'NFKC') AS body FROM posts;
CREATE MATERIALIZED VIEW IF NOT EXISTS topics AS
  SELECT topic, count(*) AS posts, max(post_id) AS newest FROM clean GROUP BY topic;
CREATE OR REFRESH CORPUS text (PRIMARY KEY (post_id), CONSTRAINT odd EXPECT (post_id % 5 <> 0) ON VIOLATION DROP ROW)
  WITH (shards = 6) AS
  SELECT c.post_id, c.body, t.posts, t.newest FROM clean c JOIN topics t ON c.topic = t.topic;
";

/// Nothing but the shards of a corpus: an exchange, and the writing behind it.
pub(crate) const ONE_STEP: &str = "
CREATE EXTERNAL TABLE IF NOT EXISTS posts STORED AS CSV LOCATION 'posts/' OPTIONS ('format.has_header' 'true');
CREATE OR REFRESH CORPUS text (PRIMARY KEY (post_id)) WITH (shards = 6) AS
  SELECT post_id, normalize_text(body, 'NFKC') AS body FROM posts;
";

pub(crate) fn place(sql: &str) -> Result<Place> {
    let place = Place::new()?;
    for file in 0..8 {
        let mut text = String::from("post_id,body\n");
        for row in 0..500 {
            let id = file * 500 + row;
            text.push_str(&format!(
                "{id},post number {id} speaks of things that {} people did in {}\n",
                id % 97,
                id % 31
            ));
        }
        place.write(&format!("posts/part-{file:02}.csv"), text)?;
    }
    place.write("text.sql", sql)?;
    Ok(place)
}

/// What one process gives, without a cluster.
pub(crate) fn embedded(sql: &str) -> Result<String> {
    let place = place(sql)?;
    let out = Program::new(&place, &["run", "text.sql", "-o", "json", "--as-of", "2026-07-01"])?
        .run()?
        .succeeded()?;
    let build: serde_json::Value = serde_json::from_str(out.trim().lines().last().context("nothing was printed")?)?;
    Ok(build["digest"].as_str().context("no digest was printed")?.to_owned())
}

fn cluster(sql: &str, failpoints: &[Option<&str>]) -> Result<Sandbox> {
    let mut sandbox = Sandbox::new(place(sql)?)?;
    for failpoint in failpoints {
        sandbox.worker(*failpoint)?;
    }
    sandbox.wait_for_workers(failpoints.len())?;
    Ok(sandbox)
}

#[test]
fn one_two_and_four_workers_give_what_one_process_gives() -> Result<()> {
    let expected = embedded(SQL)?;
    for workers in [1, 2, 4] {
        let sandbox = cluster(SQL, &vec![None; workers])?;
        assert_eq!(sandbox.digest("text.sql")?, expected, "{workers} workers");
        let verified = Program::new(sandbox.place(), &["verify", "text"])?.run()?;
        verified.succeeded().with_context(|| sandbox.logs())?;
    }
    Ok(())
}

#[test]
fn a_worker_that_dies_anywhere_costs_no_row() -> Result<()> {
    let expected = embedded(ONE_STEP)?;
    // Above all `split-begins`: its share of the exchange is finished then, and lost.
    for failpoint in ["exchange-written:2", "split-begins", "shard-written", "split-done"] {
        let mut sandbox = cluster(ONE_STEP, &[Some(failpoint), None])?;
        let digest = sandbox.digest("text.sql").with_context(|| format!("at {failpoint}"))?;
        assert_eq!(digest, expected, "at {failpoint}\n{}", sandbox.logs());
        ensure!(sandbox.is_gone(0)?, "worker 0 never came to {failpoint}");
    }
    Ok(())
}

#[test]
fn a_worker_that_dies_in_a_step_without_exchange_costs_no_row() -> Result<()> {
    let expected = embedded(SQL)?;
    let mut sandbox = cluster(SQL, &[Some("rows-written"), None])?;
    assert_eq!(sandbox.digest("text.sql")?, expected, "{}", sandbox.logs());
    ensure!(sandbox.is_gone(0)?, "worker 0 wrote no rows");
    Ok(())
}

#[test]
fn kill_9_at_random_times_costs_no_row() -> Result<()> {
    let expected = embedded(SQL)?;
    let rounds = std::env::var("CORPUSMILL_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2);
    for round in 0..rounds {
        let seed = RandomState::new().build_hasher().finish();
        println!("round {round}, seed {seed}");
        let mut sandbox = cluster(SQL, &[None, None])?;
        let child = sandbox.submit("text.sql")?.start()?;
        let wait = Duration::from_millis(seed % 2_500);
        std::thread::sleep(wait);
        sandbox.kill_9((seed % 2) as usize)?;
        let ended = Ended::from(child.wait_with_output()?);
        let digest = sandbox
            .digest_of(ended)
            .with_context(|| format!("round {round}, seed {seed}"))?;
        assert_eq!(
            digest,
            expected,
            "round {round}, seed {seed}: killed after {wait:?}\n{}",
            sandbox.logs()
        );
    }
    Ok(())
}

#[test]
fn a_worker_that_is_told_to_stop_fails_no_build() -> Result<()> {
    let expected = embedded(SQL)?;
    let mut sandbox = cluster(SQL, &[None, None])?;
    let child = sandbox.submit("text.sql")?.start()?;
    std::thread::sleep(Duration::from_millis(1_500));
    let began = Instant::now();
    assert!(
        sandbox.terminate(0)?.is_some_and(|code| [0, 130].contains(&code)),
        "{}",
        sandbox.logs()
    );
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(sandbox.digest_of(Ended::from(child.wait_with_output()?))?, expected);
    Ok(())
}

#[test]
fn a_coordinator_that_dies_anywhere_goes_on_to_one_version() -> Result<()> {
    let expected = embedded(SQL)?;
    // Before and after the commit, and in the steps before.
    for failpoint in ["view-done", "step-done", "before-commit", "decided", "after-commit"] {
        let mut sandbox = Sandbox::with_failpoint(place(SQL)?, Some(failpoint))?;
        sandbox.worker(None)?;
        sandbox.worker(None)?;
        sandbox.wait_for_workers(2)?;
        let child = sandbox.submit("text.sql")?.start()?;
        sandbox.restart_coordinator(false)?;
        ensure!(
            sandbox.logs().contains(&format!("aborting at {failpoint}")),
            "{}",
            sandbox.logs()
        );
        // The same submit waits for it, and ends as if nothing had been.
        let ended = Ended::from(child.wait_with_output()?);
        ensure!(ended.err.contains("waiting for it to come back"), "{}", ended.err);
        if failpoint == "after-commit" {
            // The version was there already: what is told of it depends on where the catalogue was.
            ended.succeeded().with_context(|| sandbox.logs())?;
        } else {
            let digest = sandbox.digest_of(ended).with_context(|| failpoint.to_owned())?;
            assert_eq!(digest, expected, "{failpoint}\n{}", sandbox.logs());
        }
        assert_eq!(sandbox.place().commits("text")?, 1, "{failpoint}");
        let shown = Program::new(sandbox.place(), &["show", "text", "-o", "json"])?.run()?;
        let shown: serde_json::Value = serde_json::from_str(&shown.succeeded()?)?;
        assert_eq!(shown["digest"], expected.as_str(), "{failpoint}");
    }
    Ok(())
}

#[test]
fn a_worker_that_stands_still_does_not_hold_a_build() -> Result<()> {
    let expected = embedded(SQL)?;
    let sandbox = cluster(SQL, &[None, None])?;
    let child = sandbox.submit("text.sql")?.start()?;
    sandbox.signal(0, "STOP")?;
    let began = Instant::now();
    let ended = Ended::from(child.wait_with_output()?);
    let took = began.elapsed();
    // The build may be over before the worker is missed.
    sandbox.wait_for(None, "a worker is gone")?;
    // What it does when it wakes up comes late and shows nowhere.
    sandbox.signal(0, "CONT")?;
    assert_eq!(sandbox.digest_of(ended)?, expected, "{}", sandbox.logs());
    ensure!(took < Duration::from_secs(150), "the build took {took:?}");
    // It takes part again, as a new executor.
    sandbox.wait_for_joins(0, 2)?;
    assert_eq!(sandbox.digest("text.sql")?, expected);
    assert_eq!(sandbox.place().commits("text")?, 1);
    Ok(())
}

#[test]
fn a_broken_expectation_ends_submit_as_it_ends_run() -> Result<()> {
    let sql = ONE_STEP.replace(
        "PRIMARY KEY (post_id)",
        "PRIMARY KEY (post_id), CONSTRAINT few EXPECT (post_id < 3990) ON VIOLATION FAIL BUILD",
    );
    let sandbox = cluster(&sql, &[None])?;
    let there = sandbox.submit("text.sql")?.run()?.failed(3)?;
    let here = place(&sql)?;
    let here = Program::new(&here, &["run", "text.sql"])?.run()?.failed(3)?;
    for error in [there, here] {
        ensure!(
            error.contains("expectation `few` failed the build") && error.contains("(post_id = 39"),
            "{error}"
        );
    }
    Ok(())
}

#[test]
fn errors_are_those_of_one_process() -> Result<()> {
    let sql = ONE_STEP.replace("SELECT post_id,", "SELECT post_id % 10 AS post_id,");
    let sandbox = cluster(&sql, &[None])?;
    let there = sandbox.submit("text.sql")?.run()?.failed(1)?;
    ensure!(
        there.contains("primary key (post_id) is not unique"),
        "{there}\n{}",
        sandbox.logs()
    );
    let missing = Program::new(
        sandbox.place(),
        &["submit", "--coordinator", "http://127.0.0.1:1", "text.sql"],
    )?;
    let nobody = missing.run()?.failed(1)?;
    ensure!(
        nobody.contains("no coordinator answers at http://127.0.0.1:1"),
        "{nobody}"
    );
    let listen = Program::new(sandbox.place(), &["coordinator", "--listen", "0.0.0.0:0"])?
        .run()?
        .failed(1)?;
    ensure!(listen.contains("0.0.0.0") && listen.contains("127.0.0.1"), "{listen}");
    Ok(())
}
