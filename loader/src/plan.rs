//! The native side of `corpusmill.Plan`.

use std::collections::BTreeMap;
use std::sync::Arc;

use corpusmill_batches::{OpenPlan, Options, RowsOfStep};
use pyo3::prelude::*;

use crate::error::{Result, check_process};

/// A plan with its corpora open.
#[pyclass(frozen, name = "Plan", module = "corpusmill._native")]
pub(crate) struct PyPlan(pub(crate) Arc<OpenPlan>);

/// The rows of a step: source, slot and mask, and the key columns of each source's rows.
#[pyclass(frozen, module = "corpusmill._native")]
pub(crate) struct Provenance(RowsOfStep);

#[pymethods]
impl Provenance {
    /// Source, slot and mask of each row.
    #[getter]
    fn rows(&self) -> Vec<(u32, u64, bool)> {
        self.0.rows.clone()
    }

    /// Names and values of the key columns of source number `source`.
    fn key_columns<'py>(&self, py: Python<'py>, source: usize) -> PyResult<Vec<(String, Bound<'py, PyAny>)>> {
        let batch = &self.0.keys[source];
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
    fn new(py: Python<'_>, arguments: &str) -> Result<Self> {
        let options = Options::parse(arguments)?;
        Ok(Self(Arc::new(py.detach(|| OpenPlan::open(options))?)))
    }

    #[getter]
    fn hash(&self) -> &str {
        self.0.order().hash()
    }

    #[getter]
    fn spec(&self) -> String {
        self.0.order().spec().to_json()
    }

    /// What is to be logged about making the plan: blocks that a filter could not read.
    fn notes(&self) -> Vec<String> {
        self.0.notes().to_vec()
    }

    #[getter]
    fn sources(&self) -> Vec<String> {
        self.0.sources().map(str::to_owned).collect()
    }

    #[getter]
    fn rows(&self) -> BTreeMap<String, u64> {
        self.0
            .order()
            .spec()
            .sources
            .iter()
            .map(|s| (s.name.clone(), s.rows()))
            .collect()
    }

    /// Steps of a finite plan, None for an endless one.
    fn steps(&self, py: Python<'_>) -> Result<Option<u64>> {
        check_process(&self.0)?;
        Ok(py.detach(|| self.0.steps())?)
    }

    /// What became of the documents of the first `steps` steps, or of a finite plan.
    fn counts(&self, py: Python<'_>, steps: Option<u64>) -> Result<BTreeMap<&'static str, u64>> {
        check_process(&self.0)?;
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

    /// The rows of a step, with their keys if `keys`.
    fn provenance(&self, py: Python<'_>, step: u64, keys: bool) -> Result<Provenance> {
        check_process(&self.0)?;
        Ok(Provenance(py.detach(|| self.0.provenance(step, keys))?))
    }

    /// Masks rows by the texts of their keys in all runs of the plan. What was appended, as JSON.
    fn takedown(&self, py: Python<'_>, keys: Vec<Vec<String>>, corpus: Option<&str>, note: &str) -> Result<String> {
        check_process(&self.0)?;
        Ok(json(&py.detach(|| self.0.take_down(&keys, corpus, note))?))
    }

    /// Masks the blocks that hold some slots in all runs of the plan. What was appended, as JSON.
    fn mask_blocks(&self, py: Python<'_>, corpus: &str, slots: Vec<u64>, note: &str) -> Result<String> {
        check_process(&self.0)?;
        Ok(json(&py.detach(|| self.0.mask_blocks(corpus, &slots, note))?))
    }

    /// Changes the weights in all runs of the plan. The number of the entry.
    fn reweigh(&self, py: Python<'_>, weights: BTreeMap<String, f64>, note: &str) -> Result<u64> {
        check_process(&self.0)?;
        Ok(py.detach(|| self.0.reweigh(&weights, note))?)
    }

    /// The log, or the entries that hold for a step, as JSON.
    fn log(&self, py: Python<'_>, step: Option<u64>) -> Result<String> {
        check_process(&self.0)?;
        Ok(json(&py.detach(|| self.0.log(step))?))
    }
}

fn json(told: &impl serde::Serialize) -> String {
    serde_json::to_string(told).expect("it has string keys and no foreign types")
}
