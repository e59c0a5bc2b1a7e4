//! What can go wrong between a plan and its batches.

/// Everything the loader reports, a variant per thing that a trainer does about it.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A plan, filter or option that cannot work as written.
    #[error("{0}")]
    Plan(String),
    /// A corpus, version or warehouse that is not there.
    #[error("{0}")]
    NotFound(String),
    /// A checkpoint that belongs to another plan or cannot be read.
    #[error("{0}")]
    State(String),
    /// Stored bytes that are not what was written.
    #[error("{0}")]
    Corrupt(String),
    /// A loader used in a process forked from the one that made it.
    #[error(
        "this loader was made in process {made}, and is used in process {here} after a fork: threads do not survive \
         a fork. Use num_workers=0 (the loader has threads of its own), or make the Plan and the Loader inside the worker"
    )]
    Fork {
        /// Process id that made the loader.
        made: u32,
        /// Process id that uses it.
        here: u32,
    },
    /// Bytes from a worker that are not a batch of the plan.
    #[error("a batch from a worker cannot be read: {0}")]
    Wire(String),
    /// A fault of the loader itself.
    #[error("step {step}: the loader has a fault, please report it: {message}")]
    Panic {
        /// The step that was being made.
        step: u64,
        /// What the panic said.
        message: String,
    },
    /// Storage that cannot be read just now.
    #[error("{context}: {source}")]
    Io {
        /// What was being read or written.
        context: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The corpus crate's error, other than the cases above.
    #[error(transparent)]
    Corpus(#[from] corpusmill_corpus::CorpusError),
    /// The stream crate's error, other than the cases above.
    #[error(transparent)]
    Stream(#[from] corpusmill_stream::Error),
    /// An Arrow operation that failed on data that the loader was given.
    #[error("{context}: {source}")]
    Arrow {
        /// What was being done, with the column.
        context: String,
        /// Arrow's error.
        #[source]
        source: arrow::error::ArrowError,
    },
}

/// Errors by what a trainer does about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Change the plan or an option.
    Plan,
    /// Name a corpus, version or warehouse that is there.
    NotFound,
    /// Take the checkpoint of this plan.
    State,
    /// Repair the stored bytes, or mask them.
    Corrupt,
    /// Make the loader in the process that uses it.
    Fork,
    /// Look after storage.
    Io,
    /// Report it.
    Other,
}

/// The crate's result.
pub type Result<T, E = BatchError> = std::result::Result<T, E>;

impl BatchError {
    /// Says whether the same call may succeed later without a change: storage that did not answer.
    pub fn retry(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                use std::io::ErrorKind as K;
                matches!(
                    source.kind(),
                    K::Interrupted | K::TimedOut | K::WouldBlock | K::ConnectionReset
                )
            }
            Self::Corpus(e) => e.retry(),
            Self::Stream(e) => e.retry(),
            _ => false,
        }
    }

    /// Says whether stored bytes are damaged or missing: what `on_corrupt` is about.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt(_) => true,
            Self::Corpus(e) => e.is_damage(),
            _ => false,
        }
    }

    /// Wraps an I/O error with what was being done.
    pub fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }

    /// Wraps an Arrow error with what was being done.
    pub fn arrow(context: impl Into<String>) -> impl FnOnce(arrow::error::ArrowError) -> Self {
        let context = context.into();
        move |source| Self::Arrow { context, source }
    }

    /// The message, and those of the errors beneath it that it does not repeat itself.
    pub fn with_causes(&self) -> String {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(e) = cause {
            let text = e.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = e.source();
        }
        message
    }

    /// What a caller is told: the same for an error here and for one that a worker tells over the wire.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        use corpusmill_stream::Error as Stream;
        match self {
            Self::Stream(Stream::Lengths { source, .. }) => {
                source.downcast_ref::<Self>().map_or(ErrorKind::Other, Self::kind)
            }
            Self::Plan(_) => ErrorKind::Plan,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::State(_) => ErrorKind::State,
            Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::Fork { .. } => ErrorKind::Fork,
            Self::Corpus(e) if e.is_damage() => ErrorKind::Corrupt,
            Self::Corpus(corpusmill_corpus::CorpusError::NotFound { .. }) => ErrorKind::NotFound,
            Self::Stream(Stream::OtherPlan { .. } | Stream::State { .. }) => ErrorKind::State,
            Self::Stream(_) => ErrorKind::Plan,
            Self::Io { .. } => ErrorKind::Io,
            Self::Corpus(_) | Self::Arrow { .. } | Self::Wire(_) | Self::Panic { .. } => ErrorKind::Other,
        }
    }
}
