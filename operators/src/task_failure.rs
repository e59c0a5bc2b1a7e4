//! Why a task failed, in a form that survives an engine that hands on nothing but the text of an error.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io::{Error as IoError, ErrorKind};

use corpusmill_corpus::CorpusError;
use datafusion::error::DataFusionError;
use serde::{Deserialize, Serialize};

use crate::{OperatorError, Violation};

/// Where the text of a failure begins and ends inside whatever the engine writes around it.
const BEGIN: &str = "corpusmill-failure:";
const END: char = ':';
/// Longest message that travels, in bytes.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// What a caller does about a failed task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    /// An operator of ours refused: the data or the statement is wrong.
    Refused,
    /// The disk is full.
    DiskFull,
    /// An operator needs more memory than it may have, and cannot spill, or not so much.
    OutOfMemory,
    /// A machine, a network or a store failed: the same task may succeed when it is run again.
    Transient,
    /// The engine failed, with the same result whenever it is run.
    Engine,
}

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFailure {
    /// What a caller does about it.
    pub cause: FailureCause,
    /// The error and its causes, for a person.
    pub message: String,
    /// The expectation that rows broke, when that is why an operator refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub violation: Option<Violation>,
    /// The object of the warehouse that could not be written, when the disk that holds it is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The worker that ran the task, and its folder for everything that is not in the warehouse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

impl TaskFailure {
    /// Judges an error of the engine.
    #[must_use]
    pub fn of(error: &DataFusionError) -> Self {
        let mut cause = FailureCause::Engine;
        let (mut message, mut violation) = (None, None);
        for link in chain(error) {
            if let Some(operator) = link.downcast_ref::<OperatorError>() {
                cause = if operator.retry() {
                    FailureCause::Transient
                } else {
                    FailureCause::Refused
                };
                message = Some(with_sources(operator));
                if let OperatorError::Violation(broken) = operator {
                    violation = Some(broken.clone());
                }
            } else if let Some(found) = link.downcast_ref::<IoError>().and_then(of_io) {
                cause = found;
            } else if link.downcast_ref::<object_store::Error>().is_some_and(is_transient)
                && cause == FailureCause::Engine
            {
                cause = FailureCause::Transient;
            }
            if cause == FailureCause::DiskFull {
                break;
            }
        }
        if let Some(short) = short_of_memory(error) {
            (cause, message) = (FailureCause::OutOfMemory, Some(short));
        }
        let mut message = message.unwrap_or_else(|| error.strip_backtrace());
        let mut end = message.len().min(MESSAGE_BYTES_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        Self {
            cause,
            message,
            violation,
            object: object_in(error).map(str::to_owned),
            worker: None,
        }
    }

    /// As text of letters and digits, which no quoting and escaping on the way changes.
    #[must_use]
    pub fn to_text(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut text = String::with_capacity(BEGIN.len() + 2 * json.len() + 1);
        text.push_str(BEGIN);
        for byte in json {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push(END);
        text
    }

    /// Finds a failure in the text that an engine made of it.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(BEGIN)?;
        let (hex, _) = rest.split_once(END)?;
        let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(byte).collect();
        serde_json::from_slice(&bytes?).ok()
    }
}

fn byte(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// An error and what caused it, one after the other.
pub fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let now = next?;
        next = match (now.downcast_ref::<DataFusionError>(), now.downcast_ref::<IoError>()) {
            // The engine's `source` skips the outermost boxed error, and so does that of an I/O error.
            (Some(DataFusionError::External(inner)), _) => Some(inner.as_ref()),
            (_, Some(io)) => io.get_ref().map_or_else(|| now.source(), |inner| Some(inner)),
            _ => now.source(),
        };
        Some(now)
    })
}

/// The object that an operator of ours could not read or write, when that is below `error`.
pub fn object_in<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a str> {
    chain(error).find_map(|cause| match cause.downcast_ref::<OperatorError>()? {
        OperatorError::Store { path, .. } | OperatorError::Corpus(CorpusError::Store { path, .. }) => {
            Some(path.as_str())
        }
        _ => None,
    })
}

/// What the engine says of an operator that needs more memory, or spills more, than it may, when that is below `error`.
#[must_use]
pub fn short_of_memory(error: &(dyn StdError + 'static)) -> Option<String> {
    chain(error).find_map(|cause| {
        if let Some(DataFusionError::ResourcesExhausted(text)) = cause.downcast_ref() {
            return Some(text.clone());
        }
        // A writer of spilled rows has no error of the engine's to give.
        let told = cause.downcast_ref::<IoError>()?.to_string();
        is_spill_limit(&told).then_some(told)
    })
}

/// Whether it is the bound on spilled bytes that is reached.
#[must_use]
pub fn is_spill_limit(short: &str) -> bool {
    short.contains("disk space during the spilling process")
}

fn of_io(error: &IoError) -> Option<FailureCause> {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(FailureCause::DiskFull),
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::ConnectionRefused
        | ErrorKind::BrokenPipe
        | ErrorKind::TimedOut
        | ErrorKind::Interrupted
        | ErrorKind::UnexpectedEof => Some(FailureCause::Transient),
        _ => None,
    }
}

fn is_transient(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. })
}

/// What an error says, and what each of its causes adds to that.
///
/// An error of the engine adds nothing as a cause: the error of ours around it has said the same in better words.
#[must_use]
pub fn causes(error: &(dyn StdError + 'static)) -> Vec<String> {
    let mut said = vec![error.to_string().trim_end().to_owned()];
    let mut next = error.source();
    while let Some(source) = next {
        next = source.source();
        let cause = source.to_string().trim_end().to_owned();
        if !source.is::<DataFusionError>() && !said.iter().any(|text| text.contains(&cause)) {
            said.push(cause);
        }
    }
    said
}

/// An error and what caused it, on one line.
#[must_use]
pub fn with_sources(error: &(dyn StdError + 'static)) -> String {
    causes(error).join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_what_an_engine_writes_around_it() {
        let refused = OperatorError::DuplicateKey {
            columns: "id".into(),
            examples: "(id = \"ü\")".into(),
        };
        let failure = TaskFailure::of(&DataFusionError::from(refused).context("while sorting"));
        assert_eq!(failure.cause, FailureCause::Refused);
        let text = format!(
            "Job failed: {:?}",
            DataFusionError::Execution(failure.to_text()).to_string()
        );
        assert_eq!(TaskFailure::find(&text), Some(failure));
        assert_eq!(TaskFailure::find("Job failed: corpusmill-failure:zz:"), None);
        assert_eq!(TaskFailure::find("Job failed"), None);
    }

    #[test]
    fn memory_and_disk_are_told_apart() {
        let short = DataFusionError::ResourcesExhausted("Failed to allocate 4 MB for Sort".into());
        let failure = TaskFailure::of(&short.context("while sorting"));
        assert_eq!(failure.cause, FailureCause::OutOfMemory);
        assert_eq!(failure.message, "Failed to allocate 4 MB for Sort");
        let full = OperatorError::Store {
            path: "warehouse/c/g0-s0001.parquet".into(),
            source: object_store::Error::Generic {
                store: "LocalFileSystem",
                source: Box::new(IoError::from(ErrorKind::StorageFull)),
            },
        };
        let failure = TaskFailure::of(&full.into());
        assert_eq!(failure.cause, FailureCause::DiskFull);
        assert_eq!(failure.object.as_deref(), Some("warehouse/c/g0-s0001.parquet"));
        let failure = TaskFailure::of(&IoError::from(ErrorKind::StorageFull).into());
        assert_eq!((failure.cause, failure.object), (FailureCause::DiskFull, None));
        let bound = "The used disk space during the spilling process has exceeded the allowable limit of 1024.0 KB.";
        let failure = TaskFailure::of(&IoError::other(bound).into());
        assert_eq!(
            (failure.cause, failure.message.as_str()),
            (FailureCause::OutOfMemory, bound)
        );
        assert!(is_spill_limit(&failure.message));
    }

    #[test]
    fn a_broken_expectation_keeps_its_name_on_the_way() {
        let broken = Violation {
            expectation: "labelled".into(),
            rows: 2,
            examples: "(id = 7)".into(),
        };
        let failure = TaskFailure::of(&OperatorError::Violation(broken.clone()).into());
        assert_eq!(failure.cause, FailureCause::Refused);
        let found = TaskFailure::find(&failure.to_text()).unwrap();
        assert_eq!(found.violation, Some(broken));
        // What an older worker sends has no such field.
        let old: TaskFailure = serde_json::from_str(r#"{"cause":"refused","message":"no"}"#).unwrap();
        assert_eq!(old.violation, None);
    }

    #[test]
    fn each_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("statement 1: division by zero")]
        struct Statement(#[source] DataFusionError);
        let engine = DataFusionError::Execution("division by zero".into()).context("while sorting");
        assert_eq!(causes(&Statement(engine)), ["statement 1: division by zero"]);
        let store = object_store::Error::Generic {
            store: "s3",
            source: "503".into(),
        };
        let failed = OperatorError::Store {
            path: "a/b".into(),
            source: store,
        };
        let said = causes(&failed);
        assert!(said.len() == 2 && said[1].contains("503"), "{said:?}");
    }

    #[test]
    fn causes_are_found_below_the_engines_wrappers() {
        let cause = |error: DataFusionError| TaskFailure::of(&error).cause;
        let io = |kind| DataFusionError::IoError(IoError::from(kind));
        assert_eq!(cause(io(ErrorKind::StorageFull)), FailureCause::DiskFull);
        assert_eq!(cause(io(ErrorKind::ConnectionReset)), FailureCause::Transient);
        assert_eq!(cause(io(ErrorKind::NotFound)), FailureCause::Engine);
        assert_eq!(
            cause(DataFusionError::Shared(io(ErrorKind::TimedOut).into())),
            FailureCause::Transient
        );
        let store = |source| object_store::Error::Generic { store: "s3", source };
        let full: Box<dyn StdError + Send + Sync> = Box::new(IoError::from(ErrorKind::StorageFull));
        let full = OperatorError::Store {
            path: "x".into(),
            source: store(full),
        };
        assert_eq!(cause(full.into()), FailureCause::DiskFull);
        let unwell = DataFusionError::ObjectStore(Box::new(store("503".into())));
        assert_eq!(cause(unwell), FailureCause::Transient);
        let lost = OperatorError::Exchange {
            shard: 3,
            detail: "got 7 rows".into(),
        };
        assert_eq!(cause(lost.into()), FailureCause::Transient);
        assert_eq!(cause(DataFusionError::Execution("no".into())), FailureCause::Engine);
    }
}
