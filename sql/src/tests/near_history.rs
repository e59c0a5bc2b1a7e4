//! Builds one after the other, as the coordinator makes them, against an oracle by brute force in which
//! representatives stay.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::logical_expr::LogicalPlan;
use datafusion::parquet::arrow::ArrowWriter;

use super::near_duplicates::{shingles, similarity, words};
use super::{Script, rows_of};
use crate::history::{Generation, History};
use crate::script::parse_script;
use crate::session::{BuildPlan, Session, SessionOptions, session};
use crate::sources::{DataFile, FileTable};

const THRESHOLD: f64 = 0.7;

/// Key, text and score of a row.
type Post = (i64, Option<String>, i64);

/// What is said of a row.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    cluster: i64,
    stands: bool,
    similarity: f64,
    linked: Option<i64>,
}

/// A corpus with its history, in a folder.
struct Builds<'a> {
    folder: &'a Path,
    history: History,
}

impl<'a> Builds<'a> {
    fn new(folder: &'a Path) -> Self {
        let history = History {
            corpus: "c".to_owned(),
            generations: vec![],
            complete: false,
        };
        Self { folder, history }
    }

    fn session(&self, posts: &[Post], complete: bool) -> Session {
        let values: Vec<String> = posts
            .iter()
            .map(|(key, text, score)| {
                let text = text.as_ref().map_or("NULL".into(), |text| format!("'{text}'"));
                format!("({key}, {text}, {score})")
            })
            .collect();
        let view = format!("CREATE VIEW t(id, body, score) AS VALUES {};", values.join(", "));
        let history = History {
            complete,
            ..self.history.clone()
        };
        let objects = Script {
            histories: HashMap::from([("c".to_owned(), Arc::new(history))]),
            ..Script::of(&view)
        };
        let options = SessionOptions {
            target_partitions: 3,
            batch_size: 50,
            ..SessionOptions::default()
        };
        session(&options, Arc::new(objects)).unwrap()
    }

    /// One build: what it says, before and after its texts are part of the history.
    async fn build(&mut self, posts: &[Post], more: &str) -> BTreeMap<i64, Said> {
        let sql = format!(
            "SELECT id, dup_cluster_id, dup_is_representative, dup_similarity, dup_linked_to FROM near_duplicates(TABLE t,
             key => 'id', text => 'body', threshold => {THRESHOLD}, keep => 'score DESC', against => 'history:c'{more})"
        );
        let statement = parse_script(&sql, "q.sql").unwrap().remove(0);
        let session = self.session(posts, false);
        let BuildPlan {
            plan, history: calls, ..
        } = session.plan_for_build(&statement, &[]).await.unwrap();
        let said = said(&run(&session, plan).await, posts);
        let [call] = calls.as_slice() else {
            panic!("{} calls", calls.len())
        };
        let number = self.history.generations.len();
        let texts = write_table(
            self.folder,
            &format!("texts{number}"),
            &run(&session, call.texts.clone()).await,
        );
        let bands = call.bands(&texts).unwrap();
        let bands = write_table(self.folder, &format!("bands{number}"), &run(&session, bands).await);
        self.history.generations.push(Generation {
            options: call.options.clone(),
            texts,
            bands,
        });
        let session = self.session(posts, true);
        let BuildPlan {
            plan, history: calls, ..
        } = session.plan_for_build(&statement, &[]).await.unwrap();
        assert!(calls.is_empty(), "nothing is left to be added");
        assert_eq!(self::said(&run(&session, plan).await, posts), said, "looked up");
        said
    }

    /// Texts that a generation has added, and rows of its index.
    fn sizes(&self, generation: usize) -> [u64; 2] {
        let generation = &self.history.generations[generation];
        [&generation.texts, &generation.bands].map(|table| table.files[0].rows.unwrap())
    }
}

/// A table of one file.
pub(super) fn write_table(folder: &Path, name: &str, batches: &[RecordBatch]) -> FileTable {
    let path = folder.join(format!("{name}.parquet"));
    let schema = batches[0].schema();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), None).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
    FileTable {
        schema,
        partition_columns: vec![],
        root: format!("file://{}", folder.display()),
        files: vec![DataFile {
            path: format!("{name}.parquet"),
            bytes: path.metadata().unwrap().len(),
            rows: Some(batches.iter().map(|batch| batch.num_rows() as u64).sum()),
            partition_values: vec![],
        }],
    }
}

pub(super) async fn run(session: &Session, plan: LogicalPlan) -> Vec<RecordBatch> {
    let schema = Arc::clone(plan.schema().inner());
    let frame = session.context().execute_logical_plan(plan).await.unwrap();
    let mut batches = frame.collect().await.unwrap();
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(schema));
    }
    batches
}

fn said(batches: &[RecordBatch], posts: &[Post]) -> BTreeMap<i64, Said> {
    let read = rows_of(batches).into_iter().map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        let said = Said {
            cluster: cells[1].parse().unwrap(),
            stands: cells[2] == "true",
            similarity: cells[3].parse().unwrap(),
            linked: cells[4].parse().ok(),
        };
        (cells[0].parse().unwrap(), said)
    });
    let said: BTreeMap<i64, Said> = read.collect();
    assert_eq!(said.len(), posts.len(), "every row is there once");
    said
}

/// The same by brute force.
#[derive(Default)]
struct Oracle {
    texts: Vec<Seen>,
    /// Key and text of each representative.
    representatives: Vec<(i64, String)>,
}

#[derive(Clone)]
struct Seen {
    text: String,
    first: i64,
    cluster: usize,
}

impl Oracle {
    /// The number of the cluster of each row, and whether it is the representative; `None` for rows without a text.
    fn build(&mut self, posts: &[Post], star: bool) -> BTreeMap<i64, Option<(usize, bool)>> {
        let mut ranked: Vec<&Post> = posts.iter().filter(|post| post.1.is_some()).collect();
        ranked.sort_by_key(|(key, _, score)| (-score, *key));
        let mut nodes: Vec<Seen> = self.texts.clone();
        nodes.sort_by_key(|seen| seen.first);
        let settled = nodes.len();
        for (key, text, _) in ranked {
            let text = text.clone().unwrap();
            if nodes.iter().all(|seen| seen.text != text) {
                let (first, cluster) = (*key, usize::MAX);
                nodes.push(Seen { text, first, cluster });
            }
        }
        self.place(&mut nodes, settled, star);
        self.texts.extend(nodes.into_iter().skip(settled));
        let of_row = |(key, text, _): &Post| {
            let seen = self.texts.iter().find(|seen| Some(&seen.text) == text.as_ref());
            let cluster = seen.map(|seen| (seen.cluster, self.representatives[seen.cluster].0 == *key));
            (*key, cluster)
        };
        posts.iter().map(of_row).collect()
    }

    fn place(&mut self, nodes: &mut [Seen], settled: usize, star: bool) {
        let sets: Vec<_> = nodes.iter().map(|seen| shingles(&seen.text)).collect();
        let mut edges = Vec::new();
        for b in settled..nodes.len() {
            for a in 0..b {
                let alike = sets[a].similarity(&sets[b]);
                let may = !star || a >= settled || self.representatives[nodes[a].cluster].1 == nodes[a].text;
                if alike >= THRESHOLD && may {
                    edges.push((alike, a, b));
                }
            }
        }
        edges.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
        let mut root: Vec<usize> = (0..nodes.len()).collect();
        if star {
            for (_, a, b) in edges.iter().filter(|(_, a, _)| *a < settled) {
                if root[*b] == *b {
                    root[*b] = *a;
                }
            }
            let mut taken: Vec<bool> = (0..nodes.len()).map(|node| root[node] != node).collect();
            for centre in settled..nodes.len() {
                if !std::mem::replace(&mut taken[centre], true) {
                    for (_, _, b) in edges.iter().filter(|(_, a, _)| *a == centre) {
                        if !std::mem::replace(&mut taken[*b], true) {
                            root[*b] = centre;
                        }
                    }
                }
            }
        } else {
            for (_, a, b) in edges {
                let (low, high) = (root[a].min(root[b]), root[a].max(root[b]));
                if high >= settled {
                    root.iter_mut()
                        .filter(|root| **root == high)
                        .for_each(|root| *root = low);
                }
            }
        }
        for node in settled..nodes.len() {
            if root[node] == node {
                nodes[node].cluster = self.representatives.len();
                self.representatives.push((nodes[node].first, nodes[node].text.clone()));
            } else {
                nodes[node].cluster = nodes[root[node]].cluster;
            }
        }
    }
}

/// Families of edited copies, chains, copies to the letter, strangers.
fn posts(seed: u64) -> Vec<Post> {
    let mut texts: Vec<Option<String>> = vec![None, None];
    for family in 0..14 {
        let original = words(seed * 1000 + family + 1, if family % 4 == 0 { 80 } else { 20 });
        texts.push(Some(original.join(" ")));
        for edit in 0..family % 5 {
            let mut copy = original.clone();
            let at = (seed + family * 31 + edit * 17) as usize % copy.len();
            copy[at] = format!("edit{edit}");
            texts.push(Some(copy.join(" ")));
        }
        if family % 3 == 0 {
            texts.push(Some(original.join(" ")));
        }
    }
    let chain = words(seed * 1000 + 500, 90);
    texts.extend((0..12).map(|i| Some(chain[i * 3..i * 3 + 40].join(" "))));
    let numbered = (1i64..).zip(texts);
    numbered
        .map(|(key, text)| (key, text, (key * 7919 + seed as i64) % 101))
        .collect()
}

/// Runs the builds side by side with the oracle.
async fn check(parts: &[Vec<Post>], more: &str, star: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut builds = Builds::new(folder.path());
    let mut oracle = Oracle::default();
    // A cluster has one name, for ever.
    let mut names: BTreeMap<usize, i64> = BTreeMap::new();
    for (number, part) in parts.iter().enumerate() {
        let found = builds.build(part, more).await;
        let want = oracle.build(part, star);
        for (key, text, _) in part {
            let said = &found[key];
            let Some((cluster, stands)) = want[key] else {
                assert_eq!((said.stands, said.similarity, said.linked), (true, 1.0, None));
                continue;
            };
            assert_eq!(said.stands, stands, "build {number}, row {key}");
            assert_eq!(
                *names.entry(cluster).or_insert(said.cluster),
                said.cluster,
                "build {number}, row {key}"
            );
            let (_, first) = &oracle.representatives[cluster];
            let alike = similarity(text.as_ref().unwrap(), first);
            assert_eq!(
                said.similarity,
                if stands { 1.0 } else { alike },
                "build {number}, row {key}"
            );
            assert_eq!(said.linked.is_none(), stands, "build {number}, row {key}");
        }
    }
    let distinct: BTreeSet<&i64> = names.values().collect();
    assert_eq!(distinct.len(), names.len(), "clusters of different names");
}

fn split(posts: &[Post], parts: u64, seed: u64) -> Vec<Vec<Post>> {
    let part_of = |key: i64| (key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed) >> 7;
    (0..parts)
        .map(|part| {
            posts
                .iter()
                .filter(|post| part_of(post.0) % parts == part)
                .cloned()
                .collect()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_of_two_and_three_builds_are_those_of_the_oracle() {
    for seed in 0..2 {
        println!("seed {seed}");
        let posts = posts(seed);
        for parts in [2, 3] {
            check(&split(&posts, parts, seed), "", false).await;
        }
        check(&split(&posts, 3, seed), ", cluster => 'star'", true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_there_again_stay_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut builds = Builds::new(folder.path());
    let all = posts(7);
    let (old, _) = all.split_at(all.len() / 2);
    let first = builds.build(old, "").await;
    // All the input again, in which half of the rows are new.
    let second = builds.build(&all, "").await;
    for (key, said) in &first {
        assert_eq!(second[key], *said, "row {key}");
    }
    let third = builds.build(&all, "").await;
    assert_eq!(third, second);
    assert_eq!(builds.sizes(2), [0, 0], "nothing is new");
    let texts: BTreeSet<&String> = all.iter().filter_map(|post| post.1.as_ref()).collect();
    assert_eq!(
        builds.sizes(0)[0] + builds.sizes(1)[0],
        texts.len() as u64,
        "each text once"
    );
    check(&[old.to_vec(), all.clone(), all.clone()], "", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_build_says_what_there_is_without_a_history() {
    let posts = posts(3);
    for more in ["", ", cluster => 'star'", ", unit => 'word', ngram => 2"] {
        let folder = tempfile::tempdir().unwrap();
        let mut builds = Builds::new(folder.path());
        let plain = format!(
            "SELECT id, dup_cluster_id, dup_is_representative, dup_similarity, dup_linked_to FROM near_duplicates(TABLE t,
             key => 'id', text => 'body', threshold => {THRESHOLD}, keep => 'score DESC'{more})"
        );
        let session = builds.session(&posts, false);
        let statement = parse_script(&plain, "q.sql").unwrap().remove(0);
        let plan = session.plan(&statement).await.unwrap();
        let want = said(&run(&session, plan).await, &posts);
        assert_eq!(builds.build(&posts, more).await, want, "{more}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_text_has_changed_does_not_match_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut builds = Builds::new(folder.path());
    let original = words(1, 30);
    let edited = |places: &[usize]| {
        let mut copy = original.clone();
        places.iter().for_each(|at| copy[*at] = "changed".to_owned());
        Some(copy.join(" "))
    };
    let text = Some(original.join(" "));
    let first = builds.build(&[(1, text.clone(), 9), (2, edited(&[3]), 5)], "").await;
    assert!(first[&1].stands && !first[&2].stands);
    // Both are edited; a copy of the first text is new, and comes with the best score.
    let second = builds
        .build(&[(1, edited(&[20]), 9), (2, edited(&[3, 10]), 5), (3, text, 99)], "")
        .await;
    assert!(second.values().all(|said| said.cluster == first[&1].cluster));
    assert_eq!(
        second[&1],
        Said {
            linked: None,
            similarity: 1.0,
            ..first[&1].clone()
        }
    );
    assert!(!second[&2].stands && !second[&3].stands);
    assert_eq!(
        second[&2].linked,
        Some(1),
        "to what its old text was linked to, not to itself"
    );
    assert_eq!(second[&3].linked, Some(1));
    assert_eq!(second[&3].similarity, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_options_meet_old_texts_too_and_other_keys_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut builds = Builds::new(folder.path());
    let original = words(5, 30);
    let mut copy = original.clone();
    copy[7] = "changed".to_owned();
    let first = builds.build(&[(1, Some(original.join(" ")), 1)], "").await;
    let second = builds
        .build(&[(2, Some(copy.join(" ")), 1)], ", bands => 30, rows => 3")
        .await;
    assert_eq!((second[&2].cluster, second[&2].linked), (first[&1].cluster, Some(1)));

    let session = builds.session(&[(1, None, 1)], false);
    let sql = "SELECT * FROM near_duplicates((SELECT CAST(id AS VARCHAR) AS k, body FROM t), key => 'k', text => 'body', against => 'history:c')";
    let wrong = super::failure(&session, sql).await;
    assert!(wrong.contains("of type Int64, key => is of type Utf8"), "{wrong}");
    for (against, expected) in [
        ("c", "write against => 'history:corpus'"),
        ("history:d", "unknown corpus 'd'"),
    ] {
        let sql =
            format!("SELECT * FROM near_duplicates(TABLE t, key => 'id', text => 'body', against => '{against}')");
        let wrong = super::failure(&session, &sql).await;
        assert!(wrong.contains(expected), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_leaves_a_bounded_index() {
    let folder = tempfile::tempdir().unwrap();
    let mut builds = Builds::new(folder.path());
    let template = words(9, 60).join(" ");
    let flood = |keys: std::ops::Range<i64>| -> Vec<Post> {
        keys.map(|key| (key, Some(format!("{template} number{key}")), 0))
            .collect()
    };
    let first = builds.build(&flood(0..400), "").await;
    let [texts, bands] = builds.sizes(0);
    assert_eq!(texts, 400);
    assert!(bands < 600 * 30, "{bands} rows in the index of 400 texts");
    let second = builds.build(&flood(400..440), "").await;
    assert!(
        second
            .values()
            .all(|said| said.cluster == first[&0].cluster && !said.stands)
    );
}
