//! `Screen`: takes dropped rows out of a corpus' rows and turns them into counts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, Int8Array, Int32Array, Int64Array, RecordBatch, UInt32Array,
    UInt64Array, new_null_array,
};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, UInt32Type};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};

use crate::rows_file::examples;
use crate::{OperatorError, Violation};

/// Column of the input and output: hash of the key, UInt64, NULL where the key is.
pub const HASH: &str = "_hash";
/// Column of the input and output: shard, UInt32.
pub const SHARD: &str = "_shard";
/// Column of the input: Int32, the index in [`ScreenSpec::reasons`] of the first expectation that the row breaks
/// (those with action WARN do not take part); NULL where it breaks none.
pub const VERDICT: &str = "_verdict";
/// Column of the output: Int8, what the row is ([`Class`]); it sorts counts before rows.
pub const CLASS: &str = "_class";
/// Column of the output: Int32, index in [`ScreenSpec::reasons`] of a count or of a quarantined row.
pub const REASON: &str = "_reason";
/// Column of the output: Int64, the number that a row of counts carries.
pub const COUNT: &str = "_count";

/// Name of the Boolean column of the input that says that the row breaks the WARN expectation `index`.
#[must_use]
pub fn warn_column(index: usize) -> String {
    format!("_warn_{index}")
}

/// What a row that leaves [`Screen`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(crate) enum Class {
    /// How many rows of this shard one partition of the input had.
    Seen = 0,
    /// How many of them were dropped for one reason.
    Dropped = 1,
    /// How many of them broke a WARN expectation.
    Warned = 2,
    /// A row for the quarantine.
    Quarantined = 3,
    /// A row of the corpus.
    Kept = 4,
}

/// What happens to a row that breaks an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonAction {
    /// It is left out and counted.
    Drop,
    /// It goes to a quarantine file.
    Quarantine,
    /// The build fails.
    Fail,
    /// It is counted, and kept.
    Warn,
}

/// An expectation on rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reason {
    /// Name of the constraint.
    pub name: String,
    /// What happens to a row that breaks it.
    pub action: ReasonAction,
}

/// What [`Screen`] has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScreenSpec {
    /// Names of the key columns.
    pub keys: Vec<String>,
    /// Row expectations in the order they were written.
    pub reasons: Vec<Reason>,
    /// The shards that the step computes; a partition reports what it saw of each, also when that is nothing.
    pub splits: Vec<u32>,
}

/// Takes dropped rows out, and adds rows of counts.
///
/// Input: the columns of the corpus, then [`HASH`], [`SHARD`], [`VERDICT`] and the [`warn_column`]s.
/// Output: the columns of the corpus, all nullable, then [`HASH`], [`SHARD`], [`CLASS`], [`REASON`], [`COUNT`].
/// Each partition ends with one row `Seen` for each shard, and one for each shard and reason with a count: so the
/// reader behind an exchange knows how many rows it must have got, and from how many partitions.
#[derive(Debug, Clone)]
pub struct Screen {
    spec: Arc<ScreenSpec>,
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl Screen {
    /// Puts a screen over `input`.
    ///
    /// # Errors
    /// When a column named above is missing.
    pub fn try_new(input: Arc<dyn ExecutionPlan>, spec: Arc<ScreenSpec>) -> Result<Self> {
        let incoming = input.schema();
        let hash = incoming.index_of(HASH).map_err(|_| malformed(HASH))?;
        for name in [SHARD, VERDICT].into_iter().map(str::to_owned).chain(warnings(&spec)) {
            incoming.index_of(&name).map_err(|_| malformed(&name))?;
        }
        for key in &spec.keys {
            incoming.index_of(key).map_err(|_| malformed(key))?;
        }
        let fields = incoming.fields()[..hash]
            .iter()
            .map(|field| Arc::new(field.as_ref().clone().with_nullable(true)))
            .chain(
                [
                    Field::new(HASH, DataType::UInt64, true),
                    Field::new(SHARD, DataType::UInt32, false),
                    Field::new(CLASS, DataType::Int8, false),
                    Field::new(REASON, DataType::Int32, true),
                    Field::new(COUNT, DataType::Int64, true),
                ]
                .map(Arc::new),
            );
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            datafusion::physical_plan::Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Ok(Self {
            spec,
            input,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// What it was made with.
    #[must_use]
    pub fn spec(&self) -> &Arc<ScreenSpec> {
        &self.spec
    }
}

fn malformed(column: &str) -> OperatorError {
    OperatorError::Plan {
        operator: "Screen",
        detail: format!("input has no column {column}"),
    }
}

fn warnings(spec: &ScreenSpec) -> impl Iterator<Item = String> + '_ {
    let warns = spec
        .reasons
        .iter()
        .enumerate()
        .filter(|(_, r)| r.action == ReasonAction::Warn);
    warns.map(|(index, _)| warn_column(index))
}

impl DisplayAs for Screen {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<&str> = self.spec.reasons.iter().map(|r| r.name.as_str()).collect();
        write!(
            f,
            "Screen: key=[{}], expectations=[{}]",
            self.spec.keys.join(", "),
            reasons.join(", ")
        )
    }
}

impl ExecutionPlan for Screen {
    fn name(&self) -> &'static str {
        "Screen"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
            operator: "Screen",
            detail: "no input".into(),
        })?;
        Ok(Arc::new(Self::try_new(input, Arc::clone(&self.spec))?))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let mode = datafusion::physical_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(mode))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let state = Screening {
            input: self.input.execute(partition, context)?,
            tally: Tally::new(Arc::clone(&self.spec), Arc::clone(&self.schema)),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            ended: false,
        };
        let stream = futures::stream::try_unfold(state, Screening::next);
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            stream,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

struct Screening {
    input: SendableRecordBatchStream,
    tally: Tally,
    metrics: BaselineMetrics,
    ended: bool,
}

impl Screening {
    /// The next batch of rows; after the last one the counts, as the stream's last batch.
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        if self.ended {
            return Ok(None);
        }
        let batch = match self.input.next().await.transpose()? {
            Some(batch) => {
                let _timer = self.metrics.elapsed_compute().timer();
                self.tally.screen(&batch)?
            }
            None => {
                self.ended = true;
                self.tally.counts()?
            }
        };
        self.metrics.record_output(batch.num_rows());
        Ok(Some((batch, self)))
    }
}

/// Counts per shard, and per shard and reason, of one partition.
struct Tally {
    spec: Arc<ScreenSpec>,
    schema: SchemaRef,
    seen: BTreeMap<u32, i64>,
    dropped: BTreeMap<(u32, i32), i64>,
    warned: BTreeMap<(u32, i32), i64>,
}

impl Tally {
    fn new(spec: Arc<ScreenSpec>, schema: SchemaRef) -> Self {
        let seen = spec.splits.iter().map(|shard| (*shard, 0)).collect();
        Self {
            spec,
            schema,
            seen,
            dropped: BTreeMap::new(),
            warned: BTreeMap::new(),
        }
    }

    /// Counts the rows of `batch` and gives back those that go on.
    fn screen(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let shards = column(batch, SHARD)?.as_primitive::<UInt32Type>().clone();
        let verdicts = column(batch, VERDICT)?.as_primitive::<Int32Type>().clone();
        let hashes = column(batch, HASH)?;
        let mut keep = Vec::with_capacity(rows);
        let mut class = Vec::with_capacity(rows);
        let (mut keyless, mut failed) = (Vec::new(), BTreeMap::<usize, Vec<usize>>::new());
        for row in 0..rows {
            let shard = shards.value(row);
            *self.seen.entry(shard).or_default() += 1;
            let verdict = verdicts.is_valid(row).then(|| verdicts.value(row));
            let action = match verdict {
                Some(index) => Some(self.reason(index)?.action),
                None => None,
            };
            match (verdict, action) {
                (Some(index), Some(ReasonAction::Drop)) => {
                    *self.dropped.entry((shard, index)).or_default() += 1;
                    keep.push(false);
                }
                (Some(index), Some(ReasonAction::Fail)) => {
                    failed.entry(index as usize).or_default().push(row);
                    keep.push(false);
                }
                (Some(_), Some(ReasonAction::Quarantine)) => {
                    keep.push(true);
                    class.push(Class::Quarantined as i8);
                }
                _ => {
                    if hashes.is_null(row) {
                        keyless.push(row);
                    }
                    keep.push(true);
                    class.push(Class::Kept as i8);
                }
            }
        }
        self.refuse(batch, &failed, &keyless)?;
        self.count_warnings(batch, &shards)?;
        self.outgoing(batch, &BooleanArray::from(keep), class)
    }

    fn reason(&self, index: i32) -> Result<&Reason> {
        let reason = usize::try_from(index)
            .ok()
            .and_then(|index| self.spec.reasons.get(index));
        Ok(reason.ok_or(OperatorError::Plan {
            operator: "Screen",
            detail: format!("{VERDICT} {index} names no expectation"),
        })?)
    }

    fn refuse(&self, batch: &RecordBatch, failed: &BTreeMap<usize, Vec<usize>>, keyless: &[usize]) -> Result<()> {
        if let Some((index, rows)) = failed.first_key_value() {
            let violation = Violation {
                expectation: self.spec.reasons[*index].name.clone(),
                rows: rows.len(),
                examples: examples(batch, rows, &self.spec.keys),
            };
            return Err(OperatorError::Violation(violation).into());
        }
        if !keyless.is_empty() {
            return Err(OperatorError::NullKey {
                columns: self.spec.keys.join(", "),
                rows: keyless.len(),
                examples: examples(batch, keyless, &[]),
            }
            .into());
        }
        Ok(())
    }

    fn count_warnings(&mut self, batch: &RecordBatch, shards: &UInt32Array) -> Result<()> {
        for (index, reason) in self.spec.reasons.iter().enumerate() {
            if reason.action != ReasonAction::Warn {
                continue;
            }
            let broken = column(batch, &warn_column(index))?.as_boolean();
            for row in (0..batch.num_rows()).filter(|row| broken.is_valid(*row) && broken.value(*row)) {
                *self.warned.entry((shards.value(row), index as i32)).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Batch of the rows that go on, in the schema of the output.
    fn outgoing(&self, batch: &RecordBatch, keep: &BooleanArray, class: Vec<i8>) -> Result<RecordBatch> {
        let kept = if keep.true_count() == keep.len() {
            batch.clone()
        } else {
            filter_record_batch(batch, keep)?
        };
        let mut columns: Vec<ArrayRef> = kept.columns()[..self.schema.fields().len() - 5].to_vec();
        columns.push(Arc::clone(column(&kept, HASH)?));
        columns.push(Arc::clone(column(&kept, SHARD)?));
        columns.push(Arc::new(Int8Array::from(class)));
        columns.push(Arc::clone(column(&kept, VERDICT)?));
        columns.push(new_null_array(&DataType::Int64, kept.num_rows()));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// The rows of counts.
    fn counts(&self) -> Result<RecordBatch> {
        let rows: Vec<(u32, Class, Option<i32>, i64)> = self
            .seen
            .iter()
            .map(|(shard, count)| (*shard, Class::Seen, None, *count))
            .chain(
                self.dropped
                    .iter()
                    .map(|((shard, i), n)| (*shard, Class::Dropped, Some(*i), *n)),
            )
            .chain(
                self.warned
                    .iter()
                    .map(|((shard, i), n)| (*shard, Class::Warned, Some(*i), *n)),
            )
            .collect();
        let corpus_columns = self.schema.fields().len() - 5;
        let mut columns: Vec<ArrayRef> = self.schema.fields()[..corpus_columns]
            .iter()
            .map(|field| new_null_array(field.data_type(), rows.len()))
            .collect();
        columns.push(Arc::new(UInt64Array::new_null(rows.len())));
        columns.push(Arc::new(rows.iter().map(|row| Some(row.0)).collect::<UInt32Array>()));
        columns.push(Arc::new(
            rows.iter().map(|row| Some(row.1 as i8)).collect::<Int8Array>(),
        ));
        columns.push(Arc::new(rows.iter().map(|row| row.2).collect::<Int32Array>()));
        columns.push(Arc::new(rows.iter().map(|row| Some(row.3)).collect::<Int64Array>()));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// The column called `name`.
pub(crate) fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    Ok(batch.column_by_name(name).ok_or_else(|| malformed(name))?)
}
