//! A cluster of real processes: one coordinator, some workers, ports of the system's choice.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::place::Place;
use crate::program::{Ended, Program};

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(240);

/// A cluster, ended when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    place: Place,
    url: String,
    coordinator: Child,
    workers: Vec<Child>,
}

impl Sandbox {
    /// Starts a coordinator whose home is that of `place`.
    ///
    /// # Errors
    /// When it cannot be started or does not say its address.
    pub fn new(place: Place) -> Result<Self> {
        let mut coordinator = Program::new(&place, &["coordinator", "--listen", "127.0.0.1:0"])?
            .log_to("coordinator.log")?
            .start()?;
        let out = coordinator
            .stdout
            .take()
            .context("the coordinator has no standard output")?;
        let mut url = String::new();
        BufReader::new(out).read_line(&mut url)?;
        let url = url.trim().to_owned();
        if url.is_empty() {
            let status = coordinator.wait()?;
            bail!("the coordinator ended ({status}): {}", log(&place, "coordinator.log"));
        }
        Ok(Self {
            place,
            url,
            coordinator,
            workers: Vec::new(),
        })
    }

    /// Starts one more worker of two tasks; `failpoint` is where it will kill itself.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn worker(&mut self, failpoint: Option<&str>) -> Result<usize> {
        let number = self.workers.len();
        let folder = self.place.path().join("work");
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
        let mut program = Program::new(&self.place, &arguments)?.log_to(&format!("worker-{number}.log"))?;
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

    /// Asks a worker to stop, and gives its exit code.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn terminate(&mut self, worker: usize) -> Result<Option<i32>> {
        let pid = self.workers[worker].id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
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
        for child in self.workers.iter_mut().chain([&mut self.coordinator]) {
            // They may be gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn log(place: &Place, name: &str) -> String {
    std::fs::read_to_string(place.path().join(name)).unwrap_or_default()
}
