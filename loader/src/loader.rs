//! The native side of `corpusmill.Loader`: position, prefetching and counts of one rank.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use corpusmill_batches::{Assembler, BatchError, FieldSet, OpenPlan, Prefetcher, SlabPool, worker_threads};
use corpusmill_stream::State;
use pyo3::prelude::*;

use crate::batch::Batch;
use crate::error::{LoaderError, Result, check_process};
use crate::plan::PyPlan;
use crate::stats::Counters;

/// Free buffers that are kept: those of a few batches of every field.
const SLABS_MAX: usize = 32;

struct Position {
    /// The next step to deliver.
    step: u64,
    /// Batches made ahead from `step` on; absent until the first is asked for.
    ahead: Option<Arc<Prefetcher<Assembler>>>,
    bytes_peak: usize,
}

/// One rank's batches, in order.
#[pyclass(frozen, name = "Loader", module = "corpusmill._native")]
pub(crate) struct PyLoader {
    plan: Arc<OpenPlan>,
    rank: u32,
    world: u32,
    prefetch_bytes: usize,
    threads: usize,
    fields: FieldSet,
    pool: Arc<SlabPool>,
    counters: Counters,
    position: Mutex<Position>,
}

impl PyLoader {
    fn position(&self) -> std::sync::MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The batches made ahead, started if they are not.
    fn ahead(&self) -> Result<Arc<Prefetcher<Assembler>>> {
        let mut position = self.position();
        if let Some(ahead) = &position.ahead {
            return Ok(ahead.clone());
        }
        let (plan, fields, pool) = (self.plan.clone(), self.fields.clone(), self.pool.clone());
        let assembler = Assembler::new(plan, self.rank, self.world, fields, pool)?;
        let ahead = Arc::new(Prefetcher::start(
            assembler,
            position.step,
            self.threads,
            self.prefetch_bytes,
        )?);
        position.ahead = Some(ahead.clone());
        Ok(ahead)
    }

    fn take(&self) -> Result<Option<Batch>> {
        let ahead = self.ahead()?;
        let Some(batch) = ahead.take()? else { return Ok(None) };
        self.counters.delivered(&batch);
        let mut position = self.position();
        position.step = batch.step() + 1;
        Ok(Some(Batch(batch)))
    }

    /// Goes to a step; what was made ahead for another is dropped.
    fn go_to(&self, step: u64) {
        let mut position = self.position();
        let dropped = if position.step == step {
            None
        } else {
            position.ahead.take()
        };
        position.step = step;
        if let Some(ahead) = &dropped {
            position.bytes_peak = position.bytes_peak.max(ahead.bytes_peak());
        }
        drop(position);
        drop(dropped);
    }
}

#[pymethods]
impl PyLoader {
    #[new]
    fn new(
        plan: &PyPlan,
        rank: i64,
        world: i64,
        prefetch_bytes: usize,
        threads: Option<usize>,
        fields: Option<Vec<String>>,
    ) -> Result<Self> {
        let plan = plan.0.clone();
        check_process(&plan)?;
        let number = |what: &str, n: i64| {
            u32::try_from(n).map_err(|_| BatchError::Plan(format!("{what}: {n} is not a number of ranks")))
        };
        let (rank, world) = (number("rank", rank)?, number("world", world)?);
        plan.order().check_world(rank, world).map_err(LoaderError::from)?;
        let fields = match fields {
            Some(wanted) => FieldSet::of(plan.shape(), wanted)?,
            None => FieldSet::all(plan.shape()),
        };
        Ok(Self {
            plan,
            rank,
            world,
            prefetch_bytes,
            threads: worker_threads(threads),
            fields,
            pool: SlabPool::new(SLABS_MAX),
            counters: Counters::default(),
            position: Mutex::new(Position {
                step: 0,
                ahead: None,
                bytes_peak: 0,
            }),
        })
    }

    /// The next batch, None at the end of a finite plan. Waits without the GIL.
    fn next(&self, py: Python<'_>) -> Result<Option<Batch>> {
        check_process(&self.plan)?;
        Ok(py.detach(|| self.take())?)
    }

    /// The step of the next batch.
    #[getter]
    fn step(&self) -> u64 {
        self.position().step
    }

    /// Goes to a step from 0.
    fn seek(&self, py: Python<'_>, step: u64) -> Result<()> {
        check_process(&self.plan)?;
        py.detach(|| self.go_to(step));
        Ok(())
    }

    /// The position as JSON.
    fn state(&self, py: Python<'_>) -> Result<String> {
        check_process(&self.plan)?;
        let step = self.position().step;
        Ok(py.detach(|| self.plan.state(step))?.to_json())
    }

    /// Goes to the position that a state says.
    fn load_state(&self, py: Python<'_>, state: &str) -> Result<()> {
        check_process(&self.plan)?;
        let state = State::from_json(state).map_err(|e| {
            let e = BatchError::from(e);
            BatchError::State(format!("{}: expected what state_dict() returned", e.with_causes()))
        })?;
        py.detach(|| {
            let step = self.plan.resume(&state)?;
            self.go_to(step);
            Ok::<_, LoaderError>(())
        })?;
        Ok(())
    }

    /// Counts since the loader was made, by the names of `corpusmill.Stats`.
    fn counters(&self) -> BTreeMap<&'static str, u64> {
        let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let (counters, blocks) = (&self.counters, self.plan.block_counters());
        let position = self.position();
        let peak = position
            .ahead
            .as_ref()
            .map_or(0, |a| a.bytes_peak())
            .max(position.bytes_peak);
        BTreeMap::from([
            ("batches", load(&counters.batches)),
            ("samples", load(&counters.samples)),
            ("tokens", load(&counters.tokens)),
            ("bytes", load(&counters.bytes)),
            ("masked", load(&counters.masked)),
            ("blocks_read", load(&blocks.read)),
            ("blocks_read_bytes", load(&blocks.read_bytes)),
            ("cache_hits", load(&blocks.mapped)),
            ("memory_hits", load(&blocks.open)),
            ("prefetch_bytes_peak", peak as u64),
        ])
    }
}
