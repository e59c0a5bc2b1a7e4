//! The formats from outside: written, damaged, read back by this crate and by others.
#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
#![expect(clippy::print_stderr, reason = "a test that cannot run says so by name")]

#[path = "it/fixture.rs"]
mod fixture;

#[path = "it/damage.rs"]
mod damage;
#[path = "it/determinism.rs"]
mod determinism;
#[path = "it/export.rs"]
mod export;
#[path = "it/golden.rs"]
mod golden;
#[path = "it/python.rs"]
mod python;
#[path = "it/reading.rs"]
mod reading;
#[path = "it/warehouse.rs"]
mod warehouse;
