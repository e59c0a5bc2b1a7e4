//! One trainer at the desk: its steps are assembled ahead, in order, as far as it gives slots back.

use std::sync::Arc;
use std::time::Duration;

use corpusmill_batches::{Assembler, BatchData, BatchError, EncodedBatch, FieldSet, OpenPlan, SlabPool};
use corpusmill_proto::stream::Read;
use corpusmill_proto::stream::delivery::What;
use corpusmill_transport::{Descriptor, Exporter};
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use prost::Message as _;

use crate::delivery;
use crate::desk::Library;
use crate::error::{Result, ServeError};

/// Steps of a session that are assembled side by side; what waits for a slot is bounded by it too.
const AHEAD: usize = 2;
/// How long a trainer may keep its last slots before the session is given up.
const LAST_FREES: Duration = Duration::from_secs(600);
/// Free buffers that a session keeps for its next batches.
const SLABS_MAX: usize = 32;

/// Serves one trainer until the plan ends or the session does.
pub(crate) async fn run(shared: &Arc<Library>, exporter: &Exporter) {
    let (peer, kind) = (exporter.peer().to_owned(), exporter.kind());
    match serve(shared, exporter).await {
        Ok(()) => tracing::info!(peer, %kind, "a stream ended"),
        Err(error) => tracing::warn!(peer, %kind, %error, "a stream ended"),
    }
}

async fn serve(shared: &Arc<Library>, exporter: &Exporter) -> Result<()> {
    let read = Read::decode(&exporter.application()[..]).map_err(|e| {
        ServeError::Protocol(format!(
            "{}: what it wants to read cannot be read: {e}",
            exporter.peer()
        ))
    })?;
    tracing::info!(peer = exporter.peer(), job = %read.job, rank = read.rank, world = read.world, step = read.step,
        kind = %exporter.kind(), "serves a stream");
    let warehouse = tokio::select! {
        warehouse = shared.warehouse() => warehouse,
        ended = exporter.closed() => return Err(ended.into()),
    };
    let (opening, wanted) = (shared.clone(), read.clone());
    let opened = blocking(move || assembler(&opening, &wanted, warehouse)).await;
    match opened {
        Ok(assembler) => stream(shared, exporter, Arc::new(assembler), read.step).await,
        Err(error) => say(exporter, read.step, delivery::failed(&error)).await,
    }
}

/// Opens the plan, and checks that it is the trainer's.
fn assembler(shared: &Library, read: &Read, warehouse: String) -> Result<Assembler, BatchError> {
    let plan: Arc<OpenPlan> = shared.plan(&read.plan, warehouse)?;
    if plan.order().hash() != read.plan_hash {
        return Err(BatchError::Plan(format!(
            "rank {} of job {} has plan {}, its arguments give {} here: the corpora in this warehouse are not those that \
             the trainer reads; rebuild or restore them, or install the same version of corpusmill on both sides",
            read.rank,
            read.job,
            read.plan_hash,
            plan.order().hash()
        )));
    }
    let fields = match read.fields.is_empty() {
        true => FieldSet::all(plan.shape()),
        false => FieldSet::of(plan.shape(), read.fields.clone())?,
    };
    Assembler::new(plan, read.rank, read.world, fields, SlabPool::new(SLABS_MAX))
}

/// A step that was assembled, `None` behind the last.
type Made = Result<Option<EncodedBatch>, BatchError>;

async fn stream(shared: &Arc<Library>, exporter: &Exporter, assembler: Arc<Assembler>, first: u64) -> Result<()> {
    let make = |step: u64| {
        let (assembler, lanes) = (assembler.clone(), shared.lanes.clone());
        async move {
            // The semaphore is never closed; without a lane the step is made all the same.
            let lane = lanes.acquire_owned().await.ok();
            let made: Made = blocking(move || {
                let batch: Option<BatchData> = assembler.batch(step)?;
                batch.as_ref().map(EncodedBatch::of).transpose()
            })
            .await;
            drop(lane);
            (step, made)
        }
    };
    let mut making = FuturesOrdered::new();
    let mut next = first;
    loop {
        while making.len() < AHEAD {
            making.push_back(make(next));
            next += 1;
        }
        let made = tokio::select! {
            made = making.next() => made,
            ended = exporter.closed() => return Err(ended.into()),
        };
        let Some((step, made)) = made else { return Ok(()) };
        match made {
            Ok(Some(batch)) if batch.bytes() as u64 > exporter.slot_bytes() => {
                return say(exporter, step, delivery::too_large(batch.bytes())).await;
            }
            Ok(Some(batch)) => {
                publish(exporter, step, batch).await?;
            }
            Ok(None) => return say(exporter, step, delivery::end()).await,
            Err(error) => return say(exporter, step, delivery::failed(&error)).await,
        }
    }
}

/// Writes a batch into the trainer's next free slot, and tells it.
async fn publish(exporter: &Exporter, step: u64, batch: EncodedBatch) -> Result<Descriptor> {
    let mut slot = exporter.slot().await?;
    let metadata = delivery::metadata(step, What::Batch(batch.header().to_vec()));
    let (slot, bytes) = blocking(move || {
        batch.write(&mut slot)?;
        Ok((slot, batch.bytes()))
    })
    .await?;
    Ok(exporter.publish(slot, bytes, metadata).await?)
}

/// Says the last thing of a session, and waits until the trainer has given everything back.
async fn say(exporter: &Exporter, step: u64, what: What) -> Result<()> {
    let slot = exporter.slot().await?;
    exporter.publish(slot, 0, delivery::metadata(step, what)).await?;
    match exporter.finish(LAST_FREES).await {
        // A trainer that has all it wants just leaves.
        Ok(()) | Err(corpusmill_transport::Error::Closed { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Runs work that takes longer than an async task may; a panic is an error of the step.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BatchError> + Send + 'static,
) -> Result<T, BatchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(BatchError::Wire(format!(
            "the worker has a fault, please report it: {e}"
        ))),
    }
}
