//! A cluster beyond one machine: coordinator and workers in network namespaces, everything inside TLS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use corpusmill_tests::{
    Ended, Namespaces, Place, Program, Sandbox, not_run_here, python, python_with_package, repository,
};

use crate::security::{certificates, probe};

const SQL: &str = "
CREATE EXTERNAL TABLE IF NOT EXISTS posts STORED AS CSV LOCATION 'posts/' OPTIONS ('format.has_header' 'true');
CREATE MATERIALIZED VIEW IF NOT EXISTS clean AS
  SELECT post_id, post_id % 97 AS topic, normalize_text(body, 'NFKC') AS body FROM posts;
CREATE OR REFRESH CORPUS text (PRIMARY KEY (post_id)) WITH (shards = 6) AS
  SELECT c.post_id, c.body, t.posts, t.newest FROM clean c
  JOIN (SELECT topic, count(*) AS posts, max(post_id) AS newest FROM clean GROUP BY topic) t ON c.topic = t.topic;
";
const DEADLINE: Duration = Duration::from_secs(120);

fn place() -> Result<Place> {
    let place = Place::new()?;
    for file in 0..8 {
        let mut text = String::from("post_id,body\n");
        for row in 0..400 {
            let id = file * 400 + row;
            text.push_str(&format!("{id},post number {id} of {} people\n", id % 97));
        }
        place.write(&format!("posts/part-{file:02}.csv"), text)?;
    }
    place.write("text.sql", SQL)?;
    Ok(place)
}

/// The digest that one process on loopback gives, and the digest of its batches.
fn embedded(python: &Path) -> Result<(String, String)> {
    let place = place()?;
    let out = Program::new(&place, &["run", "text.sql", "-o", "json", "--as-of", "2026-07-01"])?
        .run()?
        .succeeded()?;
    let build: serde_json::Value = serde_json::from_str(out.trim().lines().last().context("nothing was printed")?)?;
    let digest = build["digest"].as_str().context("no digest was printed")?.to_owned();
    let batches = batches(python, &place, None, "-", None)?;
    Ok((digest, batches.split(' ').next().unwrap_or_default().to_owned()))
}

/// What `tests/security/stream.py` prints, or its error.
fn batches(
    python: &Path,
    place: &Place,
    namespace: Option<&str>,
    source: &str,
    certs: Option<&Path>,
) -> Result<String> {
    let mut command = match namespace {
        None => Command::new(python),
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(python);
            command
        }
    };
    command
        .arg(repository().join("tests/security/stream.py"))
        .arg(place.home().join("warehouse"))
        .arg(source)
        .env_remove("CORPUSMILL_CERTS");
    if let Some(certs) = certs {
        command.env("CORPUSMILL_CERTS", certs);
    }
    let ended = Ended::from(command.output()?);
    Ok(ended.succeeded()?.trim().to_owned())
}

/// A cluster in namespaces: the coordinator and a worker inside, another worker elsewhere in the network.
struct Cluster {
    // Its processes end before their namespaces go.
    sandbox: Sandbox,
    machines: Namespaces,
    certs: PathBuf,
    foreign: PathBuf,
}

impl Cluster {
    /// `None`, after saying so, where there can be none.
    fn start(test: &str) -> Result<Option<Self>> {
        let Some(machines) = Namespaces::new(test)? else {
            return Ok(None);
        };
        let mut place = place()?;
        let certs = certificates(&place, "certs", &["10.77.1.1"])?;
        let foreign = certificates(&place, "foreign", &["10.77.1.1"])?;
        place.set("CORPUSMILL_CERTS", &certs.display().to_string());
        place.set("CORPUSMILL_LOG", "info");
        place.set_namespace(&machines.inside);
        let network = ["--cluster-network", Namespaces::NETWORK];
        let health = |address| ["--health", address];
        let coordinator = [network, health("10.77.1.1:0")].concat();
        let mut sandbox = Sandbox::listening(place, "10.77.1.1:0", &coordinator)?;
        let folder = sandbox.place().path().join("work");
        sandbox.worker_in(&folder, &network, None)?;
        let there = [network, health("10.77.1.2:0")].concat();
        sandbox.worker_inside(Some(&machines.other), &folder, &there, None)?;
        sandbox.wait_for_workers(2)?;
        Ok(Some(Self {
            sandbox,
            machines,
            certs,
            foreign,
        }))
    }

    /// The address that a line of a log tells behind `before`.
    fn told(&self, log: &str, before: &str) -> Result<String> {
        let path = self.sandbox.place().path().join(log);
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            let text = std::fs::read_to_string(&path)?;
            let line = text.lines().find(|line| line.contains(before));
            let address = line.and_then(|line| line.split("address=").nth(1)?.split_whitespace().next());
            if let Some(address) = address {
                return Ok(address.to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("`{before}` is not in {log}: {}", self.sandbox.logs());
    }
}

#[test]
fn every_port_asks_who_calls() -> Result<()> {
    let test = "every_port_asks_who_calls";
    let Some(python) = python(&["ssl"]) else {
        not_run_here(test, "no Python");
        return Ok(());
    };
    let Some(cluster) = Cluster::start(test)? else {
        return Ok(());
    };
    let (inside, outside) = (cluster.machines.inside.as_str(), cluster.machines.outside.as_str());
    let [certs, foreign] = [&cluster.certs, &cluster.foreign].map(|folder| folder.display().to_string());
    let no_client = format!("{certs}:ca");
    let listening = |log: &str, what: &str| cluster.told(log, what);
    let control = cluster.sandbox.url().trim_start_matches("https://").to_owned();
    let desk = listening("worker-1.log", "serves trainers")?;
    let health = [
        listening("coordinator.log", "health and metrics")?,
        listening("worker-1.log", "health and metrics")?,
    ];
    let of = |namespace: &str, host: &str| -> Result<Vec<String>> {
        let ports = cluster.machines.listening(namespace, host)?;
        let all = ports.into_iter().map(|port| format!("{host}:{port}"));
        Ok(all
            .filter(|address| *address != control && *address != desk && !health.contains(address))
            .collect())
    };
    let at = |address: &str, from: &str, shown: &str| probe(&python, Some(from), address, &[shown]);

    // Control: from anywhere, but with a certificate; the token is asked for inside.
    for from in [inside, outside] {
        assert_eq!(at(&control, from, &certs)?, "answered");
        assert_eq!(at(&control, from, "-")?, "refused");
        assert_eq!(at(&control, from, &no_client)?, "refused");
        assert_eq!(at(&control, from, &foreign)?, "refused");
    }

    // Ballista: worker 1 has its two ports in the network, and nothing else but desk and health.
    let elsewhere = of(&cluster.machines.other, "10.77.1.2")?;
    assert_eq!(elsewhere.len(), 2, "{elsewhere:?}: {}", cluster.sandbox.logs());
    // The scheduler's, worker 0's two, and worker 0's desk.
    let here = of(inside, "10.77.1.1")?;
    assert_eq!(here.len(), 4, "{here:?}: {}", cluster.sandbox.logs());
    let desk_here = listening("worker-0.log", "serves trainers")?;
    for address in elsewhere
        .iter()
        .chain(here.iter().filter(|address| **address != desk_here))
    {
        assert_eq!(at(address, inside, &certs)?, "answered", "{address}");
        assert_eq!(at(address, inside, "-")?, "refused", "{address}");
        assert_eq!(at(address, inside, &no_client)?, "refused", "{address}");
        assert_eq!(at(address, inside, &foreign)?, "refused", "{address}");
        // The right certificate is of no use from outside of the network.
        for shown in [certs.as_str(), "-", &foreign] {
            assert_eq!(at(address, outside, shown)?, "refused", "{address} from outside");
        }
        // It is there, before the network is asked for: what is refused is the caller.
        ensure!(
            cluster
                .sandbox
                .logs()
                .contains("calls from outside of the cluster's network"),
            "{}",
            cluster.sandbox.logs()
        );
    }

    // Trainers: from anywhere, with a certificate, and then the worker's token.
    for address in [&desk, &desk_here] {
        for (shown, heard) in [("-", "refused"), (&no_client, "refused"), (&foreign, "refused")] {
            assert_eq!(at(address, outside, shown)?, heard, "{address}, {shown}");
        }
    }

    // Health: whether a process lives is told to everybody, numbers are not.
    let token = std::fs::read_to_string(cluster.certs.join("token"))?;
    let other_token = std::fs::read_to_string(cluster.foreign.join("token"))?;
    for address in &health {
        let get = |shown: &str, path: &str, token: Option<&str>| -> Result<String> {
            page(&python, outside, address, shown, path, token)
        };
        assert_eq!(get(&no_client, "/livez", None)?, "200");
        assert_eq!(get(&no_client, "/readyz", None)?, "200");
        assert_eq!(get(&certs, "/metrics", Some(token.trim()))?, "200");
        assert_eq!(get(&certs, "/metrics", None)?, "401");
        assert_eq!(get(&certs, "/metrics", Some(other_token.trim()))?, "401");
        assert_eq!(get(&no_client, "/metrics", Some(token.trim()))?, "401");
        assert_eq!(at(address, outside, "-")?, "refused");
        assert_eq!(at(address, outside, &foreign)?, "refused");
    }
    Ok(())
}

/// The status of a page over TLS.
fn page(python: &Path, from: &str, address: &str, shown: &str, path: &str, token: Option<&str>) -> Result<String> {
    let script = "
import pathlib, ssl, sys, urllib.error, urllib.request
address, shown, path, *token = sys.argv[1:]
folder = pathlib.Path(shown.removesuffix(':ca'))
tls = ssl.create_default_context(cafile=folder / 'ca.pem')
tls.check_hostname = False
if not shown.endswith(':ca'):
    tls.load_cert_chain(folder / 'client.pem', folder / 'client.key')
headers = {'Authorization': f'Bearer {token[0]}'} if token else {}
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
try:
    print(opener.open(urllib.request.Request(f'https://{address}{path}', headers=headers), timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
";
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", from])
        .arg(python)
        .args(["-c", script, address, shown, path]);
    let ended = Ended::from(command.args(token).output()?);
    Ok(ended.succeeded()?.trim().to_owned())
}

#[test]
fn a_build_and_a_stream_beyond_loopback_are_those_of_one_process() -> Result<()> {
    let test = "a_build_and_a_stream_beyond_loopback_are_those_of_one_process";
    let Some(python) = python_with_package(test) else {
        return Ok(());
    };
    let (digest, expected) = embedded(&python)?;
    let Some(cluster) = Cluster::start(test)? else {
        return Ok(());
    };
    assert_eq!(
        cluster.sandbox.digest("text.sql")?,
        digest,
        "{}",
        cluster.sandbox.logs()
    );
    let source = cluster.sandbox.url().replace("https://", "corpusmill://");
    let stream = |namespace: &str, certs: Option<&Path>| {
        batches(&python, cluster.sandbox.place(), Some(namespace), &source, certs)
    };
    // A trainer on the machine of a worker, and one that has no more than certificates.
    for (namespace, transport) in [(&cluster.machines.inside, "shm"), (&cluster.machines.outside, "tcp")] {
        let read = stream(namespace, Some(&cluster.certs)).with_context(|| cluster.sandbox.logs())?;
        assert_eq!(read, format!("{expected} {transport}"));
    }
    for (certs, why) in [
        (None, "no coordinator answers"),
        (Some(cluster.foreign.as_path()), "no coordinator answers"),
    ] {
        let refused = format!("{:#}", stream(&cluster.machines.outside, certs).unwrap_err());
        ensure!(refused.contains(why), "{refused}");
    }
    Ok(())
}

#[test]
fn a_worker_that_was_cut_off_changes_nothing_when_it_is_back() -> Result<()> {
    let test = "a_worker_that_was_cut_off_changes_nothing_when_it_is_back";
    let Some(cluster) = Cluster::start(test)? else {
        return Ok(());
    };
    let expected = {
        let place = place()?;
        let run = Program::new(&place, &["run", "text.sql", "-o", "json", "--as-of", "2026-07-01"])?.run()?;
        cluster.sandbox.digest_of(run)?
    };
    let child = cluster.sandbox.submit("text.sql")?.start()?;
    // Both workers have something to do, or to lose, once the first files are there.
    let staging = cluster.sandbox.place().home().join("warehouse/_staging");
    let began = Instant::now();
    while !staging.is_dir() {
        ensure!(began.elapsed() < DEADLINE, "no build began: {}", cluster.sandbox.logs());
        std::thread::sleep(Duration::from_millis(5));
    }
    cluster.machines.connect_other(false)?;
    let ended = Ended::from(child.wait_with_output()?);
    assert_eq!(
        cluster.sandbox.digest_of(ended)?,
        expected,
        "{}",
        cluster.sandbox.logs()
    );
    cluster.machines.connect_other(true)?;
    // It takes part again as a new executor; what it did meanwhile shows nowhere.
    cluster.sandbox.wait_for_joins(1, 2)?;
    assert_eq!(cluster.sandbox.place().commits("text")?, 1);
    assert_eq!(
        cluster.sandbox.digest("text.sql")?,
        expected,
        "{}",
        cluster.sandbox.logs()
    );
    let verified = Program::new(cluster.sandbox.place(), &["verify", "text"])?.run()?;
    verified.succeeded().with_context(|| cluster.sandbox.logs())?;
    Ok(())
}
