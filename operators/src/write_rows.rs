//! `WriteRows`: writes the rows of a materialised step, one Parquet file for each partition.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};

use crate::rows_file::RowsFile;
use crate::write_shards::{attempt, receipt_batch, receipt_schema};
use crate::{Destination, OperatorError, Receipt, failpoint};

/// Where [`WriteRows`] writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSink {
    /// The folder of the step's files.
    pub folder: Destination,
    /// Where receipts go.
    pub staging: Destination,
    /// Name of the step.
    pub step: String,
    /// Number of the split that each partition of the input is, where it is not the partition's own: a task of a
    /// cluster has some partitions of a plan only, and counts them from 0.
    #[serde(default)]
    pub splits: Option<Vec<u32>>,
}

/// Writes each partition of its input to one Parquet file; gives back one row for each partition: its receipt, as
/// JSON, in the column `receipt`. The number of the partition is the number of the split, unless the sink says
/// otherwise.
#[derive(Debug, Clone)]
pub struct WriteRows {
    sink: Arc<RowSink>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl WriteRows {
    /// Puts the writer over `input`.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, sink: Arc<RowSink>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(receipt_schema()),
            datafusion::physical_plan::Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            datafusion::physical_plan::execution_plan::EmissionType::Final,
            input.boundedness(),
        );
        Self {
            sink,
            input,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// What it was made with.
    #[must_use]
    pub fn sink(&self) -> &Arc<RowSink> {
        &self.sink
    }

    /// The writer of a task that has the partitions `partitions` of this plan, in that order.
    ///
    /// # Errors
    /// When this plan does not know the split of one of them.
    pub fn of_partitions(&self, partitions: &[usize]) -> Result<Self> {
        let splits = partitions
            .iter()
            .map(|partition| self.split(*partition))
            .collect::<Result<_>>()?;
        let sink = RowSink {
            splits: Some(splits),
            ..self.sink.as_ref().clone()
        };
        Ok(Self::new(Arc::clone(&self.input), Arc::new(sink)))
    }

    /// The split that a partition of the input is.
    fn split(&self, partition: usize) -> Result<u32> {
        let split = match &self.sink.splits {
            Some(splits) => splits.get(partition).copied(),
            None => u32::try_from(partition).ok(),
        };
        Ok(split.ok_or_else(|| OperatorError::Plan {
            operator: "WriteRows",
            detail: format!("partition {partition} has no split"),
        })?)
    }
}

impl DisplayAs for WriteRows {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteRows: to={}", self.sink.folder.url())
    }
}

impl ExecutionPlan for WriteRows {
    fn name(&self) -> &'static str {
        "WriteRows"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
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
        let input = children.pop().ok_or(OperatorError::Plan {
            operator: "WriteRows",
            detail: "no input".into(),
        })?;
        Ok(Arc::new(Self::new(input, Arc::clone(&self.sink))))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let mode = datafusion::physical_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(mode))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let split = self.split(partition)?;
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let rows = MetricBuilder::new(&self.metrics).output_rows(partition);
        let sink = Arc::clone(&self.sink);
        let receipt = async move {
            let receipt = write(&sink, split, input, &context, &rows).await?;
            receipt_batch(&receipt)
        };
        let stream = futures::stream::once(receipt);
        Ok(Box::pin(RecordBatchStreamAdapter::new(receipt_schema(), stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

async fn write(
    sink: &RowSink,
    split: u32,
    mut input: SendableRecordBatchStream,
    context: &TaskContext,
    rows: &Count,
) -> Result<Receipt> {
    let attempt = attempt(context);
    let name = format!("p{split:04}-{attempt}.parquet");
    let store = sink.folder.store(context)?;
    let mut file = RowsFile::create(store, sink.folder.path(&name)?, name, input.schema())?;
    let memory = MemoryConsumer::new(format!("WriteRows[{split}]")).register(context.memory_pool());
    while let Some(batch) = input.next().await.transpose()? {
        file.write(&batch).await?;
        memory.try_resize(file.memory())?;
        rows.add(batch.num_rows());
    }
    let file = file.finish().await?;
    failpoint::hit("rows-written");
    let receipt = Receipt {
        format: Receipt::FORMAT,
        step: sink.step.clone(),
        split,
        attempt,
        rows_in: file.rows,
        rows_out: file.rows,
        bytes: file.bytes,
        rows_files: vec![file],
        shards: vec![],
        quarantine: vec![],
        drops: BTreeMap::new(),
        quarantined: BTreeMap::new(),
        warnings: BTreeMap::new(),
    };
    receipt
        .put(&sink.staging.store(context)?, &sink.staging.prefix()?)
        .await?;
    failpoint::hit("rows-done");
    Ok(receipt)
}
