//! `corpusmill worker`: runs tasks of a cluster, and serves batches to trainers.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use corpusmill_access::Network;
use corpusmill_worker::{WorkerOptions, run as work};

use crate::args::{At, size};
use crate::commands::{Session, traces};

pub(crate) const HELP: &str = "\
Examples:
  corpusmill worker --coordinator http://127.0.0.1:50050
  corpusmill worker --coordinator http://127.0.0.1:50050,http://127.0.0.1:50051 --label gpu
  corpusmill worker --vcores 4 --memory-limit 8G --work-dir /fast/disk
  corpusmill worker --coordinator https://mill:50050 --certs certs --cluster-network 10.1.0.0/16

It waits for its coordinator as long as it takes, and joins again when that was started again. On Ctrl-C or SIGTERM its
tasks end, or the coordinator runs them elsewhere. Trainers with source=\"corpusmill://…\" are served by it as well; when
it stops they go on with another worker.";

#[derive(Debug, Args)]
pub(crate) struct Work {
    #[command(flatten)]
    at: At,
    /// What the coordinator and trainers call it; each worker its own [default: worker-PID]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Private network in which it takes tasks and serves shuffles and trainers, such as 10.1.0.0/16 [default: this
    /// machine]
    #[arg(long, value_name = "CIDR")]
    cluster_network: Option<Network>,
    /// Its address there, where it has several
    #[arg(long, value_name = "ADDRESS", requires = "cluster_network")]
    host: Option<IpAddr>,
    /// Port for trainers; 0 is one of the system's choice
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    stream_port: u16,
    /// Where trainers reach that port, where a port mapping lies between, such as 10.0.0.7:4711
    #[arg(long, value_name = "ADDRESS")]
    stream_address: Option<SocketAddr>,
    /// Where /readyz, /livez and /metrics (Prometheus) are told, such as 127.0.0.1:9465 [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    health: Option<SocketAddr>,
    /// Where corpora and streams are served to clients of Arrow Flight, such as 127.0.0.1:50060 [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    flight: Option<SocketAddr>,
    /// A collector of OpenTelemetry that is told what builds do, such as http://127.0.0.1:4318 [default: nobody]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// What it is good for, such as gpu; builds WITH (worker_label = 'gpu') run where the label is. May be repeated
    #[arg(long, value_name = "LABEL", value_delimiter = ',')]
    label: Vec<String>,
    /// Tasks side by side [default: cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    vcores: Option<u32>,
    /// Memory that all tasks may hold before they spill, such as 512M or 8G [default: 70 % of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_limit: Option<usize>,
    /// Disk that spilled rows may take, such as 200G [default: what the disk has]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    spill_limit: Option<usize>,
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
    let mut working = WorkerOptions::new(options.at.coordinator);
    if let Some(name) = options.name {
        working.name = name;
    }
    working.credentials = session.credentials()?;
    working.network = session.cluster_network(options.cluster_network, options.host)?;
    working.stream_port = options.stream_port;
    working.stream_address = options.stream_address;
    working.labels = options.label;
    working.health = options.health;
    working.flight = options.flight;
    working.vcores = options.vcores.map(|n| n as usize);
    working.memory_limit_bytes = options.memory_limit.map(|bytes| bytes as u64);
    working.spill_limit_bytes = options.spill_limit.map(|bytes| bytes as u64);
    working.work_dir = options.work_dir;
    working.cache_dir = options.block_cache;
    working.cache_bytes = options.block_cache_limit as u64;
    working.slots_bytes = options.serve_memory as u64;
    let joined = |executor: &str| session.progress.line(&format!("joined as {executor}"));
    let traces = traces(options.otlp_endpoint.as_deref(), "corpusmill-worker")?;
    let worked = work(working, session.interrupt.token.clone(), joined).await;
    if let Some(traces) = traces {
        traces.stop().await;
    }
    Ok(worked?)
}
