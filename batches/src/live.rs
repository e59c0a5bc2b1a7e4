//! Live plans: a run follows the log that lies beside its plan.
//!
//! ```text
//!  take_down, reweigh ─▶ log/0.json, log/1.json, …             conditional puts: appended only
//!                             │ read when a group is entered
//!  rank: step ─▶ groups ─▶ enter ─▶ runs/RUN/N.json            the first rank fixes how many entries hold, the others read
//!                             └──▶ stream::Log ─▶ order        a pure function again
//! ```
//! Steps are entered when they are made ahead, so a change holds from a group on that no rank has made anything of. The
//! records of a run are numbered, so whoever writes the next has seen the last, and no two can contradict each other; they
//! are the ledger too ([`Ledger`](crate::Ledger)). A plan without a run reads and writes none of this.

mod chain;
mod folder;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corpusmill_stream::{Log, Plan as Order, State};

use crate::blocks::ReadThreads;
use crate::error::{BatchError, Result};
use crate::plan::Options;

use chain::Chain;
pub use folder::Span;
pub(crate) use folder::{LogRecord, PlanFolder, RunRecord, parse};

/// A run of a plan, as one process sees it.
pub(crate) struct Live {
    run: String,
    folder: PlanFolder,
    records: Chain,
    /// What other processes need to open the plan.
    arguments: Options,
    threads: Arc<ReadThreads>,
    /// Held while the store is asked: threads of one process ask once.
    known: Mutex<Known>,
}

/// What was read of the run's records.
#[derive(Default)]
struct Known {
    records: u64,
    entered: Vec<Span>,
}

impl Live {
    /// A run of the plan of `folder`, which `arguments` open; nothing is read yet.
    pub(crate) fn new(run: String, folder: PlanFolder, arguments: Options, threads: Arc<ReadThreads>) -> Self {
        Self {
            records: folder.run(&run),
            run,
            folder,
            arguments,
            threads,
            known: Mutex::default(),
        }
    }

    /// Enters the groups of a step: what holds for them is fixed when this returns, and known here.
    ///
    /// # Errors
    /// Those of the store, and of row lengths.
    pub(crate) fn enter(&self, order: &Order, step: u64) -> Result<()> {
        if has_entered(order, step)? {
            return Ok(());
        }
        let mut known = self.known();
        self.read(order, &mut known)?;
        loop {
            // Behind the end there is nothing to enter.
            let Some(group) = order.groups_of(step)?.last() else {
                return Ok(());
            };
            let log = order.log();
            if log.entered().is_some_and(|entered| entered >= group) {
                return Ok(());
            }
            let span = Span {
                entries: log.entries().len() as u64,
                group,
                steps: order.steps_within(group + 1)?,
            };
            if !self.put(order, &log, span, &mut known)? {
                // Another rank was faster.
                self.read(order, &mut known)?;
            }
        }
    }

    /// Learns what holds for a step, as far as it is fixed, without fixing anything.
    ///
    /// # Errors
    /// As [`Live::enter`].
    pub(crate) fn look(&self, order: &Order, step: u64) -> Result<()> {
        if has_entered(order, step)? {
            return Ok(());
        }
        self.refresh(order)
    }

    /// Learns what others appended and entered.
    ///
    /// # Errors
    /// As [`Live::enter`].
    pub(crate) fn refresh(&self, order: &Order) -> Result<()> {
        self.read(order, &mut self.known())
    }

    /// Checks that a state was saved in this run, or where the log had no part in it.
    ///
    /// # Errors
    /// State, with the fix; those of the store.
    pub(crate) fn check_state(&self, order: &Order, state: &State) -> Result<()> {
        self.refresh(order)?;
        let log = order.log();
        let reached = log.entered().map_or(0, |group| group.saturating_add(1));
        if state.plan == order.hash()
            && (state.log > log.counting(state.group) || state.log > 0 && state.group > reached)
        {
            return Err(BatchError::State(format!(
                "step {} was reached with {} entries of the plan's log, and run `{}` has not been there: make the plan \
                 with the run that the state was saved in",
                state.step, state.log, self.run
            )));
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What was read is replaced as a whole, so a panic elsewhere leaves it usable.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is new. The records come first: the entries that they count are there by then.
    fn read(&self, order: &Order, known: &mut Known) -> Result<()> {
        let mut log = Log::clone(&order.log());
        let first = log.entries().len() as u64;
        let (records, newest, entries) = self.threads.block_on(async {
            let records = self.records.len(known.records).await?;
            let newest = match records > known.records {
                true => self.records.get(records - 1).await?,
                false => None,
            };
            Ok::<_, BatchError>((records, newest, self.folder.log.after(first).await?))
        })?;
        if newest.is_none() && entries.is_empty() {
            return Ok(());
        }
        for (path, bytes) in entries {
            log.push(parse::<LogRecord>(&path, &bytes)?.entry);
        }
        let entered = match newest {
            Some((path, bytes)) => parse::<RunRecord>(&path, &bytes)?.entered,
            None => known.entered.clone(),
        };
        for span in &entered {
            log.enter(span.group, span.entries)?;
        }
        order.set_log(log)?;
        *known = Known { records, entered };
        Ok(())
    }

    /// Writes the next record. Says whether it is this one.
    fn put(&self, order: &Order, log: &Log, span: Span, known: &mut Known) -> Result<bool> {
        let mut entered = known.entered.clone();
        match entered.last_mut() {
            Some(last) if last.entries == span.entries => *last = span,
            _ => entered.push(span),
        }
        let record = RunRecord::new(entered.clone());
        let is_first = known.records == 0;
        let is_mine = self.threads.block_on(async {
            if is_first {
                self.folder.describe(self.arguments.clone()).await?;
            }
            self.records.put(known.records, folder::text(&record)).await
        })?;
        if is_mine {
            let mut log = log.clone();
            log.enter(span.group, span.entries)?;
            order.set_log(log)?;
            *known = Known {
                records: known.records + 1,
                entered,
            };
        }
        Ok(is_mine)
    }
}

fn has_entered(order: &Order, step: u64) -> Result<bool> {
    let last = order.groups_of(step)?.last();
    Ok(last.is_some_and(|last| order.log().entered().is_some_and(|entered| entered >= last)))
}

#[cfg(test)]
mod tests;
