//! Changes that reach the running jobs of a plan: entries that are appended to its log, and the log as it can be read.

use std::collections::BTreeMap;

use corpusmill_stream::{Change, MaskReason};
use serde::Serialize;

use crate::error::{BatchError, Result};
use crate::live::{LogRecord, parse};

use super::{OpenPlan, source_named};

/// What was appended to a plan's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Appended {
    /// Numbers of the entries, from 0: one for each source that is concerned.
    pub entries: Vec<u64>,
    /// Rows that they mask.
    pub rows: u64,
    /// Keys that no row of the plan's corpora has.
    pub missing: Vec<Vec<String>>,
}

/// An entry of a plan's log, for a person.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogEntry {
    /// Its number, from 0.
    pub number: u64,
    /// When it was appended, milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// Why, as whoever appended it said.
    pub note: String,
    /// What it changes.
    pub change: Change,
}

impl OpenPlan {
    /// Takes rows down: in every run of the plan they keep their slots and arrive as mask, from the first group on that
    /// no rank has made anything of. `keys` are the texts of the key columns, looked for in `corpus`, or in all.
    ///
    /// # Errors
    /// Plan for a plan without a run, a corpus that it does not have, a key of another form, or if no row has any of the
    /// keys; those of reading and of the store.
    pub fn take_down(&self, keys: &[Vec<String>], corpus: Option<&str>, note: &str) -> Result<Appended> {
        self.check_live()?;
        let sources = match corpus {
            Some(name) => vec![source_named("corpus", name, &self.sources, &self.options.corpora)?],
            None => (0..self.sources.len()).collect(),
        };
        let appended = self.mask_keys(keys, &sources, note)?;
        if appended.entries.is_empty() {
            let place = corpus.map_or_else(|| self.sources().collect::<Vec<_>>().join(", "), str::to_owned);
            return Err(BatchError::Plan(format!(
                "keys: none of the {} keys is in {place}, beginning with ({})",
                keys.len(),
                keys.first().map(|key| key.join(", ")).unwrap_or_default()
            )));
        }
        Ok(appended)
    }

    /// As `take_down`, for a plan with or without a run; nothing is appended where no row has any of the keys.
    pub(crate) fn mask_keys(&self, keys: &[Vec<String>], sources: &[usize], note: &str) -> Result<Appended> {
        let mut is_found = vec![false; keys.len()];
        let mut appended = Appended::default();
        for source in sources {
            let source = &self.sources[*source];
            let slots = self.threads.block_on(source.slots_of(keys))?;
            for (found, slot) in is_found.iter_mut().zip(&slots) {
                *found |= slot.is_some();
            }
            let slots: Vec<u64> = slots.into_iter().flatten().collect();
            if slots.is_empty() {
                continue;
            }
            let change = Change::mask(&source.name, slots, MaskReason::TakenDown);
            self.append(change, note, &mut appended)?;
        }
        let missing = keys.iter().zip(is_found).filter(|(_, found)| !found);
        appended.missing = missing.map(|(key, _)| key.clone()).collect();
        Ok(appended)
    }

    /// Masks the whole blocks that hold `slots` of `corpus`, in every run of the plan: for blocks that cannot be read.
    ///
    /// # Errors
    /// Plan for a plan without a run, a corpus that it does not have, or a slot beyond its version; those of the store.
    pub fn mask_blocks(&self, corpus: &str, slots: &[u64], note: &str) -> Result<Appended> {
        self.check_live()?;
        let source = &self.sources[source_named("corpus", corpus, &self.sources, &self.options.corpora)?];
        let mut rows = Vec::new();
        for slot in slots {
            let (block, _) = source.place_of(*slot).ok_or_else(|| {
                BatchError::Plan(format!(
                    "slots: {slot} is not in {}, which has {} rows",
                    source.name, source.rows
                ))
            })?;
            let place = source.blocks[block as usize];
            rows.extend(place.first_slot..place.first_slot + place.rows);
        }
        if rows.is_empty() {
            return Err(BatchError::Plan("slots: name one slot of each block at least".into()));
        }
        let mut appended = Appended::default();
        self.append(
            Change::mask(&source.name, rows, MaskReason::Corrupt),
            note,
            &mut appended,
        )?;
        Ok(appended)
    }

    /// Draws from the corpora by new weights, in every run of the plan. Returns the number of the entry.
    ///
    /// # Errors
    /// Plan for a plan without a run, a corpus that it does not have, or weights that cannot be; those of the store.
    pub fn reweigh(&self, weights: &BTreeMap<String, f64>, note: &str) -> Result<u64> {
        self.check_live()?;
        let named = weights.iter().map(|(key, weight)| {
            let source = source_named("weights", key, &self.sources, &self.options.corpora)?;
            Ok((self.sources[source].name.clone(), *weight))
        });
        let weights = named.collect::<Result<BTreeMap<_, _>>>()?;
        let mut appended = Appended::default();
        self.append(Change::Weights { weights }, note, &mut appended)?;
        Ok(appended.entries[0])
    }

    /// The log: all entries, or those that hold for a step (of a step over several groups, for the last of them).
    ///
    /// # Errors
    /// Plan for a plan without a run; those of the store, and of row lengths.
    pub fn log(&self, step: Option<u64>) -> Result<Vec<LogEntry>> {
        self.check_live()?;
        let mut records = self.threads.block_on(self.folder.log.after(0))?;
        if let Some(step) = step {
            self.look(step)?;
            let last = self.order.groups_of(step)?.last();
            records.truncate(last.map_or(0, |group| self.order.log().counting(group)) as usize);
        }
        let mut entries = Vec::with_capacity(records.len());
        for (number, (path, bytes)) in (0..).zip(records) {
            let LogRecord { at_ms, note, entry, .. } = parse(&path, &bytes)?;
            let change = entry.change;
            entries.push(LogEntry {
                number,
                at_ms,
                note,
                change,
            });
        }
        Ok(entries)
    }

    /// What is to be logged about a step that was entered: the entries that hold from it on.
    pub(crate) fn news(&self, step: u64) -> Result<Vec<String>> {
        let log = self.order.log();
        let groups = match log.entries() {
            [] => return Ok(Vec::new()),
            _ => self.order.groups_of(step)?,
        };
        let mut news = Vec::new();
        for (number, entry) in log.entries().iter().enumerate() {
            let from = log.effective(number);
            // A step may begin in the middle of its first group.
            if groups.contains(&from) && (from > groups.start || self.order.state(step)?.pack == 0) {
                news.push(format!(
                    "entry {number} of the plan's log holds from step {step} on: {}",
                    in_words(&entry.change)
                ));
            }
        }
        Ok(news)
    }

    fn append(&self, change: Change, note: &str, appended: &mut Appended) -> Result<()> {
        self.order.check(&change)?;
        if let Change::Mask { slots, .. } = &change {
            appended.rows += slots.iter().map(|run| run.end - run.start).sum::<u64>();
        }
        let arguments = self.options.portable(self.sources().map(str::to_owned).collect());
        let number = self.threads.block_on(async {
            self.folder.describe(arguments).await?;
            self.folder.append(change, note).await
        })?;
        appended.entries.push(number);
        Ok(())
    }

    fn check_live(&self) -> Result<()> {
        if self.live.is_some() {
            return Ok(());
        }
        Err(BatchError::Plan(
            "run: this plan follows no log, so that nothing of it changes: make it with run=\"NAME\", the same on all ranks".into(),
        ))
    }
}

fn in_words(change: &Change) -> String {
    match change {
        Change::Mask { source, slots, reason } => {
            let rows: u64 = slots.iter().map(|run| run.end - run.start).sum();
            let why = match reason {
                MaskReason::TakenDown => "were taken down",
                MaskReason::Erased => "were erased",
                MaskReason::Corrupt => "are damaged",
            };
            format!("{rows} rows of {source} {why}, and arrive as mask")
        }
        Change::Weights { weights } => format!("the weights are {weights:?}"),
    }
}
