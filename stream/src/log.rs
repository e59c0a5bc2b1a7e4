//! The log beside a plan: what changes in a running job, and from which group on.
//!
//! Every rank must see the same change at the same group, though they run ahead of each other. So a change names
//! the first group it may hold for, and whoever enters a group first fixes how many entries hold for it:
//! ```text
//!  entries   0        1              2                    appended only
//!  group     ≥ 5      ≥ 9            ≥ 9                  as asked for
//!  entered   group 12 was entered with a length of 2  →   entry 2 holds from group 13 on
//! ```
//! The loader keeps the entries beside the plan, and fixes a length with a conditional put; [`Log::enter`] records
//! the outcome. What an entry does follows from entries and lengths alone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::{SourceSpec, check_weights};

/// The append-only log of one plan, and how many of its entries hold for the groups that were entered. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    plan: String,
    entries: Vec<Arc<Entry>>,
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
        /// The rows, as runs of slots of its version.
        slots: Vec<Range<u64>>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entered {
    length: u64,
    group: u64,
}

impl Change {
    /// Masks rows of a source, given as slots in any order.
    #[must_use]
    pub fn mask(source: impl Into<String>, slots: impl IntoIterator<Item = u64>, reason: MaskReason) -> Self {
        let mut sorted: Vec<u64> = slots.into_iter().collect();
        sorted.sort_unstable();
        let mut runs: Vec<Range<u64>> = Vec::new();
        for slot in sorted {
            match runs.last_mut() {
                Some(run) if slot <= run.end => run.end = run.end.max(slot.saturating_add(1)),
                _ => runs.push(slot..slot.saturating_add(1)),
            }
        }
        let source = source.into();
        Self::Mask {
            source,
            slots: runs,
            reason,
        }
    }
}

impl Log {
    /// Starts the log of the plan with hash `plan`.
    #[must_use]
    pub fn new(plan: impl Into<String>) -> Self {
        Self {
            plan: plan.into(),
            entries: Vec::new(),
            entered: Vec::new(),
        }
    }

    /// The hash of the plan that the log belongs to.
    #[must_use]
    pub fn plan(&self) -> &str {
        &self.plan
    }

    /// The entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// The highest group that was entered; `None` before the first.
    #[must_use]
    pub fn entered(&self) -> Option<u64> {
        self.entered.last().map(|e| e.group)
    }

    /// Adds an entry that somebody else appended.
    pub fn push(&mut self, entry: Entry) {
        self.entries.push(Arc::new(entry));
    }

    /// Appends a change that holds from `not_before` on, or from the first group that nobody has entered, whichever
    /// is later. Returns that group.
    pub fn append(&mut self, change: Change, not_before: u64) -> u64 {
        let group = not_before.max(self.entered().map_or(0, |g| g.saturating_add(1)));
        self.push(Entry { group, change });
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

    /// How many entries hold for `group`: what was fixed, or all that are known while nobody has entered it.
    #[must_use]
    pub fn counting(&self, group: u64) -> u64 {
        self.length_of(group).unwrap_or(self.entries.len() as u64)
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

    /// Says whether the entries of `other`, a later state of this log, do what those of this one do.
    pub(crate) fn does_the_same_as(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && (0..self.entries.len()).all(|i| self.effective(i) == other.effective(i))
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
                match slots.iter().find(|run| run.is_empty() || run.end > found.slots) {
                    None => Ok(()),
                    Some(run) => {
                        let slot = run.end.saturating_sub(1).max(run.start);
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
    /// Runs of slots, ascending and apart from each other, each with the first group that it is masked in.
    by_source: Vec<Vec<(Range<u64>, u64)>>,
    any: bool,
}

impl Masks {
    pub(crate) fn new(log: &Log, sources: &[SourceSpec]) -> Self {
        let mut asked = vec![Vec::new(); sources.len()];
        for (i, entry) in log.entries.iter().enumerate() {
            if let Change::Mask { source, slots, .. } = &entry.change
                && let Some(at) = sources.iter().position(|s| &s.name == source)
            {
                let group = log.effective(i);
                asked[at].extend(slots.iter().map(|run| (group, run.clone())));
            }
        }
        let by_source: Vec<_> = asked.into_iter().map(apart).collect();
        let any = by_source.iter().any(|m| !m.is_empty());
        Self { by_source, any }
    }

    /// Says whether there is any mask at all.
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    pub(crate) fn covers(&self, source: u32, slot: u64, group: u64) -> bool {
        let masks = &self.by_source[source as usize];
        let at = masks.partition_point(|(run, _)| run.end <= slot);
        masks
            .get(at)
            .is_some_and(|(run, from)| run.start <= slot && *from <= group)
    }
}

/// Cuts runs so that none overlap: a slot keeps the earliest group.
fn apart(mut asked: Vec<(u64, Range<u64>)>) -> Vec<(Range<u64>, u64)> {
    asked.sort_by_key(|(group, run)| (*group, run.start));
    let mut kept: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (group, run) in asked {
        let before = kept.range(..run.start).next_back().map_or(0, |(_, (end, _))| *end);
        let mut at = run.start.max(before);
        let inside: Vec<(u64, u64)> = kept
            .range(run.clone())
            .map(|(start, (end, _))| (*start, *end))
            .collect();
        for (start, end) in inside {
            if at < start {
                kept.insert(at, (start, group));
            }
            at = at.max(end);
        }
        if at < run.end {
            kept.insert(at, (run.end, group));
        }
    }
    kept.into_iter()
        .map(|(start, (end, group))| (start..end, group))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(slot: u64) -> Change {
        Change::mask("a", [slot], MaskReason::TakenDown)
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
        assert_eq!([4, 6, 7].map(|g| log.counting(g)), [1, 1, 2]);
    }

    #[test]
    fn overlapping_masks_keep_the_earliest_group_of_a_slot() {
        let mut log = Log::new("p");
        let runs: [(u64, &[u64]); 4] = [(6, &[3, 4, 5, 6, 7]), (2, &[5, 6]), (4, &[9, 6, 7, 8, 1]), (0, &[12])];
        for (group, slots) in runs {
            log.append(Change::mask("a", slots.iter().copied(), MaskReason::Corrupt), group);
        }
        let masks = Masks::new(&log, &[SourceSpec::new("a", "c", 0, 20)]);
        for slot in 0..20 {
            let asked = runs
                .iter()
                .filter(|(_, slots)| slots.contains(&slot))
                .map(|(group, _)| *group);
            let from = asked.min();
            for group in 0..9 {
                let expected = from.is_some_and(|from| from <= group);
                assert_eq!(masks.covers(0, slot, group), expected, "slot {slot} in group {group}");
            }
        }
    }

    #[test]
    fn slots_become_runs() {
        let Change::Mask { slots, .. } = Change::mask("a", [7, 3, 4, 9, 4, 5], MaskReason::Erased) else {
            unreachable!("it masks")
        };
        assert_eq!(slots, [3..6, 7..8, 9..10]);
    }
}
