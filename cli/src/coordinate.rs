//! `corpusmill coordinator`: serves a cluster.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use corpusmill_access::Network;
use corpusmill_coordinator::{CoordinatorOptions, ServeOptions, serve};

use crate::commands::{Session, traces};

pub(crate) const HELP: &str = "\
Examples:
  corpusmill coordinator --home /shared/mill
  corpusmill coordinator --warehouse s3://lake/corpora
  corpusmill coordinator --catalog postgres://mill@db/corpora --warehouse s3://lake/corpora
  corpusmill coordinator --listen 127.0.0.1:0        a port of the system's choice, written to standard output
  corpusmill coordinator --listen 0.0.0.0:50050 --certs certs --cluster-network 10.1.0.0/16

With a catalogue in PostgreSQL several may run: one leads, another takes over when it dies, and builds go on from their
last finished step. Workers and `submit` are given the addresses of all.

Workers and `corpusmill submit` need its address. Beyond this machine callers have to show a certificate and a token, see
`corpusmill certs init`; workers on other machines reach the scheduler in the cluster's network. Workers reach the warehouse by themselves: a folder that is at the same
path on all machines, or an object store, with its variables (AWS_…) set for all of them.";

#[derive(Debug, Args)]
pub(crate) struct Coordinate {
    /// Where submit and workers call
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50050")]
    listen: SocketAddr,
    /// Where /readyz, /livez and /metrics (Prometheus) are told, such as 127.0.0.1:9464 [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    health: Option<SocketAddr>,
    /// A collector of OpenTelemetry that is told what builds do, such as http://127.0.0.1:4318 [default: nobody]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// Port of the scheduler, for workers; 0 is one of the system's choice
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    scheduler_port: u16,
    /// Private network in which workers reach the scheduler and each other, such as 10.1.0.0/16 [default: this machine]
    #[arg(long, value_name = "CIDR")]
    cluster_network: Option<Network>,
    /// Partitions that plans are spread over; never changes a corpus [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    target_partitions: Option<u32>,
    /// Statements that build at a time; the others wait in the order in which they came
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    max_builds: u32,
    /// Address that callers of the other coordinators of the catalogue are sent to [default: where it listens]
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
    /// Another coordinator of the catalogue leads, so many seconds after this one was last heard of
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=300))]
    lease: u64,
}

/// Runs the command until it is stopped.
pub(crate) async fn run(session: &Session, options: Coordinate) -> Result<()> {
    let mut serving = ServeOptions::new(&session.global.home);
    serving.listen = options.listen;
    serving.health = options.health;
    serving.credentials = session.credentials()?;
    let scheme = if serving.credentials.is_some() { "https" } else { "http" };
    let listened = Some(options.listen.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
    let in_network = listened.filter(|ip| options.cluster_network.is_some_and(|network| network.contains(*ip)));
    serving.cluster.network = session.cluster_network(options.cluster_network, in_network)?;
    serving.cluster.port = options.scheduler_port;
    serving.advertise = options.advertise;
    serving.lease = Duration::from_secs(options.lease);
    serving.coordinator = CoordinatorOptions {
        warehouse: session.global.warehouse.clone(),
        catalog: session.global.catalog.clone(),
        builds_max: options.max_builds as usize,
        target_partitions: options.target_partitions.map(|n| n as usize),
        ..CoordinatorOptions::new(&session.global.home)
    };
    let mut output = session.results();
    let ready = |address| {
        // Whoever closed standard output does not want to know.
        let _ = output.line(&format!("{scheme}://{address}"));
    };
    let traces = traces(options.otlp_endpoint.as_deref(), "corpusmill-coordinator")?;
    let served = serve(serving, session.interrupt.token.clone(), ready).await;
    if let Some(traces) = traces {
        traces.stop().await;
    }
    Ok(served?)
}
