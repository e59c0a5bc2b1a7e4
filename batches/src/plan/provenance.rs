//! What a plan says about steps without making their batches: counts, and the rows with their keys.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::Schema;
use corpusmill_stream::Counts;

use crate::error::{BatchError, Result};
use crate::source::BlockPlace;

use super::OpenPlan;

/// The rows of a step's global batch, in order, and their keys.
#[derive(Debug)]
pub struct RowsOfStep {
    /// Source, slot, and whether the row arrives as mask.
    pub rows: Vec<(u32, u64, bool)>,
    /// Key columns of each source's rows that are not masked; empty where keys were not wanted.
    pub keys: Vec<RecordBatch>,
}

impl OpenPlan {
    /// What became of the documents of the first `steps` steps, or of a finite plan.
    ///
    /// # Errors
    /// Plan for an endless plan without `steps`; those of row lengths.
    pub fn counts(&self, steps: Option<u64>) -> Result<Counts> {
        let end = match steps {
            Some(steps) => steps,
            None => self
                .steps()?
                .ok_or_else(|| BatchError::Plan("counts: an endless plan has no end: say how many steps".into()))?,
        };
        if let Some(live) = &self.live {
            live.refresh(&self.order)?;
        }
        let mut counts = Counts::default();
        for step in 0..end {
            match self.order.step(step)? {
                Some(plan) => counts += plan.counts,
                None => break,
            }
        }
        Ok(counts)
    }

    /// The rows of a step, with their keys if they are wanted: those are read from the corpora.
    ///
    /// # Errors
    /// Plan behind the last step; those of reading.
    pub fn provenance(&self, step: u64, with_keys: bool) -> Result<RowsOfStep> {
        let plan = self
            .step(step)?
            .ok_or_else(|| BatchError::Plan(format!("provenance: the plan ends before step {step}")))?;
        let mut rows: Vec<(u32, u64, bool)> = Vec::new();
        let mut seen = HashSet::new();
        for piece in &plan.pieces {
            if seen.insert((piece.source, piece.slot)) {
                let is_masked = piece.masked || self.sources[piece.source as usize].is_masked(piece.slot);
                rows.push((piece.source, piece.slot, is_masked));
            }
        }
        let mut keys = Vec::new();
        for source in (0..self.sources.len()).filter(|_| with_keys) {
            let of_source: Vec<&mut (u32, u64, bool)> =
                rows.iter_mut().filter(|r| r.0 as usize == source && !r.2).collect();
            keys.push(self.keys(source, of_source)?);
        }
        Ok(RowsOfStep { rows, keys })
    }

    /// The key columns of some rows of a source, in their order. Rows of damaged blocks become masked, where the plan
    /// masks them.
    fn keys(&self, source: usize, mut rows: Vec<&mut (u32, u64, bool)>) -> Result<RecordBatch> {
        let source = &self.sources[source];
        let names = source.reader.manifest().primary_key.clone();
        let places: Option<Vec<(u32, u32)>> = rows.iter().map(|r| source.place_of(r.1)).collect();
        let places = places.ok_or_else(|| BatchError::Plan(format!("a slot is not in {}", source.name)))?;
        let wanted: BTreeSet<u32> = places.iter().map(|p| p.0).collect();
        let mut batches: BTreeMap<u64, RecordBatch> = BTreeMap::new();
        let blocks = wanted.iter().map(|b| source.blocks[*b as usize]).collect();
        let collect = |place: BlockPlace, batch: Result<RecordBatch>| match batch {
            Ok(batch) => {
                batches.insert(place.first_slot, batch);
                Ok(())
            }
            Err(e) if e.is_damage() && self.options.masks_corrupt() => Ok(()),
            Err(e) => Err(e),
        };
        self.threads.block_on(source.scan(blocks, names.clone(), collect))?;
        let firsts: Vec<u64> = batches.keys().copied().collect();
        let mut indices: Vec<(usize, usize)> = Vec::new();
        for (row, (block, at)) in rows.iter_mut().zip(places) {
            match firsts.binary_search(&source.blocks[block as usize].first_slot) {
                Ok(batch) => indices.push((batch, at as usize)),
                Err(_) => row.2 = true,
            }
        }
        let mut columns: Vec<(String, ArrayRef)> = Vec::new();
        for name in names.into_iter().filter(|_| !batches.is_empty()) {
            let arrays: Option<Vec<&dyn Array>> = batches
                .values()
                .map(|b| b.column_by_name(&name).map(|a| a.as_ref()))
                .collect();
            let arrays = arrays.ok_or_else(|| BatchError::Plan(format!("key column `{name}` is missing")))?;
            let keys = interleave(&arrays, &indices).map_err(BatchError::arrow(format!("key column `{name}`")))?;
            columns.push((name, keys));
        }
        if columns.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::new(Schema::empty())));
        }
        RecordBatch::try_from_iter(columns).map_err(BatchError::arrow("keys"))
    }
}
