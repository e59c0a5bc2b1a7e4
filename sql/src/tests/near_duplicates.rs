use std::collections::{BTreeMap, BTreeSet};

use corpusmill_kernels::shingles::{ShingleOptions, Shingler};
use corpusmill_kernels::union_find::components;

use super::{failure, open_with, rows};

/// Texts as a view `t(id, body, score)`; ids from 1.
fn view(texts: &[String]) -> String {
    let values: Vec<String> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| format!("({}, '{}', {})", i + 1, text.replace('\'', "''"), (i * 7919) % 101))
        .collect();
    format!("CREATE VIEW t(id, body, score) AS VALUES {};", values.join(", "))
}

/// Words of a small language that no two calls spell alike.
pub(super) fn words(seed: u64, n: u64) -> Vec<String> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            format!("w{:x}", state % 5000)
        })
        .collect()
}

/// Posts, long texts, edited copies of them, a flood, a chain, and a template that strangers fill in.
fn crowd() -> Vec<String> {
    let mut texts = Vec::new();
    for seed in 0..60 {
        let original = words(seed + 1, if seed % 3 == 0 { 90 } else { 18 });
        texts.push(original.join(" "));
        for edit in 0..seed % 4 {
            let mut copy = original.clone();
            let at = (seed * 31 + edit * 17) as usize % copy.len();
            copy[at] = format!("edit{edit}");
            texts.push(copy.join(" "));
        }
    }
    let flood = words(1000, 25).join(" ");
    texts.extend((0..120).map(|i| format!("{flood} [{}]", words(2000 + i, 1)[0])));
    let chain = words(3000, 160);
    texts.extend((0..20).map(|i| chain[i * 2..i * 2 + 60].join(" ")));
    let template = words(4000, 14).join(" ");
    texts.extend((0..80).map(|i| format!("{template} {}", words(5000 + i / 2, 8).join(" "))));
    texts
}

/// Rows of `id|cluster|representative|similarity|linked_to`.
struct Found {
    cluster: BTreeMap<usize, String>,
    representative: BTreeMap<usize, bool>,
    similarity: BTreeMap<usize, f64>,
    linked: BTreeMap<usize, Option<usize>>,
}

async fn run(texts: &[String], arguments: &str) -> Found {
    let session = open_with(&view(texts));
    let sql = format!(
        "SELECT id, dup_cluster_id, dup_is_representative, dup_similarity, dup_linked_to
         FROM near_duplicates(TABLE t, key => 'id', text => 'body'{arguments})"
    );
    let mut found = Found {
        cluster: BTreeMap::new(),
        representative: BTreeMap::new(),
        similarity: BTreeMap::new(),
        linked: BTreeMap::new(),
    };
    for row in rows(&session, &sql).await {
        let cells: Vec<&str> = row.split('|').collect();
        let id: usize = cells[0].parse::<usize>().unwrap() - 1;
        found.cluster.insert(id, cells[1].to_string());
        found.representative.insert(id, cells[2] == "true");
        found.similarity.insert(id, cells[3].parse().unwrap());
        found.linked.insert(id, cells[4].parse::<usize>().ok().map(|id| id - 1));
    }
    assert_eq!(found.cluster.len(), texts.len(), "every row is there once");
    found
}

pub(super) fn similarity(a: &str, b: &str) -> f64 {
    if a == b {
        return 1.0;
    }
    shingles(a).similarity(&shingles(b))
}

pub(super) fn shingles(text: &str) -> Shingler {
    let mut shingler = Shingler::new(ShingleOptions::default());
    shingler.read(text);
    shingler.make_sets();
    shingler
}

/// All pairs by brute force.
fn pairs(texts: &[String], threshold: f64) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    for b in 0..texts.len() {
        for a in 0..b {
            if similarity(&texts[a], &texts[b]) >= threshold {
                found.push((a as u32, b as u32));
            }
        }
    }
    found
}

#[tokio::test]
async fn clusters_are_the_components_of_all_pairs() {
    let texts = crowd();
    let pairs = pairs(&texts, 0.8);
    let want = components(&pairs, texts.len());
    let found = run(&texts, ", keep => 'score DESC'").await;
    let missed = pairs
        .iter()
        .filter(|(a, b)| found.cluster[&(*a as usize)] != found.cluster[&(*b as usize)]);
    let missed = missed.count();
    assert!(missed * 200 <= pairs.len(), "{missed} of {} pairs missed", pairs.len());
    for id in 0..texts.len() {
        // No cluster goes beyond a component, and links lead along pairs to the representative.
        let (mut at, mut steps) = (id, 0);
        while let Some(next) = found.linked[&at] {
            assert!(similarity(&texts[at], &texts[next]) >= 0.8, "{at} {next}");
            assert_eq!(want[at], want[next]);
            at = next;
            steps += 1;
            assert!(steps < texts.len(), "links of {id} go round in a circle");
        }
        assert!(found.representative[&at]);
        assert_eq!(found.cluster[&at], found.cluster[&id]);
        assert_eq!(found.similarity[&id], similarity(&texts[id], &texts[at]));
    }
    let clusters: BTreeSet<&String> = found.cluster.values().collect();
    let representatives = found.representative.values().filter(|is| **is).count();
    assert_eq!(clusters.len(), representatives);
    // The best score of each cluster stays.
    for (id, is) in &found.representative {
        let best = (0..texts.len())
            .filter(|other| found.cluster[other] == found.cluster[id])
            .max_by_key(|other| ((other * 7919) % 101, std::cmp::Reverse(*other)));
        assert_eq!(*is, best == Some(*id));
    }
}

#[tokio::test]
async fn members_of_a_star_are_like_their_representative() {
    let texts = crowd();
    let found = run(&texts, ", cluster => 'star'").await;
    let chained = run(&texts, "").await;
    for id in 0..texts.len() {
        assert!(found.similarity[&id] >= 0.8);
        assert_eq!(found.linked[&id].is_none(), found.representative[&id]);
    }
    let clusters = |found: &Found| found.cluster.values().collect::<BTreeSet<_>>().len();
    assert!(clusters(&found) > clusters(&chained), "the chain is cut");
    assert!(clusters(&found) < clusters(&chained) + 40, "a flood is few stars");
}

#[tokio::test]
async fn strange_texts_are_rows_like_others() {
    let long = "abc ".repeat(50_000);
    let texts: Vec<String> = [
        "",
        " ",
        "",
        "word",
        "WORD!",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "🔥🔥🔥",
        "🔥 🔥 🔥",
        "שלום עולם מה שלומך היום חבר",
        "שלום עולם, מה שלומך היום חבר",
        "fr\u{200b}ee money for all of you here",
        "free money for all of you here",
        "frее mоney fоr аll оf yоu hеrе",
        "\u{fffd}\u{fffd}",
        &long,
        &format!("{long}abc"),
    ]
    .iter()
    .map(|text| (*text).to_string())
    .collect();
    let found = run(&texts, "").await;
    let same = |a: usize, b: usize| found.cluster[&a] == found.cluster[&b];
    assert!(
        same(0, 2) && !same(0, 1),
        "equal texts are duplicates, whatever they are"
    );
    assert!(same(3, 4) && !same(3, 5) && same(6, 7) && same(8, 9) && same(10, 11) && same(14, 15));
    assert!(!same(10, 12), "letters of other scripts are other letters");
    let session = open_with("CREATE VIEW t(id, body) AS VALUES (1, NULL), (2, NULL), (3, 'a');");
    let alone = rows(
        &session,
        "SELECT count(DISTINCT dup_cluster_id), count(*) FILTER (WHERE dup_is_representative), min(dup_similarity)
         FROM near_duplicates(TABLE t, key => 'id', text => 'body')",
    );
    assert_eq!(alone.await, ["3|3|1.0"], "NULL is like nothing");
}

#[tokio::test]
async fn wrong_arguments_say_what_is_meant() {
    let session = open_with("CREATE VIEW t(id, body) AS VALUES (1, 'a');");
    for (arguments, expected) in [
        ("key => 'id'", "q.sql:1:15: near_duplicates needs text => 'column'"),
        (
            "key => 'id', text => 'body', threshold => 2",
            "q.sql:1:15: near_duplicates: threshold = '2'",
        ),
        (
            "key => 'id', text => 'body', threshold => 'x'",
            "q.sql:1:69: argument 'threshold' of near_duplicates takes a number",
        ),
        (
            "key => 'id', text => 'body', unit => 'words'",
            "q.sql:1:15: near_duplicates: unknown unit of shingles 'words'",
        ),
        (
            "key => 'id', text => 'body', cluster => 'chain'",
            "q.sql:1:15: cluster is 'component'",
        ),
        (
            "key => 'id', text => 'body', bands => 3",
            "q.sql:1:15: near_duplicates takes bands and rows together",
        ),
        (
            "key => 'id', text => 'body', ngram => 0",
            "q.sql:1:15: near_duplicates: ngram = '0'",
        ),
    ] {
        let message = failure(
            &session,
            &format!("SELECT * FROM near_duplicates(TABLE t, {arguments})"),
        )
        .await;
        assert!(message.starts_with(expected), "{arguments}\n{message}");
    }
}
