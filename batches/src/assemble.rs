//! From a step of the plan to a batch: locate rows, load their blocks, copy runs of bytes.
//!
//! ```text
//!  plan.step(s).rank(r, w) ─▶ pieces ─▶ (block, row) of each ─▶ blocks ─┬─▶ tokens.rs   input_ids, masks, bounds
//!                                                                       └─▶ columns.rs  one array a column
//! ```
//! Work and allocations are per batch and per block; a row costs a table lookup and a memcpy. To add a field, compute
//! it in `tokens.rs` and list it in `batch.rs`.

pub(crate) mod columns;
pub(crate) mod tokens;

use std::sync::{Arc, Mutex};

use corpusmill_stream::{Piece, StepPlan};

use crate::batch::{BatchData, FieldSet};
use crate::blocks::{BlockId, DecodedBlock};
use crate::error::{BatchError, Result};
use crate::plan::OpenPlan;
use crate::prefetch::Produce;
use crate::values::{SlabPool, Values};

/// Rows and columns of the token fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Packs or samples.
    pub rows: usize,
    /// Tokens of a row, padding included.
    pub width: usize,
}

/// The blocks of a step; `None` for those whose rows arrive as mask.
pub(crate) type Blocks = Vec<Option<Arc<DecodedBlock>>>;

/// Where a row of the batch is: which of the step's blocks (none: masked), and the row in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowPlace {
    pub block: Option<u32>,
    pub row: u32,
}

/// The documents (or samples) of a batch, a place in each vector for each.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// The row of the token fields that holds it.
    pub pack: Vec<i32>,
    /// Its number in that row.
    pub number: Vec<i32>,
    /// Where it begins in the row.
    pub start: Vec<i32>,
    /// Tokens of it in this batch.
    pub length: Vec<i32>,
    /// Its first token here: above 0 for later pieces of a split document.
    pub offset: Vec<i32>,
    /// Position of its source in the plan.
    pub source: Vec<i32>,
    /// Its slot in the version.
    pub slot: Vec<i64>,
    /// 1, or 0 for a row that arrives as mask.
    pub delivered: Vec<u8>,
}

impl Documents {
    fn of(step: &StepPlan, is_masked: impl Fn(u32, u64) -> bool) -> Self {
        let mut docs = Self::default();
        for (pack, pieces) in step.packs().enumerate() {
            let mut start = 0i32;
            for (number, piece) in pieces.iter().enumerate() {
                docs.pack.push(pack as i32);
                docs.number.push(number as i32);
                docs.start.push(start);
                docs.length.push(piece.length as i32);
                docs.offset.push(piece.start as i32);
                docs.source.push(piece.source as i32);
                docs.slot.push(piece.slot as i64);
                docs.delivered
                    .push(u8::from(!piece.masked && !is_masked(piece.source, piece.slot)));
                start += piece.length as i32;
            }
        }
        docs
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pack.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pack.is_empty()
    }

    /// First element and number of elements of a document in a flattened token field.
    pub fn span(&self, doc: usize, layout: Layout) -> (usize, usize) {
        (
            self.pack[doc] as usize * layout.width + self.start[doc] as usize,
            self.length[doc] as usize,
        )
    }

    /// Number of the document in its pack.
    pub fn number_in_pack(&self, doc: usize) -> i32 {
        self.number[doc]
    }
}

/// Makes the batches of one rank.
pub struct Assembler {
    plan: Arc<OpenPlan>,
    rank: u32,
    world: u32,
    fields: FieldSet,
    pool: Arc<SlabPool>,
}

impl Produce for Assembler {
    type Item = BatchData;

    fn produce(&self, _worker: usize, step: u64) -> Result<Option<BatchData>> {
        self.batch(step)
    }

    fn bytes(item: &BatchData) -> usize {
        item.bytes()
    }
}

impl Assembler {
    /// Makes the batches of rank `rank` of `world`, with `fields` made ahead; memory comes from `pool`.
    ///
    /// # Errors
    /// Plan for a world size that does not divide the global batch, or a rank outside of it.
    pub fn new(plan: Arc<OpenPlan>, rank: u32, world: u32, fields: FieldSet, pool: Arc<SlabPool>) -> Result<Self> {
        plan.order.check_world(rank, world)?;
        Ok(Self {
            plan,
            rank,
            world,
            fields,
            pool,
        })
    }

    /// The rank's batch of a step, `None` behind the last.
    ///
    /// # Errors
    /// Those of reading, of row lengths and of damaged blocks.
    pub fn batch(&self, step: u64) -> Result<Option<BatchData>> {
        let Some(whole) = self.plan.enter(step)? else {
            return Ok(None);
        };
        let share = whole.rank(self.rank, self.world)?;
        let mut batch = self.assemble(&share)?;
        batch.notes.extend(self.plan.news(step)?);
        self.fields.make_ahead(&batch)?;
        Ok(Some(batch))
    }

    fn assemble(&self, step: &StepPlan) -> Result<BatchData> {
        let plan = &self.plan;
        let mut documents = Documents::of(step, |source, slot| plan.sources[source as usize].is_masked(slot));
        let (ids, mut places) = locate(plan, &step.pieces, &documents.delivered)?;
        let (blocks, notes) = self.load(&ids)?;
        for (place, delivered) in places.iter_mut().zip(&mut documents.delivered) {
            if place.block.is_some_and(|b| blocks[b as usize].is_none()) {
                place.block = None;
                *delivered = 0;
            }
        }
        let width = plan.width(&documents.length);
        let layout = Layout {
            rows: step.len(),
            width,
        };
        let input_ids = match &plan.projection.tokens {
            None => None,
            Some(_) => Some(self.input_ids(&documents, &places, &blocks, layout)?),
        };
        let mut gathered = Vec::with_capacity(plan.projection.columns.len());
        for (number, (name, data_type)) in plan.column_types.iter().enumerate() {
            gathered.push(columns::gather(name, data_type, number, &places, &blocks)?);
        }
        Ok(BatchData {
            shape: plan.shape.clone(),
            step: step.step,
            layout,
            documents,
            input_ids,
            columns: gathered,
            notes,
            pool: self.pool.clone(),
            made: Mutex::default(),
        })
    }

    fn input_ids(
        &self,
        documents: &Documents,
        places: &[RowPlace],
        blocks: &[Option<Arc<DecodedBlock>>],
        layout: Layout,
    ) -> Result<Arc<Values>> {
        let pad_id = self.plan.options.pad_id;
        if self.plan.shape.wide_ids {
            tokens::input_ids::<i64>(documents, places, blocks, layout, pad_id, &self.pool)
        } else {
            tokens::input_ids::<i32>(documents, places, blocks, layout, pad_id, &self.pool)
        }
    }

    /// Loads blocks; damaged ones are `None` with a note, or an error, as the plan says.
    fn load(&self, ids: &[BlockId]) -> Result<(Blocks, Vec<String>)> {
        let mut blocks = Vec::with_capacity(ids.len());
        let mut notes = Vec::new();
        for result in self.plan.blocks.get(ids) {
            match result {
                Ok(block) => blocks.push(Some(block)),
                Err(e) if self.plan.options.masks_corrupt() && e.is_damage() => {
                    notes.push(format!("{e}; its rows arrive as mask"));
                    blocks.push(None);
                }
                Err(e) if e.is_damage() => {
                    let advice = "on_corrupt=\"mask\" goes on without its rows";
                    return Err(BatchError::Corrupt(format!("{e} ({advice})")));
                }
                Err(e) => return Err(e),
            }
        }
        Ok((blocks, notes))
    }
}

/// Finds the block and row of each piece; the blocks are listed once each. Masked pieces need none.
fn locate(plan: &OpenPlan, pieces: &[Piece], delivered: &[u8]) -> Result<(Vec<BlockId>, Vec<RowPlace>)> {
    let mut found = Vec::with_capacity(pieces.len());
    for (piece, delivered) in pieces.iter().zip(delivered) {
        if *delivered == 0 {
            found.push(None);
            continue;
        }
        let source = &plan.sources[piece.source as usize];
        let (block, row) = source.place_of(piece.slot).ok_or_else(|| {
            BatchError::Plan(format!(
                "slot {} is not in {}, which has {} rows",
                piece.slot, source.name, source.rows
            ))
        })?;
        found.push(Some((
            BlockId {
                source: piece.source,
                block,
            },
            row,
        )));
    }
    let mut ids: Vec<BlockId> = found.iter().flatten().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    let place = |found: &Option<(BlockId, u32)>| match found {
        Some((id, row)) => RowPlace {
            block: ids.binary_search(id).ok().map(|at| at as u32),
            row: *row,
        },
        None => RowPlace { block: None, row: 0 },
    };
    let places = found.iter().map(place).collect();
    Ok((ids, places))
}
