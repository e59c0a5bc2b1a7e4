//! What can go wrong between a text and its rows, and how a person is told.

use std::fmt;

use datafusion::common::DataFusionError;

use crate::source_text::{Position, SqlText};

/// Result of this crate.
pub type Result<T, E = SqlError> = std::result::Result<T, E>;

/// Why a statement could not be parsed, planned or run; each variant is one thing that a caller does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqlError {
    /// The text is not a statement of this dialect: the person edits it.
    #[error("{0}")]
    Syntax(Box<Fault>),
    /// The statement is well formed but names or types do not fit: the person edits it.
    #[error("{0}")]
    Plan(Box<Fault>),
    /// The statement belongs to a later part, or to a feature that this build lacks.
    #[error("{0}")]
    Unsupported(Box<Fault>),
    /// The result would differ from run to run, so that it cannot be a corpus.
    #[error("{0}")]
    NotReproducible(Box<Fault>),
    /// A source file or table is missing or its content is wrong: the person repairs the data or the definition.
    #[error("{0}")]
    Source(Box<Fault>),
    /// A user's Python function failed, with its traceback.
    #[error("{0}")]
    Python(Box<Fault>),
    /// Anything else that the engine reports while it runs.
    #[error("{}", engine_message(.0))]
    Engine(#[source] DataFusionError),
}

impl SqlError {
    /// Says whether the same call may succeed later without a change: only transient I/O.
    pub fn retry(&self) -> bool {
        match self {
            SqlError::Engine(error) => is_transient(error),
            SqlError::Source(fault) => fault.cause.as_ref().is_some_and(is_transient),
            _ => false,
        }
    }

    /// Where in the SQL the fault is, if that is known.
    pub fn position(&self) -> Option<Position> {
        self.fault().and_then(|fault| fault.position)
    }

    /// The fault inside, for all variants but [`SqlError::Engine`].
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            SqlError::Syntax(fault)
            | SqlError::Plan(fault)
            | SqlError::Unsupported(fault)
            | SqlError::NotReproducible(fault)
            | SqlError::Source(fault)
            | SqlError::Python(fault) => Some(fault),
            SqlError::Engine(_) => None,
        }
    }

    /// Says that an object is missing, naming the nearest one that exists.
    pub(crate) fn unknown(
        what: &str,
        name: &str,
        known: impl IntoIterator<Item = String>,
        text: &SqlText,
        position: Option<Position>,
    ) -> SqlError {
        let message = match nearest(name, known) {
            Some(near) => format!("unknown {what} '{name}' (did you mean '{near}'?)"),
            None => format!("unknown {what} '{name}'"),
        };
        SqlError::Plan(Fault::at(text, position, message))
    }
}

/// Every error of this crate crosses the engine as an external error and is found again on the other side.
impl From<SqlError> for DataFusionError {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Engine(error) => error,
            other => DataFusionError::External(Box::new(other)),
        }
    }
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) if inner.is::<SqlError>() => match inner.downcast::<SqlError>() {
                Ok(error) => *error,
                Err(inner) => SqlError::Engine(DataFusionError::External(inner)),
            },
            other => SqlError::Engine(other),
        }
    }
}

/// A fault that a person can act upon: what is wrong, where, and how to put it right.
#[derive(Debug)]
pub struct Fault {
    /// What is wrong, in one sentence without the place.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The SQL that the fault is in, if it is in SQL.
    pub text: Option<SqlText>,
    /// Where in that SQL.
    pub position: Option<Position>,
    /// The engine's error underneath.
    pub cause: Option<DataFusionError>,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Box<Fault> {
        Box::new(Fault {
            message: message.into(),
            help: None,
            text: None,
            position: None,
            cause: None,
        })
    }

    pub(crate) fn at(text: &SqlText, position: Option<Position>, message: impl Into<String>) -> Box<Fault> {
        let mut fault = Fault::new(message);
        fault.text = Some(text.clone());
        fault.position = position;
        fault
    }

    pub(crate) fn with_help(mut self: Box<Self>, help: impl Into<String>) -> Box<Fault> {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn with_cause(mut self: Box<Self>, cause: DataFusionError) -> Box<Fault> {
        self.cause = Some(cause);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.text, self.position) {
            (Some(text), Some(position)) => f.write_str(&text.render(position, &self.message))?,
            (Some(text), None) => {
                write!(f, "{}:{}: {}", text.origin, text.start, self.message)?;
            }
            (None, _) => f.write_str(&self.message)?,
        }
        if let Some(help) = &self.help {
            write!(f, "\nhelp: {help}")?;
        }
        Ok(())
    }
}

/// The candidate that is nearest to `name` by edits, if any is near enough to be what was meant.
pub(crate) fn nearest(name: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    let wanted = name.to_lowercase();
    let allowed = (wanted.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The innermost error of the engine, without the engine's prefixes and appeals to report a bug.
pub(crate) fn engine_message(error: &DataFusionError) -> String {
    if let DataFusionError::Context(context, inner) = error {
        // The engine's contexts name its own rules and passes, which say nothing to a person.
        let _ = context;
        return engine_message(inner);
    }
    match error {
        DataFusionError::Diagnostic(_, inner) => engine_message(inner),
        DataFusionError::Shared(inner) => engine_message(inner),
        DataFusionError::Collection(errors) => errors.iter().map(engine_message).collect::<Vec<_>>().join("; "),
        DataFusionError::External(inner) => inner.to_string(),
        DataFusionError::ObjectStore(inner) => corpusmill_corpus::store_message(inner),
        other => other.message().into_owned(),
    }
}

fn is_transient(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::IoError(error) => !matches!(
            error.kind(),
            std::io::ErrorKind::NotFound
                | std::io::ErrorKind::PermissionDenied
                | std::io::ErrorKind::StorageFull
                | std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::InvalidInput
        ),
        DataFusionError::ObjectStore(error) => corpusmill_corpus::store_retry(error),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_near() {
        let known = ["body", "user_id", "created_at"].map(String::from);
        assert_eq!(nearest("boddy", known.clone()), Some("body".into()));
        assert_eq!(nearest("usr_id", known.clone()), Some("user_id".into()));
        assert_eq!(nearest("label", known), None);
    }

    #[test]
    fn an_error_survives_the_engine() {
        let error = SqlError::Python(Fault::new("f failed").with_help("fix f"));
        let back = SqlError::from(DataFusionError::from(error));
        assert!(matches!(back, SqlError::Python(_)));
        assert_eq!(back.to_string(), "f failed\nhelp: fix f");
        assert!(!back.retry());
    }
}
