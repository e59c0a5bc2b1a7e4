//! Decoded blocks: in memory, else mapped from the local cache, else read from the warehouse.
//!
//! ```text
//!  open (memory_bytes, least recently used goes) ──miss──▶ local file (cache_bytes) ──miss──▶ warehouse
//!        ▲                                                        │ mmap                        │ ranged read, checksum,
//!        └────────────────────────────────────────────────────────┴─────── put ◀──── decode ◀───┘ Parquet
//! ```
//! A block is loaded once however many threads ask for it; missing blocks of a step are loaded side by side.

mod disk;
mod ids;
mod map;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{BatchError, Result};
use crate::source::{BlockPlace, Source};

pub(crate) use disk::DiskCache;
pub(crate) use ids::IdRun;
use ids::{Ids, narrowed};

/// Version of what cached files hold: raised when `normalised` changes.
const CACHE_FORMAT: u8 = 2;

/// One block as batches are made of it.
#[derive(Debug)]
pub(crate) struct DecodedBlock {
    tokens: Option<(OffsetBuffer<i32>, Ids)>,
    /// The plan's further columns, in its order.
    pub columns: Vec<ArrayRef>,
    bytes: usize,
}

impl DecodedBlock {
    /// Tokens of a row; none for a plan without tokens and for a row beyond the block.
    pub(crate) fn tokens_of(&self, row: usize) -> IdRun<'_> {
        let run = || {
            let (offsets, ids) = self.tokens.as_ref()?;
            let [start, end] = *offsets.get(row..row + 2)?.as_array()?;
            ids.get(start as usize..end as usize)
        };
        run().unwrap_or(IdRun::Wide(&[]))
    }
}

/// Which columns a plan reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Projection {
    pub tokens: Option<String>,
    pub columns: Vec<String>,
}

impl Projection {
    /// Names to read, tokens first, each once.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.tokens.iter().chain(&self.columns) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }
}

/// A block of a plan: the source's position, and the block's in that source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockId {
    pub source: u32,
    pub block: u32,
}

type Cell = Arc<OnceCell<Arc<DecodedBlock>>>;

struct Open {
    cell: Cell,
    used: u64,
    bytes: usize,
}

#[derive(Default)]
struct Memory {
    open: HashMap<BlockId, Open>,
    clock: u64,
    bytes: usize,
}

/// How blocks were come by, since the store was made.
#[derive(Debug, Default)]
pub struct BlockCounters {
    /// Blocks read from the warehouse.
    pub read: AtomicU64,
    /// Their bytes, decoded.
    pub read_bytes: AtomicU64,
    /// Blocks mapped from the local cache.
    pub mapped: AtomicU64,
    /// Blocks found open.
    pub open: AtomicU64,
}

struct Reading {
    sources: Arc<[Arc<Source>]>,
    projection: Projection,
    disk: Option<DiskCache>,
    disk_failed: AtomicBool,
    counters: Arc<BlockCounters>,
}

/// The blocks of a plan.
pub(crate) struct BlockStore {
    reading: Arc<Reading>,
    memory: Mutex<Memory>,
    memory_max: usize,
    runtime: Arc<ReadThreads>,
}

/// Threads that read and decode; left alone in a process that was forked, where they do not exist.
#[derive(Debug)]
pub struct ReadThreads {
    /// Present until it is dropped.
    runtime: Option<Runtime>,
    pid: u32,
}

impl ReadThreads {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// I/O when the system gives no threads.
    pub fn new(threads: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("corpusmill-read")
            .enable_all()
            .build()
            .map_err(BatchError::io("start the loader's threads"))?;
        Ok(Self {
            runtime: Some(runtime),
            pid: std::process::id(),
        })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the runtime is there until it is dropped")
    }

    /// A handle to the threads, for further tasks.
    #[must_use]
    pub fn handle(&self) -> tokio::runtime::Handle {
        self.runtime().handle().clone()
    }

    /// Runs a future to its end on the calling thread, which is not one of the runtime's.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime().block_on(future)
    }

    /// Checks that this is the process that started the threads.
    ///
    /// # Errors
    /// Fork, with both process ids.
    pub fn check_process(&self) -> Result<()> {
        let here = std::process::id();
        if here == self.pid {
            Ok(())
        } else {
            Err(BatchError::Fork { made: self.pid, here })
        }
    }
}

impl Drop for ReadThreads {
    fn drop(&mut self) {
        let runtime = self.runtime.take();
        if self.pid != std::process::id() {
            std::mem::forget(runtime);
        } else if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

impl BlockStore {
    /// A store over the blocks of `sources`, holding at most about `memory_max` bytes of them open.
    pub(crate) fn new(
        sources: Arc<[Arc<Source>]>,
        projection: Projection,
        disk: Option<DiskCache>,
        memory_max: usize,
        runtime: Arc<ReadThreads>,
    ) -> Self {
        let counters = Arc::new(BlockCounters::default());
        let reading = Reading {
            sources,
            projection,
            disk,
            disk_failed: AtomicBool::new(false),
            counters,
        };
        Self {
            reading: Arc::new(reading),
            memory: Mutex::default(),
            memory_max,
            runtime,
        }
    }

    /// How blocks were come by.
    pub(crate) fn counters(&self) -> &BlockCounters {
        &self.reading.counters
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets several blocks, in the order of `ids`; each has its own result.
    pub(crate) fn get(&self, ids: &[BlockId]) -> Vec<Result<Arc<DecodedBlock>>> {
        let cells = self.cells(ids);
        let missing: Vec<usize> = (0..ids.len()).filter(|&i| cells[i].get().is_none()).collect();
        let hits = (ids.len() - missing.len()) as u64;
        self.reading.counters.open.fetch_add(hits, Ordering::Relaxed);
        let mut failed: HashMap<usize, BatchError> = HashMap::new();
        if !missing.is_empty() {
            let tasks: Vec<_> = missing
                .iter()
                .map(|&i| (i, self.spawn(ids[i], cells[i].clone())))
                .collect();
            self.runtime.block_on(async {
                for (i, task) in tasks {
                    let outcome = task.await.unwrap_or_else(|e| {
                        let source = std::io::Error::other(e);
                        Err(BatchError::Io {
                            context: "read a block".into(),
                            source,
                        })
                    });
                    if let Err(e) = outcome {
                        failed.insert(i, e);
                    }
                }
            });
            self.account(ids, &cells);
        }
        let one = |i: usize| match failed.remove(&i) {
            Some(e) => Err(e),
            None => cells[i].get().cloned().ok_or_else(|| {
                let source = std::io::Error::other("the block was not loaded");
                BatchError::Io {
                    context: "read a block".into(),
                    source,
                }
            }),
        };
        (0..ids.len()).map(one).collect()
    }

    fn cells(&self, ids: &[BlockId]) -> Vec<Cell> {
        let mut memory = self.memory();
        memory.clock += 1;
        let clock = memory.clock;
        let cell = |id: &BlockId| {
            let open = memory.open.entry(*id).or_insert_with(|| Open {
                cell: Cell::default(),
                used: 0,
                bytes: 0,
            });
            open.used = clock;
            open.cell.clone()
        };
        ids.iter().map(cell).collect()
    }

    fn spawn(&self, id: BlockId, cell: Cell) -> tokio::task::JoinHandle<Result<()>> {
        let reading = self.reading.clone();
        self.runtime
            .runtime()
            .spawn(async move { cell.get_or_try_init(|| reading.load(id)).await.map(drop) })
    }

    /// Counts what was loaded, and closes the blocks unused for longest if it is too much.
    fn account(&self, ids: &[BlockId], cells: &[Cell]) {
        let mut memory = self.memory();
        let memory = &mut *memory;
        for (id, cell) in ids.iter().zip(cells) {
            let Some(open) = memory.open.get_mut(id) else { continue };
            match cell.get() {
                Some(block) if open.bytes == 0 => {
                    open.bytes = block.bytes.max(1);
                    memory.bytes += open.bytes;
                }
                Some(_) => {}
                None => {
                    // A failed load leaves nothing to keep.
                    memory.open.remove(id);
                }
            }
        }
        while memory.bytes > self.memory_max {
            let clock = memory.clock;
            let oldest = memory
                .open
                .iter()
                .filter(|(_, o)| o.bytes > 0 && o.used < clock)
                .min_by_key(|(_, o)| o.used);
            let Some(id) = oldest.map(|(id, _)| *id) else { break };
            if let Some(closed) = memory.open.remove(&id) {
                memory.bytes -= closed.bytes;
            }
        }
    }
}

impl Reading {
    async fn load(&self, id: BlockId) -> Result<Arc<DecodedBlock>> {
        let source = &self.sources[id.source as usize];
        let place = &source.blocks[id.block as usize];
        let key = self.cache_key(source, place);
        if let Some(disk) = &self.disk
            && let Some(batch) = disk.get(key)
            && let Some(block) = self.opened(&batch)
        {
            self.counters.mapped.fetch_add(1, Ordering::Relaxed);
            return Ok(Arc::new(block));
        }
        let batch = source.read(place, &self.projection.names()).await?;
        let batch = normalised(&batch, &self.projection)?;
        let block = self
            .opened(&batch)
            .ok_or_else(|| BatchError::Plan("a block lacks the plan's columns".into()))?;
        self.counters.read.fetch_add(1, Ordering::Relaxed);
        self.counters
            .read_bytes
            .fetch_add(block.bytes as u64, Ordering::Relaxed);
        if let Some(disk) = &self.disk
            && !self.disk_failed.load(Ordering::Relaxed)
            && disk.put(key, &batch).is_err()
        {
            // A full disk costs speed, not the run: the loader goes on without writing.
            self.disk_failed.store(true, Ordering::Relaxed);
        }
        Ok(Arc::new(block))
    }

    /// A hash of everything that decides what the decoded block is.
    fn cache_key(&self, source: &Source, place: &BlockPlace) -> u128 {
        let mut hash = Xxh3::new();
        hash.update(&[CACHE_FORMAT]);
        for part in source.identity(place) {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        for name in self.projection.names() {
            hash.update(&(name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
        }
        hash.update(self.projection.tokens.as_deref().unwrap_or("").as_bytes());
        hash.digest128()
    }

    /// Takes a normalised batch apart; `None` if it is not one of this projection.
    fn opened(&self, batch: &RecordBatch) -> Option<DecodedBlock> {
        let tokens = match &self.projection.tokens {
            None => None,
            Some(name) => {
                let list = batch.column_by_name(name)?.as_list_opt::<i32>()?;
                Some((list.offsets().clone(), Ids::of(list.values())?))
            }
        };
        let columns: Option<Vec<ArrayRef>> = self
            .projection
            .columns
            .iter()
            .map(|c| batch.column_by_name(c).cloned())
            .collect();
        let size = |a: &ArrayRef| {
            a.to_data()
                .get_slice_memory_size()
                .unwrap_or_else(|_| a.get_array_memory_size())
        };
        let bytes = batch.columns().iter().map(size).sum();
        Some(DecodedBlock {
            tokens,
            columns: columns?,
            bytes,
        })
    }
}

/// The type that a column of a corpus has in decoded blocks: plain layouts, so that rows are runs of bytes.
pub fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::List(field) | DataType::ListView(field) => {
            let inner = Field::new(field.name(), plain_type(field.data_type()), field.is_nullable());
            DataType::List(Arc::new(inner))
        }
        other => other.clone(),
    }
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// Brings a block to the types that batches are made of: tokens to `List<UInt16>` or `List<Int32>`, views and
/// dictionaries to plain.
fn normalised(batch: &RecordBatch, projection: &Projection) -> Result<RecordBatch> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for name in projection.names() {
        let found = batch.schema_ref().column_with_name(name);
        let (at, field) = found.ok_or_else(|| BatchError::Plan(format!("a block has no column `{name}`")))?;
        let is_tokens = projection.tokens.as_deref() == Some(name);
        let to = if is_tokens {
            list_of(DataType::Int32)
        } else {
            plain_type(field.data_type())
        };
        let column = batch.column(at);
        let cast = if column.data_type() == &to {
            Ok(column.clone())
        } else {
            cast_with_options(column, &to, &strict)
        };
        let column = cast.map_err(BatchError::arrow(format!("column `{name}`")))?;
        if is_tokens && column.as_list::<i32>().values().null_count() > 0 {
            return Err(BatchError::Plan(format!(
                "column `{name}` has NULL among its token ids: filter them in SQL"
            )));
        }
        let column = if is_tokens { narrowed(column) } else { column };
        fields.push(Field::new(name, column.data_type().clone(), true));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(BatchError::arrow("a block"))
}
