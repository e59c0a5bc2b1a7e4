//! A `transport-peer` as a child process: its events, and signals to it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The token of all tests; two peers of one test hold the same.
pub(crate) const TOKEN: &str = "5f0e1d2c3b4a59687786958493a2b1c0ff0e1d2c3b4a59687786958493a2b1c0";
/// How long anything in these tests may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    events: Receiver<Value>,
    seen: Vec<Value>,
    log: Option<std::thread::JoinHandle<String>>,
}

impl Peer {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_transport-peer"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, events) = channel();
        let output = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if send.send(event).is_err() {
                    return;
                }
            }
        });
        let mut errors = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).ok();
            text
        });
        let input = child.stdin.take();
        Self {
            child,
            input,
            events,
            seen: Vec::new(),
            log: Some(log),
        }
    }

    /// A worker, and its address.
    pub(crate) fn serve(arguments: &[&str]) -> (Self, String) {
        let mut peer = Self::start(&[&["serve", "--token", TOKEN], arguments].concat());
        let listening = peer.wait_for("listening");
        (peer, listening["address"].as_str().unwrap().to_owned())
    }

    pub(crate) fn pull(address: &str, arguments: &[&str]) -> Self {
        Self::start(&[&["pull", "--token", TOKEN, "--connect", address], arguments].concat())
    }

    /// Waits for an event by name.
    pub(crate) fn wait_for(&mut self, name: &str) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(event) => {
                    self.seen.push(event.clone());
                    if event["event"] == name {
                        return event;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {name:?} within {LIMIT:?}; seen: {:?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => {
                    let seen = std::mem::take(&mut self.seen);
                    let (status, log) = self.leave();
                    panic!("left with {status} without {name:?}; seen: {seen:?}; log:\n{log}");
                }
            }
        }
    }

    /// Waits until the process has left, and gives whether it was content, and its log.
    pub(crate) fn leave(&mut self) -> (bool, String) {
        let deadline = Instant::now() + LIMIT;
        while self.child.try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < deadline,
                "still running after {LIMIT:?}; seen: {:?}",
                self.seen
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait().unwrap();
        (
            status.success(),
            self.log.take().map(|log| log.join().unwrap()).unwrap_or_default(),
        )
    }

    /// Closes its standard input.
    pub(crate) fn let_go(&mut self) {
        self.input = None;
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success(), "kill -s {name} failed");
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Shared-memory files and Unix sockets with a name of ours, anywhere on this machine.
pub(crate) fn leftovers() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["/dev/shm", "/tmp", "/run"] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("corpusmill-ring") || name.starts_with("corpusmill-shm") {
                found.push(format!("{folder}/{name}"));
            }
        }
    }
    found
}

/// Abstract sockets of sessions that are open on this machine, by name.
pub(crate) fn session_sockets() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/unix").unwrap();
    text.lines()
        .filter_map(|line| line.split_once("@corpusmill-").map(|(_, name)| name.to_owned()))
        .collect()
}

/// Mappings of rings in a process.
pub(crate) fn mapped_rings(process: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    maps.lines().filter(|line| line.contains("corpusmill-ring")).count()
}
