//! Health and metrics of a process over HTTP, for a supervisor, Prometheus, or a person with curl.
//!
//! ```text
//!  GET /livez    200 while the process answers at all
//!  GET /readyz   200 when it can do its work, 503 with the reason when it cannot
//!  GET /metrics  numbers, in Prometheus' text format 0.0.4: those of the process, and those of its part
//! ```
//! Nothing is counted here: a part implements [`Watched`], which is asked when somebody asks. Beyond loopback
//! the port speaks TLS. Whether the process lives and can work is told to everybody there, so that the probes of a
//! supervisor need no certificate; its numbers only to those who show a certificate and the token.

mod error;
mod exposition;
mod http;
mod process;

pub use error::{HealthError, Result};
pub use exposition::{Kind, Metric};
pub use http::{Health, View, Watched};
