//! The operators as they run in a plan, and as they travel.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use datafusion::arrow::compute::SortOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning, collect, displayable};
use datafusion::prelude::SessionContext;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use url::Url;

use crate::{
    Destination, ModelSource, ModelSpec, ModelTask, OperatorCodec, Predict, Prediction, Reason, ReasonAction, Receipt,
    RowSink, Screen, ScreenSpec, ShardSink, WriteRows, WriteShards,
};

/// Ten rows in two partitions; key 3 is dropped, key 5 quarantined, keys above 7 warn.
fn rows() -> Arc<dyn ExecutionPlan> {
    let part = |keys: std::ops::Range<i64>| {
        let keys: Vec<i64> = keys.collect();
        let column: ArrayRef = Arc::new(Int64Array::from(keys.clone()));
        let hashes = corpusmill_corpus::key_hashes(std::slice::from_ref(&column)).unwrap();
        let shards: UInt32Array = hashes
            .iter()
            .map(|h| Some(corpusmill_corpus::shard_of(*h, 2)))
            .collect();
        let verdict: Int32Array = keys
            .iter()
            .map(|key| match key {
                3 => Some(0),
                5 => Some(1),
                _ => None,
            })
            .collect();
        let warn: BooleanArray = keys.iter().map(|key| Some(*key > 7)).collect();
        let text: StringArray = keys.iter().map(|key| Some(format!("text {key}"))).collect();
        RecordBatch::try_from_iter_with_nullable([
            ("id", column, true),
            ("text", Arc::new(text) as ArrayRef, true),
            ("_hash", Arc::new(UInt64Array::from(hashes)) as ArrayRef, true),
            ("_shard", Arc::new(shards) as ArrayRef, false),
            ("_verdict", Arc::new(verdict) as ArrayRef, true),
            ("_warn_2", Arc::new(warn) as ArrayRef, true),
        ])
        .unwrap()
    };
    let parts = [vec![part(0..4)], vec![part(4..10)]];
    let schema = parts[0][0].schema();
    MemorySourceConfig::try_new_exec(&parts, schema, None).unwrap()
}

fn reasons() -> Vec<Reason> {
    let reason = |name: &str, action| Reason {
        name: name.into(),
        action,
    };
    vec![
        reason("dropped", ReasonAction::Drop),
        reason("aside", ReasonAction::Quarantine),
        reason("odd", ReasonAction::Warn),
    ]
}

fn plan(root: &std::path::Path, sources: usize) -> Arc<dyn ExecutionPlan> {
    let spec = ScreenSpec {
        keys: vec!["id".into()],
        reasons: reasons(),
        splits: vec![0, 1],
    };
    let screen: Arc<dyn ExecutionPlan> = Arc::new(Screen::try_new(rows(), Arc::new(spec)).unwrap());
    let schema = screen.schema();
    let exchange =
        RepartitionExec::try_new(screen, Partitioning::Hash(vec![col("_shard", &schema).unwrap()], 2)).unwrap();
    let order = ["_shard", "_class", "_hash", "id"]
        .map(|name| PhysicalSortExpr::new(col(name, &schema).unwrap(), SortOptions::default().asc().nulls_first()));
    let sort = SortExec::new(LexOrdering::new(order).unwrap(), Arc::new(exchange)).with_preserve_partitioning(true);
    let folder = |below: &str| Destination::new(Url::from_directory_path(root.join(below)).unwrap());
    let sink = ShardSink {
        corpus: folder("c"),
        staging: folder("staging"),
        build: "b1".into(),
        step: "shards".into(),
        keys: vec!["id".into()],
        partition_by: vec![],
        reasons: reasons(),
        sources,
        block_rows: 1024,
    };
    Arc::new(WriteShards::try_new(Arc::new(sort), Arc::new(sink)).unwrap())
}

#[tokio::test]
async fn every_row_is_written_or_counted_once() {
    let root = tempfile::tempdir().unwrap();
    let context = SessionContext::new().task_ctx();
    let given = collect(plan(root.path(), 2), Arc::clone(&context)).await.unwrap();
    assert_eq!(
        given.iter().map(RecordBatch::num_rows).sum::<usize>(),
        2,
        "one row for each split"
    );
    let staging = Destination::new(Url::from_directory_path(root.path().join("staging")).unwrap());
    let receipts = Receipt::collect(&staging.store(&context).unwrap(), &staging.prefix().unwrap())
        .await
        .unwrap();
    assert_eq!(receipts.keys().copied().collect::<Vec<_>>(), [0, 1]);
    let sum = |of: fn(&Receipt) -> u64| receipts.values().map(of).sum::<u64>();
    assert_eq!((sum(|r| r.rows_in), sum(|r| r.rows_out)), (10, 8));
    assert_eq!(sum(|r| r.drops.get("dropped").copied().unwrap_or(0)), 1);
    assert_eq!(sum(|r| r.quarantined.get("aside").copied().unwrap_or(0)), 1);
    assert_eq!(sum(|r| r.warnings.get("odd").copied().unwrap_or(0)), 2);
    assert_eq!(sum(|r| r.quarantine.iter().map(|file| file.rows).sum()), 1);
    for receipt in receipts.values() {
        for file in &receipt.shards {
            assert_eq!(
                std::fs::metadata(root.path().join("c").join(&file.path)).unwrap().len(),
                file.bytes
            );
        }
    }
}

#[tokio::test]
async fn a_partition_that_did_not_report_fails_the_split() {
    let root = tempfile::tempdir().unwrap();
    let error = collect(plan(root.path(), 3), SessionContext::new().task_ctx())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("from 2 partitions"), "{error}");
    assert!(
        !root.path().join("staging").exists(),
        "a split that does not add up has no receipt"
    );
}

/// Names of the types in this crate that are operators, whatever lists they stand in.
fn operators_of_this_crate() -> Vec<String> {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let operators = text
                .lines()
                .filter_map(|line| line.strip_prefix("impl ExecutionPlan for "));
            found.extend(operators.map(|line| line.trim_end_matches(" {").to_owned()));
        }
    }
    assert!(found.len() >= 3, "the operators were not found: {found:?}");
    found
}

#[tokio::test]
async fn operators_come_back_from_the_wire_as_they_went() {
    let root = tempfile::tempdir().unwrap();
    let folder = Destination::new(Url::from_directory_path(root.path()).unwrap());
    let rows_sink = RowSink {
        folder: folder.clone(),
        staging: folder,
        step: "view v".into(),
        splits: None,
    };
    let context = SessionContext::new().task_ctx();
    let model = ModelSpec {
        source: ModelSource {
            name: "m".into(),
            uri: "models/m".into(),
            task: ModelTask::Embedding,
            max_length: Some(8),
            pooling: None,
        },
        digest: "d".into(),
        width: 4,
        labels: vec![],
    };
    let prediction = Prediction {
        column: 1,
        name: "v".into(),
        model: Arc::new(model),
    };
    let plans: [Arc<dyn ExecutionPlan>; 3] = [
        plan(root.path(), 2),
        Arc::new(WriteRows::new(rows(), Arc::new(rows_sink))),
        Arc::new(Predict::try_new(rows(), Arc::new(vec![prediction])).unwrap()),
    ];
    let sent: Vec<String> = plans
        .iter()
        .map(|plan| displayable(plan.as_ref()).indent(false).to_string())
        .collect();
    for operator in operators_of_this_crate() {
        assert!(
            sent.iter().any(|plan| plan.contains(&operator)),
            "operator {operator} has no plan in this test"
        );
    }
    for plan in plans {
        let bytes = physical_plan_to_bytes_with_extension_codec(Arc::clone(&plan), &OperatorCodec).unwrap();
        let back = physical_plan_from_bytes_with_extension_codec(&bytes, &context, &OperatorCodec).unwrap();
        let shown = |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(true).to_string();
        assert_eq!(shown(&back), shown(&plan));
        let sinks = |plan: &Arc<dyn ExecutionPlan>| {
            (
                plan.downcast_ref::<WriteShards>().map(|w| w.sink().as_ref().clone()),
                plan.downcast_ref::<WriteRows>().map(|w| w.sink().as_ref().clone()),
            )
        };
        assert_eq!(sinks(&back), sinks(&plan));
    }
}
