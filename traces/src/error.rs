//! What can go wrong with a collector.

/// The result of this crate.
pub type Result<T, E = TracesError> = std::result::Result<T, E>;

/// An error of the exporter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracesError {
    /// The address of a collector is none.
    #[error(
        "`{endpoint}` is no address of an OpenTelemetry collector ({reason}); one looks like http://127.0.0.1:4318, and one \
         beyond TLS is reached through a collector on this machine"
    )]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// Why it is none.
        reason: String,
    },
    /// The process exports already.
    #[error("this process sends its spans somewhere already")]
    Started,
    /// The collector is not reached.
    #[error("the collector at {address} does not answer: {source}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The collector does not take the spans.
    #[error("the collector at {address} answers {status}")]
    Refused {
        /// Host and port.
        address: String,
        /// Its answer's first line.
        status: String,
        /// It may take them later.
        retry: bool,
    },
}

impl TracesError {
    /// Whether the same spans may be taken later.
    #[must_use]
    pub fn retry(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused { retry: true, .. })
    }
}
