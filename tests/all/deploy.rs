//! What `deploy/` has: units that systemd understands, manifests that Kubernetes takes, and what both start.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Place, not_run_here, program, python, repository};

use crate::health::{get, start, until};

const PROGRAM: &str = "/usr/bin/corpusmill";
/// The exit status of a script that this machine cannot run; what it lacks stands on its standard output.
const CANNOT_RUN: i32 = 77;

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

/// Runs the checks of Kubernetes' manifests on `folder`; none where the machine cannot.
fn check(test: &str, folder: &Path, more: &[&str]) -> Result<Option<Output>> {
    let Some(python) = python(&["kubernetes_validate", "yaml"]) else {
        not_run_here(test, "there is no Python with kubernetes-validate");
        return Ok(None);
    };
    let mut check = Command::new(python);
    let done = check
        .arg(repository().join("tests/kubernetes/check.py"))
        .arg(folder)
        .args(more)
        .output()?;
    if done.status.code() == Some(CANNOT_RUN) {
        not_run_here(test, String::from_utf8_lossy(&done.stdout).trim());
        return Ok(None);
    }
    Ok(Some(done))
}

fn manifests() -> PathBuf {
    repository().join("deploy/kubernetes")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().context("a file has a name")?);
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

#[test]
fn kubernetes_takes_the_manifests_and_what_they_name_is_there() -> Result<()> {
    let Some(done) = check(
        "kubernetes_takes_the_manifests_and_what_they_name_is_there",
        &manifests(),
        &[],
    )?
    else {
        return Ok(());
    };
    let said = [done.stdout, done.stderr].concat();
    assert!(
        done.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

#[test]
fn a_fault_in_a_manifest_is_found_by_name() -> Result<()> {
    // Each of these is a manifest that looks well.
    let faults = [
        (
            "secretName: corpusmill-certs",
            "secretName: certs",
            "there is no Secret certs",
        ),
        ("livenessProbe:", "livenesProbe:", "'livenesProbe' was unexpected"),
        ("targetPort: control", "targetPort: contral", "no port `contral`"),
        ("key: url", "key: uri", "has no uri"),
        ("--listen=$(POD_IP)", "--listen=$(POD)", "$(POD) is no variable"),
        ("replicas: 2", "replicas: two", "'two' is not of type"),
    ];
    let place = Place::new()?;
    for (number, (from, to, expected)) in faults.into_iter().enumerate() {
        let folder = place.path().join(number.to_string());
        copy(&manifests(), &folder)?;
        let path = folder.join("base/coordinator.yaml");
        let text = fs::read_to_string(&path)?;
        ensure!(text.contains(from), "{from} is not in {}", path.display());
        fs::write(&path, text.replacen(from, to, 1))?;
        let Some(done) = check("a_fault_in_a_manifest_is_found_by_name", &folder, &[])? else {
            return Ok(());
        };
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(!done.status.success() && said.contains(expected), "{to}: {said}");
    }
    Ok(())
}

/// Whether the program takes these arguments.
fn accepted(arguments: &[&str]) -> Result<(), String> {
    let whole = ["corpusmill"].into_iter().chain(arguments.iter().copied());
    corpusmill_cli::accepts(whole.map(OsString::from))
}

#[test]
fn the_program_takes_what_the_manifests_start() -> Result<()> {
    let Some(done) = check(
        "the_program_takes_what_the_manifests_start",
        &manifests(),
        &["--commands"],
    )?
    else {
        return Ok(());
    };
    let text = String::from_utf8(done.stdout)?;
    let commands = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Vec<String>>, _>>()?;
    let parts: BTreeSet<_> = commands.iter().map(|command| command[0].as_str()).collect();
    assert_eq!(parts, BTreeSet::from(["coordinator", "worker"]));
    for command in &commands {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        if let Err(error) = accepted(&command) {
            panic!("{command:?}: {error}");
        }
    }
    Ok(())
}
