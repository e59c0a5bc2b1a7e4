//! Who leads, where several coordinators share a catalogue: this one waits for the lead, has it, loses it.
//!
//! ```text
//!   follows ── the lease is won, what was left is ended ──► leads ── the lease is lost, or the end ──► follows
//!      │ answers who leads, nothing else                      │ takes workers and scripts             scripts stopped
//! ```
//! With a catalogue in a file there is one coordinator, and it leads from the beginning.

use std::sync::Arc;
use std::time::Duration;

use corpusmill_proto::not_leading;
use tokio::time::Instant;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::Service;
use crate::catalog::{Candidate, Lease};
use crate::error::Result;
use crate::home::Right;
use crate::workspace::Workspace;

/// How long scripts may take to stop.
const STOP: Duration = Duration::from_secs(10);
/// Pause before the next campaign, when what was left could not be ended.
const PAUSE: Duration = Duration::from_secs(1);

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lead {
    /// This coordinator, in that term.
    Here(u64),
    /// Another one, at that address if it is known.
    Elsewhere(Option<String>),
}

impl Lead {
    /// Why calls are refused, if they are.
    pub(super) fn check(&self) -> Result<u64, Status> {
        match self {
            Self::Here(term) => Ok(*term),
            Self::Elsewhere(leader) => Err(not_leading(leader.as_deref())),
        }
    }
}

/// Refuses the calls of trainers and of workers that serve them while another coordinator leads.
#[derive(Clone)]
pub(super) struct LeadsOnly(pub(super) Arc<Service>);

impl Interceptor for LeadsOnly {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        self.0.lead.borrow().check()?;
        Ok(request)
    }
}

impl Service {
    /// Leads whenever it can, until the shutdown; scripts are stopped then, and the lead is given back.
    pub(super) async fn lead(self: Arc<Self>, candidate: Candidate) {
        if !self.home.catalog.location().is_server() {
            let workspace = Arc::new(Workspace::new(&self.home, &self.options));
            self.keep_schedules(workspace, None, self.shutdown.clone()).await;
            self.step_down().await;
            return;
        }
        while !self.shutdown.is_cancelled() {
            let lease = tokio::select! {
                lease = self.home.catalog.campaign(&candidate, |leader| self.follows(leader.map(|l| l.address.clone()))) => lease,
                () = self.shutdown.cancelled() => return,
            };
            match self.begin(lease).await {
                Ok((right, workspace)) => self.until_the_end(right, workspace).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot lead; tries again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn follows(&self, leader: Option<String>) {
        let now = Lead::Elsewhere(leader);
        self.lead.send_if_modified(|lead| {
            let changed = *lead != now;
            if changed {
                tracing::info!(leader = ?now, "follows");
                lead.clone_from(&now);
            }
            changed
        });
    }

    /// Ends what the leader before left, and takes scripts.
    async fn begin(&self, lease: Lease) -> Result<(Arc<Right>, Arc<Workspace>)> {
        let term = lease.term;
        let workspace = Arc::new(Workspace::new(&self.home, &self.options));
        let right = self.home.lead(lease, &workspace).await?;
        tracing::info!(term, "leads");
        self.lead.send_replace(Lead::Here(term.unsigned_abs()));
        Ok((right, workspace))
    }

    async fn until_the_end(self: &Arc<Self>, right: Arc<Right>, workspace: Arc<Workspace>) {
        let Right::Lease(lease) = &*right else { return };
        let over = lease.lost.child_token();
        tokio::select! {
            () = self.keep_schedules(workspace, Some(Arc::clone(&right)), over) => {}
            () = self.shutdown.cancelled() => {}
        }
        self.step_down().await;
        lease.release().await;
    }

    /// Stops what runs, and sends everybody away, so that they look for the one that leads next.
    async fn step_down(&self) {
        self.lead.send_replace(Lead::Elsewhere(None));
        self.directory.dismiss();
        let scripts: Vec<_> = self.scripts().iter().cloned().collect();
        for script in &scripts {
            script.abandon();
        }
        let deadline = Instant::now() + STOP;
        while scripts.iter().any(|script| !script.has_ended()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.scripts().retain(|script| !script.is_abandoned());
    }
}
