//! What builds did when, as spans for a collector of OpenTelemetry.
//!
//! ```text
//!  coordinator  build ─► step ─► job ┐ each a Span, given away when it ends
//!  worker                   └► task ┤
//!                                   └─► queue, bounded ─► POST /v1/traces, OTLP as JSON ─► collector
//! ```
//! A trace is a build, and has its id. Ids of spans follow from their names, so that a worker knows the span
//! of its job without being told, and a build that goes on after a restart stays one trace. Without [`Exporter::start`]
//! a span costs nothing; one that the collector does not take in time is lost, and work never waits for it.
//!
//! OTLP: <https://opentelemetry.io/docs/specs/otlp/>, OTLP/HTTP with JSON.

mod error;
mod exporter;
mod http;
mod span;

pub use error::{Result, TracesError};
pub use exporter::Exporter;
pub use span::Span;
