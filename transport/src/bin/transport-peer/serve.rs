//! The worker's side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use corpusmill_transport::{Checksum, Exporter, Kind, Result, ServeOptions, Server};
use serde_json::json;
use tokio::time::timeout;

use crate::body::Bodies;
use crate::{Agreement, Mode, say, say_error};

/// How long a wait for a slot is before it is reported.
const BLOCKED: Duration = Duration::from_millis(300);

#[derive(Args, Clone)]
pub(crate) struct Serve {
    #[command(flatten)]
    agreement: Agreement,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Bodies for each session; 0 goes on until the trainer leaves.
    #[arg(long, default_value_t = 100)]
    bodies: u64,
    /// Sessions to serve before leaving; 0 goes on.
    #[arg(long, default_value_t = 1)]
    sessions: u64,
    /// Most slots of a session.
    #[arg(long, default_value_t = 16)]
    slots_max: u32,
    /// Memory of all rings, in bytes.
    #[arg(long, default_value_t = 1 << 30)]
    memory_bytes: u64,
    /// What checksums cover.
    #[arg(long)]
    checksum: Option<Mode>,
    /// Transports that are allowed, by name.
    #[arg(long, value_delimiter = ',', default_value = "shm,rdma,tcp")]
    kinds: Vec<String>,
    /// Sends this body's descriptor with a wrong checksum first, then as it is.
    #[arg(long)]
    corrupt: Option<u64>,
}

impl Serve {
    pub(crate) async fn run(self) -> Result<()> {
        let mut options = ServeOptions::new(self.listen, self.agreement.token.clone());
        options.kinds = Kind::ALL
            .into_iter()
            .filter(|kind| self.kinds.iter().any(|name| name == kind.name()))
            .collect();
        options.slots_max = self.slots_max;
        options.slot_bytes_max = options.slot_bytes_max.max(self.agreement.longest() as u64);
        options.memory_bytes_max = self.memory_bytes;
        options.checksum = self.checksum.map(Checksum::from);
        options.timeouts = self.agreement.timeouts();
        let server = Server::bind(options).await?;
        say(&json!({"event": "listening", "address": server.address().to_string()}));
        let bodies = Arc::new(Bodies::new(self.agreement.seed));
        let mut running = tokio::task::JoinSet::new();
        let mut served = 0;
        while self.sessions == 0 || served < self.sessions {
            tokio::select! {
                exporter = server.accept() => {
                    let (exporter, this, bodies) = (exporter?, self.clone(), Arc::clone(&bodies));
                    running.spawn(async move { this.session(&exporter, &bodies).await });
                }
                Some(_) = running.join_next() => served += 1,
            }
        }
        Ok(())
    }

    async fn session(self, exporter: &Exporter, bodies: &Bodies) {
        let session = format!("{:016x}", exporter.session());
        say(&json!({
            "event": "session", "session": session, "kind": exporter.kind().name(), "slots": exporter.slots(),
            "checksum": format!("{:?}", exporter.checksum()),
        }));
        match self.feed(exporter, bodies).await {
            Ok(()) => say(&json!({"event": "finished", "session": session, "sent": exporter.stats().sent})),
            Err(error) => say_error(&session, &error),
        }
    }

    async fn feed(&self, exporter: &Exporter, bodies: &Bodies) -> Result<()> {
        let mut seq = 0;
        while self.bodies == 0 || seq < self.bodies {
            let mut assembly = loop {
                match timeout(BLOCKED, exporter.slot()).await {
                    Ok(slot) => break slot?,
                    Err(_) => {
                        let stats = exporter.stats();
                        say(&json!({"event": "blocked", "held": stats.held, "sent": stats.sent}));
                    }
                }
            };
            let length = self.agreement.length(seq);
            bodies.fill(seq, &mut assembly[..length]);
            let metadata = Bytes::from(format!("body {seq}"));
            if self.corrupt == Some(seq) {
                let descriptor = exporter.seal(assembly, length, metadata)?;
                let mut wrong = descriptor.clone();
                wrong.xxh3 ^= 1;
                exporter.send(&wrong).await?;
                exporter.send(&descriptor).await?;
            } else {
                exporter.publish(assembly, length, metadata).await?;
            }
            seq += 1;
        }
        exporter.finish(Duration::from_millis(self.agreement.transfer_ms)).await
    }
}
