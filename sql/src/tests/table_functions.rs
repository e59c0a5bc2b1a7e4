use std::collections::{BTreeMap, BTreeSet};

use super::{failure, open_with, rows};

const POSTS: &str = "
CREATE VIEW posts(id, body, lang, score) AS VALUES
  (1, 'hello', 'en', 0.5), (2, 'hello', 'en', 0.9), (3, 'hello', 'de', 0.1),
  (4, NULL, NULL, 0.1), (5, NULL, NULL, 0.2), (6, NULL, 'en', 0.3), (7, NULL, 'en', 0.4), (8, 'bye', 'en', 0.0);
";

#[tokio::test]
async fn exact_duplicates_keep_every_row_and_choose_one_of_each_cluster() {
    let session = open_with(POSTS);
    let found = rows(
        &session,
        "SELECT id, dup_is_representative, dup_similarity,
                count(*) OVER (PARTITION BY dup_cluster_id) AS size
         FROM exact_duplicates(TABLE posts, key => 'id', columns => ['body', 'lang'], keep => 'score DESC')
         ORDER BY id",
    )
    .await;
    assert_eq!(
        found,
        [
            "1|false|1.0|2",
            "2|true|1.0|2",
            "3|true|1.0|1",
            "4|true|1.0|1",
            "5|true|1.0|1",
            "6|false|1.0|2",
            "7|true|1.0|2",
            "8|true|1.0|1"
        ]
    );
    // Ties by the key, and ids from the content alone.
    let ids = |filter: &str| {
        format!(
            "SELECT dup_cluster_id, id FROM exact_duplicates((SELECT * FROM posts WHERE {filter}), key => 'id', columns => 'body')
             WHERE body = 'hello' AND dup_is_representative"
        )
    };
    let all = rows(&session, &ids("true")).await;
    assert!(all[0].ends_with("|1"), "{all:?}");
    assert_eq!(all, rows(&session, &ids("id < 4")).await);
}

#[tokio::test]
async fn wrong_arguments_are_located() {
    let session = open_with(POSTS);
    for (sql, expected) in [
        (
            "SELECT * FROM exact_duplicates(TABLE posts, key => 'ids', columns => ['body'])",
            "q.sql:1:45: unknown column 'ids' (did you mean 'id'?)",
        ),
        (
            "SELECT * FROM exact_duplicates(TABLE posts, key => 'id', colums => ['body'])",
            "q.sql:1:58: exact_duplicates has no argument 'colums' (did you mean 'columns'?)",
        ),
        (
            "SELECT * FROM exact_duplicates(TABLE posts, columns => ['body'])",
            "q.sql:1:15: exact_duplicates needs key => 'column'",
        ),
        (
            "SELECT * FROM exact_duplicates(key => 'id', columns => ['body'])",
            "q.sql:1:15: exact_duplicates takes TABLE t or (SELECT …) first",
        ),
        (
            "SELECT * FROM exact_duplicates(TABLE post, key => 'id', columns => ['body'])",
            "q.sql:1:38: unknown table 'post' (did you mean 'posts'?)",
        ),
        (
            "SELECT * FROM assign_split(TABLE posts, key => 'id', ratios => 'train=2')",
            "q.sql:1:15: assign_split: ",
        ),
    ] {
        let message = failure(&session, sql).await;
        assert!(message.starts_with(expected), "{sql}\n{message}");
    }
}

/// 600 rows; users chain into components through clusters, some rows are in no group.
const ROWS: &str = "
CREATE VIEW t AS SELECT value AS id,
  CASE WHEN value % 11 = 0 THEN NULL ELSE value % 211 END AS user_id,
  CASE WHEN value % 25 = 0 THEN value / 100 ELSE NULL END AS cluster_id,
  CASE WHEN value % 3 = 0 THEN 'hate' ELSE 'ok' END AS label,
  to_timestamp_seconds(1767225600 + value * 3600) AS at
FROM generate_series(1, 600);
";

/// Components by label spreading, the slow and simple way.
fn components(groups: &[(i64, Vec<Option<String>>)]) -> BTreeMap<i64, i64> {
    let mut label: BTreeMap<i64, i64> = groups.iter().map(|(id, _)| (*id, *id)).collect();
    loop {
        let before = label.clone();
        let mut by_value: BTreeMap<(usize, String), i64> = BTreeMap::new();
        for (id, values) in groups {
            for (column, value) in values.iter().enumerate() {
                if let Some(value) = value {
                    let low = by_value.entry((column, value.clone())).or_insert(label[id]);
                    *low = (*low).min(label[id]);
                }
            }
        }
        for (id, values) in groups {
            for (column, value) in values.iter().enumerate() {
                if let Some(value) = value {
                    let low = by_value[&(column, value.clone())];
                    label.insert(*id, low.min(label[id]));
                }
            }
        }
        if before == label {
            return label;
        }
    }
}

async fn splits(sql: &str) -> Vec<Vec<String>> {
    let session = open_with(ROWS);
    rows(&session, sql)
        .await
        .into_iter()
        .map(|row| row.split('|').map(String::from).collect())
        .collect()
}

fn check_no_straddle(found: &[Vec<String>]) -> usize {
    let groups: Vec<(i64, Vec<Option<String>>)> = found
        .iter()
        .map(|row| {
            let value = |cell: &String| (cell != "-").then(|| cell.clone());
            (row[0].parse().unwrap(), vec![value(&row[1]), value(&row[2])])
        })
        .collect();
    let component = components(&groups);
    let mut split_of: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    for row in found {
        let id: i64 = row[0].parse().unwrap();
        split_of.entry(component[&id]).or_default().insert(&row[3]);
    }
    assert!(split_of.values().all(|splits| splits.len() == 1), "{split_of:?}");
    split_of.len()
}

#[tokio::test]
async fn no_group_straddles_a_split() {
    let sql = "SELECT id, user_id, cluster_id, split, label FROM assign_split(TABLE t, key => 'id',
        groups => ['user_id', 'cluster_id'], ratios => 'train=0.6,test=0.4', salt => 'v1')";
    let found = splits(sql).await;
    assert_eq!(found.len(), 600);
    assert!(check_no_straddle(&found) > 50);
    let names: BTreeSet<&str> = found.iter().map(|row| row[3].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["test", "train"]));
    assert_eq!(found, splits(sql).await);
    let other = splits(&sql.replace("'v1'", "'v2'")).await;
    assert_ne!(found, other);
}

#[tokio::test]
async fn strata_meet_the_ratios_as_well_as_groups_allow() {
    let found = splits(
        "SELECT id, user_id, NULL AS c, split, label FROM assign_split(TABLE t, key => 'id',
        groups => ['user_id'], stratify => 'label', ratios => 'train=0.5,test=0.5')",
    )
    .await;
    check_no_straddle(&found);
    // A component of one user has about 3 rows, those without a user one; the strata are cut to within one of them.
    let train = found.iter().filter(|row| row[3] == "train").count();
    assert!((280..=320).contains(&train), "{train} of 600");
    let alone = splits(
        "SELECT id, id AS u, NULL AS c, split, label FROM assign_split(TABLE t, key => 'id',
        stratify => 'label', ratios => 'train=0.5,test=0.5')",
    )
    .await;
    for label in ["hate", "ok"] {
        let of_label: Vec<_> = alone.iter().filter(|row| row[4] == label).collect();
        let train = of_label.iter().filter(|row| row[3] == "train").count();
        assert_eq!(train * 2, of_label.len());
    }
}

#[tokio::test]
async fn what_has_an_early_row_is_trained_on() {
    for stratify in ["", "stratify => 'label',"] {
        let found = splits(&format!(
            "SELECT id, user_id, cluster_id, split, label, at < TIMESTAMP '2026-01-20 00:00:00' FROM assign_split(
             TABLE t, key => 'id', groups => ['user_id', 'cluster_id'], {stratify} ratios => 'train=0.2,test=0.8',
             time_column => 'at', eval_after => TIMESTAMP '2026-01-20 00:00:00')"
        ))
        .await;
        check_no_straddle(&found);
        assert!(found.iter().all(|row| row[5] != "true" || row[3] == "train"));
        let late = splits(&format!(
            "SELECT id, NULL AS u, NULL AS c, split, label, at < TIMESTAMP '2026-01-20 00:00:00' FROM assign_split(
             TABLE t, key => 'id', {stratify} ratios => 'train=0.2,test=0.8',
             time_column => 'at', eval_after => TIMESTAMP '2026-01-20 00:00:00')"
        ))
        .await;
        assert!(late.iter().any(|row| row[5] == "false" && row[3] == "test"));
        assert!(late.iter().all(|row| row[5] != "true" || row[3] == "train"));
    }
}
