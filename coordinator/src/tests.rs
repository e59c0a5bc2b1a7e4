//! Builds from the outside: what a script gives, what is on disk after it, and after it was killed.

mod history;
mod stopped;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::util::pretty::pretty_format_batches;
use futures::TryStreamExt as _;

use crate::{BuildReport, BuildState, Coordinator, CoordinatorError, CoordinatorOptions, Outcome, Result, Sink};

#[derive(Default)]
struct Kept {
    builds: Vec<BuildReport>,
    text: String,
}

#[async_trait]
impl Sink for Kept {
    async fn outcome(&mut self, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Rows(rows) => {
                let batches: Vec<_> = rows.try_collect().await?;
                self.text += &pretty_format_batches(&batches).unwrap().to_string();
            }
            Outcome::Message(message) => self.text += &message,
            Outcome::Build(report) => self.builds.push(*report),
        }
        Ok(())
    }
}

/// Plans of unoptimised builds need more stack than a test thread has.
fn on_large_stack<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(16 << 20)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { tokio::spawn(future).await.unwrap() })
    };
    std::thread::Builder::new()
        .stack_size(16 << 20)
        .spawn(run)
        .unwrap()
        .join()
        .unwrap()
}

async fn run_with(options: CoordinatorOptions, sql: &str) -> Result<Kept> {
    let coordinator = Coordinator::open(options).await?;
    let mut kept = Kept::default();
    coordinator.run_script(sql, "test.sql", &mut kept).await?;
    Ok(kept)
}

async fn run(home: &Path, sql: &str) -> Result<Kept> {
    run_with(CoordinatorOptions::new(home), sql).await
}

/// 3,000 posts of three splits; every seventh has no label, every eleventh little agreement.
const SOURCE: &str = "SELECT i AS id, CASE i % 3 WHEN 0 THEN 'train' WHEN 1 THEN 'valid' ELSE 'test' END AS split, \
    repeat('word ', CAST(i % 40 AS INT)) || CAST(i AS VARCHAR) AS body, \
    CASE WHEN i % 7 = 0 THEN NULL ELSE i % 5 END AS label, CASE WHEN i % 11 = 0 THEN 0.1 ELSE 0.9 END AS agreement \
    FROM (SELECT unnest(generate_series(1, 3000)) AS i)";

fn pipeline(data: &Path) -> String {
    format!(
        "CREATE EXTERNAL TABLE posts STORED AS PARQUET LOCATION '{}/';
         CREATE MATERIALIZED VIEW clean AS SELECT *, length(body) AS n FROM posts;
         CREATE CORPUS c (PRIMARY KEY (id),
           CONSTRAINT labelled EXPECT (label IS NOT NULL) ON VIOLATION DROP ROW,
           CONSTRAINT agreed EXPECT (agreement >= 0.6) ON VIOLATION QUARANTINE ROW,
           CONSTRAINT short EXPECT (n < 150) ON VIOLATION WARN,
           CONSTRAINT enough EXPECT CORPUS (count(*) > 100) ON VIOLATION FAIL BUILD)
         PARTITIONED BY (split) WITH (shards = 3, block_rows = 128) AS SELECT * FROM clean;",
        data.display()
    )
}

async fn write_source(data: &Path, home: &Path) {
    for part in 0..3 {
        let copy = format!(
            "COPY (SELECT * FROM ({SOURCE}) WHERE id % 3 = {part}) TO '{}/{part}.parquet' STORED AS PARQUET",
            data.display()
        );
        run(home, &copy).await.unwrap();
    }
}

/// Content of the shards by place: `split=train/g0-s0001` → bytes.
fn shards(home: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for folder in std::fs::read_dir(home.join("warehouse/c")).unwrap().flatten() {
        let name = folder.file_name().into_string().unwrap();
        if !name.starts_with("split=") {
            continue;
        }
        for file in std::fs::read_dir(folder.path()).unwrap().flatten() {
            let file_name = file.file_name().into_string().unwrap();
            if let Some(shard) = file_name.strip_suffix(".parquet") {
                let place = format!("{name}/{}", &shard[.."g0-s0000".len()]);
                let twice = found.insert(place, std::fs::read(file.path()).unwrap());
                assert!(twice.is_none(), "{file_name} is there twice");
            }
        }
    }
    found
}

#[test]
fn the_same_bytes_whatever_the_machine() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        write_source(&data, &root.path().join("maker")).await;
        let mut first: Option<(String, BTreeMap<String, Vec<u8>>)> = None;
        for (index, (partitions, batch, memory)) in [
            (1, 8192, None),
            (2, 8192, None),
            (7, 100, None),
            (3, 1000, Some(24 << 20)),
        ]
        .into_iter()
        .enumerate()
        {
            let home = root.path().join(format!("home{index}"));
            let mut options = CoordinatorOptions::new(&home);
            options.target_partitions = Some(partitions);
            options.batch_size = Some(batch);
            options.memory_limit_bytes = memory;
            let kept = run_with(options, &pipeline(&data)).await.unwrap();
            let report = &kept.builds[0];
            assert_eq!(report.state, BuildState::Committed);
            assert_eq!(report.rows_in, 3000);
            // Multiples of 7 are dropped, of the rest multiples of 11 quarantined.
            assert_eq!(report.drops, BTreeMap::from([("labelled".to_owned(), 428)]));
            assert_eq!(report.quarantined, BTreeMap::from([("agreed".to_owned(), 272 - 38)]));
            assert_eq!(report.rows, 3000 - 428 - (272 - 38));
            let made = (report.digest.clone(), shards(&home));
            assert_eq!(made.1.len(), 9, "three shards of three splits");
            match &first {
                None => first = Some(made),
                Some(first) => assert!(
                    *first == made,
                    "partitions {partitions}, batch {batch}, memory {memory:?}"
                ),
            }
        }
    });
}

#[test]
fn quarantine_and_drops_are_relations() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let (data, home) = (root.path().join("data"), root.path().join("home"));
        write_source(&data, &home).await;
        run(&home, &pipeline(&data)).await.unwrap();
        let kept = run(
            &home,
            "SELECT _reason, count(*) AS n FROM c.quarantine GROUP BY 1; SELECT * FROM c.drops",
        )
        .await;
        let text = kept.unwrap().text;
        assert!(
            text.contains("agreed") && text.contains("234") && text.contains("428"),
            "{text}"
        );
    });
}

#[test]
fn bad_keys_and_failed_gates_publish_nothing() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let home = root.path();
        let cases = [
            (
                "",
                "SELECT 1 AS id, 'train' AS split UNION ALL SELECT 1, 'test'",
                "not unique: (id = 1)",
            ),
            (
                "",
                "SELECT CAST(NULL AS INT) AS id, 'x' AS split",
                "primary key (id) is NULL",
            ),
            (
                ", CONSTRAINT f EXPECT (id > 1) ON VIOLATION FAIL BUILD",
                "SELECT 1 AS id, 'x' AS split",
                "`f` failed",
            ),
            (
                ", CONSTRAINT n EXPECT CORPUS (count(*) > 5) ON VIOLATION FAIL BUILD",
                "SELECT 1 AS id, 'x' AS split, 2 AS y",
                "count(*) > 5, observed 1",
            ),
        ];
        for (clause, query, expected) in cases {
            let sql = format!(
                "CREATE CORPUS c (PRIMARY KEY (id){clause}) PARTITIONED BY (split) WITH (shards = 2) AS \
                 SELECT *, 1 AS z FROM ({query})"
            );
            let error = run(home, &sql).await.err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
            let failed = matches!(error, CoordinatorError::ExpectationFailed { .. });
            assert_eq!(failed, !clause.is_empty(), "{error:?}");
            let coordinator = Coordinator::open(CoordinatorOptions::new(home)).await.unwrap();
            assert!(coordinator.corpora().await.unwrap().is_empty());
            assert_eq!(coordinator.builds().await.unwrap()[0].state, BuildState::Failed);
        }
        // What the failed gate saw stays there to be asked for.
        let text = run(home, "SHOW BUILDS").await.unwrap().text;
        assert!(text.contains("n (observed 1)"), "{text}");
    });
}

#[test]
fn versions_change_only_when_rows_do() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let home = root.path();
        let corpus =
            |how: &str, query: &str| format!("CREATE {how} CORPUS c (PRIMARY KEY (id)) WITH (shards = 2) AS {query}");
        let build = async |sql: &str| run(home, sql).await.map(|mut kept| kept.builds.remove(0));
        let one = "SELECT 1 AS id, 'a' AS t";
        let first = build(&corpus("", one)).await.unwrap();
        assert_eq!((first.version, first.state), (0, BuildState::Committed));
        for again in ["REFRESH CORPUS c", "REFRESH CORPUS c FULL"] {
            let same = build(again).await.unwrap();
            assert_eq!((same.version, same.state), (0, BuildState::Unchanged), "{again}");
        }
        let wider = build(&corpus("OR REFRESH", "SELECT 1 AS id, 'a' AS t, 2.5 AS x"))
            .await
            .unwrap();
        assert_eq!(wider.version, 1);
        let error = build(&corpus("OR REFRESH", "SELECT 1 AS id"))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("column t is gone") && error.contains("OR REPLACE"),
            "{error}"
        );
        assert_eq!(
            build(&corpus("OR REPLACE", "SELECT 'z' AS id")).await.unwrap().version,
            2
        );
        let back = build("ALTER CORPUS c ROLLBACK TO VERSION 0").await.unwrap();
        assert_eq!((back.version, &back.digest), (3, &first.digest));
        let text = run(home, "SELECT * FROM c; SELECT * FROM c VERSION AS OF 2")
            .await
            .unwrap()
            .text;
        assert!(text.contains("| 1  | a |") && text.contains("| z  |"), "{text}");
        let other = run(home, &corpus("", "SELECT 7 AS id"))
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(other.contains("OR REFRESH"), "{other}");
    });
}

#[test]
fn one_writer_and_many_readers() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let first = Coordinator::open(CoordinatorOptions::new(root.path())).await.unwrap();
        first
            .run_script("CREATE VIEW v AS SELECT 1 AS one", "a.sql", &mut Kept::default())
            .await
            .unwrap();
        let error = run(root.path(), "CREATE VIEW w AS SELECT 2 AS two")
            .await
            .err()
            .unwrap();
        assert!(matches!(error, CoordinatorError::Locked { .. }), "{error:?}");
        assert!(run(root.path(), "SELECT * FROM v").await.unwrap().text.contains("one"));
        drop(first);
        run(root.path(), "CREATE VIEW w AS SELECT 2 AS two").await.unwrap();
    });
}

#[test]
fn vacuum_removes_orphans_and_nothing_else() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home");
        let data = root.path().join("data");
        write_source(&data, &home).await;
        run(&home, &pipeline(&data)).await.unwrap();
        let orphan = home.join("warehouse/c/split=train/g0-s0001-lost-local-1.parquet");
        let upload = home.join("warehouse/c/split=train/g0-s0002-lost-local-1.parquet#1");
        std::fs::write(&orphan, "left by a dead worker").unwrap();
        std::fs::write(&upload, "left by a dead worker").unwrap();
        let coordinator = Coordinator::open(CoordinatorOptions::new(&home)).await.unwrap();
        let young = coordinator.vacuum(Duration::from_secs(3600), false).await.unwrap();
        assert!(young.files.is_empty(), "{young:?}");
        let asked = coordinator.vacuum(Duration::ZERO, true).await.unwrap();
        assert!(asked.dry_run && orphan.exists());
        let swept = coordinator.vacuum(Duration::ZERO, false).await.unwrap();
        assert_eq!(swept.files.len(), 2, "{swept:?}");
        assert!(!orphan.exists() && !upload.exists());
        assert!(coordinator.verify("c").await.unwrap().faults.is_empty());
        drop(coordinator);
        let text = run(&home, "SELECT count(*) FROM clean; SELECT count(*) FROM c.quarantine")
            .await
            .unwrap()
            .text;
        assert!(text.contains("3000") && text.contains("234"), "{text}");
    });
}

const CHILD_HOME: &str = "CORPUSMILL_TEST_CHILD_HOME";
/// What it runs, where that is not the pipeline.
const CHILD_SQL: &str = "CORPUSMILL_TEST_CHILD_SQL";

/// Not a test of its own: the process that `killed_anywhere…` kills.
#[test]
#[ignore = "run by tests that kill it, in a process of its own"]
fn child() {
    let home = std::path::PathBuf::from(std::env::var(CHILD_HOME).expect("only run by its parent"));
    on_large_stack(async move {
        let pipeline = || pipeline(&home.parent().unwrap().join("data"));
        let sql = std::env::var(CHILD_SQL).unwrap_or_else(|_| pipeline());
        run(&home, &sql).await.unwrap();
    });
}

#[test]
fn killed_anywhere_it_goes_on_to_one_version() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let (maker, whole) = (root.path().join("maker"), root.path().join("whole"));
    let sql = pipeline(&data);
    let (digest, bytes) = on_large_stack({
        let (data, whole, sql) = (data.clone(), whole.clone(), sql.clone());
        async move {
            write_source(&data, &maker).await;
            let digest = run(&whole, &sql).await.unwrap().builds[0].digest.clone();
            (digest, shards(&whole))
        }
    });
    let places = [
        "rows-written",
        "view-done",
        "shard-written:2",
        "split-done:2",
        "step-done",
        "before-commit",
        "after-commit",
    ];
    for place in places {
        let home = root.path().join(format!("killed-{}", place.replace(':', "-")));
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::child", "--ignored", "--nocapture"])
            .env(CHILD_HOME, &home)
            .env("CORPUSMILL_FAILPOINT", place)
            .output()
            .unwrap();
        assert!(!status.status.success(), "{place} was not reached");
        let said = String::from_utf8_lossy(&status.stderr).into_owned();
        assert!(said.contains("aborting at"), "{place}: {said}");
        let sql = sql.clone();
        let (resumed, manifest, versions) = on_large_stack({
            let home = home.clone();
            async move {
                let kept = run(&home, &sql).await.unwrap();
                let coordinator = Coordinator::open(CoordinatorOptions::new(&home)).await.unwrap();
                // Files of attempts that lost are swept, so that what is left is the version.
                coordinator.vacuum(Duration::ZERO, false).await.unwrap();
                let versions = coordinator.warehouse().versions("c").await.unwrap();
                let committed = coordinator.builds().await.unwrap();
                let open = committed
                    .iter()
                    .any(|b| b.object == "c" && b.state != BuildState::Committed);
                assert!(!open, "{committed:?}");
                (
                    kept.builds.first().is_some_and(|b| b.resumed),
                    coordinator.show("c").await.unwrap(),
                    versions,
                )
            }
        });
        assert_eq!(versions, [0], "{place}");
        assert_eq!(manifest.digest.to_string(), digest, "{place}");
        assert!(shards(&home) == bytes, "{place}: other bytes");
        let in_shards = ["shard-written:2", "split-done:2", "step-done", "before-commit"].contains(&place);
        assert_eq!(resumed, in_shards, "{place}");
        if place == "split-done:2" {
            let reused = manifest
                .shard_files
                .iter()
                .map(|s| s.path.rsplit('-').next())
                .collect::<std::collections::BTreeSet<_>>();
            assert_eq!(reused.len(), 3, "each of the three splits was written by one attempt");
        }
    }
}
