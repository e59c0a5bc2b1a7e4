//! The native side of `corpusmill.Plan`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::interleave;
use corpusmill_stream::Counts;
use pyo3::prelude::*;

use crate::error::{LoaderError, Result};

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
        named.map(|(f, a)| Ok((f.name().clone(), crate::batch::plain_values(py, f.name(), a)?))).collect()
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

    #[getter]
    fn sources(&self) -> Vec<String> {
        self.0.sources.iter().map(|s| s.name.clone()).collect()
    }

    #[getter]
    fn rows(&self) -> BTreeMap<String, u64> {
        self.0.order.spec().sources.iter().map(|s| (s.name.clone(), s.rows())).collect()
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
            None => self.steps()?.ok_or_else(|| {
                LoaderError::Plan("counts: an endless plan has no end: say how many steps".into())
            })?,
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
        let plan = self.step(step)?.ok_or_else(|| {
            LoaderError::Plan(format!("provenance: the plan ends before step {step}"))
        })?;
        let mut rows: Vec<(u32, u64, bool)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for piece in &plan.pieces {
            if seen.insert((piece.source, piece.slot)) {
                rows.push((piece.source, piece.slot, piece.masked));
            }
        }
        let of = |source: usize| {
            rows.iter().filter(move |r| r.0 as usize == source && !r.2).map(|r| r.1).collect::<Vec<u64>>()
        };
        let keys = (0..self.sources.len()).map(|s| self.keys(s, &of(s))).collect::<Result<_>>()?;
        Ok(Provenance { rows, keys })
    }

    /// The key columns of some slots of a source, in the order of `slots`.
    fn keys(&self, source: usize, slots: &[u64]) -> Result<RecordBatch> {
        let source = &self.sources[source];
        let names = source.reader.manifest().primary_key.clone();
        let places: Option<Vec<(u32, u32)>> = slots.iter().map(|s| source.place_of(*s)).collect();
        let places = places.ok_or_else(|| LoaderError::Plan(format!("a slot is not in {}", source.name)))?;
        let mut wanted: Vec<u32> = places.iter().map(|p| p.0).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut batches = Vec::new();
        let blocks = wanted.iter().map(|b| source.blocks[*b as usize]).collect();
        let collect = |_, batch| {
            batches.push(batch);
            Ok(())
        };
        self.runtime.block_on(source.scan(blocks, names.clone(), collect))?;
        let at = |block: u32| wanted.partition_point(|b| *b < block);
        let indices: Vec<(usize, usize)> = places.iter().map(|p| (at(p.0), p.1 as usize)).collect();
        let mut columns: Vec<(String, ArrayRef)> = Vec::new();
        for name in names {
            let column = |b: &RecordBatch| b.column_by_name(&name).cloned();
            let arrays: Option<Vec<ArrayRef>> = batches.iter().map(column).collect();
            let arrays = arrays.ok_or_else(|| LoaderError::Plan(format!("key column `{name}` is missing")))?;
            let arrays: Vec<&dyn arrow::array::Array> = arrays.iter().map(|a| a.as_ref()).collect();
            if arrays.is_empty() {
                continue;
            }
            let keys = interleave(&arrays, &indices).map_err(LoaderError::arrow(format!("key column `{name}`")))?;
            columns.push((name.clone(), keys));
        }
        if columns.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty())));
        }
        RecordBatch::try_from_iter(columns).map_err(LoaderError::arrow("keys"))
    }
}
