//! A cluster of real processes: a coordinator, or two that share a catalogue; some workers; ports of the system's choice.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::place::Place;
use crate::program::{Ended, Program};

/// A leader that dies is followed soon.
const LEASE: [&str; 2] = ["--lease", "4"];
/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(240);

/// A cluster, ended when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    place: Place,
    environment: Vec<(String, String)>,
    /// Where its coordinators are, with commas between them.
    url: String,
    coordinator: Child,
    /// A second one, which leads when the first does not.
    other: Option<Child>,
    workers: Vec<Child>,
}

impl Sandbox {
    /// Starts a coordinator whose home is that of `place`.
    ///
    /// # Errors
    /// When it cannot be started or does not say its address.
    pub fn new(place: Place) -> Result<Self> {
        Self::with_failpoint(place, None)
    }

    /// Starts a coordinator that kills itself at `failpoint`.
    ///
    /// # Errors
    /// As [`Sandbox::new`].
    pub fn with_failpoint(place: Place, failpoint: Option<&str>) -> Result<Self> {
        Self::start(place, "127.0.0.1:0", &LEASE, &[], failpoint)
    }

    /// Starts a coordinator; it and all workers have more environment variables.
    ///
    /// # Errors
    /// As [`Sandbox::new`].
    pub fn with_environment(place: Place, environment: &[(&str, &str)]) -> Result<Self> {
        Self::start(place, "127.0.0.1:0", &LEASE, environment, None)
    }

    /// Starts a coordinator that listens on `listen`, with more arguments.
    ///
    /// # Errors
    /// As [`Sandbox::new`].
    pub fn listening(place: Place, listen: &str, more: &[&str]) -> Result<Self> {
        Self::start(place, listen, more, &[], None)
    }

    /// Starts two coordinators over the catalogue at `catalog`: the first leads, and comes to `failpoint`.
    ///
    /// # Errors
    /// As [`Sandbox::new`].
    pub fn with_two(mut place: Place, catalog: &str, failpoint: Option<&str>) -> Result<Self> {
        let warehouse = place.home().join("warehouse");
        place.set("CORPUSMILL_CATALOG", catalog);
        place.set("CORPUSMILL_WAREHOUSE", &warehouse.display().to_string());
        let log = [("CORPUSMILL_LOG", "corpusmill_coordinator=info")];
        let mut this = Self::start(place, "127.0.0.1:0", &LEASE, &log, failpoint)?;
        this.wait_for(None, "leads term=")?;
        let (other, url) = coordinator(&this.place, 1, "127.0.0.1:0", &LEASE, &this.environment, None)?;
        this.url = format!("{},{url}", this.url);
        this.other = Some(other);
        Ok(this)
    }

    /// Starts a coordinator with more arguments.
    ///
    /// # Errors
    /// As [`Sandbox::new`].
    pub fn with_arguments(place: Place, arguments: &[&str]) -> Result<Self> {
        Self::start(place, "127.0.0.1:0", arguments, &[], None)
    }

    fn start(
        place: Place,
        listen: &str,
        more: &[&str],
        environment: &[(&str, &str)],
        failpoint: Option<&str>,
    ) -> Result<Self> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<_> = environment.iter().map(owned).collect();
        let (coordinator, url) = coordinator(&place, 0, listen, more, &environment, failpoint)?;
        Ok(Self {
            place,
            environment,
            url,
            coordinator,
            other: None,
            workers: Vec::new(),
        })
    }

    /// Waits until the coordinator has killed itself, or kills it; then starts it again at the same address.
    ///
    /// # Errors
    /// When it does not end in time, or cannot be started again.
    pub fn restart_coordinator(&mut self, kill: bool) -> Result<()> {
        if kill {
            self.coordinator.kill()?;
        }
        let began = Instant::now();
        while self.coordinator.try_wait()?.is_none() {
            if began.elapsed() > DEADLINE {
                bail!("the coordinator does not end: {}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let address = self.url.trim_start_matches("http://").to_owned();
        let (coordinator, url) = coordinator(&self.place, 0, &address, &LEASE, &self.environment, None)?;
        assert_eq!(url, self.url);
        self.coordinator = coordinator;
        Ok(())
    }

    /// Starts one more worker of two tasks; `failpoint` is where it will kill itself.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn worker(&mut self, failpoint: Option<&str>) -> Result<usize> {
        let folder = self.place.path().join("work");
        self.worker_in(&folder, &[], failpoint)
    }

    /// Starts one more worker with a work folder and arguments of its own.
    ///
    /// # Errors
    /// As [`Sandbox::worker`].
    pub fn worker_in(&mut self, folder: &Path, more: &[&str], failpoint: Option<&str>) -> Result<usize> {
        let namespace = self.place.namespace().map(str::to_owned);
        self.worker_inside(namespace.as_deref(), folder, more, failpoint)
    }

    /// Starts one more worker in a network namespace of its own.
    ///
    /// # Errors
    /// As [`Sandbox::worker`].
    pub fn worker_inside(
        &mut self,
        namespace: Option<&str>,
        folder: &Path,
        more: &[&str],
        failpoint: Option<&str>,
    ) -> Result<usize> {
        let number = self.workers.len();
        let folder = folder.to_str().context("the place has a strange name")?;
        let arguments = [
            "worker",
            "--coordinator",
            &self.url,
            "--vcores",
            "2",
            "--work-dir",
            folder,
        ];
        let program = Program::inside(&self.place, namespace, &[&arguments, more].concat())?;
        let program = program.log_to(&format!("worker-{number}.log"))?;
        let mut program = with(program, &self.environment);
        if let Some(failpoint) = failpoint {
            program = program.env("CORPUSMILL_FAILPOINT", failpoint);
        }
        self.workers.push(program.start()?);
        Ok(number)
    }

    /// Waits until so many workers are connected.
    ///
    /// # Errors
    /// When they are not, in time.
    pub fn wait_for_workers(&self, wanted: usize) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            let logs = (0..self.workers.len()).map(|n| log(&self.place, &format!("worker-{n}.log")));
            if logs.filter(|text| text.contains("joined as")).count() >= wanted {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("{wanted} workers did not join: {}", self.logs())
    }

    /// A `submit` of the file `file` of the place, to be run or started.
    ///
    /// # Errors
    /// When the program was not built.
    pub fn submit(&self, file: &str) -> Result<Program> {
        Program::new(
            &self.place,
            &[
                "submit",
                file,
                "--coordinator",
                &self.url,
                "-o",
                "json",
                "--as-of",
                "2026-07-01",
            ],
        )
    }

    /// Submits a file, and gives the digest of the corpus that it builds.
    ///
    /// # Errors
    /// When it fails: shows all logs.
    pub fn digest(&self, file: &str) -> Result<String> {
        let ended = self.submit(file)?.run()?;
        self.digest_of(ended)
    }

    /// The digest that a submit printed.
    ///
    /// # Errors
    /// When it failed: shows all logs.
    pub fn digest_of(&self, ended: Ended) -> Result<String> {
        let out = ended.succeeded().with_context(|| self.logs())?;
        let last = out.trim().lines().last().context("nothing was printed")?;
        let build: Value = serde_json::from_str(last)?;
        Ok(build["digest"].as_str().context("no digest was printed")?.to_owned())
    }

    /// Kills a worker as the kernel does when memory runs out.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_9(&mut self, worker: usize) -> Result<()> {
        self.workers[worker].kill()?;
        self.workers[worker].wait()?;
        Ok(())
    }

    /// Sends a signal to a worker.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&self, worker: usize, signal: &str) -> Result<()> {
        send(self.workers[worker].id(), signal)
    }

    /// Sends a signal to the first coordinator.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal_coordinator(&self, signal: &str) -> Result<()> {
        send(self.coordinator.id(), signal)
    }

    /// Waits until the second coordinator's log has `text` in it.
    ///
    /// # Errors
    /// When it has not, in time.
    pub fn wait_for_other(&self, text: &str) -> Result<()> {
        self.wait_in("coordinator-1.log", text)
    }

    /// Waits until a worker's log, or the coordinator's for `None`, has `text` in it.
    ///
    /// # Errors
    /// When it has not, in time.
    pub fn wait_for(&self, worker: Option<usize>, text: &str) -> Result<()> {
        let name = worker.map_or("coordinator.log".to_owned(), |number| format!("worker-{number}.log"));
        self.wait_in(&name, text)
    }

    fn wait_in(&self, name: &str, text: &str) -> Result<()> {
        let began = Instant::now();
        while !log(&self.place, name).contains(text) {
            if began.elapsed() > DEADLINE {
                bail!("`{text}` is not in {name}: {}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until a worker has joined so many times.
    ///
    /// # Errors
    /// When it has not, in time.
    pub fn wait_for_joins(&self, worker: usize, times: usize) -> Result<()> {
        let began = Instant::now();
        while log(&self.place, &format!("worker-{worker}.log"))
            .matches("joined as")
            .count()
            < times
        {
            if began.elapsed() > DEADLINE {
                bail!("worker {worker} did not join again: {}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The coordinator's address; those of both with a comma between them.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks a worker to stop, and gives its exit code.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn terminate(&mut self, worker: usize) -> Result<Option<i32>> {
        self.signal(worker, "TERM")?;
        Ok(self.workers[worker].wait()?.code())
    }

    /// Whether a worker has ended.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn is_gone(&mut self, worker: usize) -> Result<bool> {
        Ok(self.workers[worker].try_wait()?.is_some())
    }

    /// Where the files are.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What the processes wrote to standard error.
    pub fn logs(&self) -> String {
        let mut text = format!("coordinator:\n{}", log(&self.place, "coordinator.log"));
        if self.other.is_some() {
            text.push_str(&format!("\nthe other:\n{}", log(&self.place, "coordinator-1.log")));
        }
        for number in 0..self.workers.len() {
            text.push_str(&format!(
                "\nworker {number}:\n{}",
                log(&self.place, &format!("worker-{number}.log"))
            ));
        }
        text
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let coordinators = self.other.iter_mut().chain([&mut self.coordinator]);
        for child in self.workers.iter_mut().chain(coordinators) {
            // They may be gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a coordinator and reads its address; its log goes on where that of the one before ended.
fn coordinator(
    place: &Place,
    number: usize,
    listen: &str,
    more: &[&str],
    environment: &[(String, String)],
    failpoint: Option<&str>,
) -> Result<(Child, String)> {
    let arguments = [&["coordinator", "--listen", listen], more].concat();
    let mut program = Program::new(place, &arguments)?;
    let mut name = "coordinator.log".to_owned();
    if number > 0 {
        // A home of its own: only catalogue and warehouse are shared.
        let home = place.path().join(format!("home-{number}"));
        program = program.env("CORPUSMILL_HOME", &home.display().to_string());
        name = format!("coordinator-{number}.log");
    }
    let program = program.log_to(&name)?;
    let mut program = with(program, environment);
    if let Some(failpoint) = failpoint {
        program = program.env("CORPUSMILL_FAILPOINT", failpoint);
    }
    let mut coordinator = program.start()?;
    let out = coordinator
        .stdout
        .take()
        .context("the coordinator has no standard output")?;
    let mut url = String::new();
    BufReader::new(out).read_line(&mut url)?;
    let url = url.trim().to_owned();
    if url.is_empty() {
        let status = coordinator.wait()?;
        bail!("the coordinator ended ({status}): {}", log(place, &name));
    }
    Ok((coordinator, url))
}

fn with(program: Program, environment: &[(String, String)]) -> Program {
    let set = |program: Program, (name, value): &(String, String)| program.env(name, value);
    environment.iter().fold(program, set)
}

fn log(place: &Place, name: &str) -> String {
    std::fs::read_to_string(place.path().join(name)).unwrap_or_default()
}

fn send(process: u32, signal: &str) -> Result<()> {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &process.to_string()])
        .status()?;
    if !status.success() {
        bail!("process {process} takes no {signal}");
    }
    Ok(())
}
