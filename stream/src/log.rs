//! The log beside a plan: what changes in a running job, and from which group on.
//!
//! Every rank must see the same change at the same group, though they run ahead of each other. So a change names
//! the first group it may hold for, and whoever enters a group first fixes how many entries hold for it:
//! ```text
//!  entries   0        1              2                    appended only
//!  group     ≥ 5      ≥ 9            ≥ 9                  as asked for
//!  entered   group 12 was entered with a length of 2  →   entry 2 holds from group 13 on
//! ```
//! The loader stores the log beside the plan, and fixes a length with a conditional put (or asks the
//! coordinator); [`Log::enter`] records the outcome. What an entry does follows from entries and lengths alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::{SourceSpec, check_format, check_weights};

/// The append-only log of one plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    format: u32,
    plan: String,
    entries: Vec<Entry>,
    entered: Vec<Entered>,
}

/// One change and the first group that it was asked to hold for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The first group that the change may hold for.
    pub group: u64,
    /// The change.
    pub change: Change,
}

/// A change that can reach a running job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Rows keep their places and are delivered as masked.
    Mask {
        /// The source, by name.
        source: String,
        /// The rows, as slots of its version.
        slots: Vec<u64>,
        /// Why.
        reason: MaskReason,
    },
    /// New weights of the sources, by name; a source that is not named is not drawn any more.
    Weights {
        /// Relative to each other.
        weights: BTreeMap<String, f64>,
    },
}

/// Why rows are masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskReason {
    /// Somebody asked for them to be used no more.
    TakenDown,
    /// They were erased from the corpus.
    Erased,
    /// Their block does not match its checksum.
    Corrupt,
}

/// The last group that was entered while `length` entries held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entered {
    length: u64,
    group: u64,
}

impl Log {
    /// The format that this release reads and writes.
    pub const FORMAT: u32 = 1;

    /// Starts the log of the plan with hash `plan`.
    #[must_use]
    pub fn new(plan: impl Into<String>) -> Self {
        Self {
            format: Self::FORMAT,
            plan: plan.into(),
            entries: Vec::new(),
            entered: Vec::new(),
        }
    }

    /// Writes the log as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a log has string keys and no foreign types")
    }

    /// Reads what [`Log::to_json`] wrote.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Format`], or [`Error::Log`] if the recorded lengths contradict each other.
    pub fn from_json(text: &str) -> Result<Self> {
        let log: Self = serde_json::from_str(text).map_err(|source| Error::Json {
            what: "a plan log",
            source,
        })?;
        check_format("a plan log", log.format, Self::FORMAT)?;
        let ascending = log
            .entered
            .windows(2)
            .all(|w| w[0].length < w[1].length && w[0].group < w[1].group);
        if !ascending || log.entered.last().is_some_and(|e| e.length > log.entries.len() as u64) {
            return Err(Error::Log {
                message: "the lengths of entered groups contradict the entries".into(),
            });
        }
        Ok(log)
    }

    /// The hash of the plan that the log belongs to.
    #[must_use]
    pub fn plan(&self) -> &str {
        &self.plan
    }

    /// The entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The highest group that was entered; `None` before the first.
    #[must_use]
    pub fn entered(&self) -> Option<u64> {
        self.entered.last().map(|e| e.group)
    }

    /// Appends a change that holds from `not_before` on, or from the first group that nobody has entered, whichever
    /// is later. Returns that group.
    pub fn append(&mut self, change: Change, not_before: u64) -> u64 {
        let group = not_before.max(self.entered().map_or(0, |g| g.saturating_add(1)));
        self.entries.push(Entry { group, change });
        group
    }

    /// Records that `group` is entered with the first `length` entries; groups before it that were not recorded
    /// share that length. Entering again a group that was entered is no change.
    ///
    /// # Errors
    /// [`Error::Log`] if there are not so many entries, or if another length was fixed before.
    pub fn enter(&mut self, group: u64, length: u64) -> Result<()> {
        if length > self.entries.len() as u64 {
            let message = format!(
                "group {group} was entered with {length} entries, but only {} are known: read the log again",
                self.entries.len()
            );
            return Err(Error::Log { message });
        }
        if let Some(fixed) = self.length_of(group) {
            if fixed == length {
                return Ok(());
            }
            let message = format!("group {group} was entered with {fixed} entries, it cannot be entered with {length}");
            return Err(Error::Log { message });
        }
        match self.entered.last_mut() {
            Some(last) if last.length > length => {
                let message = format!(
                    "group {} was entered with {} entries, group {group} cannot be entered with only {length}",
                    last.group, last.length
                );
                return Err(Error::Log { message });
            }
            Some(last) if last.length == length => last.group = group,
            _ => self.entered.push(Entered { length, group }),
        }
        Ok(())
    }

    /// How many entries were fixed for `group`; `None` if nobody has entered it.
    #[must_use]
    pub fn length_of(&self, group: u64) -> Option<u64> {
        self.entered.iter().find(|e| group <= e.group).map(|e| e.length)
    }

    /// The first group that entry `i` holds for.
    #[must_use]
    pub fn effective(&self, i: usize) -> u64 {
        let without = self.entered.iter().rev().find(|e| e.length <= i as u64);
        self.entries[i]
            .group
            .max(without.map_or(0, |e| e.group.saturating_add(1)))
    }

    /// Says whether `other` begins with everything that this log holds.
    pub(crate) fn is_prefix_of(&self, other: &Self) -> bool {
        let lengths_kept = self.entered.iter().all(|e| other.length_of(e.group) == Some(e.length));
        self.plan == other.plan && other.entries.starts_with(&self.entries) && lengths_kept
    }

    /// Checks a change against the sources of a plan.
    pub(crate) fn check(change: &Change, sources: &[SourceSpec]) -> Result<()> {
        match change {
            Change::Weights { weights } => check_weights("log", weights, sources),
            Change::Mask { source, slots, .. } => {
                let Some(found) = sources.iter().find(|s| &s.name == source) else {
                    let names: Vec<_> = sources.iter().map(|s| s.name.as_str()).collect();
                    let message = format!("no source '{source}', there are: {}", names.join(", "));
                    return Err(Error::Log { message });
                };
                match slots.iter().find(|&&slot| slot >= found.slots) {
                    None => Ok(()),
                    Some(slot) => {
                        let message = format!("slot {slot} of '{source}': its version has {} slots", found.slots);
                        Err(Error::Log { message })
                    }
                }
            }
        }
    }
}

/// From which group on a row is masked, by source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Masks {
    by_source: Vec<Vec<(u64, u64)>>,
    any: bool,
}

impl Masks {
    pub(crate) fn new(log: &Log, sources: &[SourceSpec]) -> Self {
        let mut by_source = vec![Vec::new(); sources.len()];
        for (i, entry) in log.entries.iter().enumerate() {
            if let Change::Mask { source, slots, .. } = &entry.change
                && let Some(at) = sources.iter().position(|s| &s.name == source)
            {
                let group = log.effective(i);
                by_source[at].extend(slots.iter().map(|&slot| (slot, group)));
            }
        }
        for masks in &mut by_source {
            masks.sort_unstable();
            masks.dedup_by_key(|(slot, _)| *slot);
        }
        let any = by_source.iter().any(|m| !m.is_empty());
        Self { by_source, any }
    }

    /// Says whether there is any mask at all.
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    pub(crate) fn covers(&self, source: u32, slot: u64, group: u64) -> bool {
        let masks = &self.by_source[source as usize];
        masks
            .binary_search_by_key(&slot, |(slot, _)| *slot)
            .is_ok_and(|at| masks[at].1 <= group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(slot: u64) -> Change {
        Change::Mask {
            source: "a".into(),
            slots: vec![slot],
            reason: MaskReason::TakenDown,
        }
    }

    #[test]
    fn entries_hold_from_a_group_that_nobody_has_entered() {
        let mut log = Log::new("p");
        assert_eq!(log.append(mask(1), 0), 0);
        log.enter(4, 1).unwrap();
        assert_eq!(log.append(mask(2), 2), 5);
        assert_eq!(log.append(mask(3), 9), 9);
        assert_eq!([0, 1, 2].map(|i| log.effective(i)), [0, 5, 9]);
        assert_eq!(log.entered(), Some(4));
    }

    #[test]
    fn an_entry_that_came_too_late_waits() {
        let mut log = Log::new("p");
        log.append(mask(1), 3);
        log.append(mask(2), 3);
        // Another rank entered group 7 before it could see the second entry, and that length was fixed.
        log.enter(7, 1).unwrap();
        assert_eq!([0, 1].map(|i| log.effective(i)), [3, 8]);
        log.enter(8, 2).unwrap();
        log.enter(20, 2).unwrap();
        assert_eq!([0, 1].map(|i| log.effective(i)), [3, 8]);
        assert_eq!(
            [0, 7, 8, 20, 21].map(|g| log.length_of(g)),
            [Some(1), Some(1), Some(2), Some(2), None]
        );
        let masks = Masks::new(&log, &[SourceSpec::new("a", "c", 0, 10)]);
        assert!(!masks.covers(0, 2, 7) && masks.covers(0, 2, 8) && masks.covers(0, 1, 3) && !masks.covers(0, 5, 30));
    }

    #[test]
    fn a_fixed_length_stays() {
        let mut log = Log::new("p");
        log.append(mask(1), 0);
        log.enter(5, 1).unwrap();
        log.enter(5, 1).unwrap();
        log.append(mask(2), 0);
        for (group, length) in [(5, 2), (3, 0), (6, 0), (6, 3)] {
            assert!(
                matches!(log.enter(group, length), Err(Error::Log { .. })),
                "{group} {length}"
            );
        }
        log.enter(6, 1).unwrap();
        assert_eq!(log.effective(1), 7);
        assert_eq!(Log::from_json(&log.to_json()).unwrap(), log);
    }

    #[test]
    fn refuses_what_is_no_log() {
        let good = Log::new("p").to_json();
        assert!(matches!(
            Log::from_json(&good.replace(":1", ":9")),
            Err(Error::Format { found: 9, .. })
        ));
        assert!(matches!(Log::from_json("{}"), Err(Error::Json { .. })));
        let entered = r#""entered":[{"length":1,"group":3}]"#;
        assert!(matches!(
            Log::from_json(&good.replace(r#""entered":[]"#, entered)),
            Err(Error::Log { .. })
        ));
    }
}
