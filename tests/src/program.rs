//! Runs the `corpusmill` program as a person does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::place::Place;

/// The program, to be run in a place.
#[derive(Debug)]
pub struct Program {
    command: Command,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Where the program was built.
///
/// # Errors
/// When it was not: says how.
pub fn program() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test
        .parent()
        .and_then(Path::parent)
        .context("the test binary lies nowhere")?;
    let program = folder.join("corpusmill");
    if !program.exists() {
        bail!(
            "{} is not there: run `make test`, or `cargo build --workspace` first",
            program.display()
        );
    }
    Ok(program)
}

impl Program {
    /// The program with arguments, in `place`; `--home` is the place's.
    ///
    /// # Errors
    /// When the program was not built.
    pub fn new(place: &Place, arguments: &[&str]) -> Result<Self> {
        Self::inside(place, place.namespace(), arguments)
    }

    /// The program in a network namespace of its own, otherwise as [`Program::new`].
    ///
    /// # Errors
    /// When the program was not built.
    pub fn inside(place: &Place, namespace: Option<&str>, arguments: &[&str]) -> Result<Self> {
        let mut command = match namespace {
            None => Command::new(program()?),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program()?);
                command
            }
        };
        command
            .args(arguments)
            .envs(place.environment().iter().map(|(name, value)| (name, value)))
            .env("CORPUSMILL_HOME", place.home())
            .current_dir(place.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(Self { command })
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes an environment variable away.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Sends its standard error to a file of the place: a pipe that nobody reads would stop it.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn log_to(mut self, name: &str) -> Result<Self> {
        let folder = self.command.get_current_dir().unwrap_or(Path::new("."));
        let path = folder.join(name);
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
        self.command.stderr(file);
        Ok(self)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(mut self) -> Result<Ended> {
        Ok(Ended::from(self.command.output()?))
    }

    /// Starts it; the caller ends it or waits for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut self) -> Result<std::process::Child> {
        Ok(self.command.spawn()?)
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// The standard output of a run that succeeded.
    ///
    /// # Errors
    /// When it did not: shows what it said.
    pub fn succeeded(self) -> Result<String> {
        if self.code != Some(0) {
            bail!("exit code {:?}\n{}{}", self.code, self.out, self.err);
        }
        Ok(self.out)
    }

    /// The standard error of a run that failed with this exit code.
    ///
    /// # Errors
    /// When it ended otherwise.
    pub fn failed(self, code: i32) -> Result<String> {
        if self.code != Some(code) {
            bail!("exit code {:?} instead of {code}\n{}{}", self.code, self.out, self.err);
        }
        Ok(self.err)
    }
}
