//! What a corpus says about its runs, in `WITH (…)`.

use std::time::Duration;

use crate::error::{CoordinatorError, Result};

/// Options that a schedule understands.
pub(crate) const OPTIONS: [&str; 7] = [
    "catchup",
    "overlap",
    "retries",
    "retry_after",
    "start_deadline",
    "suspend_after",
    "timeout",
];

/// What happens to moments that passed while nobody led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Catchup {
    /// They are skipped.
    None,
    /// The newest is run.
    Latest,
    /// All are run, in order.
    All,
}

/// What happens when a moment comes while a run before it is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// It is skipped.
    Skip,
    /// It waits.
    Queue,
    /// It takes the place of the one before, which is stopped.
    Replace,
}

/// How runs are started, tried again and given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) catchup: Catchup,
    pub(crate) overlap: Overlap,
    /// Times that a run is tried again after a transient error.
    pub(crate) retries: u32,
    /// Pause before the first of them; each later one is twice as long, an hour at most.
    pub(crate) retry_after: Duration,
    /// A run that could not start so long after its moment is skipped.
    pub(crate) start_deadline: Option<Duration>,
    /// So many failed runs in a row suspend the schedule; 0 never does.
    pub(crate) suspend_after: u32,
    /// A run that takes longer is stopped, and has failed.
    pub(crate) timeout: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            catchup: Catchup::Latest,
            overlap: Overlap::Skip,
            retries: 3,
            retry_after: Duration::from_secs(30),
            start_deadline: None,
            suspend_after: 0,
            timeout: None,
        }
    }
}

impl Policy {
    /// Reads the options of a corpus that are about its schedule.
    ///
    /// # Errors
    /// [`CoordinatorError::Invalid`] for a value that means nothing: says what does.
    pub(crate) fn parse(corpus: &str, options: &[(String, String)]) -> Result<Self> {
        let mut policy = Self::default();
        for (key, value) in options {
            let wrong = |wanted: &str| {
                CoordinatorError::Invalid(format!("corpus {corpus}: option {key} = '{value}' must be {wanted}"))
            };
            let time = || duration(value).ok_or_else(|| wrong("a time, such as '30 minutes' or '2 hours'"));
            let number = || value.trim().parse().map_err(|_| wrong("a whole number"));
            match key.as_str() {
                "catchup" => {
                    policy.catchup = match value.to_ascii_lowercase().as_str() {
                        "none" => Catchup::None,
                        "latest" => Catchup::Latest,
                        "all" => Catchup::All,
                        _ => return Err(wrong("none, latest or all")),
                    }
                }
                "overlap" => {
                    policy.overlap = match value.to_ascii_lowercase().as_str() {
                        "skip" => Overlap::Skip,
                        "queue" => Overlap::Queue,
                        "replace" => Overlap::Replace,
                        _ => return Err(wrong("skip, queue or replace")),
                    }
                }
                "retries" => policy.retries = number()?,
                "suspend_after" => policy.suspend_after = number()?,
                "retry_after" => policy.retry_after = time()?,
                "start_deadline" => policy.start_deadline = Some(time()?),
                "timeout" => policy.timeout = Some(time()?),
                _ => {}
            }
        }
        Ok(policy)
    }

    /// Pause before a run is tried again that was started `attempts` times.
    pub(crate) fn pause(&self, attempts: u32) -> Duration {
        let doubled = self.retry_after.saturating_mul(1 << attempts.saturating_sub(1).min(16));
        doubled.min(Duration::from_secs(3_600).max(self.retry_after))
    }
}

/// Reads `30 minutes`, `2 hours`, `45 s`.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let count: u64 = text[..digits].parse().ok()?;
    let seconds = match text[digits..].trim() {
        "s" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "week" | "weeks" => 604_800,
        _ => return None,
    };
    count.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Policy> {
        let options: Vec<_> = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Policy::parse("c", &options)
    }

    #[test]
    fn options_are_read_and_what_means_nothing_is_said() {
        let policy = parse(&[
            ("catchup", "all"),
            ("overlap", "REPLACE"),
            ("timeout", "90 minutes"),
            ("shards", "4"),
        ]);
        let policy = policy.unwrap();
        assert_eq!((policy.catchup, policy.overlap), (Catchup::All, Overlap::Replace));
        assert_eq!(policy.timeout, Some(Duration::from_secs(5_400)));
        for (key, value, told) in [
            ("catchup", "some", "none, latest or all"),
            ("overlap", "stop", "skip, queue or replace"),
            ("timeout", "soon", "'2 hours'"),
            ("retries", "-1", "a whole number"),
        ] {
            assert!(parse(&[(key, value)]).unwrap_err().to_string().contains(told), "{key}");
        }
    }

    #[test]
    fn pauses_double_up_to_an_hour() {
        let policy = Policy::default();
        let pauses: Vec<u64> = (1..=9).map(|n| policy.pause(n).as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
    }
}
