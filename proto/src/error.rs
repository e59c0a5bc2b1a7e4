//! What can go wrong between a caller and a coordinator.

use std::error::Error as StdError;

use crate::control::{Failure, FailureKind};

/// The result of this crate.
pub type Result<T, E = RemoteError> = std::result::Result<T, E>;

/// An error of a call to a coordinator, a variant for each thing that a caller does about it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The address of a coordinator is none.
    #[error("`{url}` is no address of a coordinator ({reason}); one looks like http://127.0.0.1:50050")]
    Address {
        /// What was given.
        url: String,
        /// Why it is none.
        reason: String,
    },
    /// Nobody answers there.
    #[error("no coordinator answers at {url} ({reason}); start one with `corpusmill coordinator`{hint}")]
    Unreachable {
        /// Address of the coordinator.
        url: String,
        /// Why, in the system's words.
        reason: String,
        /// What else it may be.
        hint: &'static str,
    },
    /// The coordinator does not do it.
    #[error("coordinator at {url}: {reason}")]
    Refused {
        /// Address of the coordinator.
        url: String,
        /// Why, in its words.
        reason: String,
    },
    /// The connection ended, and the coordinator did not come back in time.
    #[error(
        "the connection to the coordinator at {url} ended ({reason}); run the same command again: it goes on from the last \
         finished step"
    )]
    Lost {
        /// Address of the coordinator.
        url: String,
        /// How it ended.
        reason: String,
    },
    /// A script failed there; the message names its file and line.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// A person stopped the script.
    #[error("stopped; run the same command to go on from the last finished split")]
    Cancelled,
}

impl RemoteError {
    /// Whether the same call may succeed later, unchanged.
    #[must_use]
    pub fn retry(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Cancelled => true,
            Self::Failed(failure) => failure.kind() == FailureKind::Busy,
            Self::Address { .. } | Self::Refused { .. } => false,
        }
    }
}

/// An error with the errors beneath it, on one line.
#[must_use]
pub fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}
