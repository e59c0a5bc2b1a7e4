use std::sync::Arc;

use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use tempfile::TempDir;

use super::{Script, failure, open, open_with, rows, rows_of};
use crate::objects::CorpusTable;
use crate::source_text::SqlText;
use crate::sources::{DataFile, FileTable};

async fn corpus() -> (TempDir, Script) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap().to_string();
    let writer = open_with("");
    let mut files = Vec::new();
    for (split, ids) in [("train", "(1, 'u1'), (2, 'u2'), (3, NULL)"), ("test", "(4, 'u1')")] {
        let path = format!("split={split}/a b%20.parquet");
        std::fs::create_dir_all(format!("{root}/split={split}")).unwrap();
        let target = format!("{root}/{split}.parquet");
        rows(&writer, &format!("COPY (SELECT CAST(column1 AS BIGINT) AS id, column2 AS user_id FROM (VALUES {ids})) TO '{target}' STORED AS PARQUET")).await;
        std::fs::rename(&target, format!("{root}/{path}")).unwrap();
        files.push(DataFile {
            bytes: std::fs::metadata(format!("{root}/{path}")).unwrap().len(),
            path,
            rows: None,
            partition_values: vec![Some(split.to_string())],
        });
    }
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("split", DataType::Utf8, true),
        Field::new("user_id", DataType::Utf8View, true),
    ]));
    let drops = RecordBatch::try_from_iter([
        ("reason", Arc::new(StringArray::from(vec!["has_label"])) as _),
        ("rows", Arc::new(Int64Array::from(vec![7])) as _),
    ])
    .unwrap();
    let table = CorpusTable {
        name: "c".into(),
        version: 3,
        data: FileTable {
            schema: Arc::clone(&schema),
            partition_columns: vec!["split".into()],
            root,
            files,
        },
        quarantine: FileTable::empty(schema),
        drops,
    };
    let mut script = Script::of("CREATE VIEW erased(user_id) AS VALUES ('u2'), (NULL);");
    script.corpora.insert("c".into(), table);
    (folder, script)
}

#[tokio::test]
async fn corpora_read_by_version_with_quarantine_and_drops() {
    let (_folder, script) = corpus().await;
    let session = open(script);
    assert_eq!(
        rows(&session, "SELECT * FROM c").await,
        ["1|train|u1", "2|train|u2", "3|train|-", "4|test|u1"]
    );
    assert_eq!(
        rows(
            &session,
            "SELECT c.split, count(*) FROM c VERSION AS OF 3 GROUP BY c.split"
        )
        .await,
        ["test|1", "train|3"]
    );
    assert_eq!(rows(&session, "SELECT count(*) FROM c.quarantine").await, ["0"]);
    assert_eq!(rows(&session, "SELECT * FROM c.drops").await, ["has_label|7"]);
    assert_eq!(rows(&session, "SELECT rows FROM c.drops VERSION AS OF 3").await, ["7"]);
    let message = failure(&session, "SELECT * FROM c VERSION AS OF 4").await;
    assert!(
        message.starts_with("q.sql:1:15: corpus 'c' has no version 4"),
        "{message}"
    );
}

#[tokio::test]
async fn row_conditions_become_columns() {
    let (_folder, script) = corpus().await;
    let session = open(script);
    let plan = session
        .plan_query(&SqlText::file("SELECT id, user_id FROM c", "q.sql"))
        .await
        .unwrap();
    let condition = |name: &str, text: &str| (name.to_string(), SqlText::file(text, "c.sql"));
    let plan = session
        .plan_row_conditions(
            plan,
            "out",
            &[
                condition("known", "user_id IS NOT NULL AND out.id < 4"),
                condition(
                    "kept",
                    "NOT EXISTS (SELECT 1 FROM erased e WHERE e.user_id = out.user_id)",
                ),
                condition("listed", "user_id IN (SELECT user_id FROM erased)"),
                condition("unknown", "user_id = 'u1'"),
            ],
        )
        .await
        .unwrap();
    let frame = session.context().execute_logical_plan(plan).await.unwrap();
    let mut found = rows_of(&frame.collect().await.unwrap());
    found.sort();
    assert_eq!(
        found,
        [
            "1|u1|true|true|false|true",
            "2|u2|true|false|true|false",
            "3|-|false|true|false|-",
            "4|u1|false|true|false|true"
        ]
    );
}

#[tokio::test]
async fn faults_of_conditions_point_into_the_condition() {
    let (_folder, script) = corpus().await;
    let session = open(script);
    for (text, expected) in [
        (
            "usr_id IS NULL",
            "c.sql:1:1: unknown column 'usr_id' (did you mean 'user_id'?)",
        ),
        ("id + 1", "c.sql:1:1: the condition of 'k' is Int64, expected Boolean"),
        (
            "id NOT IN (SELECT 1)",
            "c.sql:1:1: this sub-query cannot be part of a row's condition",
        ),
    ] {
        let plan = session
            .plan_query(&SqlText::file("SELECT * FROM c", "q.sql"))
            .await
            .unwrap();
        let error = session
            .plan_row_conditions(plan, "c", &[("k".into(), SqlText::file(text, "c.sql"))])
            .await
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

async fn gate(condition: &str, previous: Option<&str>) -> Result<String, String> {
    let (_folder, script) = corpus().await;
    let session = open(script);
    let text = SqlText::file(condition, "c.sql");
    let plan = session
        .plan_corpus_expectation(&text, "c@3", previous, &["split".into()])
        .await
        .map_err(|error| error.to_string())?;
    let frame = session.context().execute_logical_plan(plan).await.unwrap();
    Ok(rows_of(&frame.collect().await.unwrap()).join(";"))
}

/// The index of `x` between two versions, each made of a query over numbers from 1 to 1,000.
async fn shift(previous: &str, now: &str) -> f64 {
    let session = open_with(&format!(
        "CREATE VIEW before AS SELECT {previous} AS x FROM generate_series(1, 1000);
         CREATE VIEW now AS SELECT {now} AS x FROM generate_series(1, 1000);"
    ));
    let text = SqlText::file("psi('x', previous()) < 0.2", "c.sql");
    let plan = session
        .plan_corpus_expectation(&text, "now", Some("before"), &[])
        .await
        .unwrap();
    let frame = session.context().execute_logical_plan(plan).await.unwrap();
    let row = rows_of(&frame.collect().await.unwrap()).remove(0);
    row.split_once('|').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn numbers_are_compared_by_the_deciles_of_the_version_before() {
    // No value of one is a value of the other, and the distribution is the same.
    let near = shift("CAST(value AS DOUBLE)", "value + 0.25").await;
    assert!(near < 0.01, "{near}");
    // By hand: half of the values leave the nine lower deciles for the last one.
    let far = shift(
        "CAST(value AS DOUBLE)",
        "CASE WHEN value <= 500 THEN value ELSE 5000.0 END",
    )
    .await;
    let share = |count: f64| (count + 0.5) / (1000.0 + 0.5 * 10.0);
    let term = |e: f64, a: f64| (share(a) - share(e)) * (share(a) / share(e)).ln();
    let by_hand = 4.0 * term(100.0, 0.0) + term(100.0, 500.0);
    assert!((far - by_hand).abs() < 1e-9, "{far} {by_hand}");
    // Few values: each is a bucket of its own, as if it were a text.
    let few = shift("value % 3", "CASE WHEN value % 3 = 2 THEN 1 ELSE value % 3 END").await;
    let as_text = shift(
        "CAST(value % 3 AS VARCHAR)",
        "CAST(CASE WHEN value % 3 = 2 THEN 1 ELSE value % 3 END AS VARCHAR)",
    )
    .await;
    assert!((few - as_text).abs() < 1e-12 && few > 0.2, "{few} {as_text}");
    // NULL is a bucket of its own; so is nothing but NULL before.
    let nulls = shift("value", "CASE WHEN value % 2 = 0 THEN value END").await;
    assert!(nulls > 1.0, "{nulls}");
    assert!(shift("CAST(NULL AS DOUBLE)", "CAST(NULL AS DOUBLE)").await < 1e-12);
}

#[tokio::test]
async fn corpus_conditions_give_one_row() {
    assert_eq!(gate("count(*) >= 4", None).await.unwrap(), "true|4");
    assert_eq!(
        gate("count(*) >= 5 OR count(DISTINCT user_id) = 2", None)
            .await
            .unwrap(),
        "true|-"
    );
    assert_eq!(gate("leakage('user_id') = 0", None).await.unwrap(), "false|1");
    assert_eq!(
        gate("leakage('user_id', 'id') < 2 AND count(*) = 4", None)
            .await
            .unwrap(),
        "true|-"
    );
    assert_eq!(
        gate(
            "avg(CASE WHEN split = 'train' THEN 1.0 ELSE 0.0 END) BETWEEN 0.7 AND 0.8",
            None
        )
        .await
        .unwrap(),
        "true|0.75"
    );
    assert_eq!(
        gate("psi('user_id', previous()) < 0.2", None).await.unwrap(),
        "true|0.0"
    );
    assert_eq!(
        gate("psi('user_id', previous()) < 0.2", Some("c@3")).await.unwrap(),
        "true|0.0"
    );
    let shifted = gate("psi('user_id', previous()) < 0.2", Some("erased")).await.unwrap();
    assert!(shifted.starts_with("false|0."), "{shifted}");
    let error = gate("leakage(user_id) = 0", None).await.unwrap_err();
    assert!(error.contains("leakage takes names of columns"), "{error}");
    let error = gate("leakage('usr_id') = 0", None).await.unwrap_err();
    assert!(
        error.starts_with("c.sql:1:10: unknown column 'usr_id' (did you mean 'user_id'?)"),
        "{error}"
    );
}
