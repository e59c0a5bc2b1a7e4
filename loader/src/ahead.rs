//! Batches made ahead of the trainer: in this process, or by workers.

use std::sync::Arc;
use std::time::Duration;

use corpusmill_access::Credentials;
use corpusmill_batches::{Assembler, BatchData, BatchError, FieldSet, OpenPlan, Prefetcher, SlabPool};
use corpusmill_serve::{Feed, FeedOptions, ServeError};
use corpusmill_transport::Choice;

use crate::error::Result;

/// Fewest and most slots of a served stream.
const SLOTS: std::ops::RangeInclusive<usize> = 8..=16;
/// Smallest and largest slot that is asked for before a batch was seen, bytes.
const SLOT_BYTES: std::ops::RangeInclusive<usize> = 256 << 10..=64 << 20;
/// Tokens of a padded row and of a document that slots are sized for; others cost one more opening.
const ROW_TOKENS: usize = 512;
/// Free buffers that are kept: those of a few batches of every field.
const SLABS_MAX: usize = 32;

/// Where a rank's batches come from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) plan: Arc<OpenPlan>,
    pub(crate) rank: u32,
    pub(crate) world: u32,
    pub(crate) fields: FieldSet,
    pub(crate) prefetch_bytes: usize,
    pub(crate) threads: usize,
    pub(crate) pool: Arc<SlabPool>,
    /// The workers' side; absent: this process makes the batches.
    pub(crate) served: Option<Served>,
}

/// Who serves, and how.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) source: String,
    pub(crate) job: String,
    pub(crate) transport: Choice,
    pub(crate) patience: Duration,
}

impl Served {
    /// Reads the arguments of a loader.
    ///
    /// # Errors
    /// Plan for a transport that is none.
    pub(crate) fn of(source: String, job: Option<String>, transport: &str, patience_s: f64) -> Result<Self> {
        let transport = transport
            .parse()
            .map_err(|e| BatchError::Plan(format!("transport: {e}")))?;
        let patience = Duration::try_from_secs_f64(patience_s)
            .map_err(|e| BatchError::Plan(format!("patience_s: {patience_s} is no number of seconds ({e})")))?;
        // A job of its own: there are no other ranks to be checked against.
        let own = || format!("process {} at {:?}", std::process::id(), std::time::SystemTime::now());
        Ok(Self {
            source,
            job: job.unwrap_or_else(own),
            transport,
            patience,
        })
    }
}

/// Batches ahead of the trainer, from one step on.
pub(crate) enum Ahead {
    Made(Prefetcher<Assembler>),
    Served(Feed),
}

impl Ahead {
    /// Starts at `step`.
    ///
    /// # Errors
    /// I/O when the system gives no thread; Address for a source that is none.
    pub(crate) fn start(origin: &Origin, step: u64) -> Result<Self> {
        let (plan, rank, world) = (origin.plan.clone(), origin.rank, origin.world);
        let Some(served) = &origin.served else {
            let assembler = Assembler::new(plan, rank, world, origin.fields.clone(), origin.pool.clone())?;
            let made = Prefetcher::start(assembler, step, origin.threads, origin.prefetch_bytes)?;
            return Ok(Self::Made(made));
        };
        let slot_bytes = slot_bytes(&plan, world);
        let slots = (origin.prefetch_bytes / slot_bytes).clamp(*SLOTS.start(), *SLOTS.end());
        let options = FeedOptions {
            source: served.source.clone(),
            credentials: Credentials::of_environment().map_err(ServeError::from)?,
            job: served.job.clone(),
            rank,
            world,
            arguments: plan.arguments(),
            plan_hash: plan.order().hash().to_owned(),
            run: plan.run().map(str::to_owned),
            shape: plan.shape().clone(),
            fields: origin.fields.names().to_vec(),
            transport: served.transport,
            slots: slots as u32,
            slot_bytes: slot_bytes as u64,
            patience: served.patience,
        };
        Ok(Self::Served(Feed::start(&plan.threads().handle(), options, step)?))
    }

    /// Waits for the next batch, `None` behind the last.
    ///
    /// # Errors
    /// Those of making it, here or in a worker.
    pub(crate) fn take(&self) -> Result<Option<BatchData>> {
        Ok(match self {
            Self::Made(made) => made.take()?,
            Self::Served(feed) => feed.take()?,
        })
    }

    /// The most bytes of finished batches that were held at once.
    pub(crate) fn bytes_peak(&self) -> u64 {
        match self {
            Self::Made(made) => made.bytes_peak() as u64,
            Self::Served(feed) => feed.stats().bytes_peak,
        }
    }
}

/// A guess at the bytes of a rank's batch; a worker that finds it too small says how many it needs.
fn slot_bytes(plan: &OpenPlan, world: u32) -> usize {
    let shape = plan.shape();
    let rows = (plan.order().spec().global_batch / world.max(1)) as usize;
    let id = if shape.wide_ids { 8 } else { 4 };
    let row = match (shape.tokens, shape.sequence_length) {
        (false, _) => 64,
        (true, Some(tokens)) => tokens * (2 * id + 5) + tokens.div_ceil(ROW_TOKENS) * 64,
        (true, None) => ROW_TOKENS * 2 * id + 64,
    };
    let columns = shape.columns.len() * 64;
    (rows * (row + columns) * 5 / 4).clamp(*SLOT_BYTES.start(), *SLOT_BYTES.end())
}

/// A pool for the buffers of one loader.
pub(crate) fn pool() -> Arc<SlabPool> {
    SlabPool::new(SLABS_MAX)
}
