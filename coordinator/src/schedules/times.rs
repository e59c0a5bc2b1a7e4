//! When a schedule is due.

use std::str::FromStr as _;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use corpusmill_sql::Schedule;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::error::{CoordinatorError, Result};

/// The moments of a schedule: a pure function of what is written.
#[derive(Debug, Clone)]
pub(crate) enum Times {
    /// By the clock of a time zone. A time that the clock skips is the first moment behind the gap; one that it shows
    /// twice counts once, the first time, unless the hour is a wildcard.
    Cron(Box<Cron>, Tz),
    /// Whole multiples of so many seconds since 1970, UTC.
    Every(i64),
    /// Whenever what is read has changed.
    OnUpdate,
}

impl Times {
    /// The moments of `schedule`.
    ///
    /// # Errors
    /// [`CoordinatorError::Invalid`] for an expression or a time zone that is none, with the field or the nearest zone.
    pub(crate) fn of(schedule: &Schedule) -> Result<Self> {
        match schedule {
            Schedule::Cron { expression, time_zone } => {
                let zone = Tz::from_str(time_zone).map_err(|_| {
                    let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
                    CoordinatorError::Invalid(format!(
                        "'{time_zone}' is no time zone{}",
                        crate::names::nearest(time_zone, known)
                    ))
                })?;
                let parser = CronParser::builder()
                    .seconds(Seconds::Disallowed)
                    .year(Year::Disallowed);
                let cron = parser.build().parse(expression).map_err(|error| {
                    CoordinatorError::Invalid(format!(
                        "'{expression}' is no cron expression (minute hour day month weekday): {error}"
                    ))
                })?;
                let times = Self::Cron(Box::new(cron), zone);
                if times.next(DateTime::UNIX_EPOCH).is_none() {
                    return Err(CoordinatorError::Invalid(format!(
                        "'{expression}' never comes: there is no such day"
                    )));
                }
                Ok(times)
            }
            Schedule::Every { seconds } => match i64::try_from(*seconds) {
                Ok(seconds) if seconds > 0 => Ok(Self::Every(seconds)),
                _ => Err(CoordinatorError::Invalid(format!(
                    "EVERY {seconds} SECONDS is too far apart"
                ))),
            },
            Schedule::OnUpdate => Ok(Self::OnUpdate),
        }
    }

    /// The first moment after `time`; none for what is not by the clock.
    pub(crate) fn next(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Cron(cron, zone) => {
                let next = cron.find_next_occurrence(&time.with_timezone(zone), false).ok()?;
                Some(next.with_timezone(&Utc)).filter(|next| *next > time)
            }
            Self::Every(seconds) => {
                let next = time
                    .timestamp()
                    .div_euclid(*seconds)
                    .checked_add(1)?
                    .checked_mul(*seconds)?;
                DateTime::from_timestamp(next, 0)
            }
            Self::OnUpdate => None,
        }
    }

    /// The moments after `from` up to `to`, in order, `most` of them at most: the newest.
    pub(crate) fn between(&self, from: DateTime<Utc>, to: DateTime<Utc>, most: usize) -> Vec<DateTime<Utc>> {
        // Nobody was there for longer than a year: the oldest moments are of no use.
        let longest = TimeDelta::try_days(400).unwrap_or_default();
        let mut at = from.max(to - longest);
        let mut found = std::collections::VecDeque::new();
        while let Some(next) = self.next(at).filter(|next| *next <= to) {
            found.push_back(next);
            if found.len() > most {
                found.pop_front();
            }
            at = next;
        }
        found.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(expression: &str, zone: &str) -> Result<Times> {
        Times::of(&Schedule::Cron {
            expression: expression.to_owned(),
            time_zone: zone.to_owned(),
        })
    }

    fn utc(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    fn between(times: &Times, from: &str, to: &str) -> Vec<String> {
        let found = times.between(utc(from), utc(to), 100);
        found
            .iter()
            .map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
            .collect()
    }

    #[test]
    fn a_clock_that_is_put_forward_and_back() {
        let daily = cron("30 2 * * *", "Europe/Berlin").unwrap();
        // 2026-03-29: 02:00 becomes 03:00; half past two is told at the first moment behind the gap.
        assert_eq!(
            between(&daily, "2026-03-27T12:00:00Z", "2026-03-30T12:00:00Z"),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        // 2026-10-25: 03:00 becomes 02:00; half past two comes twice and counts once.
        assert_eq!(
            between(&daily, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z"),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        // Every hour is every hour of real time.
        let hourly = cron("0 * * * *", "Europe/Berlin").unwrap();
        assert_eq!(
            between(&hourly, "2026-03-28T23:00:00Z", "2026-03-29T23:00:00Z").len(),
            24
        );
        assert_eq!(
            between(&hourly, "2026-10-24T22:00:00Z", "2026-10-25T22:00:00Z").len(),
            24
        );
    }

    #[test]
    fn every_so_often_is_the_same_for_everybody() {
        let times = Times::of(&Schedule::Every { seconds: 21_600 }).unwrap();
        assert_eq!(
            between(&times, "2026-01-01T05:59:59Z", "2026-01-01T18:00:00Z"),
            ["2026-01-01T06:00:00Z", "2026-01-01T12:00:00Z", "2026-01-01T18:00:00Z"]
        );
        assert!(between(&times, "2026-01-01T06:00:00Z", "2026-01-01T06:00:00Z").is_empty());
    }

    #[test]
    fn the_newest_are_kept() {
        let times = Times::of(&Schedule::Every { seconds: 60 }).unwrap();
        let found = times.between(utc("2020-01-01T00:00:00Z"), utc("2026-01-01T00:00:30Z"), 3);
        assert_eq!(found.len(), 3);
        assert_eq!(found[2], utc("2026-01-01T00:00:00Z"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let said = |times: Result<Times>| times.unwrap_err().to_string();
        assert!(said(cron("0 2 * * *", "Asia/Singapur")).contains("Asia/Singapore"));
        assert!(said(cron("61 2 * * *", "UTC")).contains("no cron expression"));
        assert!(said(cron("0 2 31 2 *", "UTC")).contains("never comes"));
        assert!(said(cron("0 0 2 * * *", "UTC")).contains("no cron expression"));
    }
}
