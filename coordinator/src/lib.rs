//! Runs the statements of a script over a home: keeps objects in a catalogue, builds corpora step by step, and
//! publishes each version with one Delta commit.
//!
//! ```text
//!   script ── sql::parse_script ──► Coordinator::run_script
//!                                      │ statement by statement
//!        ┌─────────────────────────────┼──────────────────────────────┐
//!   statements.rs                 build.rs                       inspect.rs
//!   CREATE, DROP, ALTER           CREATE / REFRESH CORPUS        SELECT, SHOW, DESCRIBE
//!        │                             │ corpus_plan ─► Runner ─► receipts in _staging
//!        ▼                             │ gate ─► manifest ─► publish (Delta) ─► catalogue
//!   catalog.rs (SQLite, PostgreSQL)  objects.rs answers the dialect's questions about names
//! ```
//! What holds whatever happens: a version is there as a whole or not at all; what the catalogue says follows what
//! the Delta log says; a build that stopped is found by what it computes, and goes on from its finished splits.
//!
//! To add a statement: a variant in `sql`, an arm in `script.rs`, a function in `statements.rs` or `inspect.rs`.
//! To run steps elsewhere: a [`Runner`], and one line in `workspace.rs`.
//! To change the catalogue: one more file in `migrations/`; never edit one that was released.

mod admission;
mod build;
mod catalog;
mod cluster;
mod coordinator;
mod corpus_options;
mod corpus_plan;
mod error;
mod events;
mod home;
mod inputs;
mod inspect;
mod layout;
mod lock;
mod maintenance;
mod names;
mod objects;
mod options;
mod procedures;
mod publish;
mod report;
mod runner;
mod schedules;
mod script;
mod statements;
mod workspace;

#[cfg(test)]
mod tests;

pub use cluster::{Cluster, ClusterOptions, Remote, RemoteScript, ScriptInfo, ServeOptions, WorkerInfo, serve};
pub use coordinator::Coordinator;
pub use corpusmill_operators::causes;
pub use corpusmill_proto::control::ListKind;
pub use error::{CoordinatorError, RemoteKind, Result};
pub use events::{Event, Events, Outcome, Silent, Sink, Tasks};
pub use options::CoordinatorOptions;
pub use report::{BuildInfo, BuildReport, BuildState, CorpusInfo, ExpectationReport, StepReport, VacuumReport};
pub use runner::{LocalRunner, Runner, Step};
