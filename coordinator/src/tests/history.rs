//! Corpora whose rows are compared with those of their earlier versions.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{CHILD_HOME, CHILD_SQL, Kept, on_large_stack, run, run_with};
use crate::objects::HistoryFiles;
use crate::{BuildState, Coordinator, CoordinatorOptions};

const FIRST: &str = "buy cheap followers now at our little shop in the old town, best price for all of you";
const EDITED: &str = "buy cheap followers now at our little shop in the old town, best price for all of us";
const OTHER: &str = "the committee will meet again on thursday to talk about the new rules for moderators";
const THIRD: &str = "buy cheap followers here at our little shop in the old town, best price for all of you";

async fn add(home: &Path, data: &Path, file: &str, posts: &[(i64, &str)]) {
    let values: Vec<String> = posts.iter().map(|(id, body)| format!("({id}, '{body}')")).collect();
    let sql = format!(
        "COPY (SELECT * FROM (VALUES {}) t(id, body)) TO '{}/{file}.parquet' STORED AS PARQUET",
        values.join(", "),
        data.display()
    );
    run(home, &sql).await.unwrap();
}

fn corpus(data: &Path, more: &str) -> String {
    format!(
        "CREATE OR REPLACE EXTERNAL TABLE posts STORED AS PARQUET LOCATION '{}/';
         CREATE OR REPLACE VIEW marked AS SELECT * FROM near_duplicates(TABLE posts, key => 'id', text => 'body', against => 'history:c');
         CREATE OR REFRESH CORPUS c (PRIMARY KEY (id){more}) WITH (shards = 2) AS SELECT * FROM marked;",
        data.display()
    )
}

/// `id kept linked_to` of each row, of a version or of the newest.
async fn marks(home: &Path, of: &str) -> String {
    let sql = format!(
        "SELECT string_agg(concat(CAST(id AS VARCHAR), ' ', CAST(dup_is_representative AS VARCHAR), ' ',
                                coalesce(CAST(dup_linked_to AS VARCHAR), '-')), ', ' ORDER BY id) AS m FROM {of}"
    );
    let text = run(home, &sql).await.unwrap().text;
    text.lines().nth(3).unwrap().trim_matches(['|', ' ']).to_owned()
}

/// Files of histories that versions name, and those on disk.
async fn files(home: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let coordinator = Coordinator::open(CoordinatorOptions::new(home)).await.unwrap();
    let mut named = BTreeSet::new();
    for version in coordinator.warehouse().versions("c").await.unwrap() {
        let manifest = coordinator.show(&format!("c@{version}")).await.unwrap();
        named.extend(
            HistoryFiles::of(&manifest)
                .unwrap()
                .iter()
                .flat_map(HistoryFiles::paths),
        );
    }
    let corpus = home.join("warehouse/c");
    let mut there = BTreeSet::new();
    let mut open = vec![corpus.join("_corpusmill/history")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if std::fs::metadata(&path).unwrap().len() > 0 {
                there.insert(path.strip_prefix(&corpus).unwrap().display().to_string());
            }
        }
    }
    (named, there)
}

#[test]
fn representatives_stay_over_versions() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let (home, data) = (root.path().join("home"), root.path().join("data"));
        let build = async |more: &str| {
            run(&home, &corpus(&data, more))
                .await
                .map(|mut kept: Kept| kept.builds.remove(0))
        };
        add(
            &home,
            &data,
            "0",
            &[(10, FIRST), (11, EDITED), (12, OTHER), (13, OTHER)],
        )
        .await;
        let first = build("").await.unwrap();
        assert_eq!((first.version, first.state), (0, BuildState::Committed));
        let steps: Vec<&str> = first.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(steps, ["history texts", "history bands", "shards"]);
        assert_eq!(first.steps[0].rows_out, 3, "each text once");
        assert_eq!(
            marks(&home, "c").await,
            "10 true -, 11 false 10, 12 true -, 13 false 12"
        );
        // By their keys the new ones would come first; they are compared with what is there.
        add(
            &home,
            &data,
            "1",
            &[
                (1, THIRD),
                (2, OTHER),
                (3, "a text that nobody has written before today"),
            ],
        )
        .await;
        let second = build("").await.unwrap();
        assert_eq!((second.version, second.steps[0].rows_out), (1, 2));
        let marked = "1 false 10, 2 false 12, 3 true -, 10 true -, 11 false 10, 12 true -, 13 false 12";
        assert_eq!(marks(&home, "c").await, marked);
        let clusters = "SELECT count(*) AS n FROM c a JOIN c VERSION AS OF 0 b ON a.id = b.id AND a.dup_cluster_id = b.dup_cluster_id AND a.dup_similarity = b.dup_similarity";
        assert!(run(&home, clusters).await.unwrap().text.contains("| 4 |"));
        // Once more, over all the input: nothing is new, and no file is left of it.
        for again in ["REFRESH CORPUS c", "REFRESH CORPUS c FULL", "REFRESH CORPUS c"] {
            let same = run(&home, again).await.unwrap().builds.remove(0);
            assert_eq!((same.version, same.state), (1, BuildState::Unchanged), "{again}");
        }
        // A query compares, and adds nothing.
        let asked = format!(
            "SELECT id, dup_is_representative AS kept, dup_linked_to FROM near_duplicates((SELECT 100 AS id, '{EDITED}' AS body), key => 'id', text => 'body', against => 'history:c')"
        );
        let text = run(&home, &asked).await.unwrap().text;
        assert!(text.contains("| 100 | false | 11"), "{text}");
        let coordinator = Coordinator::open(CoordinatorOptions::new(&home)).await.unwrap();
        coordinator.vacuum(Duration::ZERO, false).await.unwrap();
        drop(coordinator);
        let (named, there) = files(&home).await;
        assert_eq!(named, there);
        assert!(named.len() >= 4, "{named:?}");
        // After a rollback the history is that of the version, too.
        run(&home, "ALTER CORPUS c ROLLBACK TO VERSION 0").await.unwrap();
        let third = build("").await.unwrap();
        assert_eq!((third.version, third.steps[0].rows_out), (3, 2));
        assert_eq!(marks(&home, "c").await, marked);
        assert_eq!(third.digest, second.digest, "the same history gives the same version");
    });
}

#[test]
fn a_build_that_fails_adds_nothing_to_the_history() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let (home, data) = (root.path().join("home"), root.path().join("data"));
        add(&home, &data, "0", &[(10, FIRST)]).await;
        run(&home, &corpus(&data, "")).await.unwrap();
        add(&home, &data, "1", &[(5, OTHER), (6, EDITED)]).await;
        let fails = ", CONSTRAINT many EXPECT CORPUS (count(*) > 100) ON VIOLATION FAIL BUILD";
        let error = run(&home, &corpus(&data, fails)).await.err().unwrap().to_string();
        assert!(error.contains("`many` failed"), "{error}");
        let (named, there) = files(&home).await;
        assert!(
            there.len() > named.len(),
            "its files are there, and no version names them"
        );
        std::fs::remove_file(data.join("1.parquet")).unwrap();
        // The text of the build that failed was never seen: its row is no duplicate of it, and comes first.
        add(&home, &data, "2", &[(7, OTHER), (4, EDITED)]).await;
        run(&home, &corpus(&data, "")).await.unwrap();
        assert_eq!(marks(&home, "c").await, "4 false 10, 7 true -, 10 true -");
        let coordinator = Coordinator::open(CoordinatorOptions::new(&home)).await.unwrap();
        coordinator.vacuum(Duration::ZERO, false).await.unwrap();
        drop(coordinator);
        let (named, there) = files(&home).await;
        assert_eq!(named, there, "what no version names is swept");
    });
}

#[test]
fn a_history_gives_the_same_version_on_any_machine() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let mut digests = BTreeSet::new();
        for (index, (partitions, batch)) in [(1, 8192), (4, 3)].into_iter().enumerate() {
            let (home, data) = (
                root.path().join(format!("home{index}")),
                root.path().join(format!("data{index}")),
            );
            for part in 0..3 {
                let posts = format!(
                    "COPY (SELECT i AS id, concat('message number ', CAST(i % 40 AS VARCHAR), ' of the long series that we have sent to all of you since ', CAST(i % 7 AS VARCHAR)) AS body
                           FROM (SELECT unnest(generate_series(1, 300)) AS i) WHERE i % 3 = {part}) TO '{}/{part}.parquet' STORED AS PARQUET",
                    data.display()
                );
                run(&home, &posts).await.unwrap();
                let mut options = CoordinatorOptions::new(&home);
                options.target_partitions = Some(partitions);
                options.batch_size = Some(batch);
                let kept = run_with(options, &corpus(&data, "")).await.unwrap();
                digests.insert((part, kept.builds[0].digest.clone()));
            }
        }
        assert_eq!(digests.len(), 3, "{digests:?}");
    });
}

#[test]
fn what_a_history_is_not_for_is_told() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let (home, data) = (root.path().join("home"), root.path().join("data"));
        add(&home, &data, "0", &[(10, FIRST)]).await;
        run(&home, &corpus(&data, "")).await.unwrap();
        let view = "CREATE MATERIALIZED VIEW m AS SELECT * FROM near_duplicates(TABLE posts, key => 'id', text => 'body', against => 'history:c')";
        let error = run(&home, view).await.err().unwrap().to_string();
        assert!(
            error.contains("in the query of corpus c, or in a view that is not materialized"),
            "{error}"
        );
        let two = "CREATE CORPUS d (PRIMARY KEY (id)) AS
            SELECT a.id, a.dup_cluster_id AS x, b.dup_cluster_id AS y
            FROM near_duplicates(TABLE posts, key => 'id', text => 'body', against => 'history:d') a
            JOIN near_duplicates(TABLE posts, key => 'id', text => 'body', threshold => 0.5, against => 'history:d') b ON a.id = b.id";
        let error = run(&home, two).await.err().unwrap().to_string();
        assert!(error.contains("a corpus has one history"), "{error}");
        let unknown =
            "SELECT * FROM near_duplicates(TABLE posts, key => 'id', text => 'body', against => 'history:cc')";
        let error = run(&home, unknown).await.err().unwrap().to_string();
        assert!(error.contains("unknown corpus 'cc' (did you mean 'c'?)"), "{error}");
    });
}

#[test]
fn graphs_of_many_edges_are_taken_apart_in_steps() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let mut digests = BTreeSet::new();
        for edges_max in ["100000000", "0"] {
            let home = root.path().join(edges_max);
            let sql = format!(
                "SET corpusmill.component_edges_max = {edges_max};
                 CREATE VIEW posts AS SELECT i AS id, i / 9 AS author,
                     concat('message number ', CAST(i % 40 AS VARCHAR), ' of the long series that we have sent to all of you since ', CAST(i % 7 AS VARCHAR)) AS body
                   FROM (SELECT unnest(generate_series(1, 300)) AS i);
                 CREATE MATERIALIZED VIEW near AS SELECT * FROM near_duplicates(TABLE posts, key => 'id', text => 'body');
                 CREATE CORPUS c (PRIMARY KEY (id)) WITH (shards = 2) AS
                   SELECT * FROM assign_split((SELECT n.* FROM near_duplicates(TABLE posts, key => 'id', text => 'body', threshold => 0.9, against => 'history:c') n
                                               JOIN near m ON m.id = n.id),
                                              key => 'id', groups => ['author', 'dup_cluster_id']);"
            );
            let kept = run(&home, &sql).await.unwrap();
            let build = &kept.builds[0];
            digests.insert(build.digest.clone());
            let steps: Vec<&str> = build.steps.iter().map(|step| step.name.as_str()).collect();
            let rounds = steps.iter().filter(|step| step.contains("round")).count();
            if edges_max == "0" {
                assert_eq!(steps[..3], ["view near", "graph 1 edges", "graph 1 pairs"]);
                assert!(rounds >= 2 && steps.contains(&"graph 2 edges"), "{steps:?}");
                let of_history = steps.iter().position(|step| *step == "history texts");
                let of_split = steps.iter().position(|step| *step == "graph 2 edges");
                assert!(of_history < of_split, "each when it is asked for: {steps:?}");
            } else {
                assert_eq!(steps, ["view near", "history texts", "history bands", "shards"]);
            }
        }
        assert_eq!(digests.len(), 1, "{digests:?}");
    });
}

/// Two builds, the second of which is killed at `place` and goes on; gives the digest of the second version, what is marked
/// in it, and how many builds are in its history.
fn killed_at(root: &Path, place: Option<&str>) -> (String, String, usize) {
    let name = place.unwrap_or("whole").replace(':', "-");
    let (home, data): (PathBuf, PathBuf) = (root.join(&name), root.join(format!("{name}-data")));
    on_large_stack({
        let (home, data) = (home.clone(), data.clone());
        async move {
            add(&home, &data, "0", &[(10, FIRST), (11, EDITED), (12, OTHER)]).await;
            run(&home, &corpus(&data, "")).await.unwrap();
            add(
                &home,
                &data,
                "1",
                &[
                    (1, THIRD),
                    (2, OTHER),
                    (3, "a text that nobody has written before today"),
                ],
            )
            .await;
        }
    });
    if let Some(place) = place {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::child", "--ignored", "--nocapture"])
            .env(CHILD_HOME, &home)
            .env(CHILD_SQL, corpus(&data, ""))
            .env("CORPUSMILL_FAILPOINT", place)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&status.stderr).into_owned();
        assert!(said.contains("aborting at"), "{place}: {said}");
    }
    on_large_stack(async move {
        run(&home, &corpus(&data, "")).await.unwrap();
        let coordinator = Coordinator::open(CoordinatorOptions::new(&home)).await.unwrap();
        let manifest = coordinator.show("c").await.unwrap();
        assert_eq!(manifest.version, 1);
        coordinator.vacuum(Duration::ZERO, false).await.unwrap();
        drop(coordinator);
        let (named, there) = files(&home).await;
        assert_eq!(named, there, "{name}");
        let history = HistoryFiles::of(&manifest).unwrap();
        (manifest.digest.to_string(), marks(&home, "c").await, history.len())
    })
}

#[test]
fn killed_anywhere_a_build_adds_to_the_history_once() {
    let root = tempfile::tempdir().unwrap();
    let want = killed_at(root.path(), None);
    assert_eq!(want.2, 2);
    for place in [
        "rows-written",
        "view-done",
        "view-done:2",
        "split-done:1",
        "before-commit",
        "after-commit",
    ] {
        assert_eq!(killed_at(root.path(), Some(place)), want, "{place}");
    }
}
