use std::collections::BTreeMap;
use std::sync::Arc;

use corpusmill_kernels::union_find::components;
use corpusmill_kernels::vectors::{dot, unit};

use super::{Script, failure, open, open_with, rows};
use crate::session::{Session, SessionOptions, session};

/// Families of vectors of 6 dimensions, some of their members turned a little, some more.
fn vectors() -> Vec<Vec<f32>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % 2001) as f32 / 1000.0 - 1.0
    };
    let mut all = Vec::new();
    for family in 0..12 {
        let base: Vec<f32> = (0..6).map(|_| next()).collect();
        for member in 0..10 {
            let turn = 0.02 * (member * family) as f32;
            all.push(base.iter().map(|x| x + turn * next()).collect());
        }
        all.push(base);
    }
    all
}

fn view(vectors: &[Vec<f32>], reversed: bool) -> String {
    let mut values: Vec<String> = vectors
        .iter()
        .enumerate()
        .map(|(id, vector)| {
            let values: Vec<String> = vector.iter().map(|x| format!("{x:.6}")).collect();
            format!("({id}, make_array({}))", values.join(", "))
        })
        .collect();
    if reversed {
        values.reverse();
    }
    format!("CREATE VIEW t(id, e) AS VALUES {};", values.join(", "))
}

/// The vectors as the view has them.
fn written(vectors: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let value = |x: &f32| format!("{x:.6}").parse::<f64>().unwrap() as f32;
    vectors
        .iter()
        .map(|vector| unit(&vector.iter().map(value).collect::<Vec<_>>()).unwrap())
        .collect()
}

const SQL: &str = "SELECT id, dup_cluster_id, dup_is_representative, dup_similarity, dup_linked_to
                   FROM semantic_duplicates(TABLE t, key => 'id', embedding => 'e', threshold => 0.95";

#[tokio::test]
async fn with_one_centre_clusters_are_the_components_of_all_pairs() {
    let all = vectors();
    let units = written(&all);
    let mut pairs = Vec::new();
    for b in 0..units.len() {
        pairs.extend(
            (0..b)
                .filter(|a| dot(&units[*a], &units[b]) >= 0.95)
                .map(|a| (a as u32, b as u32)),
        );
    }
    let want = components(&pairs, units.len());
    let session = open_with(&view(&all, false));
    let found = rows(&session, &format!("{SQL}, clusters => 1, keep => 'id') ORDER BY id")).await;
    let mut ids: BTreeMap<u32, String> = BTreeMap::new();
    for (id, row) in found.iter().enumerate() {
        let cells: Vec<&str> = row.split('|').collect();
        let representative = want[id] as usize;
        assert_eq!(cells[2] == "true", representative == id, "{row}");
        let similarity: f64 = cells[3].parse().unwrap();
        let expected = if representative == id {
            1.0
        } else {
            dot(&units[id], &units[representative])
        };
        assert!((similarity - expected).abs() < 1e-12, "{row}");
        if let Ok(linked) = cells[4].parse::<usize>() {
            assert!(dot(&units[id], &units[linked]) >= 0.95, "{row}");
        }
        assert_eq!(
            ids.entry(want[id]).or_insert_with(|| cells[1].to_owned()),
            cells[1],
            "{row}"
        );
    }
    assert_eq!(ids.len(), want.iter().collect::<std::collections::BTreeSet<_>>().len());
    assert!(ids.len() < units.len() * 2 / 3, "{} clusters", ids.len());
}

fn elsewhere(definitions: &str, target_partitions: usize) -> Session {
    let options = SessionOptions {
        target_partitions,
        batch_size: 17,
        ..SessionOptions::default()
    };
    session(&options, Arc::new(Script::of(definitions))).unwrap()
}

#[tokio::test]
async fn the_order_of_rows_and_their_partitions_do_not_show() {
    let all = vectors();
    let sql = format!("{SQL}, clusters => 7) ORDER BY id");
    let want = rows(&elsewhere(&view(&all, false), 1), &sql).await;
    assert_eq!(want.len(), all.len());
    for partitions in [1, 3, 8] {
        assert_eq!(
            rows(&elsewhere(&view(&all, true), partitions), &sql).await,
            want,
            "{partitions}"
        );
    }
    // Without `keep` a cluster keeps the row that is nearest to its centre: exactly one.
    let kept = want.iter().filter(|row| row.contains("|true|")).count();
    let clusters: std::collections::BTreeSet<&str> = want.iter().map(|row| row.split('|').nth(1).unwrap()).collect();
    assert_eq!(kept, clusters.len());
}

#[tokio::test]
async fn rows_without_a_direction_are_clusters_of_their_own() {
    let session = open_with(
        "CREATE VIEW t(id, e) AS VALUES (1, make_array(1.0, 2.0)), (2, make_array(2.0, 4.0)), (3, NULL), (4, make_array(0.0, 0.0)),
                                        (5, make_array(0.0, 0.0)), (6, make_array(1.0, NULL));",
    );
    let sql = "SELECT id, dup_is_representative, round(dup_similarity, 6), dup_linked_to
               FROM semantic_duplicates(TABLE t, key => 'id', embedding => 'e') ORDER BY id";
    assert_eq!(
        rows(&session, sql).await,
        [
            "1|true|1.0|-",
            "2|false|1.0|1",
            "3|true|1.0|-",
            "4|true|1.0|-",
            "5|true|1.0|-",
            "6|true|1.0|-"
        ]
    );
    let none = "SELECT * FROM semantic_duplicates((SELECT * FROM t WHERE id > 9), key => 'id', embedding => 'e')";
    assert!(rows(&session, none).await.is_empty());
    let session = open(Script::of(
        "CREATE VIEW t(id, e) AS VALUES (1, make_array(1.0, 2.0)), (2, make_array(2.0, 4.0, 1.0));",
    ));
    let wrong = failure(&session, sql).await;
    assert!(wrong.contains("embeddings have one width, found"), "{wrong}");
    for (arguments, said) in [
        ("threshold => 1.5", "a cosine above 0 and at most 1"),
        ("clusters => 0", "from 1 to 4096"),
        ("treshold => 0.5", "did you mean 'threshold'?"),
    ] {
        let sql = format!("SELECT * FROM semantic_duplicates(TABLE t, key => 'id', embedding => 'e', {arguments})");
        let wrong = failure(&session, &sql).await;
        assert!(wrong.contains(said), "{wrong}");
    }
    let wrong = failure(
        &session,
        "SELECT * FROM semantic_duplicates(TABLE t, key => 'id', embedding => 'id')",
    )
    .await;
    assert!(wrong.contains("an embedding is a list of numbers"), "{wrong}");
}
