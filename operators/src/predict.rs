//! `Predict`: computes the results of models for text columns, several batches at a time and in order.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties, ReplaceChildrenOptions,
};
use futures::{Stream, TryStreamExt as _};
use serde::{Deserialize, Serialize};

use crate::OperatorError;
use crate::encoder::{Encoder, ModelSpec, encoders};
use crate::model_function::{model_values_type, text_array, values_array};

/// Batches of a partition that are computed at a time: the next is being cut into tokens while one is computed.
const IN_FLIGHT: usize = 2;

/// One column that a model adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// The text column of the input.
    pub column: usize,
    /// Name of the new column.
    pub name: String,
    /// The model.
    pub model: Arc<ModelSpec>,
}

/// Adds the values of models to its input: one `FixedSizeList<Float32>` column for each [`Prediction`], behind the
/// input's columns. Rows keep their order and their partition.
///
/// ```text
///   input ─► batch ─► tokens (this thread) ─► the process' encoder threads ─► values ─► batch
///                └─ at most two at a time, their memory reserved; dropping the stream stops them
/// ```
#[derive(Debug, Clone)]
pub struct Predict {
    predictions: Arc<Vec<Prediction>>,
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl Predict {
    /// Puts the models over `input`.
    ///
    /// # Errors
    /// When the input has no such column.
    pub fn try_new(input: Arc<dyn ExecutionPlan>, predictions: Arc<Vec<Prediction>>) -> Result<Self> {
        let incoming = input.schema();
        let mut fields: Vec<_> = incoming.fields().iter().cloned().collect();
        for prediction in predictions.iter() {
            if prediction.column >= incoming.fields().len() {
                return Err(OperatorError::Plan {
                    operator: "Predict",
                    detail: format!("the input has no column {}", prediction.column),
                }
                .into());
            }
            let values = model_values_type(prediction.model.width);
            fields.push(Arc::new(Field::new(&prediction.name, values, true)));
        }
        let schema = Arc::new(Schema::new(fields));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            // The input's columns come first, so what it says of them holds.
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Ok(Self {
            predictions,
            input,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    /// What it computes.
    #[must_use]
    pub fn predictions(&self) -> &Arc<Vec<Prediction>> {
        &self.predictions
    }

    /// Waits on a thread of the engine for what is computed on others.
    pub(crate) fn wait<T>(run: impl Future<Output = Result<T, OperatorError>>) -> Result<T> {
        let wait = || futures::executor::block_on(run);
        let result = match tokio::runtime::Handle::try_current() {
            Ok(handle) if handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread => {
                tokio::task::block_in_place(wait)
            }
            _ => wait(),
        };
        Ok(result?)
    }
}

impl DisplayAs for Predict {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.input.schema();
        let shown = self.predictions.iter().map(|p| {
            let source = &p.model.source;
            format!("{}({}) as {}", source.name, schema.field(p.column).name(), p.name)
        });
        write!(f, "Predict: {}", shown.collect::<Vec<_>>().join(", "))
    }
}

impl ExecutionPlan for Predict {
    fn name(&self) -> &'static str {
        "Predict"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
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
            operator: "Predict",
            detail: "no input".into(),
        })?;
        Ok(Arc::new(Self::try_new(input, Arc::clone(&self.predictions))?))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let mode = datafusion::physical_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(mode))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let run = Arc::new(Run {
            predictions: Arc::clone(&self.predictions),
            schema: Arc::clone(&self.schema),
            counts: Counts::new(&self.metrics, partition),
        });
        let stream = futures::stream::once(run.start(input, context, partition)).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            stream,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// What `EXPLAIN ANALYZE` shows of a partition.
struct Counts {
    baseline: BaselineMetrics,
    texts: Count,
    tokens: Count,
    encode_time: Time,
}

impl Counts {
    fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        Self {
            baseline: BaselineMetrics::new(metrics, partition),
            texts: MetricBuilder::new(metrics).counter("texts_computed", partition),
            tokens: MetricBuilder::new(metrics).counter("tokens_computed", partition),
            encode_time: MetricBuilder::new(metrics).subset_time("encode_time", partition),
        }
    }
}

/// One partition that is being computed.
struct Run {
    predictions: Arc<Vec<Prediction>>,
    schema: SchemaRef,
    counts: Counts,
}

impl Run {
    async fn start(
        self: Arc<Self>,
        input: SendableRecordBatchStream,
        context: Arc<TaskContext>,
        partition: usize,
    ) -> Result<impl Stream<Item = Result<RecordBatch>> + use<>> {
        let mut models = Vec::with_capacity(self.predictions.len());
        for prediction in self.predictions.iter() {
            let spec = &prediction.model;
            let encoder = encoders()?
                .open(spec)
                .await
                .map_err(|e| OperatorError::model(spec, e))?;
            models.push(encoder);
        }
        let models = Arc::new(models);
        let pool = Arc::clone(context.memory_pool());
        let batches = input.map_ok(move |batch| {
            let (run, models) = (Arc::clone(&self), Arc::clone(&models));
            let consumer = MemoryConsumer::new(format!("Predict[{partition}]"));
            let memory = consumer.register(&pool);
            async move {
                memory.try_grow(run.bytes(&models, batch.num_rows()))?;
                run.compute(&models, batch).await
            }
        });
        Ok(batches.try_buffered(IN_FLIGHT))
    }

    /// Memory of the values of a batch, and of what is computed at a time.
    fn bytes(&self, models: &[Arc<dyn Encoder>], rows: usize) -> usize {
        let of_values: usize = self
            .predictions
            .iter()
            .map(|p| p.model.width * size_of::<f32>() * rows)
            .sum();
        let of_texts: usize = models.iter().map(|model| model.bytes_per_text()).sum();
        of_values + of_texts
    }

    async fn compute(&self, models: &[Arc<dyn Encoder>], batch: RecordBatch) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        for (prediction, model) in self.predictions.iter().zip(models) {
            let spec = &prediction.model;
            let texts = text_array(&columns[prediction.column])?;
            let encoded = {
                let _timer = self.counts.encode_time.timer();
                model
                    .encode(texts.clone())
                    .await
                    .map_err(|e| OperatorError::model(spec, e))?
            };
            self.counts.texts.add(encoded.texts);
            self.counts.tokens.add(encoded.tokens);
            columns.push(values_array(spec, &texts, encoded)?);
        }
        self.counts.baseline.record_output(batch.num_rows());
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

#[cfg(test)]
mod tests;
