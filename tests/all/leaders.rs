//! Two coordinators over one catalogue in PostgreSQL: one leads, the other takes over, and whatever happens to them the
//! build ends in one version with the rows of an undisturbed one.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Ended, PASSWORD, Place, Postgres, Program, Sandbox, not_run_here, python_with_package};

use crate::cluster::{ONE_STEP, SQL, embedded, place};
use crate::health::{get, start, until};
use crate::repository;
use crate::security::certificates;

/// A server, or a line that says that there is none.
fn server(test: &str) -> Result<Option<Postgres>> {
    let server = Postgres::start()?;
    if server.is_none() {
        not_run_here(test, "PostgreSQL is not installed");
    }
    Ok(server)
}

/// Two coordinators, of which the first comes to `failpoint`, and two workers.
fn cluster(sql: &str, server: &Postgres, failpoint: Option<&str>) -> Result<Sandbox> {
    let mut sandbox = Sandbox::with_two(place(sql)?, &server.url(), failpoint)?;
    sandbox.worker(None)?;
    sandbox.worker(None)?;
    sandbox.wait_for_workers(2)?;
    Ok(sandbox)
}

/// There is one version, and its digest is `expected`.
fn one_version(sandbox: &Sandbox, expected: &str) -> Result<()> {
    ensure!(sandbox.place().commits("text")? == 1, "{}", sandbox.logs());
    let shown = Program::new(sandbox.place(), &["show", "text", "-o", "json"])?.run()?;
    let shown: serde_json::Value = serde_json::from_str(&shown.succeeded()?)?;
    ensure!(shown["digest"] == expected, "{} {}", shown["digest"], sandbox.logs());
    let verified = Program::new(sandbox.place(), &["verify", "text"])?.run()?;
    verified.succeeded().with_context(|| sandbox.logs())?;
    Ok(())
}

/// The addresses of the first and of the second coordinator.
fn both(sandbox: &Sandbox) -> Result<(String, String)> {
    let (first, second) = sandbox.url().split_once(',').context("there are two")?;
    Ok((first.to_owned(), second.to_owned()))
}

#[test]
fn a_leader_that_dies_anywhere_is_followed_by_the_other() -> Result<()> {
    let Some(mut server) = server("a_leader_that_dies_anywhere_is_followed_by_the_other")? else {
        return Ok(());
    };
    let expected = embedded(SQL)?;
    for failpoint in ["view-done", "step-done", "before-commit", "decided", "after-commit"] {
        // A catalogue of its own each: they would have the same corpus in other warehouses.
        let database = failpoint.replace('-', "_");
        server.create(&database)?;
        let url = server.url_of("mill", PASSWORD, &database);
        let mut sandbox = Sandbox::with_two(place(SQL)?, &url, Some(failpoint))?;
        sandbox.worker(None)?;
        sandbox.worker(None)?;
        sandbox.wait_for_workers(2)?;
        let began = Instant::now();
        let ended = sandbox.submit("text.sql")?.run()?;
        let logs = sandbox.logs();
        ensure!(logs.contains(&format!("aborting at {failpoint}")), "{logs}");
        ended.succeeded().with_context(|| format!("{failpoint}: {logs}"))?;
        println!("{failpoint}: {:?}", began.elapsed());
        one_version(&sandbox, &expected).with_context(|| failpoint.to_owned())?;
    }
    Ok(())
}

#[test]
fn a_leader_that_was_stopped_and_goes_on_commits_nothing() -> Result<()> {
    let Some(mut server) = server("a_leader_that_was_stopped_and_goes_on_commits_nothing")? else {
        return Ok(());
    };
    let expected = embedded(SQL)?;
    for failpoint in ["step-done", "before-commit", "decided"] {
        let database = format!("stopped_{}", failpoint.replace('-', "_"));
        server.create(&database)?;
        let url = server.url_of("mill", PASSWORD, &database);
        let stop = format!("stop={failpoint}");
        let mut sandbox = Sandbox::with_two(place(SQL)?, &url, Some(&stop))?;
        sandbox.worker(None)?;
        sandbox.worker(None)?;
        sandbox.wait_for_workers(2)?;
        let ended = sandbox.submit("text.sql")?.run()?;
        ended
            .succeeded()
            .with_context(|| format!("{failpoint}: {}", sandbox.logs()))?;
        one_version(&sandbox, &expected).with_context(|| failpoint.to_owned())?;
        let log = sandbox
            .place()
            .home()
            .join("warehouse/text/_delta_log/00000000000000000000.json");
        let manifests = sandbox.place().home().join("warehouse/text/_corpusmill/manifests");
        let before = (std::fs::read(&log)?, files(&manifests)?);
        sandbox.signal_coordinator("CONT")?;
        sandbox.wait_for(None, "the lead is lost")?;
        // It answers again, and knows who leads.
        sandbox.wait_for(None, "follows leader=Elsewhere(Some(")?;
        let (first, _) = both(&sandbox)?;
        let asked = Program::new(
            sandbox.place(),
            &["submit", "-c", "SHOW CORPORA", "--coordinator", &first],
        )?;
        let asked = asked.run()?.succeeded().with_context(|| sandbox.logs())?;
        ensure!(asked.contains("text"), "{asked}");
        ensure!(
            before == (std::fs::read(&log)?, files(&manifests)?),
            "{failpoint}: it wrote"
        );
        one_version(&sandbox, &expected).with_context(|| failpoint.to_owned())?;
    }
    Ok(())
}

/// Names and bytes of the files of a folder.
fn files(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        found.push((
            entry.file_name().to_string_lossy().into_owned(),
            std::fs::read(entry.path())?,
        ));
    }
    found.sort();
    Ok(found)
}

#[test]
fn a_catalogue_that_is_started_again_in_the_middle_costs_nothing() -> Result<()> {
    let Some(mut server) = server("a_catalogue_that_is_started_again_in_the_middle_costs_nothing")? else {
        return Ok(());
    };
    let expected = embedded(SQL)?;
    let sandbox = cluster(SQL, &server, None)?;
    let child = sandbox.submit("text.sql")?.start()?;
    // The first step is committed, the others are to come.
    let views = sandbox.place().home().join("warehouse/_views/clean");
    until("the first step", || Ok(views.exists()))?;
    server.stop()?;
    server.start_again()?;
    let digest = sandbox.digest_of(Ended::from(child.wait_with_output()?))?;
    assert_eq!(digest, expected, "{}", sandbox.logs());
    one_version(&sandbox, &expected)
}

#[test]
fn one_leads_and_the_other_says_who() -> Result<()> {
    let Some(server) = server("one_leads_and_the_other_says_who")? else {
        return Ok(());
    };
    let mut place = place(ONE_STEP)?;
    place.set("CORPUSMILL_CATALOG", &server.url());
    let warehouse = place.home().join("warehouse").display().to_string();
    let serve = [
        "coordinator",
        "--listen",
        "127.0.0.1:0",
        "--health",
        "127.0.0.1:0",
        "--lease",
        "4",
    ];
    let with_home = |home: &str| {
        [&serve[..], &["--home", home, "--warehouse", &warehouse]]
            .concat()
            .iter()
            .map(|s| (*s).to_owned())
            .collect::<Vec<_>>()
    };
    let run = |log: &str, home: &str| {
        let arguments = with_home(home);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        start(&place, log, &arguments)
    };
    let (first, at_first) = run("a.log", "home-a")?;
    until("the first leads", || {
        Ok(get(at_first, "/readyz")? == (200, "ready\n".to_owned()))
    })?;
    let (_second, at_second) = run("b.log", "home-b")?;
    let mut follows = String::new();
    until("the second follows", || {
        follows = get(at_second, "/readyz")?.1;
        Ok(follows.starts_with("ready: follows http://127.0.0.1:"))
    })?;
    ensure!(get(at_second, "/metrics")?.1.contains("corpusmill_leads 0"));

    // A command that wants to write is told who leads, one that reads is not kept from it.
    let leader = follows.trim().trim_start_matches("ready: follows ").to_owned();
    let busy = Program::new(&place, &["run", "text.sql", "--home", "home-c"])?
        .run()?
        .failed(75)?;
    ensure!(busy.contains(&leader) && busy.contains("corpusmill submit"), "{busy}");
    ensure!(!busy.contains(PASSWORD), "{busy}");
    let listed = Program::new(&place, &["builds", "--home", "home-c", "-o", "json"])?
        .run()?
        .succeeded()?;
    assert_eq!(listed.trim(), "[]");
    // Another warehouse beside the same catalogue would mix two lakes up.
    let other = ["run", "text.sql", "--home", "home-d", "--warehouse", "elsewhere"];
    let other = Program::new(&place, &other)?.run()?.failed(1)?;
    ensure!(
        other.contains("belongs to the warehouse") && other.contains(&warehouse),
        "{other}"
    );

    drop(first);
    let began = Instant::now();
    until("the second leads", || {
        Ok(get(at_second, "/readyz")? == (200, "ready\n".to_owned()))
    })?;
    ensure!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    Ok(())
}

#[test]
fn one_process_works_with_a_catalogue_in_postgresql() -> Result<()> {
    let Some(server) = server("one_process_works_with_a_catalogue_in_postgresql")? else {
        return Ok(());
    };
    let expected = embedded(ONE_STEP)?;
    let mut place = place(ONE_STEP)?;
    let run = |place: &Place, more: &[&str]| -> Result<Ended> {
        let arguments = ["run", "text.sql", "-o", "json", "--as-of", "2026-07-01"];
        Program::new(place, &[&arguments, more].concat())?.run()
    };
    let wrong = server.url_of("mill", "guessed", "postgres");
    let error = run(&place, &["--catalog", &wrong])?.failed(1)?;
    ensure!(
        error.contains("does not let `mill` in") && !error.contains("guessed"),
        "{error}"
    );
    let out = run(&place, &["--catalog", &server.url()])?.succeeded()?;
    let build: serde_json::Value = serde_json::from_str(out.trim().lines().last().context("nothing was printed")?)?;
    assert_eq!(build["digest"], expected.as_str());
    // The home knows the server, not the password: that is for the environment.
    ensure!(!place.home().join("catalog.sqlite").exists());
    let note = std::fs::read_to_string(place.home().join("catalog.url"))?;
    ensure!(
        note.starts_with("postgres://mill@localhost/postgres") && !note.contains(PASSWORD),
        "{note}"
    );
    place.set("PGPASSWORD", PASSWORD);
    // The lead was given back: the second run does not wait for it to run out.
    let began = Instant::now();
    let again = run(&place, &[])?.succeeded()?;
    ensure!(again.contains("unchanged"), "{again}");
    println!("the second run took {:?}", began.elapsed());
    let builds = Program::new(&place, &["builds", "-o", "json"])?.run()?.succeeded()?;
    let builds: serde_json::Value = serde_json::from_str(&builds)?;
    assert_eq!(
        (&builds[0]["state"], &builds[1]["state"]),
        (&"unchanged".into(), &"committed".into())
    );
    let removed = Program::new(&place, &["vacuum", "--older-than-hours", "0", "-o", "json"])?.run()?;
    removed.succeeded()?;
    Program::new(&place, &["verify", "text"])?.run()?.succeeded()?;
    Ok(())
}

#[test]
fn a_catalogue_is_reached_inside_tls() -> Result<()> {
    let Some(mut server) = server("a_catalogue_is_reached_inside_tls")? else {
        return Ok(());
    };
    let mut place = place(ONE_STEP)?;
    let certs = certificates(&place, "certs", &["127.0.0.1"])?;
    let foreign = certificates(&place, "foreign", &["127.0.0.1"])?;
    let port = server.listen_with_tls(&certs.join("server.pem"), &certs.join("server.key"))?;
    place.set("PGPASSWORD", PASSWORD);
    let run = |mode: &str, authority: &Path| -> Result<Ended> {
        let authority = authority.join("ca.pem");
        let url = format!(
            "postgres://mill@127.0.0.1:{port}/postgres?sslmode={mode}&sslrootcert={}",
            authority.display()
        );
        let home = format!("home-{mode}");
        let arguments = [
            "run",
            "text.sql",
            "--home",
            &home,
            "--warehouse",
            "lake",
            "--catalog",
            &url,
        ];
        Program::new(&place, &arguments)?.run()
    };
    run("verify-full", &certs)?.succeeded()?;
    // An authority that did not sign the server's certificate, and a caller without TLS.
    let stranger = run("verify-full", &foreign)?.failed(1)?;
    ensure!(stranger.to_lowercase().contains("certificate"), "{stranger}");
    let plain = run("disable", &certs)?.failed(1)?;
    ensure!(plain.contains("pg_hba") || plain.contains("encryption"), "{plain}");
    Ok(())
}

/// What `tests/security/stream.py` says of the batches of the sandbox's corpus, from `source`.
fn stream(python: &Path, sandbox: &Sandbox, source: &str, pause: Option<&str>) -> Command {
    let mut command = Command::new(python);
    command
        .arg(repository().join("tests/security/stream.py"))
        .arg(sandbox.place().home().join("warehouse"))
        .arg(source)
        .args(pause)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn a_trainer_goes_on_when_the_leader_dies_and_a_new_one_finds_the_next() -> Result<()> {
    let test = "a_trainer_goes_on_when_the_leader_dies_and_a_new_one_finds_the_next";
    let Some(python) = python_with_package(test) else {
        return Ok(());
    };
    let Some(server) = server(test)? else {
        return Ok(());
    };
    let sandbox = cluster(SQL, &server, None)?;
    sandbox.submit("text.sql")?.run()?.succeeded()?;
    let said = |output: Output| Ok::<_, anyhow::Error>(Ended::from(output).succeeded()?.trim().to_owned());
    let expected = said(stream(&python, &sandbox, "-", None).output()?)?;
    let expected = expected.trim_end_matches(" -");
    let source = sandbox.url().replace("http://", "corpusmill://");
    let mut trainer = stream(&python, &sandbox, &source, Some("3")).spawn()?;
    let mut out = BufReader::new(trainer.stdout.take().context("it has an output")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    assert_eq!(line, "paused\n");
    sandbox.signal_coordinator("KILL")?;
    trainer.stdin.take().context("it has an input")?.write_all(b"\n")?;
    line.clear();
    out.read_to_string(&mut line)?;
    said(trainer.wait_with_output()?)?;
    ensure!(line.starts_with(expected), "{line}: {expected}\n{}", sandbox.logs());
    // The workers offer themselves to whoever leads now.
    let next = said(stream(&python, &sandbox, &source, None).output()?).with_context(|| sandbox.logs())?;
    ensure!(next.starts_with(expected), "{next}: {expected}");
    Ok(())
}
