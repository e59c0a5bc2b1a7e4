//! `corpusmill worker`: runs tasks of a cluster, and serves batches to trainers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use corpusmill_worker::{WorkerOptions, run as work};

use crate::args::size;
use crate::commands::Session;

pub(crate) const HELP: &str = "\
Examples:
  corpusmill worker --coordinator http://127.0.0.1:50050
  corpusmill worker --coordinator http://127.0.0.1:50050,http://127.0.0.1:50051 --label gpu
  corpusmill worker --vcores 4 --memory-limit 8G --work-dir /fast/disk

It waits for its coordinator as long as it takes, and joins again when that was started again. On Ctrl-C or SIGTERM its
tasks end, or the coordinator runs them elsewhere. Trainers with source=\"corpusmill://…\" are served by it as well; when
it stops they go on with another worker.";

#[derive(Debug, Args)]
pub(crate) struct Work {
    /// The coordinator; several that share a catalogue with commas between them
    #[arg(
        long,
        value_name = "URLS",
        env = "CORPUSMILL_COORDINATOR",
        default_value = "http://127.0.0.1:50050"
    )]
    coordinator: String,
    /// Where it listens for tasks and serves shuffles
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Where /readyz, /livez and /metrics (Prometheus) are told, such as 127.0.0.1:9465 [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    health: Option<SocketAddr>,
    /// What it is good for, such as gpu; builds WITH (worker_label = 'gpu') run where the label is. May be repeated
    #[arg(long, value_name = "LABEL", value_delimiter = ',')]
    label: Vec<String>,
    /// Tasks side by side [default: cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    vcores: Option<u32>,
    /// Memory that all tasks may hold before they spill, such as 512M or 8G [default: 70 % of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_limit: Option<usize>,
    /// Folder for shuffles and spilled rows [default: in the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Folder for the decoded blocks that trainers are served from [default: blocks in the work folder]
    #[arg(long, value_name = "DIR")]
    block_cache: Option<PathBuf>,
    /// Bytes that this folder may hold, such as 100G
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64G")]
    block_cache_limit: usize,
    /// Memory for batches on their way to trainers
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "4G")]
    serve_memory: usize,
}

/// Runs the command until it is stopped.
pub(crate) async fn run(session: &Session, options: Work) -> Result<()> {
    let mut working = WorkerOptions::new(options.coordinator);
    working.host = options.host;
    working.labels = options.label;
    working.health = options.health;
    working.vcores = options.vcores.map(|n| n as usize);
    working.memory_limit_bytes = options.memory_limit.map(|bytes| bytes as u64);
    working.work_dir = options.work_dir;
    working.cache_dir = options.block_cache;
    working.cache_bytes = options.block_cache_limit as u64;
    working.slots_bytes = options.serve_memory as u64;
    let joined = |executor: &str| session.progress.line(&format!("joined as {executor}"));
    work(working, session.interrupt.token.clone(), joined).await?;
    Ok(())
}
