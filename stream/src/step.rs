//! What a plan answers: the packs of a step.

use std::ops::{AddAssign, Range};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A run of tokens of one document: `length` tokens from `start` of row `slot` of source `source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Piece {
    /// The row, as its slot in the version.
    pub slot: u64,
    /// The source, as its position in the plan.
    pub source: u32,
    /// The first token, above 0 only where a long document was split.
    pub start: u32,
    /// How many tokens; 0 only for an empty sample of [`crate::Shape::Fixed`].
    pub length: u32,
    /// Whether the piece keeps its place but must not be trained on (taken down, erased or corrupt).
    pub masked: bool,
}

/// The packs of one step, of all ranks or of one. A pack holds one piece with [`crate::Shape::Fixed`], and
/// pieces of at most `sequence_length` tokens together with [`crate::Shape::Packed`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepPlan {
    /// The step, from 0.
    pub step: u64,
    /// Which packs of the global batch these are: all of them, or a rank's.
    pub share: Range<u32>,
    /// The pieces of all packs, pack after pack.
    pub pieces: Vec<Piece>,
    /// Where each pack ends in `pieces`.
    pub ends: Vec<u32>,
    /// What became of the documents of the whole step, whatever the share.
    pub counts: Counts,
}

/// What became of documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Documents that were delivered, whole or cut; a split one counts in the step of its first piece.
    pub documents: u64,
    /// Those that were split over several packs.
    pub split: u64,
    /// Those whose end was cut off.
    pub truncated: u64,
    /// Documents left out because they are too long. They count in the step with the first pack of their group.
    pub left_out: u64,
    /// Documents left out because they have no token; counted likewise.
    pub empty: u64,
    /// Pieces that were masked.
    pub masked: u64,
    /// Tokens in packs, masked ones too.
    pub tokens: u64,
    /// Packs.
    pub packs: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.documents += other.documents;
        self.split += other.split;
        self.truncated += other.truncated;
        self.left_out += other.left_out;
        self.empty += other.empty;
        self.masked += other.masked;
        self.tokens += other.tokens;
        self.packs += other.packs;
    }
}

impl StepPlan {
    /// How many packs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Says whether there is no pack: a rank without a share in a last partial batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The pieces of pack `i`.
    ///
    /// # Panics
    /// If `i` is not below [`StepPlan::len`].
    #[must_use]
    pub fn pack(&self, i: usize) -> &[Piece] {
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.pieces[start..self.ends[i] as usize]
    }

    /// The pieces of each pack.
    pub fn packs(&self) -> impl ExactSizeIterator<Item = &[Piece]> {
        (0..self.len()).map(|i| self.pack(i))
    }

    /// The packs that `rank` of `world` gets of this global batch: a contiguous share.
    ///
    /// # Errors
    /// [`Error::World`] if there is no such rank.
    pub fn rank(&self, rank: u32, world: u32) -> Result<Self> {
        if rank >= world {
            let message = format!("ranks of a world of {world} are 0 to {}", world.saturating_sub(1));
            return Err(Error::World { rank, world, message });
        }
        let packs = self.len() as u64;
        let bound = |rank: u32| (u64::from(rank) * packs / u64::from(world)) as usize;
        let (first, last) = (bound(rank), bound(rank + 1));
        let start = first.checked_sub(1).map_or(0, |before| self.ends[before]);
        let ends: Vec<u32> = self.ends[first..last].iter().map(|end| end - start).collect();
        let pieces = self.pieces[start as usize..][..ends.last().map_or(0, |&end| end as usize)].to_vec();
        let share = self.share.start + first as u32..self.share.start + last as u32;
        Ok(Self {
            step: self.step,
            share,
            pieces,
            ends,
            counts: self.counts,
        })
    }
}
