//! One side of a transport as a process of its own, for tests that kill it, stop it or lie to it.
//!
//! Both sides make the same bodies from a seed, so that the trainer can tell a right body from a plausible one without
//! asking the worker. Everything that happens is one JSON object a line on standard output.

mod audit;
mod body;
mod device_memory;
mod pull;
mod serve;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use corpusmill_transport::{Checksum, Error, Timeouts, Token, doctor};
use serde_json::{Value, json};

#[derive(Parser)]
#[command(about = "Serves bodies made from a seed, or pulls and audits them")]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Serves bodies to every trainer that connects.
    Serve(serve::Serve),
    /// Pulls and audits all bodies of a worker.
    Pull(pull::Pull),
    /// Hands a puller descriptors that break each rule in turn; fails unless every one is refused.
    Audit(audit::Audit),
    /// Asks for bodies in device memory, with a descriptor that is no dmabuf; fails unless that is refused as it should.
    DeviceMemory(device_memory::DeviceMemory),
    /// Prints what this machine has for each transport.
    Doctor,
}

/// What both sides have to agree on.
#[derive(Args, Clone)]
struct Agreement {
    /// The shared token, 64 hexadecimal digits.
    #[arg(long)]
    token: Token,
    /// Seed of the bodies.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Lengths of the bodies in bytes, taken in turn.
    #[arg(long, value_delimiter = ',', default_value = "1000000")]
    bytes: Vec<usize>,
    /// Milliseconds without a sign of life after which a peer is lost.
    #[arg(long, default_value_t = 2000)]
    silence_ms: u64,
    /// Milliseconds that a body may take.
    #[arg(long, default_value_t = 60_000)]
    transfer_ms: u64,
}

impl Agreement {
    fn timeouts(&self) -> Timeouts {
        Timeouts {
            handshake: Duration::from_secs(20),
            heartbeat: Duration::from_millis((self.silence_ms / 4).max(1)),
            silence: Duration::from_millis(self.silence_ms),
            transfer: Duration::from_millis(self.transfer_ms),
        }
    }

    fn length(&self, seq: u64) -> usize {
        self.bytes[(seq % self.bytes.len() as u64) as usize]
    }

    fn longest(&self) -> usize {
        self.bytes.iter().copied().max().unwrap_or(1).max(1)
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    None,
    Sampled,
    Full,
}

impl From<Mode> for Checksum {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::None => Self::None,
            Mode::Sampled => Self::Sampled,
            Mode::Full => Self::Full,
        }
    }
}

/// Where the worker is, as the trainer's commands name it.
#[derive(Args, Clone)]
struct Target {
    /// The worker's address.
    #[arg(long)]
    connect: SocketAddr,
    /// auto, shm, rdma or tcp.
    #[arg(long, default_value = "auto")]
    choice: corpusmill_transport::Choice,
    /// Slots wanted of the worker.
    #[arg(long, default_value_t = 4)]
    slots: u32,
    /// Slots of the trainer's own.
    #[arg(long, default_value_t = 4)]
    own_slots: u32,
    /// Reads under way at once.
    #[arg(long, default_value_t = 4)]
    outstanding: u32,
    /// Weakest checksum to take.
    #[arg(long)]
    least: Option<Mode>,
}

impl Target {
    fn options(&self, agreement: &Agreement) -> corpusmill_transport::PullOptions {
        let mut options = corpusmill_transport::PullOptions::new(agreement.token.clone());
        options.choice = self.choice;
        options.slots = self.slots;
        options.own_slots = self.own_slots;
        options.outstanding = self.outstanding;
        options.slot_bytes = agreement.longest() as u64;
        options.checksum_least = self.least.map(Checksum::from);
        options.timeouts = agreement.timeouts();
        options
    }
}

/// Prints an event. A reader that is gone is no reason to stop.
fn say(event: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{event}").and_then(|()| out.flush()).ok();
}

/// Prints an error as an event.
fn say_error(during: &str, error: &Error) {
    let name = format!("{error:?}");
    let name = name.split([' ', '{', '(']).next().unwrap_or_default();
    say(&json!({"event": "error", "during": during, "error": name, "retry": error.retry(), "text": error.to_string()}));
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let outcome = match Command::parse().what {
        What::Serve(serve) => serve.run().await,
        What::Pull(pull) => pull.run().await,
        What::Audit(audit) => audit.run().await,
        What::DeviceMemory(device_memory) => device_memory.run().await,
        What::Doctor => {
            let report = serde_json::to_value(doctor::examine());
            say(&report.unwrap_or_else(|error| json!({"event": "error", "text": error.to_string()})));
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error("run", &error);
            ExitCode::FAILURE
        }
    }
}
