//! A coordinator and a worker tell over HTTP how they are.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use corpusmill_tests::{Place, Program};

const DEADLINE: Duration = Duration::from_secs(120);

/// A process that is killed at the end.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Status and body of a path.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// The number of a metric, with its label if it has one.
fn number(address: SocketAddr, name: &str) -> Result<f64> {
    let (status, text) = get(address, "/metrics")?;
    ensure!(status == 200, "{status}: {text}");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    Ok(line.with_context(|| format!("no {name} in\n{text}"))?.parse()?)
}

pub(crate) fn until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !condition()? {
        if began.elapsed() > DEADLINE {
            bail!("{what}: not within {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Starts a part that has a port for health, and reads the port from its log.
pub(crate) fn start(place: &Place, log: &str, arguments: &[&str]) -> Result<(Running, SocketAddr)> {
    let program = Program::new(place, arguments)?
        .env("CORPUSMILL_LOG", "info")
        .log_to(log)?;
    let mut running = Running(program.start()?);
    let path = place.path().join(log);
    let mut port = None;
    until("a port for health", || {
        let text = std::fs::read_to_string(&path)?;
        ensure!(running.0.try_wait()?.is_none(), "it ended: {text}");
        let line = text.lines().find(|line| line.contains("health and metrics"));
        let digits = line
            .and_then(|line| line.rsplit_once("127.0.0.1:"))
            .map(|(_, rest)| rest);
        port = digits.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        Ok(port.is_some())
    })?;
    let port: u16 = port.context("no port")?;
    Ok((running, SocketAddr::from(([127, 0, 0, 1], port))))
}

#[test]
fn a_worker_is_ready_while_it_has_a_coordinator() -> Result<()> {
    let place = Place::new()?;
    place.write("good.sql", "SELECT 1")?;
    place.write("bad.sql", "SELECT nothing FROM nowhere")?;
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let url = format!("http://{free}");
    let worker = [
        "worker",
        "--coordinator",
        &url,
        "--vcores",
        "2",
        "--work-dir",
        "work",
        "--health",
        "127.0.0.1:0",
    ];
    let (_worker, at_worker) = start(&place, "worker.log", &worker)?;
    let (status, reason) = get(at_worker, "/readyz")?;
    assert!(
        status == 503 && reason.contains("waits for its coordinator"),
        "{status} {reason}"
    );
    assert_eq!(
        get(at_worker, "/livez")?.0,
        200,
        "a worker that waits is not to be killed"
    );

    let listen = free.to_string();
    let (mut coordinator, at) = start(
        &place,
        "coordinator.log",
        &["coordinator", "--listen", &listen, "--health", "127.0.0.1:0"],
    )?;
    let mut line = String::new();
    BufReader::new(coordinator.0.stdout.take().context("no output")?).read_line(&mut line)?;
    assert_eq!(get(at, "/readyz")?, (200, "ready\n".to_owned()));
    until("the worker is known", || Ok(number(at, "corpusmill_workers")? == 1.0))?;
    assert_eq!(number(at, "corpusmill_worker_vcores")?, 2.0);
    until("the worker is ready", || Ok(get(at_worker, "/readyz")?.0 == 200))?;
    assert_eq!(number(at_worker, "corpusmill_worker_joins_total")?, 1.0);

    let submit = |file: &str| Program::new(&place, &["submit", file, "--coordinator", &url])?.run();
    submit("good.sql")?.succeeded()?;
    submit("bad.sql")?.failed(1)?;
    for (outcome, expected) in [("succeeded", 1.0), ("failed", 1.0), ("cancelled", 0.0)] {
        let name = format!("corpusmill_scripts_ended_total{{outcome=\"{outcome}\"}}");
        assert_eq!(number(at, &name)?, expected, "{outcome}");
    }
    assert_eq!(number(at, "corpusmill_scripts{state=\"running\"}")?, 0.0);

    drop(coordinator);
    until("the worker waits again", || Ok(get(at_worker, "/readyz")?.0 == 503))
}

#[test]
fn beyond_this_machine_health_takes_certificates() -> Result<()> {
    let place = Place::new()?;
    for part in [
        ["coordinator", "--listen", "127.0.0.1:0"],
        ["worker", "--work-dir", "work"],
    ] {
        let error = Program::new(&place, &[&part[..], &["--health", "0.0.0.0:0"]].concat())?
            .run()?
            .failed(1)?;
        assert!(
            error.contains("0.0.0.0 without certificates") && error.contains("certs init"),
            "{error}"
        );
    }
    Ok(())
}
