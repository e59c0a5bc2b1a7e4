//! The operator with a model of its own that answers late and out of order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use datafusion::arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{col, lit};
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::physical_plan::{DefaultPhysicalProtoConverter, PhysicalExtensionCodec as _};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::encoder::{Encoded, Encoder, EncoderError, Encoders, ModelSource, ModelSpec, ModelTask, install_encoders};
use crate::{ModelFunction, OperatorCodec, PlanPredictions, Predict};

const BYTES_PER_TEXT: usize = 1 << 20;

/// Gives the length of a text and how often its letter `e` occurs; a text `fail` fails.
#[derive(Debug, Default)]
struct Counting {
    calls: AtomicUsize,
}

#[derive(Debug, Default)]
struct Library(Arc<Counting>);

#[async_trait]
impl Encoders for Library {
    async fn describe(&self, _: &ModelSource) -> Result<ModelSpec, EncoderError> {
        Ok(spec())
    }

    async fn open(&self, wanted: &ModelSpec) -> Result<Arc<dyn Encoder>, EncoderError> {
        match wanted.digest == spec().digest {
            true => Ok(Arc::new(Late(Arc::clone(&self.0)))),
            false => Err("the files are others here".into()),
        }
    }
}

#[derive(Debug)]
struct Late(Arc<Counting>);

impl Encoder for Late {
    fn encode(&self, texts: StringArray) -> BoxFuture<'static, Result<Encoded, EncoderError>> {
        let call = self.0.calls.fetch_add(1, Ordering::SeqCst);
        async move {
            // The first of two batches is answered after the second.
            for _ in 0..(if call.is_multiple_of(2) { 50 } else { 1 }) {
                tokio::task::yield_now().await;
            }
            let mut values = Vec::new();
            for text in texts.iter().map(Option::unwrap_or_default) {
                if text == "fail" {
                    return Err("this text cannot be computed".into());
                }
                values.extend([text.len() as f32, text.matches('e').count() as f32]);
            }
            Ok(Encoded {
                values,
                tokens: 3 * texts.len(),
                texts: texts.len() - texts.null_count(),
            })
        }
        .boxed()
    }

    fn bytes_per_text(&self) -> usize {
        BYTES_PER_TEXT
    }
}

fn spec() -> ModelSpec {
    ModelSpec {
        source: ModelSource {
            name: "m".into(),
            uri: "somewhere".into(),
            task: ModelTask::Embedding,
            max_length: None,
            pooling: None,
        },
        digest: "d1".into(),
        width: 2,
        labels: vec![],
    }
}

fn text(id: i64) -> Option<String> {
    (id % 5 != 0).then(|| "tree ".repeat(id as usize % 7))
}

/// Rows in batches of 10, in two partitions; the plan of a projection that calls the model three times.
async fn plan(
    texts: impl Fn(i64) -> Option<String>,
    spec: ModelSpec,
    memory: usize,
) -> (Arc<dyn ExecutionPlan>, SessionContext) {
    install_encoders(Arc::new(Library::default()));
    let batch = |first: i64| {
        let ids = Int64Array::from_iter_values(first..first + 10);
        let texts: StringArray = (first..first + 10).map(&texts).collect();
        RecordBatch::try_from_iter([
            ("id", Arc::new(ids) as Arc<dyn Array>),
            ("text", Arc::new(texts) as Arc<dyn Array>),
        ])
        .unwrap()
    };
    let partition = |first: i64| (0..6).map(|at| batch(first + at * 10)).collect::<Vec<_>>();
    let partitions = vec![partition(0), partition(60)];
    let table = MemTable::try_new(partitions[0][0].schema(), partitions).unwrap();
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(memory)))
        .build_arc()
        .unwrap();
    let state = SessionStateBuilder::new()
        .with_default_features()
        .with_config(SessionConfig::new().with_target_partitions(2))
        .with_runtime_env(runtime)
        .with_physical_optimizer_rules(PlanPredictions::before_all())
        .build();
    let context = SessionContext::new_with_state(state);
    let embed = |text| ModelFunction::udf(Arc::new(spec.clone())).call(vec![lit("m"), text]);
    let frame = context.read_table(Arc::new(table)).unwrap();
    let upper = datafusion::functions::expr_fn::upper(col("text"));
    let columns = vec![
        col("id"),
        embed(col("text")).alias("a"),
        embed(upper).alias("b"),
        embed(col("text")).alias("c"),
    ];
    let frame = frame.select(columns).unwrap();
    (frame.create_physical_plan().await.unwrap(), context)
}

#[tokio::test]
async fn rows_keep_their_order_and_equal_calls_are_made_once() {
    let (plan, context) = plan(text, spec(), 100 << 20).await;
    let shown = displayable(plan.as_ref()).indent(false).to_string();
    assert_eq!(shown.matches("Predict: ").count(), 2, "two different calls: {shown}");
    assert!(!shown.contains("embed("), "{shown}");
    let batches = collect(plan, context.task_ctx()).await.unwrap();
    let mut ids = Vec::new();
    for batch in &batches {
        let id = batch.column(0).as_primitive::<Int64Type>();
        let values = |name: &str| batch.column_by_name(name).unwrap().as_fixed_size_list().clone();
        let (a, b, c) = (values("a"), values("b"), values("c"));
        assert_eq!(a, c);
        for row in 0..batch.num_rows() {
            let want = text(id.value(row));
            assert_eq!(a.is_null(row), want.is_none());
            if let Some(want) = want {
                let of = |list: &dyn Array| {
                    list.as_primitive::<datafusion::arrow::datatypes::Float32Type>()
                        .values()
                        .to_vec()
                };
                assert_eq!(of(&a.value(row)), [want.len() as f32, want.matches('e').count() as f32]);
                assert_eq!(of(&b.value(row)), [want.len() as f32, 0.0]);
            }
        }
        ids.extend(id.values().iter().copied());
    }
    ids.sort_by_key(|id| *id >= 60);
    assert_eq!(ids, (0..120).collect::<Vec<i64>>(), "the order of each partition");
}

#[tokio::test]
async fn errors_name_the_model_and_memory_is_asked_for() {
    let (failing, context) = plan(|_| Some("fail".into()), spec(), 100 << 20).await;
    let error = collect(failing, context.task_ctx()).await.unwrap_err().to_string();
    assert!(error.contains("model m: this text cannot be computed"), "{error}");
    let other = ModelSpec {
        digest: "d2".into(),
        ..spec()
    };
    let (other, context) = plan(text, other, 100 << 20).await;
    let error = collect(other, context.task_ctx()).await.unwrap_err().to_string();
    assert!(error.contains("model m: the files are others here"), "{error}");
    let (large, context) = plan(text, spec(), BYTES_PER_TEXT).await;
    let error = collect(large, context.task_ctx()).await.unwrap_err().to_string();
    assert!(error.contains("Predict["), "{error}");
}

#[tokio::test]
async fn the_operator_travels() {
    fn find(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
        match plan.is::<Predict>() {
            true => Some(Arc::clone(plan)),
            false => plan.children().into_iter().find_map(find),
        }
    }
    let (plan, context) = plan(text, spec(), 100 << 20).await;
    let predict = find(&plan).unwrap();
    let mut bytes = Vec::new();
    let converter = DefaultPhysicalProtoConverter {};
    OperatorCodec
        .try_encode(Arc::clone(&predict), &mut bytes, &converter)
        .unwrap();
    let inputs: Vec<_> = predict.children().into_iter().cloned().collect();
    let back = OperatorCodec
        .try_decode(&bytes, &inputs, &context.task_ctx(), &converter)
        .unwrap();
    let of = |plan: &Arc<dyn ExecutionPlan>| plan.downcast_ref::<Predict>().unwrap().predictions().clone();
    assert_eq!(of(&back), of(&predict));
    assert_eq!(back.schema(), predict.schema());
}
