//! What the runs of live plans have read: which there are, how far they came, and which of them were handed a row.
//!
//! Nothing is written down for it: the records by which ranks agree on what holds say how far a run came under how many
//! entries, and the order is a pure function of both. Steps that were made ahead and not trained on count as read.

use std::collections::{BTreeMap, HashMap};

use corpusmill_corpus::Warehouse;
use serde::Serialize;

use crate::blocks::ReadThreads;
use crate::error::{BatchError, Result};
use crate::live::{PlanFolder, RunRecord, Span, parse};
use crate::plan::{Appended, OpenPlan, Options, Surroundings};

/// The plans of a warehouse that had runs, or changes.
#[derive(Debug)]
pub struct Ledger {
    warehouse: Warehouse,
    threads: ReadThreads,
}

/// How far a run came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunInfo {
    /// Its name.
    pub run: String,
    /// Hash of its plan.
    pub plan: String,
    /// The corpora with their versions.
    pub corpora: Vec<String>,
    /// Steps that were handed out, from 0; those that were made ahead among them.
    pub steps: u64,
    /// Entries of the plan's log that held, with the steps up to which they did.
    pub entered: Vec<Span>,
    /// When the last group of steps was begun, milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
}

/// A row in a step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sighting {
    /// The run.
    pub run: String,
    /// Hash of its plan.
    pub plan: String,
    /// The corpus with its version.
    pub corpus: String,
    /// The row's key, a text for each column.
    pub key: Vec<String>,
    /// The step.
    pub step: u64,
    /// Whether the row arrived as mask.
    pub is_masked: bool,
}

/// Rows that were taken down in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TakenDown {
    /// Hash of the plan.
    pub plan: String,
    /// Its runs.
    pub runs: Vec<String>,
    /// What its log has got.
    #[serde(flatten)]
    pub appended: Appended,
}

/// A plan over a corpus.
struct KnownPlan {
    hash: String,
    folder: PlanFolder,
    arguments: Options,
}

impl Ledger {
    /// The ledger of a warehouse; nothing is read yet. Its methods are not to be called from an async task.
    ///
    /// # Errors
    /// I/O when the system gives no thread.
    pub fn of(warehouse: Warehouse) -> Result<Self> {
        Ok(Self {
            warehouse,
            threads: ReadThreads::new(1)?,
        })
    }

    /// All runs, by plan and name.
    ///
    /// # Errors
    /// Those of the store.
    pub fn runs(&self) -> Result<Vec<RunInfo>> {
        let mut runs = Vec::new();
        for plan in self.plans(None)? {
            for (run, record) in self.runs_of(&plan)? {
                runs.push(RunInfo {
                    run,
                    plan: plan.hash.clone(),
                    corpora: plan.arguments.corpora.clone(),
                    steps: record.entered.last().map_or(0, |span| span.steps),
                    entered: record.entered,
                    at_ms: record.at_ms,
                });
            }
        }
        Ok(runs)
    }

    /// The steps of all runs that had one of the rows: of `corpus`, a name with or without a version, by key. Goes
    /// through every step of every run over that corpus.
    ///
    /// # Errors
    /// Plan for a key of another form; those of reading, and of the store.
    pub fn saw(&self, corpus: &str, keys: &[Vec<String>]) -> Result<Vec<Sighting>> {
        let mut sightings = Vec::new();
        for plan in self.plans(Some(corpus))? {
            for (run, record) in self.runs_of(&plan)? {
                let open = self.open(&plan, Some(&run))?;
                let rows = self.rows_of(&open, corpus, keys)?;
                if rows.is_empty() {
                    break;
                }
                for step in 0..record.entered.last().map_or(0, |span| span.steps) {
                    let Some(packs) = open.step(step)? else { break };
                    let mut seen = BTreeMap::new();
                    for piece in &packs.pieces {
                        if let Some(key) = rows.get(&(piece.source, piece.slot)) {
                            let is_masked = piece.masked || open.sources[piece.source as usize].is_masked(piece.slot);
                            *seen.entry((piece.source, *key)).or_insert(true) &= is_masked;
                        }
                    }
                    sightings.extend(seen.into_iter().map(|((source, key), is_masked)| Sighting {
                        run: run.clone(),
                        plan: plan.hash.clone(),
                        corpus: open.sources[source as usize].name.clone(),
                        key: keys[key].clone(),
                        step,
                        is_masked,
                    }));
                }
            }
        }
        Ok(sightings)
    }

    /// Takes rows down in every plan over `corpus`, a name with or without a version, that has or had a run.
    ///
    /// # Errors
    /// Plan for a key of another form; those of reading, and of the store.
    pub fn take_down(&self, corpus: &str, keys: &[Vec<String>], note: &str) -> Result<Vec<TakenDown>> {
        let mut taken = Vec::new();
        for plan in self.plans(Some(corpus))? {
            let open = self.open(&plan, None)?;
            let appended = open.mask_keys(keys, &sources_of(&open, corpus), note)?;
            taken.push(TakenDown {
                runs: self.threads.block_on(plan.folder.runs())?,
                plan: plan.hash,
                appended,
            });
        }
        Ok(taken)
    }

    /// The plans over a corpus, or all.
    fn plans(&self, corpus: Option<&str>) -> Result<Vec<KnownPlan>> {
        let is_wanted = |name: &String| corpus.is_none_or(|corpus| is_of(name, corpus));
        self.threads.block_on(async {
            let mut plans = Vec::new();
            for (hash, folder) in PlanFolder::all(&self.warehouse).await? {
                let Some(arguments) = folder.arguments().await? else {
                    continue;
                };
                if arguments.corpora.iter().any(is_wanted) {
                    plans.push(KnownPlan {
                        hash,
                        folder,
                        arguments,
                    });
                }
            }
            Ok::<_, BatchError>(plans)
        })
    }

    /// The last record of each run of a plan.
    fn runs_of(&self, plan: &KnownPlan) -> Result<Vec<(String, RunRecord)>> {
        self.threads.block_on(async {
            let mut runs = Vec::new();
            for run in plan.folder.runs().await? {
                let records = plan.folder.run(&run);
                let Some(last) = records.len(0).await?.checked_sub(1) else {
                    continue;
                };
                if let Some((path, bytes)) = records.get(last).await? {
                    runs.push((run, parse(&path, &bytes)?));
                }
            }
            Ok::<_, BatchError>(runs)
        })
    }

    fn open(&self, plan: &KnownPlan, run: Option<&str>) -> Result<OpenPlan> {
        let options = plan.arguments.clone().within(Surroundings {
            warehouse: self.warehouse.location().to_owned(),
            cache_dir: None,
            cache_bytes: 0,
            memory_bytes: 0,
        });
        let open = OpenPlan::over(&self.warehouse, options.in_run(run.map(str::to_owned)))?;
        if open.order().hash() == plan.hash {
            return Ok(open);
        }
        Err(BatchError::Plan(format!(
            "plan {}: its arguments give plan {} now: the corpora {} are not those that it was made over, or another \
             release made it; restore them, or use that release",
            plan.hash,
            open.order().hash(),
            plan.arguments.corpora.join(", ")
        )))
    }

    /// Rows by source and slot, with the position of their key in `keys`.
    fn rows_of(&self, plan: &OpenPlan, corpus: &str, keys: &[Vec<String>]) -> Result<HashMap<(u32, u64), usize>> {
        let mut rows = HashMap::new();
        for source in sources_of(plan, corpus) {
            let slots = self.threads.block_on(plan.sources[source].slots_of(keys))?;
            for (key, slot) in slots.into_iter().enumerate() {
                rows.extend(slot.map(|slot| ((source as u32, slot), key)));
            }
        }
        Ok(rows)
    }
}

/// Positions of the plan's sources that are versions of a corpus.
fn sources_of(plan: &OpenPlan, corpus: &str) -> Vec<usize> {
    let is_wanted = |at: &usize| is_of(&plan.sources[*at].name, corpus);
    (0..plan.sources.len()).filter(is_wanted).collect()
}

/// Whether `name@version` is meant by `corpus`, a name with or without a version.
fn is_of(name: &str, corpus: &str) -> bool {
    name == corpus || name.split('@').next() == Some(corpus)
}
