//! The native side of `corpusmill.Plan`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::Schema;
use corpusmill_stream::Counts;
use pyo3::prelude::*;

use crate::error::{LoaderError, Result};
use crate::source::BlockPlace;

use super::OpenPlan;
use super::options::Options;

/// A plan with its corpora open.
#[pyclass(frozen, name = "Plan", module = "corpusmill._native")]
pub(crate) struct PyPlan(pub(crate) Arc<OpenPlan>);

/// The rows of a step: source, slot and mask, and the key columns of each source's rows.
#[pyclass(frozen, module = "corpusmill._native")]
pub(crate) struct Provenance {
    #[pyo3(get)]
    rows: Vec<(u32, u64, bool)>,
    keys: Vec<RecordBatch>,
}

#[pymethods]
impl Provenance {
    /// Names and values of the key columns of source number `source`.
    fn key_columns<'py>(&self, py: Python<'py>, source: usize) -> PyResult<Vec<(String, Bound<'py, PyAny>)>> {
        let batch = &self.keys[source];
        let named = batch.schema_ref().fields().iter().zip(batch.columns());
        named
            .map(|(f, a)| Ok((f.name().clone(), crate::batch::plain_values(py, f.name(), a)?)))
            .collect()
    }
}

#[pymethods]
impl PyPlan {
    /// Makes a plan of the JSON of its arguments.
    #[new]
    fn new(py: Python<'_>, arguments: &str) -> PyResult<Self> {
        let options: Options = serde_json::from_str(arguments)
            .map_err(|e| LoaderError::Plan(format!("an argument of the plan has the wrong type: {e}")))?;
        Ok(Self(Arc::new(py.detach(|| OpenPlan::open(options))?)))
    }

    #[getter]
    fn hash(&self) -> &str {
        self.0.order.hash()
    }

    #[getter]
    fn spec(&self) -> String {
        self.0.order.spec().to_json()
    }

    /// What is to be logged about making the plan: blocks that a filter could not read.
    fn notes(&self) -> Vec<String> {
        self.0.notes.clone()
    }

    #[getter]
    fn sources(&self) -> Vec<String> {
        self.0.sources.iter().map(|s| s.name.clone()).collect()
    }

    #[getter]
    fn rows(&self) -> BTreeMap<String, u64> {
        self.0
            .order
            .spec()
            .sources
            .iter()
            .map(|s| (s.name.clone(), s.rows()))
            .collect()
    }

    /// Steps of a finite plan, None for an endless one.
    fn steps(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.0.runtime.check_process()?;
        Ok(py.detach(|| self.0.steps())?)
    }

    /// What became of the documents of the first `steps` steps, or of a finite plan.
    fn counts(&self, py: Python<'_>, steps: Option<u64>) -> PyResult<BTreeMap<&'static str, u64>> {
        self.0.runtime.check_process()?;
        let counts = py.detach(|| self.0.counts(steps))?;
        Ok(BTreeMap::from([
            ("documents", counts.documents),
            ("split", counts.split),
            ("truncated", counts.truncated),
            ("left_out", counts.left_out),
            ("empty", counts.empty),
            ("masked", counts.masked),
            ("tokens", counts.tokens),
            ("packs", counts.packs),
        ]))
    }

    /// The rows of a step with their keys.
    fn provenance(&self, py: Python<'_>, step: u64) -> PyResult<Provenance> {
        self.0.runtime.check_process()?;
        Ok(py.detach(|| self.0.provenance(step))?)
    }
}

impl OpenPlan {
    fn counts(&self, steps: Option<u64>) -> Result<Counts> {
        let end = match steps {
            Some(steps) => steps,
            None => self
                .steps()?
                .ok_or_else(|| LoaderError::Plan("counts: an endless plan has no end: say how many steps".into()))?,
        };
        let mut counts = Counts::default();
        for step in 0..end {
            match self.step(step)? {
                Some(plan) => counts += plan.counts,
                None => break,
            }
        }
        Ok(counts)
    }

    fn provenance(&self, step: u64) -> Result<Provenance> {
        let plan = self
            .step(step)?
            .ok_or_else(|| LoaderError::Plan(format!("provenance: the plan ends before step {step}")))?;
        let mut rows: Vec<(u32, u64, bool)> = Vec::new();
        let mut seen = HashSet::new();
        for piece in &plan.pieces {
            if seen.insert((piece.source, piece.slot)) {
                let is_masked = piece.masked || self.sources[piece.source as usize].is_masked(piece.slot);
                rows.push((piece.source, piece.slot, is_masked));
            }
        }
        let mut keys = Vec::new();
        for source in 0..self.sources.len() {
            let of_source: Vec<&mut (u32, u64, bool)> =
                rows.iter_mut().filter(|r| r.0 as usize == source && !r.2).collect();
            keys.push(self.keys(source, of_source)?);
        }
        Ok(Provenance { rows, keys })
    }

    /// The key columns of some rows of a source, in their order. Rows of damaged blocks become masked, where the plan
    /// masks them.
    fn keys(&self, source: usize, mut rows: Vec<&mut (u32, u64, bool)>) -> Result<RecordBatch> {
        let source = &self.sources[source];
        let names = source.reader.manifest().primary_key.clone();
        let places: Option<Vec<(u32, u32)>> = rows.iter().map(|r| source.place_of(r.1)).collect();
        let places = places.ok_or_else(|| LoaderError::Plan(format!("a slot is not in {}", source.name)))?;
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
        self.runtime.block_on(source.scan(blocks, names.clone(), collect))?;
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
            let arrays = arrays.ok_or_else(|| LoaderError::Plan(format!("key column `{name}` is missing")))?;
            let keys = interleave(&arrays, &indices).map_err(LoaderError::arrow(format!("key column `{name}`")))?;
            columns.push((name, keys));
        }
        if columns.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::new(Schema::empty())));
        }
        RecordBatch::try_from_iter(columns).map_err(LoaderError::arrow("keys"))
    }
}
