//! Relations over files: external tables, Delta tables, corpora, and what is said when a file is bad.
//!
//! To add a format: give it a `FileFormat` of the engine and an arm in `external.rs`.

mod delta;
mod diagnose;
mod external;
mod files;
pub(crate) mod location;
pub(crate) mod stores;

pub use files::{DataFile, FileTable};

pub(crate) use diagnose::diagnose;
pub(crate) use external::open_external_table;
