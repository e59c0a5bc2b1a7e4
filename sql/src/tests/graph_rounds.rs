//! Components that are found round by round, as a build finds them, against union-find.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use corpusmill_kernels::union_find::components;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use proptest::prelude::*;

use super::near_duplicates::words;
use super::near_history::{run, write_table};
use super::{open_with, rows_of};
use crate::graphs::{Graph, U, V};
use crate::script::parse_script;
use crate::session::Session;
use crate::sources::FileTable;

/// Rounds until nothing changes; gives the stars, and how many rounds it took.
async fn contract(session: &Session, folder: &Path, name: &str, edges: &FileTable) -> (FileTable, usize) {
    let digest = async |table: &FileTable| rows_of(&run(session, Graph::digest(table).unwrap()).await);
    let pairs = run(session, Graph::pairs(edges).unwrap()).await;
    let mut pairs = write_table(folder, &format!("{name}-0"), &pairs);
    for round in 1..60 {
        let next = run(session, Graph::round(&pairs).unwrap()).await;
        let next = write_table(folder, &format!("{name}-{round}"), &next);
        if digest(&next).await == digest(&pairs).await {
            return (next, round);
        }
        pairs = next;
    }
    panic!("no end");
}

/// Every node that is not the smallest of its component, with that one.
async fn stars(edges: &[(u32, u32)]) -> (BTreeMap<u32, u32>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let session = open_with("");
    let column = |of: fn(&(u32, u32)) -> u32| -> ArrayRef {
        Arc::new(edges.iter().map(|edge| i64::from(of(edge))).collect::<Int64Array>())
    };
    let batch = RecordBatch::try_from_iter([(U, column(|edge| edge.0)), (V, column(|edge| edge.1))]).unwrap();
    let edges = write_table(folder.path(), "edges", &[batch]);
    let (stars, rounds) = contract(&session, folder.path(), "pairs", &edges).await;
    let found = run(&session, crate::graphs::scan(&stars).unwrap()).await;
    let rows = rows_of(&found);
    let pairs: BTreeMap<u32, u32> = rows
        .iter()
        .map(|row| row.split_once('|').unwrap())
        .map(|(node, centre)| (node.parse().unwrap(), centre.parse().unwrap()))
        .collect();
    assert_eq!(pairs.len(), rows.len(), "a node hangs below one other");
    (pairs, rounds)
}

fn by_union_find(edges: &[(u32, u32)], nodes: u32) -> BTreeMap<u32, u32> {
    let found = components(edges, nodes as usize);
    (0..nodes).zip(found).filter(|(node, centre)| node != centre).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn long_chains_rings_and_trees_end_in_few_rounds() {
    // In a shuffled order of numbers, so that no end of a chain is near its smallest node.
    let shuffled = |i: u32| (i * 7919 + 13) % 1009;
    let chain: Vec<(u32, u32)> = (0..1000).map(|i| (shuffled(i), shuffled(i + 1))).collect();
    let plain: Vec<(u32, u32)> = (0..1000).map(|i| (i, i + 1)).collect();
    let tree: Vec<(u32, u32)> = (1..1000).map(|i| (shuffled(i), shuffled(i / 2))).collect();
    let rings: Vec<(u32, u32)> = (0..1000)
        .map(|i| (shuffled(i), shuffled(i / 10 * 10 + (i + 1) % 10)))
        .collect();
    for edges in [chain, plain, tree, rings] {
        let (found, rounds) = stars(&edges).await;
        assert_eq!(found, by_union_find(&edges, 1009));
        assert!(rounds <= 14, "{rounds} rounds");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn components_of_any_graph_are_those_of_union_find(
        nodes in 1u32..60,
        raw in prop::collection::vec((any::<u32>(), any::<u32>()), 1..90),
    ) {
        let edges: Vec<(u32, u32)> = raw.iter().map(|(a, b)| (a % nodes, b % nodes)).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (found, _) = runtime.block_on(stars(&edges));
        prop_assert_eq!(found, by_union_find(&edges, nodes));
    }
}

/// Plans a query as a build does that takes every graph apart; gives the rows, and how many graphs there were.
async fn in_rounds(session: &Session, sql: &str) -> (Vec<String>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let statement = parse_script(sql, "q.sql").unwrap().remove(0);
    let mut prepared: Vec<Option<Arc<Graph>>> = Vec::new();
    loop {
        let planned = session.plan_for_build(&statement, &prepared).await.unwrap();
        let Some(call) = planned.graphs.into_iter().next() else {
            let mut rows = rows_of(&run(session, planned.plan).await);
            rows.sort();
            return (rows, prepared.len());
        };
        let name = format!("graph{}", prepared.len());
        let edges = write_table(folder.path(), &name, &run(session, call.edges).await);
        let (stars, _) = contract(session, folder.path(), &name, &edges).await;
        prepared.push(Some(Arc::new(Graph { edges, stars })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_say_the_same_with_a_graph_that_was_taken_apart() {
    let texts: Vec<String> = (0..90u64)
        .map(|i| {
            let mut text = words(i / 5 + 1, 24);
            text[(i % 5) as usize * 4] = format!("edit{i}");
            format!("({i}, '{}', {})", text.join(" "), i % 7)
        })
        .collect();
    let session = open_with(&format!(
        "CREATE VIEW t(id, body, author) AS VALUES {};",
        texts.join(", ")
    ));
    let near = "near_duplicates(TABLE t, key => 'id', text => 'body', threshold => 0.6, keep => 'author')";
    let marks = "dup_cluster_id, dup_is_representative, dup_similarity, dup_linked_to";
    let queries = [
        (format!("SELECT id, {marks} FROM {near}"), 1),
        (format!("SELECT id, {marks} FROM {}", near.replace("'author'", "'author', cluster => 'star'")), 1),
        (
            format!("SELECT id, split, dup_cluster_id FROM assign_split((SELECT *, id / 9 AS nine FROM {near}), key => 'id', groups => ['nine', 'dup_cluster_id'])"),
            2,
        ),
        (
            "SELECT node, component FROM connected_components((SELECT id, CASE WHEN id % 4 = 0 THEN NULL ELSE id * 3 % 90 END AS other FROM t), source => 'id', target => 'other')".to_owned(),
            1,
        ),
    ];
    for (sql, graphs) in queries {
        let want = super::rows(&session, &sql).await;
        assert_eq!(in_rounds(&session, &sql).await, (want, graphs), "{sql}");
    }
}
