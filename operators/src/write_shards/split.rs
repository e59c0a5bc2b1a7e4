//! One split of a corpus' last step: one shard of every partition value.

use std::collections::BTreeMap;
use std::sync::Arc;

use corpusmill_corpus::{ShardFile, ShardOptions, ShardPlace, ShardWriter, shard_path};
use datafusion::arrow::array::{ArrayRef, AsArray as _, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use object_store::ObjectStore;

use super::ShardSink;
use super::duplicates::Duplicates;
use super::partitions::{PartitionValues, by_value};
use crate::rows_file::RowsFile;
use crate::screen::{Class, HASH, REASON, column};
use crate::{OperatorError, Receipt, RowFile};

/// Partition values that one split may have open writers for; each holds some 10 MB.
const OPEN_WRITERS_MAX: usize = 256;

/// Writes the rows of one shard, and counts.
pub(super) struct Split {
    sink: Arc<ShardSink>,
    shard: u32,
    attempt: String,
    store: Arc<dyn ObjectStore>,
    /// The columns of the corpus.
    schema: SchemaRef,
    memory: MemoryReservation,
    duplicates: Duplicates,
    writers: BTreeMap<PartitionValues, ShardWriter>,
    quarantine: Option<RowsFile>,
    sources: usize,
    rows_seen: u64,
    rows_kept: u64,
    drops: BTreeMap<String, u64>,
    quarantined: BTreeMap<String, u64>,
    warnings: BTreeMap<String, u64>,
}

impl Split {
    /// Begins a split; nothing is written before the first row.
    pub(super) fn open(
        sink: Arc<ShardSink>,
        shard: u32,
        attempt: String,
        store: Arc<dyn ObjectStore>,
        incoming: SchemaRef,
        memory: MemoryReservation,
    ) -> Result<Self> {
        let columns = incoming.index_of(HASH)?;
        let schema = Arc::new(Schema::new(incoming.fields()[..columns].to_vec()));
        Ok(Self {
            sink,
            shard,
            attempt,
            store,
            schema,
            memory,
            duplicates: Duplicates::default(),
            writers: BTreeMap::new(),
            quarantine: None,
            sources: 0,
            rows_seen: 0,
            rows_kept: 0,
            drops: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            warnings: BTreeMap::new(),
        })
    }

    /// The shard's number.
    pub(super) fn shard(&self) -> u32 {
        self.shard
    }

    /// Takes one row of counts.
    pub(super) fn count(&mut self, class: i8, reason: Option<i32>, count: i64) -> Result<()> {
        let count = u64::try_from(count).map_err(|_| self.exchange(format!("was counted {count} times")))?;
        if class == Class::Seen as i8 {
            self.sources += 1;
            self.rows_seen += count;
            return Ok(());
        }
        let name = self.reason(reason)?;
        let counts = if class == Class::Dropped as i8 {
            &mut self.drops
        } else {
            &mut self.warnings
        };
        *counts.entry(name).or_default() += count;
        Ok(())
    }

    fn reason(&self, reason: Option<i32>) -> Result<String> {
        let known = reason
            .and_then(|r| usize::try_from(r).ok())
            .and_then(|r| self.sink.reasons.get(r));
        match known {
            Some(reason) => Ok(reason.name.clone()),
            None => Err(self
                .exchange(format!("has a row with the unknown reason {reason:?}"))
                .into()),
        }
    }

    fn exchange(&self, detail: String) -> OperatorError {
        OperatorError::Exchange {
            shard: self.shard,
            detail,
        }
    }

    /// Writes rows of the corpus, sorted by hash and key.
    pub(super) async fn keep(&mut self, rows: &RecordBatch) -> Result<()> {
        self.duplicates.check(rows, &self.sink.keys)?;
        self.rows_kept += rows.num_rows() as u64;
        let columns: Vec<usize> = (0..self.schema.fields().len()).collect();
        for (values, group) in by_value(&rows.project(&columns)?, &self.sink.partition_by)? {
            if !self.writers.contains_key(&values) {
                let writer = self.writer(&values)?;
                self.writers.insert(values.clone(), writer);
            }
            if let Some(writer) = self.writers.get_mut(&values) {
                writer.write(&group).await.map_err(OperatorError::from)?;
            }
        }
        self.reserve()
    }

    fn writer(&self, values: &PartitionValues) -> Result<ShardWriter> {
        if self.writers.len() >= OPEN_WRITERS_MAX {
            return Err(OperatorError::TooManyPartitions {
                columns: self.sink.partition_by.join(", "),
                limit: OPEN_WRITERS_MAX,
            }
            .into());
        }
        let place = ShardPlace {
            root: self.sink.corpus.prefix()?,
            path: shard_path(values, 0, self.shard, &self.sink.build, &self.attempt),
            partition: values.clone(),
            generation: 0,
            shard: self.shard,
        };
        let options = ShardOptions {
            block_rows: self.sink.block_rows,
            ..ShardOptions::default()
        };
        let writer = ShardWriter::new(Arc::clone(&self.store), place, &self.schema, options);
        Ok(writer.map_err(OperatorError::from)?)
    }

    /// Writes rows to the quarantine, each with the name of the expectation that it breaks.
    pub(super) async fn quarantine(&mut self, rows: &RecordBatch) -> Result<()> {
        let reasons = column(rows, REASON)?.as_primitive::<Int32Type>();
        let mut names = Vec::with_capacity(rows.num_rows());
        for reason in reasons {
            let name = self.reason(reason)?;
            *self.quarantined.entry(name.clone()).or_default() += 1;
            names.push(name);
        }
        let mut fields = self.schema.fields().to_vec();
        fields.push(Arc::new(Field::new(REASON, DataType::Utf8, false)));
        let schema = Arc::new(Schema::new(fields));
        let mut columns: Vec<ArrayRef> = rows.columns()[..self.schema.fields().len()].to_vec();
        columns.push(Arc::new(StringArray::from(names)));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
        if self.quarantine.is_none() {
            let name = format!(
                "_corpusmill/quarantine/{}/s{:04}-{}.parquet",
                self.sink.build, self.shard, self.attempt
            );
            let path = self.sink.corpus.path(&name)?;
            self.quarantine = Some(RowsFile::create(Arc::clone(&self.store), path, name, schema)?);
        }
        if let Some(file) = &mut self.quarantine {
            file.write(&batch).await?;
        }
        self.reserve()
    }

    fn reserve(&mut self) -> Result<()> {
        let writers: usize = self.writers.values().map(ShardWriter::memory_bytes).sum();
        let quarantine = self.quarantine.as_ref().map_or(0, RowsFile::memory);
        self.memory.try_resize(writers + quarantine)
    }

    /// Completes all files, and checks that every row that the screens saw has arrived.
    pub(super) async fn finish(mut self) -> Result<Receipt> {
        let dropped: u64 = self.drops.values().sum();
        let quarantined: u64 = self.quarantined.values().sum();
        let arrived = self.rows_kept + dropped + quarantined;
        if self.sources != self.sink.sources || arrived != self.rows_seen {
            return Err(self
                .exchange(format!(
                    "got {arrived} rows from {} partitions, {} rows were sent from {}",
                    self.sources, self.rows_seen, self.sink.sources
                ))
                .into());
        }
        let mut shards: Vec<ShardFile> = Vec::with_capacity(self.writers.len());
        for writer in std::mem::take(&mut self.writers).into_values() {
            shards.push(writer.finish().await.map_err(OperatorError::from)?);
        }
        let mut quarantine: Vec<RowFile> = vec![];
        if let Some(file) = self.quarantine.take() {
            quarantine.push(file.finish().await?);
        }
        self.memory.free();
        Ok(Receipt {
            format: Receipt::FORMAT,
            step: self.sink.step.clone(),
            split: self.shard,
            attempt: self.attempt,
            bytes: shards.iter().map(|f| f.bytes).sum::<u64>() + quarantine.iter().map(|f| f.bytes).sum::<u64>(),
            shards,
            rows_files: vec![],
            quarantine,
            drops: self.drops,
            quarantined: self.quarantined,
            warnings: self.warnings,
            rows_in: self.rows_seen,
            rows_out: self.rows_kept,
        })
    }
}
