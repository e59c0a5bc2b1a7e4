//! A worker: Ballista's executor as a library, with the dialect's functions, codecs and object stores, and a desk where
//! trainers are served.
//!
//! ```text
//!   run ─► Join at the coordinator (again and again, until it answers)
//!           │  scheduler's address, heartbeat
//!           ▼
//!        executor ─► tasks ─► engine: global numbers of splits, failures told in full ─► operators ─► files, receipts
//!           │ stopped: the coordinator is gone, or took it for lost
//!           └──────► Join again, as a new executor
//! ```
//! The executor's two ports are on 127.0.0.1; in a cluster's network `access::Front` stands before each.
//! Beside its tasks it serves batches to trainers: `serve::Desk`, which is known to the coordinator by a call of its own,
//! and on request corpora and streams to any client of Arrow Flight on its machine.
//! A worker keeps nothing: what it held is lost when it stops, and the coordinator runs again what depended on it.
//!
//! To give tasks something new to work with: the session in `environment.rs`, from which everything is taken.

mod engine;
mod environment;
mod error;
mod flight;
mod folder;
mod health;
mod join;
mod lead;
mod run;

pub use error::{Result, WorkerError};
pub use run::{WorkerOptions, run};
