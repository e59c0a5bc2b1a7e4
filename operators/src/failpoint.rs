//! Named places at which a test may kill or stop the process.
//!
//! `CORPUSMILL_FAILPOINT=name` aborts the process, as `kill -9` would, when it comes to the place `name` for the
//! first time; `name:3` when it comes there for the third time. `stop=name` stops it as `kill -STOP` would, until
//! somebody lets it go on. Without the variable a place costs one atomic load.
//!
//! | name | where |
//! |---|---|
//! | `shard-written` | a shard's files are in storage, its receipt is not |
//! | `split-done` | the receipt of a shard's files is in storage |
//! | `rows-written` | a file of a materialised view is in storage, its receipt is not |
//! | `rows-done` | the receipt of such a file is in storage |
//! | `view-done` | all files of a materialised view are there, the catalogue does not know yet |
//! | `step-done` | all receipts of a step are read, the catalogue does not know yet |
//! | `before-commit` | the manifest is in storage, the Delta commit is not |
//! | `decided` | the catalogue knows that the Delta commit is to be made, it is not in storage |
//! | `after-commit` | the Delta commit is in storage, the catalogue does not know yet |

use std::io::Write as _;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable that arms a place.
pub const VARIABLE: &str = "CORPUSMILL_FAILPOINT";

struct Armed {
    name: String,
    stop: bool,
    left: AtomicU64,
}

fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    ARMED
        .get_or_init(|| std::env::var(VARIABLE).ok().and_then(|text| parse(&text)))
        .as_ref()
}

fn parse(text: &str) -> Option<Armed> {
    let (stop, text) = match text.strip_prefix("stop=") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (name, count.parse().ok()?),
        None => (text, 1),
    };
    (!name.is_empty() && count > 0).then(|| Armed {
        name: name.to_owned(),
        stop,
        left: AtomicU64::new(count),
    })
}

/// Aborts or stops the process if the place `name` is armed and this is the visit that was asked for.
pub fn hit(name: &str) {
    let Some(armed) = armed() else { return };
    if armed.name == name && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
        if armed.stop {
            let _ = writeln!(std::io::stderr(), "{VARIABLE}: stopping at {name}");
            // Returns when somebody sent SIGCONT; where there is no `kill`, nothing is stopped and the test fails.
            let _ = Command::new("kill")
                .args(["-STOP", &std::process::id().to_string()])
                .status();
            return;
        }
        // The process is about to die: nobody is left to report a failed write to.
        let _ = writeln!(std::io::stderr(), "{VARIABLE}: aborting at {name}");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_counts() {
        assert_eq!(
            parse("split-done").map(|a| (a.name, a.left.into_inner())),
            Some(("split-done".into(), 1))
        );
        assert_eq!(
            parse("x:3").map(|a| (a.name, a.left.into_inner())),
            Some(("x".into(), 3))
        );
        assert_eq!(parse("stop=x:2").map(|a| (a.name, a.stop)), Some(("x".into(), true)));
        assert!(parse("").is_none());
        assert!(parse("x:0").is_none());
        assert!(parse("x:many").is_none());
    }
}
