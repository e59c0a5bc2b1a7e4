//! The units of `deploy/systemd` are ones that systemd understands, and what they start becomes ready.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Place, not_run_here, program, repository};

use crate::health::{get, start, until};

const PROGRAM: &str = "/usr/bin/corpusmill";

/// Units by their file names.
fn units() -> Result<BTreeMap<String, String>> {
    let mut units = BTreeMap::new();
    for entry in fs::read_dir(repository().join("deploy/systemd"))? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?;
        units.insert(name.to_string_lossy().into_owned(), fs::read_to_string(&path)?);
    }
    ensure!(units.len() >= 2, "units are missing: {:?}", units.keys());
    Ok(units)
}

#[test]
fn systemd_understands_every_unit() -> Result<()> {
    let place = Place::new()?;
    let program = program()?.display().to_string();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["verify", "--man=no"]);
    for (name, unit) in units()? {
        // Its user is made when it is installed.
        let lines = unit
            .lines()
            .filter(|line| !line.starts_with("User=") && !line.starts_with("Group="));
        let unit = lines.collect::<Vec<_>>().join("\n").replace(PROGRAM, &program);
        place.write(&name, &unit)?;
        let instance = name.replace('@', "@0");
        place.write(&instance, unit)?;
        analyze.arg(place.path().join(instance));
    }
    let Ok(done) = analyze.output() else {
        not_run_here("systemd_understands_every_unit", "there is no systemd-analyze");
        return Ok(());
    };
    // A key that it does not know is a line on standard error, and no failure.
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success() && said.trim().is_empty(),
        "{}: {said}",
        done.status
    );
    Ok(())
}

#[test]
fn what_the_units_start_becomes_ready() -> Result<()> {
    let place = Place::new()?;
    let folder = place.path().display().to_string();
    let coordinator = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mut running = Vec::new();
    for (name, unit) in units()? {
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart="));
        let line = line.with_context(|| format!("{name} starts nothing"))?;
        let command = line
            .replace("127.0.0.1:50050", &coordinator)
            .replace("127.0.0.1:9464", "127.0.0.1:0")
            .replace("127.0.0.1:947%i", "127.0.0.1:0")
            .replace("/var/", &format!("{folder}/"))
            .replace("%i", "0");
        let arguments = command
            .strip_prefix(PROGRAM)
            .with_context(|| format!("{name}: {command}"))?;
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        running.push(start(&place, &format!("{name}.log"), &arguments)?);
    }
    for (_, address) in &running {
        until("ready", || Ok(get(*address, "/readyz")?.0 == 200))?;
    }
    Ok(())
}
