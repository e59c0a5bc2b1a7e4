//! The plan: steps, states and the log over one specification.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::group::Group;
use crate::index::GroupIndex;
use crate::lengths::Lengths;
use crate::log::{Change, Log, Masks};
use crate::mix::Arrangement;
use crate::schedule;
use crate::spec::{LastBatch, Passes, PlanSpec, Shape};
use crate::state::{self, State};
use crate::step::StepPlan;
use crate::strata::{SourceRows, Stratum};

mod groups;

/// Turns and packs that a plan can reach; steps beyond are the same as this.
const TURNS_MAX: u64 = 1 << 60;

/// The order of samples of one job: [`Plan::step`] is a pure function of the specification, the lengths and the
/// log. What is kept inside (the group index, the last groups) saves time and changes nothing.
///
/// All methods may be called from several threads; they take turns.
pub struct Plan {
    spec: PlanSpec,
    hash: String,
    strata: Vec<Stratum>,
    lengths: Arc<dyn Lengths>,
    memory: Mutex<Memory>,
}

struct Memory {
    log: Arc<Log>,
    masks: Masks,
    arrangement: Arrangement,
    index: GroupIndex,
    groups: Vec<(u64, Arc<Group>)>,
    /// Groups without a pack at the end of the index.
    barren: u64,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("hash", &self.hash)
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// Makes a plan over whole sources: none is filtered or balanced.
    ///
    /// # Errors
    /// As [`Plan::with_rows`].
    pub fn new(spec: PlanSpec, lengths: Arc<dyn Lengths>) -> Result<Self> {
        let rows = vec![SourceRows::All; spec.sources.len()];
        Self::with_rows(spec, lengths, rows)
    }

    /// Makes a plan over `rows` (one entry per source): what filters and classes of the sources leave.
    ///
    /// # Errors
    /// [`Error::Spec`] naming the field that is wrong; [`Error::Rows`] if `rows` are not what the specification
    /// was made for.
    pub fn with_rows(spec: PlanSpec, lengths: Arc<dyn Lengths>, rows: Vec<SourceRows>) -> Result<Self> {
        spec.validate()?;
        let strata = Stratum::of_plan(&spec, rows)?;
        let hash = spec.hash();
        let log = Log::new(&hash);
        let arrangement = schedule::arrange(&spec, &strata, &log, &[])?;
        let memory = Memory {
            masks: Masks::new(&log, &spec.sources),
            log: Arc::new(log),
            arrangement,
            index: GroupIndex::new(),
            groups: Vec::new(),
            barren: 0,
        };
        Ok(Self {
            spec,
            hash,
            strata,
            lengths,
            memory: Mutex::new(memory),
        })
    }

    /// The specification.
    #[must_use]
    pub fn spec(&self) -> &PlanSpec {
        &self.spec
    }

    /// The identity of the plan, 32 hexadecimal digits: [`PlanSpec::hash`].
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The packs of all ranks in `step`; `None` after the last step of a finite plan.
    ///
    /// # Errors
    /// [`Error::NothingToPack`] if no document of the plan fits a sequence.
    pub fn step(&self, step: u64) -> Result<Option<StepPlan>> {
        let mut memory = self.memory();
        let Some((mut number, mut from)) = self.locate(&mut memory, self.first_pack(step))? else {
            return Ok(None);
        };
        let mut plan = StepPlan {
            step,
            ..StepPlan::default()
        };
        let mut left = self.spec.global_batch;
        while left > 0 {
            let Some(group) = self.group(&mut memory, number)? else {
                break;
            };
            let to = group.len().min(from.saturating_add(left));
            left -= to - from;
            Self::take(&memory.masks, &group, number, from..to, &mut plan);
            if to == group.len() {
                (number, from) = (number + 1, 0);
            }
        }
        if left > 0 && self.spec.last_batch == LastBatch::Drop {
            return Ok(None);
        }
        if left == 0 && self.spec.passes != Passes::Infinite {
            self.count_barren_end(&mut memory, number, from, &mut plan)?;
        }
        plan.share = 0..plan.len() as u32;
        Ok(Some(plan))
    }

    /// The packs of `rank` of `world` in `step`: a contiguous share of the global batch, which is the same for
    /// every world size.
    ///
    /// # Errors
    /// [`Error::World`] if `world` does not divide the global batch or has no such rank; else as [`Plan::step`].
    pub fn rank_slice(&self, step: u64, rank: u32, world: u32) -> Result<Option<StepPlan>> {
        self.check_world(rank, world)?;
        self.step(step)?.map(|plan| plan.rank(rank, world)).transpose()
    }

    /// Checks that the global batch can be shared by `world` ranks, and that `rank` is one of them.
    ///
    /// # Errors
    /// [`Error::World`], naming the nearest world sizes that can.
    pub fn check_world(&self, rank: u32, world: u32) -> Result<()> {
        let batch = self.spec.global_batch;
        if world == 0 || !batch.is_multiple_of(world) {
            let below = (1..=world.min(batch))
                .rev()
                .find(|&w| batch.is_multiple_of(w))
                .unwrap_or(1);
            let above = (world.saturating_add(1)..=batch)
                .find(|&w| batch.is_multiple_of(w))
                .unwrap_or(below);
            let nearest = if below == above {
                below.to_string()
            } else {
                format!("{below} or {above}")
            };
            let message =
                format!("the global batch of {batch} cannot be shared evenly; nearest world sizes: {nearest}");
            return Err(Error::World { rank, world, message });
        }
        if rank >= world {
            return Err(Error::World {
                rank,
                world,
                message: format!("ranks are 0 to {}", world - 1),
            });
        }
        Ok(())
    }

    /// How many steps a finite plan has; `None` for an endless one. Counts all groups on its first call if samples
    /// are packed.
    ///
    /// # Errors
    /// As [`Plan::step`].
    pub fn steps(&self) -> Result<Option<u64>> {
        let mut memory = self.memory();
        let Some(end) = memory.arrangement.end() else {
            return Ok(None);
        };
        let packs = match self.spec.shape {
            Shape::Fixed { .. } => end,
            Shape::Packed { .. } => {
                while !memory.index.is_complete() {
                    self.extend(&mut memory)?;
                }
                memory.index.packs()
            }
        };
        Ok(Some(self.steps_of(packs, true)))
    }

    /// The rows of `step` in the order of their first piece: (position of the source, slot).
    ///
    /// # Errors
    /// As [`Plan::step`].
    pub fn provenance(&self, step: u64) -> Result<Vec<(u32, u64)>> {
        let Some(plan) = self.step(step)? else {
            return Ok(Vec::new());
        };
        let mut seen = std::collections::HashSet::with_capacity(plan.pieces.len());
        Ok(plan
            .pieces
            .iter()
            .map(|p| (p.source, p.slot))
            .filter(|row| seen.insert(*row))
            .collect())
    }

    /// The state of a job that has delivered all steps before `step`.
    ///
    /// # Errors
    /// As [`Plan::step`].
    pub fn state(&self, step: u64) -> Result<State> {
        let mut memory = self.memory();
        let place = self.locate(&mut memory, self.first_pack(step))?;
        let (group, pack) = place.unwrap_or_else(|| (self.group_count(&memory), 0));
        let changes: Vec<u64> = memory.index.changes().iter().copied().filter(|&g| g <= group).collect();
        Ok(State {
            format: State::FORMAT,
            plan: self.hash.clone(),
            parts: state::parts(&self.spec),
            step,
            group,
            pack,
            log: memory.log.counting(group),
            changes: if changes.len() <= state::CHANGES_MAX {
                changes
            } else {
                Vec::new()
            },
        })
    }

    /// Goes on from a state: returns its step, for which nothing before needs to be computed.
    ///
    /// # Errors
    /// [`Error::OtherPlan`] if the state was saved under another plan, saying which parts differ; [`Error::State`]
    /// if the log has fewer entries than it had, or the place of the step is another one.
    pub fn resume(&self, state: &State) -> Result<u64> {
        state.check(&self.spec, &self.hash)?;
        let known = self.log().entries().len() as u64;
        if state.log > known {
            let message = format!(
                "it depends on {} entries of the plan's log, only {known} are known: make the plan of the run that it \
                 was saved in",
                state.log
            );
            return Err(Error::State {
                step: state.step,
                message,
            });
        }
        let refused = |message| Error::State {
            step: state.step,
            message,
        };
        let before = self.first_pack(state.step).checked_sub(u64::from(state.pack));
        let (Some(before), true) = (before, state.group < TURNS_MAX / u64::from(self.spec.group_turns)) else {
            let message = format!("pack {} of group {} cannot be its first", state.pack, state.group);
            return Err(refused(message));
        };
        let mut memory = self.memory();
        // Only where nothing is known yet of that place: what was counted is checked against the state below.
        if matches!(self.spec.shape, Shape::Packed { .. })
            && self.changes_are_known(state, before)
            && memory.index.start(state.group).is_none()
        {
            let index = GroupIndex::at(state.group, before, state.changes.clone());
            self.start_over(&mut memory, index)?;
        }
        let place = self.locate(&mut memory, self.first_pack(state.step))?;
        if let Some(place) = place.filter(|&place| place != (state.group, state.pack)) {
            let message = format!(
                "its first pack is pack {} of group {}, the state says pack {} of group {}: the lengths of the rows \
                 are not those that the state was saved with",
                place.1, place.0, state.pack, state.group
            );
            return Err(refused(message));
        }
        Ok(state.step)
    }

    /// The groups that `step` takes packs of; empty after the end. A rank enters them (see [`Log::enter`]) before it
    /// delivers the step.
    ///
    /// # Errors
    /// As [`Plan::step`].
    pub fn groups_of(&self, step: u64) -> Result<Range<u64>> {
        let mut memory = self.memory();
        let first = self.first_pack(step);
        let Some((group, _)) = self.locate(&mut memory, first)? else {
            return Ok(0..0);
        };
        let last = first + u64::from(self.spec.global_batch) - 1;
        let end = self
            .locate(&mut memory, last)?
            .map_or_else(|| self.group_count(&memory), |(group, _)| group + 1);
        Ok(group..end)
    }

    /// How many steps take packs of the first `groups` groups only.
    ///
    /// # Errors
    /// As [`Plan::step`].
    pub fn steps_within(&self, groups: u64) -> Result<u64> {
        let mut memory = self.memory();
        let (packs, is_end) = self.packs_within(&mut memory, groups)?;
        Ok(self.steps_of(packs, is_end))
    }

    /// The log, as far as it is known.
    #[must_use]
    pub fn log(&self) -> Arc<Log> {
        Arc::clone(&self.memory().log)
    }

    /// Checks that a change can be appended to the log.
    ///
    /// # Errors
    /// [`Error::Log`] or [`Error::Spec`] if it names what is not there, or asks for weights where nothing is mixed.
    pub fn check(&self, change: &Change) -> Result<()> {
        if matches!(change, Change::Weights { .. }) && self.spec.passes == Passes::Once {
            let message = "a pass that delivers every row once has no weights".to_owned();
            return Err(Error::Log { message });
        }
        Log::check(change, &self.spec.sources)
    }

    /// Appends a change to the log: it holds from group `not_before` on, or from the first one that nobody has
    /// entered. Returns that group.
    ///
    /// # Errors
    /// As [`Plan::check`].
    pub fn append(&self, change: Change, not_before: u64) -> Result<u64> {
        self.check(&change)?;
        let mut memory = self.memory();
        let mut log = Log::clone(&memory.log);
        let group = log.append(change, not_before);
        self.replace_log(&mut memory, log)?;
        Ok(group)
    }

    /// Enters the groups of `step`: from now on, changes hold for later groups only. Called by a job of one process;
    /// where ranks share a log, its lengths are agreed on outside and come in by [`Plan::set_log`].
    ///
    /// # Errors
    /// As [`Plan::step`].
    pub fn enter(&self, step: u64) -> Result<()> {
        let Some(last) = self.groups_of(step)?.last() else {
            return Ok(());
        };
        let mut memory = self.memory();
        if memory.log.entered().is_none_or(|entered| entered < last) {
            let mut log = Log::clone(&memory.log);
            log.enter(last, log.entries().len() as u64)?;
            self.replace_log(&mut memory, log)?;
        }
        Ok(())
    }

    /// Takes a newer version of the log: one that begins with what is known.
    ///
    /// # Errors
    /// [`Error::Log`] if it is the log of another plan, or does not begin with this one; as [`Plan::check`] for its
    /// entries.
    pub fn set_log(&self, log: Log) -> Result<()> {
        let mut memory = self.memory();
        if !memory.log.is_prefix_of(&log) {
            let message = if log.plan() == self.hash {
                "what is known of it is missing at its start: a log is only ever appended to".to_owned()
            } else {
                format!("it belongs to plan {}, this is plan {}", log.plan(), self.hash)
            };
            return Err(Error::Log { message });
        }
        let known = memory.log.entries().len();
        log.entries()[known..].iter().try_for_each(|e| self.check(&e.change))?;
        self.replace_log(&mut memory, log)
    }

    /// The group index as bytes, to be kept beside the plan.
    #[must_use]
    pub fn index_to_bytes(&self) -> Vec<u8> {
        let memory = self.memory();
        memory.index.to_bytes(&self.hash, weights_digest(&memory.log))
    }

    /// Takes a group index that was kept. Returns whether it was of use: it must reach as far as what is known, and
    /// the log must not have brought new weights since.
    ///
    /// # Errors
    /// [`Error::Index`] if it is damaged or belongs to another plan, [`Error::Format`] if a newer release wrote it.
    pub fn load_index(&self, bytes: &[u8]) -> Result<bool> {
        let mut memory = self.memory();
        let Some(index) = GroupIndex::from_bytes(bytes, &self.hash, weights_digest(&memory.log))? else {
            return Ok(false);
        };
        let wider =
            index.first_group() <= memory.index.first_group() && index.next_group() >= memory.index.next_group();
        if wider {
            self.start_over(&mut memory, index)?;
        }
        Ok(wider)
    }

    fn replace_log(&self, memory: &mut Memory, log: Log) -> Result<()> {
        if memory.log.does_the_same_as(&log) {
            memory.log = Arc::new(log);
            return Ok(());
        }
        let first_change = schedule::first_difference(&memory.log, &log);
        memory.masks = Masks::new(&log, &self.spec.sources);
        memory.log = Arc::new(log);
        if let Some(group) = first_change {
            memory.index.truncate(group);
            memory.groups.retain(|(number, _)| *number < group);
            memory.barren = 0;
            memory.arrangement = schedule::arrange(&self.spec, &self.strata, &memory.log, memory.index.changes())?;
        }
        Ok(())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // What is kept is replaced as a whole or appended to, so a panic elsewhere leaves it usable.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weights_digest(log: &Log) -> u64 {
    let entries = schedule::logged_weights(log);
    xxh3_64(&serde_json::to_vec(&entries).expect("weights have string keys and no foreign types"))
}
