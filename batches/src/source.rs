//! One corpus version of a plan: its blocks in slot order, its row lengths, and scans of a few columns.

mod keys;

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use corpusmill_corpus::{CorpusReader, LengthsReader, Warehouse, partition_array};
use corpusmill_stream::{Lengths, LengthsError};
use futures::{StreamExt, TryStreamExt};
use xxhash_rust::xxh3::Xxh3;

use crate::blocks::ReadThreads;
use crate::error::{BatchError, Result};

/// Blocks that a scan reads side by side.
const SCAN_BLOCKS: usize = 8;
/// Row lengths are fetched in runs of so many rows.
const LENGTHS_RUN: u64 = 1 << 16;
/// Attempts to read while storage does not answer (the store's client has retried each by itself).
const ATTEMPTS: u32 = 3;

/// Where a block is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockPlace {
    /// Position of the shard in slot order.
    pub shard: usize,
    /// Position of the block in its shard.
    pub block: usize,
    /// Slot of its first row.
    pub first_slot: u64,
    /// Rows in it.
    pub rows: u64,
}

/// A corpus version that is open for reading.
pub(crate) struct Source {
    /// `corpus@version`.
    pub name: String,
    pub corpus: String,
    pub version: u64,
    /// Rows of the version, which are its slots.
    pub rows: u64,
    pub schema: SchemaRef,
    pub blocks: Vec<BlockPlace>,
    pub reader: Arc<CorpusReader>,
    lengths: Option<LengthsReader>,
}

impl Source {
    /// Opens `reference` (`name`, `name@version` or `name@latest`).
    ///
    /// # Errors
    /// NotFound, saying which corpora or versions there are; those of the corpus crate.
    pub(crate) async fn open(warehouse: &Warehouse, reference: &str) -> Result<Self> {
        let (corpus, version) = warehouse.resolve(reference).await?;
        let reader = CorpusReader::open(warehouse, &corpus, version).await?;
        let mut blocks = Vec::new();
        let mut first_slot = 0;
        for (shard, file) in reader.manifest().shard_files.iter().enumerate() {
            for (block, stored) in file.blocks.iter().enumerate() {
                blocks.push(BlockPlace {
                    shard,
                    block,
                    first_slot,
                    rows: stored.rows,
                });
                first_slot += stored.rows;
            }
        }
        blocks.retain(|b| b.rows > 0);
        let lengths = if reader.manifest().lengths.is_some() {
            Some(reader.lengths().await?)
        } else {
            None
        };
        let (name, schema) = (format!("{corpus}@{version}"), reader.schema());
        let reader = Arc::new(reader);
        Ok(Self {
            name,
            corpus,
            version,
            rows: first_slot,
            schema,
            blocks,
            reader,
            lengths,
        })
    }

    /// The block and the row in it that hold a slot.
    pub(crate) fn place_of(&self, slot: u64) -> Option<(u32, u32)> {
        let at = self.blocks.partition_point(|b| b.first_slot <= slot).checked_sub(1)?;
        let row = slot - self.blocks[at].first_slot;
        (row < self.blocks[at].rows).then_some((at as u32, row as u32))
    }

    /// Whether the version itself says that a slot's row is erased or taken down.
    pub(crate) fn is_masked(&self, slot: u64) -> bool {
        self.reader.manifest().is_masked(slot)
    }

    /// A text that stands for which row every slot is: the shards with their checksums.
    pub(crate) fn layout(&self) -> String {
        let mut hash = Xxh3::new();
        for file in &self.reader.manifest().shard_files {
            hash.update(format!("{} {} {:?}\n", file.xxh3, file.rows, file.partition).as_bytes());
        }
        format!("{} {:032x}", self.reader.manifest().digest, hash.digest128())
    }

    /// Rows per shard in slot order.
    pub(crate) fn shard_rows(&self) -> Vec<u64> {
        self.reader.manifest().shard_files.iter().map(|f| f.rows).collect()
    }

    /// Rows of a full block.
    pub(crate) fn block_rows(&self) -> u64 {
        self.blocks.iter().map(|b| b.rows).max().unwrap_or(1)
    }

    /// Texts that decide what a block holds, for the key of its cached form.
    pub(crate) fn identity(&self, place: &BlockPlace) -> Vec<String> {
        let file = &self.reader.manifest().shard_files[place.shard];
        let block = &file.blocks[place.block];
        let mut parts = vec![format!("{}:{}:{}", block.xxh3, block.length, block.rows)];
        for (column, value) in &file.partition {
            parts.push(format!("{column}={value:?}"));
        }
        parts
    }

    /// Reads columns of a block; partition columns are filled in, the checksum is checked.
    ///
    /// # Errors
    /// Those of the corpus crate, naming file and block.
    pub(crate) async fn read(&self, place: &BlockPlace, columns: &[&str]) -> Result<RecordBatch> {
        let mut attempt = 1;
        loop {
            match self.reader.read_block(place.shard, place.block, Some(columns)).await {
                Ok(batch) => return Ok(batch),
                Err(e) => before_retry(e.into(), &mut attempt).await?,
            }
        }
    }

    /// One row with the values of the partition columns of a shard.
    ///
    /// # Errors
    /// Those of the corpus crate, for a value that is not of the column's type.
    pub(crate) fn partition_row(&self, shard: usize) -> Result<RecordBatch> {
        let file = &self.reader.manifest().shard_files[shard];
        let mut named = Vec::new();
        for (column, value) in &file.partition {
            let field = self.schema.field_with_name(column);
            let field = field.map_err(BatchError::arrow(format!("partition column `{column}`")))?;
            named.push((
                column.clone(),
                partition_array(column, value.as_deref(), field.data_type(), 1)?,
            ));
        }
        if named.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty())));
        }
        RecordBatch::try_from_iter(named).map_err(BatchError::arrow("partition columns"))
    }

    /// Reads columns of some blocks, several at once, and hands them on in slot order, or why they could not be read.
    ///
    /// # Errors
    /// Those of `each`.
    pub(crate) async fn scan(
        self: &Arc<Self>,
        places: Vec<BlockPlace>,
        columns: Vec<String>,
        mut each: impl FnMut(BlockPlace, Result<RecordBatch>) -> Result<()>,
    ) -> Result<()> {
        let columns: Arc<[String]> = columns.into();
        let read = |place: BlockPlace| {
            let (source, columns) = (self.clone(), columns.clone());
            async move {
                let task = tokio::spawn(async move {
                    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
                    source.read(&place, &columns).await
                });
                let batch = task
                    .await
                    .map_err(|e| BatchError::io("scan a corpus")(std::io::Error::other(e)))?;
                Ok::<_, BatchError>((place, batch))
            }
        };
        let mut batches = futures::stream::iter(places).map(read).buffered(SCAN_BLOCKS);
        while let Some((place, batch)) = batches.try_next().await? {
            each(place, batch)?;
        }
        Ok(())
    }
}

/// Lengths of the token column of every source, fetched in runs when they are first needed.
pub(crate) struct RowLengths {
    sources: Vec<Option<SourceLengths>>,
    runtime: Arc<ReadThreads>,
}

struct SourceLengths {
    reader: LengthsReader,
    column: String,
    runs: Vec<OnceLock<Box<[u32]>>>,
}

impl RowLengths {
    /// Lengths of `column` in each source; without a column every row has none.
    ///
    /// # Errors
    /// Those of the corpus crate, when a version has no row lengths of that column.
    pub(crate) fn open(sources: &[Arc<Source>], column: Option<&str>, runtime: Arc<ReadThreads>) -> Result<Self> {
        let mut opened = Vec::new();
        for source in sources {
            let Some(column) = column.filter(|_| source.rows > 0) else {
                opened.push(None);
                continue;
            };
            let reader = source.lengths.clone().ok_or_else(|| {
                BatchError::Plan(format!(
                    "{} has no row lengths: rebuild it with this release",
                    source.name
                ))
            })?;
            reader.total(column)?;
            let runs = (0..source.rows.div_ceil(LENGTHS_RUN))
                .map(|_| OnceLock::new())
                .collect();
            opened.push(Some(SourceLengths {
                reader,
                column: column.to_owned(),
                runs,
            }));
        }
        Ok(Self {
            sources: opened,
            runtime,
        })
    }

    /// Tokens and rows over all sources, without reading row lengths.
    ///
    /// # Errors
    /// Those of the corpus crate.
    pub(crate) fn totals(&self) -> Result<(u64, u64)> {
        let mut totals = (0, 0);
        for lengths in self.sources.iter().flatten() {
            totals.0 += lengths.reader.total(&lengths.column)?;
            totals.1 += lengths.reader.rows();
        }
        Ok(totals)
    }

    fn run<'a>(&'a self, lengths: &'a SourceLengths, number: usize) -> Result<&'a [u32]> {
        let Some(cell) = lengths.runs.get(number) else {
            return Ok(&[]);
        };
        if let Some(run) = cell.get() {
            return Ok(run);
        }
        let start = number as u64 * LENGTHS_RUN;
        let rows: Range<u64> = start..(start + LENGTHS_RUN).min(lengths.reader.rows());
        let run = self.runtime.block_on(fetch(lengths, rows))?;
        Ok(cell.get_or_init(|| run.into()))
    }
}

/// Waits before another attempt, with growing pauses that differ between processes.
///
/// # Errors
/// `e` itself, when another attempt is of no use or there were enough.
pub(crate) async fn before_retry(e: BatchError, attempt: &mut u32) -> Result<()> {
    if !e.retry() || *attempt == ATTEMPTS {
        return Err(e);
    }
    let jitter_ms = u64::from(std::process::id() % 50);
    tokio::time::sleep(Duration::from_millis((100 << *attempt) + jitter_ms)).await;
    *attempt += 1;
    Ok(())
}

async fn fetch(lengths: &SourceLengths, rows: Range<u64>) -> Result<Vec<u32>> {
    let mut attempt = 1;
    loop {
        match lengths.reader.read(&lengths.column, rows.clone()).await {
            Ok(run) => return Ok(run),
            Err(e) => before_retry(e.into(), &mut attempt).await?,
        }
    }
}

impl Lengths for RowLengths {
    fn length(&self, source: usize, row: u64) -> u32 {
        let mut one = [0];
        // Plans gather, where a failure is told; a length that cannot be had counts as none.
        let _ = self.gather(source, &[row], &mut one);
        one[0]
    }

    fn gather(&self, source: usize, rows: &[u64], out: &mut [u32]) -> Result<(), LengthsError> {
        let Some(lengths) = self.sources.get(source).and_then(Option::as_ref) else {
            out.fill(0);
            return Ok(());
        };
        let mut number = usize::MAX;
        let mut run: &[u32] = &[];
        for (out, row) in out.iter_mut().zip(rows) {
            let wanted = (row / LENGTHS_RUN) as usize;
            if wanted != number {
                run = self.run(lengths, wanted)?;
                number = wanted;
            }
            let length = run.get((row % LENGTHS_RUN) as usize);
            *out = *length.ok_or_else(|| format!("row {row} lies beyond the row lengths"))?;
        }
        Ok(())
    }
}
