//! `WriteShards`: writes the shards of a corpus from rows that are partitioned by shard and sorted inside.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array as _, AsArray as _, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Int8Type, Int32Type, Int64Type, Schema, SchemaRef, UInt32Type};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};

use crate::screen::{CLASS, COUNT, Class, HASH, REASON, Reason, SHARD, column};
use crate::{Destination, OperatorError, Receipt, failpoint};

use split::Split;

mod duplicates;
mod partitions;
mod split;

/// Where [`WriteShards`] writes, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSink {
    /// The corpus' folder.
    pub corpus: Destination,
    /// Where receipts go.
    pub staging: Destination,
    /// Id of the build, part of every file's name.
    pub build: String,
    /// Name of the step.
    pub step: String,
    /// Key columns, in order.
    pub keys: Vec<String>,
    /// Partition columns, in order.
    pub partition_by: Vec<String>,
    /// Row expectations, as the [`Screen`](crate::Screen) below has them.
    pub reasons: Vec<Reason>,
    /// Partitions that the [`Screen`](crate::Screen) below has: so many `Seen` rows each shard must get.
    pub sources: usize,
    /// Rows in one block (row group) of a shard.
    pub block_rows: usize,
}

/// Writes shards; gives back one row for each split: its receipt, as JSON, in the column `receipt`.
///
/// ```text
///   input partition, sorted by (_shard, _class, _hash, key)
///   ├─ shard 3   Seen n ×sources │ Dropped … │ Warned … │ Quarantined rows │ Kept rows     → receipt 3
///   └─ shard 9   …                                                                         → receipt 9
/// ```
/// A split of the step is one shard of every partition value. Because a shard's rows are all of its rows, sorted by
/// a total order, its bytes do not depend on how many partitions there were, on batch sizes or on memory.
#[derive(Debug, Clone)]
pub struct WriteShards {
    sink: Arc<ShardSink>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl WriteShards {
    /// Puts the writer over `input`: the output of [`Screen`](crate::Screen), hash-partitioned by `_shard`, each
    /// partition sorted by (`_shard`, `_class`, `_hash`, key columns).
    ///
    /// # Errors
    /// When the input lacks a column.
    pub fn try_new(input: Arc<dyn ExecutionPlan>, sink: Arc<ShardSink>) -> Result<Self> {
        let schema = input.schema();
        let needed = [HASH, SHARD, CLASS, REASON, COUNT].into_iter();
        for name in needed.chain(sink.keys.iter().chain(&sink.partition_by).map(String::as_str)) {
            if schema.index_of(name).is_err() {
                return Err(malformed(format!("input has no column {name}")).into());
            }
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(receipt_schema()),
            datafusion::physical_plan::Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            datafusion::physical_plan::execution_plan::EmissionType::Incremental,
            input.boundedness(),
        );
        Ok(Self {
            sink,
            input,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// What it was made with.
    #[must_use]
    pub fn sink(&self) -> &Arc<ShardSink> {
        &self.sink
    }
}

/// Schema of what a step sink gives back: one Utf8 column, `receipt`.
pub(crate) fn receipt_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("receipt", DataType::Utf8, false)]))
}

/// One row that holds a receipt.
pub(crate) fn receipt_batch(receipt: &Receipt) -> Result<RecordBatch> {
    let json = serde_json::to_string(receipt).map_err(|source| OperatorError::Receipt {
        path: receipt.object_name(),
        source,
    })?;
    Ok(RecordBatch::try_new(
        receipt_schema(),
        vec![Arc::new(StringArray::from(vec![json]))],
    )?)
}

/// What makes the names of one attempt unique: the engine's task id where there is one, and a random part.
pub(crate) fn attempt(context: &TaskContext) -> String {
    let task = context.task_id().unwrap_or_else(|| "local".to_owned());
    let task: String = task
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{task}-{}", &random[..8])
}

fn malformed(detail: String) -> OperatorError {
    OperatorError::Plan {
        operator: "WriteShards",
        detail,
    }
}

impl DisplayAs for WriteShards {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "WriteShards: to={}, key=[{}], partitioned_by=[{}]",
            self.sink.corpus.url(),
            self.sink.keys.join(", "),
            self.sink.partition_by.join(", ")
        )
    }
}

impl ExecutionPlan for WriteShards {
    fn name(&self) -> &'static str {
        "WriteShards"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        // Its input is partitioned by shard: to spread it further would tear shards apart.
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().ok_or_else(|| malformed("no input".into()))?;
        Ok(Arc::new(Self::try_new(input, Arc::clone(&self.sink))?))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let mode = datafusion::physical_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(mode))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let rows = MetricBuilder::new(&self.metrics).output_rows(partition);
        let bytes = MetricBuilder::new(&self.metrics).counter("bytes_written", partition);
        let mut builder = RecordBatchReceiverStream::builder(receipt_schema(), 2);
        let sender = builder.tx();
        let sink = Arc::clone(&self.sink);
        // The task belongs to the stream: who drops the stream stops the writing.
        builder.spawn(async move {
            let mut writer = Writing {
                sink,
                context,
                input,
                open: None,
            };
            while let Some(receipt) = writer.next_receipt().await? {
                rows.add(usize::try_from(receipt.rows_out).unwrap_or(usize::MAX));
                bytes.add(usize::try_from(receipt.bytes).unwrap_or(usize::MAX));
                if sender.send(receipt_batch(&receipt)).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        Ok(builder.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Reads one partition, and cuts it where the shard changes.
struct Writing {
    sink: Arc<ShardSink>,
    context: Arc<TaskContext>,
    input: SendableRecordBatchStream,
    open: Option<(Split, Option<RecordBatch>)>,
}

impl Writing {
    /// Writes up to the end of a shard and gives its receipt; `None` after the last.
    async fn next_receipt(&mut self) -> Result<Option<Receipt>> {
        let (mut split, mut rest) = match self.open.take() {
            Some((split, rest)) => (Some(split), rest),
            None => (None, None),
        };
        loop {
            let batch = match rest.take() {
                Some(batch) => batch,
                None => match self.input.next().await.transpose()? {
                    Some(batch) if batch.num_rows() == 0 => continue,
                    Some(batch) => batch,
                    None => return close(&self.sink, &self.context, split).await,
                },
            };
            let shards = column(&batch, SHARD)?.as_primitive::<UInt32Type>();
            let shard = shards.value(0);
            if split.as_ref().is_some_and(|open| open.shard() != shard) {
                let next = self.open_split(shard)?;
                self.open = Some((next, Some(batch)));
                return close(&self.sink, &self.context, split).await;
            }
            let end = shards.values().partition_point(|s| *s <= shard);
            let mut open = match split.take() {
                Some(open) => open,
                None => self.open_split(shard)?,
            };
            take_run(&mut open, &batch.slice(0, end)).await?;
            split = Some(open);
            if end < batch.num_rows() {
                rest = Some(batch.slice(end, batch.num_rows() - end));
            }
        }
    }

    fn open_split(&self, shard: u32) -> Result<Split> {
        let reservation = MemoryConsumer::new(format!("WriteShards[{shard}]")).register(self.context.memory_pool());
        Split::open(
            Arc::clone(&self.sink),
            shard,
            attempt(&self.context),
            self.sink.corpus.store(&self.context)?,
            self.input.schema(),
            reservation,
        )
    }
}

/// Completes a split: its files, then its receipt.
async fn close(sink: &Arc<ShardSink>, context: &Arc<TaskContext>, split: Option<Split>) -> Result<Option<Receipt>> {
    let Some(split) = split else { return Ok(None) };
    let receipt = split.finish().await?;
    failpoint::hit("shard-written");
    receipt
        .put(&sink.staging.store(context)?, &sink.staging.prefix()?)
        .await?;
    failpoint::hit("split-done");
    Ok(Some(receipt))
}

/// Hands the rows of one shard to its split, class by class.
async fn take_run(split: &mut Split, run: &RecordBatch) -> Result<()> {
    let classes = column(run, CLASS)?.as_primitive::<Int8Type>();
    let reasons = column(run, REASON)?.as_primitive::<Int32Type>();
    let counts = column(run, COUNT)?.as_primitive::<Int64Type>();
    let first = |class: Class| classes.values().partition_point(|c| *c < class as i8);
    let (quarantined, kept) = (first(Class::Quarantined), first(Class::Kept));
    for row in 0..quarantined {
        let reason = reasons.is_valid(row).then(|| reasons.value(row));
        split.count(classes.value(row), reason, counts.value(row))?;
    }
    if kept > quarantined {
        split.quarantine(&run.slice(quarantined, kept - quarantined)).await?;
    }
    if run.num_rows() > kept {
        split.keep(&run.slice(kept, run.num_rows() - kept)).await?;
    }
    Ok(())
}
