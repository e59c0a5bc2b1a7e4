//! What the tests of the whole stand on: a place to work in, a small data set, SQL run in process, and the program.
//!
//! ```text
//!   all.rs ─► arrows, house        the repository itself
//!          ─► slt, docs_sql        SQL in process: Database ─► Coordinator
//!          ─► cli, bad_input, …    the program: Program ─► corpusmill …
//!          ─► interop, tweets      other readers of a corpus, real posts
//! ```
//! To add a test of SQL, add a file to `slt/`; to add one of the program, a function in `all/`, which is one binary.

mod azure;
mod database;
mod ffmpeg;
mod namespaces;
mod place;
mod postgres;
mod program;
mod s3;
mod sandbox;

pub use azure::Azurite;
pub use database::{Answer, Database, run_on, without_paths};
pub use ffmpeg::{ffmpeg, has_ffmpeg};
pub use namespaces::Namespaces;
pub use place::{Place, dataset, minilm, not_run_here, python, python_with_package, repository, shared};
pub use postgres::{PASSWORD, Postgres};
pub use program::{Ended, Program, program};
pub use s3::S3;
pub use sandbox::Sandbox;
