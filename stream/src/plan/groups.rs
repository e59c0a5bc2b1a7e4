//! Where packs are: the index grows group by group, and the last groups stay laid out.

use std::ops::Range;
use std::sync::Arc;

use super::{Memory, Plan, TURNS_MAX};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::index::GroupIndex;
use crate::log::Masks;
use crate::schedule;
use crate::spec::{LastBatch, Shape};
use crate::state::State;
use crate::step::{Counts, StepPlan};
use crate::strata::Stratum;

/// Groups that are kept laid out: steps seldom end where groups do.
const GROUPS_KEPT: usize = 4;

impl Plan {
    /// The first pack of a step.
    pub(super) fn first_pack(&self, step: u64) -> u64 {
        step.saturating_mul(u64::from(self.spec.global_batch)).min(TURNS_MAX)
    }

    /// Goes on with another index, and the arrangement that its changes stand for.
    pub(super) fn start_over(&self, memory: &mut Memory, index: GroupIndex) -> Result<()> {
        memory.arrangement = schedule::arrange(&self.spec, &self.strata, &memory.log, index.changes())?;
        memory.index = index;
        memory.groups.clear();
        memory.barren = 0;
        Ok(())
    }

    /// Groups of a finite plan.
    pub(super) fn group_count(&self, memory: &Memory) -> u64 {
        memory
            .arrangement
            .end()
            .unwrap_or(0)
            .div_ceil(u64::from(self.spec.group_turns))
    }

    /// Finds the group of a pack, and the place of the pack in it; `None` after the end.
    pub(super) fn locate(&self, memory: &mut Memory, pack: u64) -> Result<Option<(u64, u32)>> {
        let turns = u64::from(self.spec.group_turns);
        if matches!(self.spec.shape, Shape::Fixed { .. }) {
            let inside = memory.arrangement.end().is_none_or(|end| pack < end);
            return Ok(inside.then_some((pack / turns, (pack % turns) as u32)));
        }
        if pack < memory.index.packs_before() {
            self.start_over(memory, GroupIndex::new())?;
        }
        while pack >= memory.index.packs() && !memory.index.is_complete() {
            self.extend(memory)?;
        }
        Ok(memory.index.locate(pack))
    }

    /// Counts the packs of the next group.
    pub(super) fn extend(&self, memory: &mut Memory) -> Result<()> {
        let number = memory.index.next_group();
        let turns = u64::from(self.spec.group_turns);
        if let Some(end) = memory.arrangement.end().filter(|end| *end <= number * turns) {
            if end > 0 && memory.index.packs() == 0 {
                return self.nothing_to_pack(0, end);
            }
            memory.index.set_complete();
            return Ok(());
        }
        let packs = self.lay_out(memory, number)?.len();
        memory.index.push(packs);
        memory.barren = if packs == 0 { memory.barren + 1 } else { 0 };
        let epochs = self.strata.iter().map(Stratum::rows).sum::<u64>().div_ceil(turns);
        if memory.arrangement.end().is_none() && memory.barren > (2 * epochs).max(1024) {
            return self.nothing_to_pack((number + 1 - memory.barren) * turns, memory.barren * turns);
        }
        self.resolve_changes(memory)
    }

    /// No document of `turns` draws from `turn` on fits; other shapes than packed ones have no such draws.
    fn nothing_to_pack(&self, turn: u64, turns: u64) -> Result<()> {
        match self.spec.shape {
            Shape::Packed { sequence_length, .. } => Err(Error::NothingToPack {
                turn,
                turns,
                sequence_length,
            }),
            Shape::Fixed { .. } => Ok(()),
        }
    }

    /// Changes of weights at a step take effect with the first group that starts at or after it.
    fn resolve_changes(&self, memory: &mut Memory) -> Result<()> {
        let known = memory.index.changes().len();
        let packs = memory.index.packs();
        let due = schedule::changes_at_steps(&self.spec).skip(known);
        let reached = due.take_while(|&s| self.first_pack(s) <= packs).count();
        if reached > 0 {
            let group = memory.index.next_group();
            (0..reached).for_each(|_| memory.index.push_change(group));
            memory.arrangement = schedule::arrange(&self.spec, &self.strata, &memory.log, memory.index.changes())?;
        }
        Ok(())
    }

    /// Whether a state with `before` packs before its group carries all changes at steps that lie behind it, so that
    /// nothing before need be counted.
    pub(super) fn changes_are_known(&self, state: &State, before: u64) -> bool {
        let due = schedule::changes_at_steps(&self.spec)
            .take_while(|&s| self.first_pack(s) <= before)
            .count();
        let in_order = state.changes.is_sorted() && state.changes.last().is_none_or(|&g| g <= state.group);
        state.changes.len() == due && in_order
    }

    /// Group `number`; `None` after the end.
    pub(super) fn group(&self, memory: &mut Memory, number: u64) -> Result<Option<Arc<Group>>> {
        if matches!(self.spec.shape, Shape::Packed { .. }) {
            while memory.index.next_group() <= number && !memory.index.is_complete() {
                self.extend(memory)?;
            }
        }
        let turns = u64::from(self.spec.group_turns);
        if memory.arrangement.end().is_some_and(|end| end <= number * turns) {
            return Ok(None);
        }
        self.lay_out(memory, number).map(Some)
    }

    fn lay_out(&self, memory: &mut Memory, number: u64) -> Result<Arc<Group>> {
        if let Some((_, group)) = memory.groups.iter().find(|(n, _)| *n == number) {
            return Ok(Arc::clone(group));
        }
        let group = Group::new(&self.spec, &self.strata, &memory.arrangement, &*self.lengths, number)?;
        let group = Arc::new(group);
        if memory.groups.len() == GROUPS_KEPT {
            memory.groups.remove(0);
        }
        memory.groups.push((number, Arc::clone(&group)));
        Ok(group)
    }

    /// Packs of the first `groups` groups, and whether the plan ends with them.
    pub(super) fn packs_within(&self, memory: &mut Memory, groups: u64) -> Result<(u64, bool)> {
        let turns = groups.saturating_mul(u64::from(self.spec.group_turns));
        let end = memory.arrangement.end();
        let is_end = end.is_some_and(|end| end <= turns);
        if matches!(self.spec.shape, Shape::Fixed { .. }) {
            return Ok((end.map_or(turns, |end| end.min(turns)), is_end));
        }
        if groups < memory.index.first_group() {
            self.start_over(memory, GroupIndex::new())?;
        }
        while memory.index.next_group() < groups && !memory.index.is_complete() {
            self.extend(memory)?;
        }
        let packs = memory.index.start(groups).unwrap_or_else(|| memory.index.packs());
        Ok((packs, is_end))
    }

    /// Steps that so many packs make; at the end of a plan, those that are left over too.
    pub(super) fn steps_of(&self, packs: u64, is_end: bool) -> u64 {
        let batch = u64::from(self.spec.global_batch);
        match self.spec.last_batch {
            LastBatch::Partial if is_end => packs.div_ceil(batch),
            LastBatch::Partial | LastBatch::Drop => packs / batch,
        }
    }

    /// Appends packs of a group to a step.
    pub(super) fn take(masks: &Masks, group: &Group, number: u64, packs: Range<u32>, plan: &mut StepPlan) {
        let (first, last) = (group.start(packs.start), group.start(packs.end));
        let offset = plan.pieces.len() as u32;
        plan.pieces
            .extend_from_slice(&group.pieces[first as usize..last as usize]);
        let ends = &group.ends[packs.start as usize..packs.end as usize];
        plan.ends.extend(ends.iter().map(|end| end - first + offset));
        plan.counts += group.counts(packs.start, packs.end);
        if masks.any() {
            for piece in &mut plan.pieces[offset as usize..] {
                piece.masked = masks.covers(piece.source, piece.slot, number);
                plan.counts.masked += u64::from(piece.masked);
            }
        }
    }

    /// Documents that are left out after the very last pack count with the last step.
    pub(super) fn count_barren_end(
        &self,
        memory: &mut Memory,
        number: u64,
        from: u32,
        plan: &mut StepPlan,
    ) -> Result<()> {
        let mut counts = Counts::default();
        let mut at = number;
        if from > 0 {
            return Ok(());
        }
        while let Some(group) = self.group(memory, at)? {
            if group.len() > 0 {
                return Ok(());
            }
            counts += group.counts(0, 0);
            at += 1;
        }
        plan.counts += counts;
        Ok(())
    }
}
