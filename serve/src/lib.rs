//! Batches from workers to trainers: who serves whom, the worker's sessions, and the trainer's feed.
//!
//! ```text
//!  worker                         coordinator                         trainer (one rank)
//!   Desk ── Offer: address, token ──▶ Directory ◀── Open: job, rank, plan's hash ── Feed
//!    ▲                                   └── workers, the preferred first ───────────▶ │
//!    │                                                                                │
//!    └──────────── transport session: Read {plan, rank, step} ◀───────────────────────┘
//!   session: plan.step(s) ─▶ assemble ─▶ slot ─▶ descriptor {step, header} ──▶ pull ─▶ decode ─▶ batch
//! ```
//! No batch passes through the coordinator, so streams go on without it. Steps are absolute: a feed that loses its
//! worker asks another for the step that it wants next, so no batch is lost or comes twice. Everything is bounded by
//! slots: a worker assembles only for slots that the trainer has given back.
//!
//! `Directory` runs in the coordinator, `Desk` in a worker, `Feed` in a trainer; they know each other by `proto` and
//! `transport` only.

mod delivery;
mod desk;
mod directory;
mod error;
mod feed;
mod jobs;
mod ranking;
mod session;

pub use desk::{Desk, DeskOptions, Library};
pub use directory::Directory;
pub use error::{Result, ServeError};
pub use feed::{Feed, FeedOptions, FeedStats};
