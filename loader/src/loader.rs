//! The native side of `corpusmill.Loader`: position, prefetching and counts of one rank.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use corpusmill_batches::{BatchError, FieldSet, worker_threads};
use corpusmill_stream::State;
use pyo3::prelude::*;

use crate::ahead::{Ahead, Origin, Served, pool};
use crate::batch::Batch;
use crate::error::{LoaderError, Result, check_process};
use crate::plan::PyPlan;
use crate::stats::Counters;

struct Position {
    /// The next step to deliver.
    step: u64,
    /// Batches made ahead from `step` on; absent until the first is asked for.
    ahead: Option<Arc<Ahead>>,
    past: Past,
}

/// What those did that were dropped when the position changed.
#[derive(Default)]
struct Past {
    bytes_peak: u64,
    failovers: u64,
    copies: u64,
    events: Vec<String>,
}

impl Past {
    fn add(&mut self, ahead: &Ahead) {
        self.bytes_peak = self.bytes_peak.max(ahead.bytes_peak());
        if let Ahead::Served(feed) = ahead {
            let stats = feed.stats();
            self.failovers += stats.failovers;
            self.copies += stats.copies;
            self.events.extend(feed.events());
        }
    }
}

/// One rank's batches, in order.
#[pyclass(frozen, name = "Loader", module = "corpusmill._native")]
pub(crate) struct PyLoader {
    origin: Origin,
    counters: Counters,
    position: Mutex<Position>,
}

impl PyLoader {
    fn position(&self) -> std::sync::MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The batches made ahead, started if they are not.
    fn ahead(&self) -> Result<Arc<Ahead>> {
        let mut position = self.position();
        if let Some(ahead) = &position.ahead {
            return Ok(ahead.clone());
        }
        let ahead = Arc::new(Ahead::start(&self.origin, position.step)?);
        position.ahead = Some(ahead.clone());
        Ok(ahead)
    }

    fn take(&self) -> Result<Option<Batch>> {
        let ahead = self.ahead()?;
        let taken = ahead.take();
        if taken.is_err() && matches!(*ahead, Ahead::Served(_)) {
            // Whoever asks again gets a new stream.
            let mut position = self.position();
            position.past.add(&ahead);
            position.ahead = None;
        }
        let Some(batch) = taken? else { return Ok(None) };
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
            position.past.add(ahead);
        }
        drop(position);
        drop(dropped);
    }
}

#[pymethods]
impl PyLoader {
    #[new]
    #[pyo3(signature = (plan, rank, world, prefetch_bytes, threads, fields, source, job, transport, patience_s))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn new(
        plan: &PyPlan,
        rank: i64,
        world: i64,
        prefetch_bytes: usize,
        threads: Option<usize>,
        fields: Option<Vec<String>>,
        source: Option<String>,
        job: Option<String>,
        transport: &str,
        patience_s: f64,
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
        let served = source
            .map(|source| Served::of(source, job, transport, patience_s))
            .transpose()?;
        Ok(Self {
            origin: Origin {
                plan,
                rank,
                world,
                fields,
                prefetch_bytes,
                threads: worker_threads(threads),
                pool: pool(),
                served,
            },
            counters: Counters::default(),
            position: Mutex::new(Position {
                step: 0,
                ahead: None,
                past: Past::default(),
            }),
        })
    }

    /// What happened to a served stream since the last call, for the log.
    fn events(&self) -> Vec<String> {
        let mut position = self.position();
        let mut events = std::mem::take(&mut position.past.events);
        if let Some(Ahead::Served(feed)) = position.ahead.as_deref() {
            events.extend(feed.events());
        }
        events
    }

    /// Transport and worker of a served stream, once it has one.
    fn served_by(&self) -> Option<(String, String)> {
        match self.position().ahead.as_deref() {
            Some(Ahead::Served(feed)) => {
                let stats = feed.stats();
                stats.transport.zip(stats.worker)
            }
            _ => None,
        }
    }

    /// The next batch, None at the end of a finite plan. Waits without the GIL.
    fn next(&self, py: Python<'_>) -> Result<Option<Batch>> {
        check_process(&self.origin.plan)?;
        py.detach(|| self.take())
    }

    /// The step of the next batch.
    #[getter]
    fn step(&self) -> u64 {
        self.position().step
    }

    /// Goes to a step from 0.
    fn seek(&self, py: Python<'_>, step: u64) -> Result<()> {
        check_process(&self.origin.plan)?;
        py.detach(|| self.go_to(step));
        Ok(())
    }

    /// The position as JSON: that of the next batch, or of another step.
    #[pyo3(signature = (step=None))]
    fn state(&self, py: Python<'_>, step: Option<u64>) -> Result<String> {
        check_process(&self.origin.plan)?;
        let step = step.unwrap_or_else(|| self.position().step);
        Ok(py.detach(|| self.origin.plan.state(step))?.to_json())
    }

    /// Goes to the position that a state says.
    fn load_state(&self, py: Python<'_>, state: &str) -> Result<()> {
        check_process(&self.origin.plan)?;
        let state = State::from_json(state).map_err(|e| {
            let e = BatchError::from(e);
            BatchError::State(format!("{}: expected what state_dict() returned", e.with_causes()))
        })?;
        py.detach(|| {
            let step = self.origin.plan.resume(&state)?;
            self.go_to(step);
            Ok::<_, LoaderError>(())
        })?;
        Ok(())
    }

    /// Counts since the loader was made, by the names of `corpusmill.Stats`.
    fn counters(&self) -> BTreeMap<&'static str, u64> {
        let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let (counters, blocks) = (&self.counters, self.origin.plan.block_counters());
        let position = self.position();
        let (mut peak, mut failovers, mut copies) =
            (position.past.bytes_peak, position.past.failovers, position.past.copies);
        if let Some(ahead) = position.ahead.as_deref() {
            peak = peak.max(ahead.bytes_peak());
            if let Ahead::Served(feed) = ahead {
                let stats = feed.stats();
                (failovers, copies) = (failovers + stats.failovers, copies + stats.copies);
            }
        }
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
            ("prefetch_bytes_peak", peak),
            ("failovers", failovers),
            ("copies", copies),
        ])
    }
}
