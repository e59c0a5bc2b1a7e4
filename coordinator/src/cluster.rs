//! The cluster side of a coordinator: Ballista's scheduler as a library, a runner that trusts it only after looking,
//! and the control service.
//!
//! ```text
//!   submit ─► service ─► scripts (a queue, one at a time) ─► Coordinator::run_script ─► BallistaRunner
//!                                                                                          │ one job an attempt
//!   worker ─► Join ─► registers with the scheduler ◄── scheduler.rs ◄── job.rs ◄───────────┘
//!                                                                        │ evidence.rs: was anything run again?
//!                                                                        ▼ receipts in the attempt's own folder
//!                                                     sound: moved to the step's folder      else: submitted again
//! ```
//! Ballista's own ports ask nobody who calls. They are on 127.0.0.1 always; with a cluster network, `access::Front` stands
//! before each, and whoever dials one dials the front (`proto::member_endpoint`).
//!
//! Ballista 55 gives wrong rows without an error when a worker with finished shuffle output is lost. So a job's result
//! is looked at only after its whole history was: `evidence.rs` says what makes a history suspicious.

mod client;
mod evidence;
mod job;
mod ledger;
mod progress;
mod runner;
mod scheduler;
mod scripts;
mod service;
mod step_plan;
mod wire;

pub use client::{Remote, RemoteScript};
pub use scheduler::{Cluster, ClusterOptions, WorkerInfo};
pub use scripts::ScriptInfo;
pub use service::{ServeOptions, serve};

pub(crate) use runner::BallistaRunner;
