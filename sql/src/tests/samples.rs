use std::collections::{BTreeMap, BTreeSet};

use super::{failure, open_with, rows};

/// Strata of 1, 10, 100 and 1,000 rows; the label of one is NULL.
fn strata() -> String {
    let mut values = vec![];
    for (label, count) in [("'a'", 1), ("'b'", 10), ("NULL", 100), ("'c'", 1_000)] {
        for _ in 0..count {
            values.push(format!("({}, {label})", values.len()));
        }
    }
    format!("CREATE VIEW t(id, label) AS VALUES {};", values.join(", "))
}

#[tokio::test]
async fn samples_hold_each_stratum_with_the_probability_that_they_say() {
    let session = open_with(&strata());
    let sample = |arguments: &str| {
        format!(
            "SELECT label, count(*) AS n, min(inclusion_prob) AS p, max(inclusion_prob) AS q, sum(1 / inclusion_prob) AS w
             FROM stratified_sample(TABLE t, key => 'id', by => 'label', {arguments}) GROUP BY label"
        )
    };
    assert_eq!(
        rows(&session, &sample("rows => 20")).await,
        [
            "-|20|0.2|0.2|100.0",
            "a|1|1.0|1.0|1.0",
            "b|10|1.0|1.0|10.0",
            "c|20|0.02|0.02|1000.0"
        ]
    );
    assert_eq!(
        rows(&session, &sample("fraction => 0.25")).await,
        [
            "-|25|0.25|0.25|100.0",
            "a|1|1.0|1.0|1.0",
            "b|3|0.3|0.3|10.0",
            "c|250|0.25|0.25|1000.0"
        ]
    );
    // More rows keep those that were there; another salt chooses others.
    let ids = async |arguments: &str| -> BTreeSet<String> {
        let sql = format!("SELECT id FROM stratified_sample(TABLE t, key => 'id', by => ['label'], {arguments})");
        rows(&session, &sql).await.into_iter().collect()
    };
    let (few, more, other) = (
        ids("rows => 20").await,
        ids("rows => 40").await,
        ids("rows => 20, salt => 'x'").await,
    );
    assert!(few.is_subset(&more) && few != other);
    let whole = "SELECT count(*) FROM stratified_sample(TABLE t, key => 'id', rows => 7)";
    assert_eq!(rows(&session, whole).await, ["7"]);
    for (arguments, told) in [
        ("rows => 1, fraction => 0.5", "rows or fraction, not both"),
        ("rows => 0", "above 0"),
        ("fraction => 1.5", "at most 1"),
    ] {
        let error = failure(&session, &sample(arguments)).await;
        assert!(error.contains(told), "{error}");
    }
}

#[tokio::test]
async fn every_stratum_is_drawn_evenly() {
    // A hundred salts: each of ten rows is among the three that are kept about as often as the others.
    let session = open_with("CREATE VIEW t(id) AS VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9);");
    let mut drawn: BTreeMap<String, usize> = BTreeMap::new();
    for salt in 0..100 {
        let sql = format!("SELECT id FROM stratified_sample(TABLE t, key => 'id', rows => 3, salt => '{salt}')");
        for id in rows(&session, &sql).await {
            *drawn.entry(id).or_default() += 1;
        }
    }
    // 30 each, with a standard deviation of 4.6.
    assert!(
        drawn.len() == 10 && drawn.values().all(|n| (12..=48).contains(n)),
        "{drawn:?}"
    );
}

#[tokio::test]
async fn what_differs_between_two_relations() {
    let session = open_with(
        "CREATE VIEW a(id, part, body, tags, score) AS VALUES
           (1, 'x', 'same', [1, 2], 0.5), (2, 'x', 'old', [1], 0.5), (3, 'x', 'gone', [1], NULL),
           (4, 'x', NULL, [4], NULL), (5, 'x', 'both', [5], 1.0);
         CREATE VIEW b(part, id, body, tags, lang) AS VALUES
           ('x', 1, 'same', [1, 2], 'en'), ('x', 2, 'new', [1], 'en'), ('x', 4, NULL, [4, 4], 'en'),
           ('x', 5, 'other', [6], 'en'), ('y', 1, 'added', [1], 'en');",
    );
    let diff = |relations: &str| {
        format!("SELECT part, id, change, changed_columns FROM corpus_diff({relations}, key => ['id', 'part'])")
    };
    assert_eq!(
        rows(&session, &diff("TABLE a, TABLE b")).await,
        [
            "x|2|changed|body",
            "x|3|removed|-",
            "x|4|changed|tags",
            "x|5|changed|body, tags",
            "y|1|added|-"
        ]
    );
    assert!(rows(&session, &diff("TABLE a, TABLE a")).await.is_empty());
    let error = failure(&session, "SELECT * FROM corpus_diff(TABLE a, TABLE b, key => 'score')").await;
    assert!(error.contains("the second relation has no column 'score'"), "{error}");
    let error = failure(&session, "SELECT * FROM corpus_diff(TABLE a, TABLE b)").await;
    assert!(error.contains("needs key"), "{error}");
}
