//! Exit codes, and how errors are shown.

use std::error::Error;
use std::io::{ErrorKind, Write};

use corpusmill_coordinator::{CoordinatorError, RemoteKind, causes};

use crate::generate::Stopped;

pub(crate) const DONE: u8 = 0;
pub(crate) const FAILED: u8 = 1;
pub(crate) const EXPECTATION_FAILED: u8 = 3;
pub(crate) const DAMAGED: u8 = 4;
/// `EX_TEMPFAIL` of BSD's sysexits.h.
pub(crate) const BUSY: u8 = 75;
pub(crate) const INTERRUPTED: u8 = 130;

/// The error of `verify` when it found something: the report is on standard output already.
#[derive(Debug, Clone)]
pub(crate) struct Damaged(pub(crate) String);

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Damaged {}

/// Shows an error on standard error, and returns the code that the program ends with.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    if is_broken_pipe(error) {
        // Whoever read our output has what they wanted (`corpusmill … | head`).
        return DONE;
    }
    // Standard error may be closed as well; the exit code still says what happened.
    let _ = write!(std::io::stderr(), "{}", describe(error));
    code(error)
}

/// The error and what its causes add, one a line.
fn describe(error: &anyhow::Error) -> String {
    format!("error: {}\n", causes(error.as_ref()).join("\n  because: "))
}

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<Stopped>() {
        return INTERRUPTED;
    }
    if error.is::<Damaged>() {
        return DAMAGED;
    }
    match error.downcast_ref::<CoordinatorError>().map(CoordinatorError::kind) {
        Some(RemoteKind::Expectation) => EXPECTATION_FAILED,
        Some(RemoteKind::Cancelled) => INTERRUPTED,
        Some(RemoteKind::Busy) => BUSY,
        Some(RemoteKind::Other) | None => FAILED,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let direct = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        direct == Some(ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn causes_are_shown_once() {
        let inner = anyhow!("no such file");
        let shown = describe(
            &inner
                .context("cannot read a.csv: no such file")
                .context("cannot run x.sql"),
        );
        assert_eq!(
            shown,
            "error: cannot run x.sql\n  because: cannot read a.csv: no such file\n"
        );
    }

    #[test]
    fn codes_tell_what_happened() {
        let failed = CoordinatorError::ExpectationFailed {
            corpus: "c".into(),
            build: "b".into(),
            expectation: "enough".into(),
            detail: "count(*) >= 10, saw 3".into(),
        };
        assert_eq!(code(&anyhow::Error::from(failed)), EXPECTATION_FAILED);
        assert_eq!(code(&anyhow::Error::from(CoordinatorError::Cancelled)), INTERRUPTED);
        assert_eq!(code(&anyhow::Error::from(Stopped)), INTERRUPTED);
        let locked = CoordinatorError::Locked {
            home: "h".into(),
            pid: "1".into(),
        };
        assert_eq!(code(&Err::<(), _>(locked).context("run x.sql").unwrap_err()), BUSY);
        assert_eq!(code(&anyhow!("else")), FAILED);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let error = anyhow::Error::from(std::io::Error::from(ErrorKind::BrokenPipe)).context("cannot write");
        assert_eq!(report(&error), DONE);
    }
}
