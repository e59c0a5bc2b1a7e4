//! Duplicates of every kind: what was planted is found, and what is found does not depend on how it was run.

use std::path::Path;

use anyhow::{Context as _, Result};
use corpusmill_tests::{Place, Program, Sandbox, dataset, not_run_here, repository, shared};
use serde_json::Value;

fn csv(place: &Place, sql: &str) -> Result<String> {
    Program::new(place, &["run", "-c", sql, "-o", "csv"])?
        .run()?
        .succeeded()
}

/// The numbers of the one row that a query gives.
fn numbers(place: &Place, sql: &str) -> Result<Vec<f64>> {
    let out = csv(place, sql)?;
    let row = out.lines().nth(1).with_context(|| format!("no row: {out}"))?;
    Ok(row.split(',').map(str::parse).collect::<Result<_, _>>()?)
}

fn with_data(place: &Place) -> Result<()> {
    Ok(std::os::unix::fs::symlink(dataset()?, place.path().join("input"))?)
}

#[test]
fn the_example_finds_what_was_planted() -> Result<()> {
    let place = Place::new()?;
    with_data(&place)?;
    let script = repository().join("examples/duplicates.sql").display().to_string();
    Program::new(&place, &["run", &script])?.run()?.succeeded()?;
    // Copies to the byte: all of them, by each function.
    let copies = |of: &str, more: &str| {
        format!(
            "SELECT count(*), count(*) FILTER (WHERE a.dup_cluster_id = b.dup_cluster_id) FROM truth t
             JOIN {of} a ON a.post_id = t.post_id JOIN {of} b ON b.post_id = t.duplicate_of WHERE {more}"
        )
    };
    for of in ["exact", "near", "nearer"] {
        let found = numbers(&place, &copies(of, "t.kind = 'exact_copy'"))?;
        assert!(
            found[0] > 20.0 && found[0] == found[1],
            "exact copies by {of}: {found:?}"
        );
    }
    // Edited ones: each pair that is as similar as the threshold says.
    for (of, threshold) in [("near", 0.8), ("nearer", 0.6)] {
        let similar = format!("t.kind = 'near_copy' AND shingle_similarity(a.body, b.body) >= {threshold}");
        let found = numbers(&place, &copies(of, &similar))?;
        assert!(
            found[0] > 20.0 && found[1] >= 0.995 * found[0],
            "edited copies by {of}: {found:?}"
        );
    }
    let [near, nearer] = ["near", "nearer"].map(|of| numbers(&place, &copies(of, "t.kind = 'near_copy'")));
    let (near, nearer) = (near?, nearer?);
    assert!(nearer[1] > near[1], "a lower bar finds more: {near:?} {nearer:?}");
    // Texts of evaluation sets that stand in a post as they are.
    let planted = "FROM planted_evals p
         JOIN contamination(TABLE posts, TABLE eval_sets, text => 'body', evals_key => 'eval_id', ngram => 5, min_overlap => 0.5) c
           ON c.post_id = p.post_id JOIN eval_sets e ON e.eval_id = p.eval_id
         WHERE ngram_overlap(c.body, e.body, 5)['overlap'] >= 0.5";
    let found = numbers(
        &place,
        &format!("SELECT count(*), count(*) FILTER (WHERE c.contaminated) {planted}"),
    )?;
    assert!(found[0] > 0.0 && found[0] == found[1], "contaminated: {found:?}");
    Ok(())
}

/// A corpus of all rows with what `near_duplicates` says of them.
const MARKED: &str = "CREATE EXTERNAL TABLE posts STORED AS PARQUET LOCATION 'input/posts/';
    CREATE CORPUS marked (PRIMARY KEY (post_id)) WITH (shards = 4) AS
      SELECT post_id, dup_cluster_id, dup_is_representative, dup_similarity, dup_linked_to
      FROM near_duplicates(TABLE posts, key => 'post_id', text => 'body', threshold => 0.7, keep => 'created_at DESC');";

fn digest(out: &str) -> Result<String> {
    let documents = serde_json::Deserializer::from_str(out)
        .into_iter::<Value>()
        .collect::<Result<Vec<_>, _>>()?;
    let build = documents.iter().find(|document| document["corpus"] == "marked");
    let digest = build.and_then(|build| build["digest"].as_str());
    Ok(digest.with_context(|| format!("no digest: {out}"))?.to_owned())
}

/// In front of a script: components are found in steps, however few edges there are.
const IN_ROUNDS: &str = "SET corpusmill.component_edges_max = 0;\n";

fn digest_of(script: &str, more: &[&str]) -> Result<String> {
    let place = Place::new()?;
    with_data(&place)?;
    place.write("marked.sql", script)?;
    let arguments = [&["run", "marked.sql", "-o", "json"][..], more].concat();
    digest(&Program::new(&place, &arguments)?.run()?.succeeded()?)
}

#[test]
fn near_duplicates_are_the_same_however_they_are_found() -> Result<()> {
    let want = digest_of(MARKED, &["--target-partitions", "1"])?;
    let rounds = format!("{IN_ROUNDS}{MARKED}");
    assert_eq!(digest_of(&rounds, &[])?, want, "components in rounds");
    let more = [
        "--target-partitions",
        "5",
        "--batch-size",
        "97",
        "--memory-limit",
        "96M",
    ];
    assert_eq!(
        digest_of(MARKED, &more)?,
        want,
        "five partitions, and a limit of memory"
    );
    for workers in [1, 2] {
        let mut sandbox = Sandbox::new(Place::new()?)?;
        with_data(sandbox.place())?;
        let script = if workers == 1 { MARKED } else { &rounds };
        let script = sandbox.place().write("marked.sql", script)?.display().to_string();
        for _ in 0..workers {
            sandbox.worker(None)?;
        }
        sandbox.wait_for_workers(workers)?;
        let ended = sandbox.submit(&script)?.run()?;
        let out = ended.succeeded().with_context(|| sandbox.logs())?;
        assert_eq!(digest(&out)?, want, "{workers} workers");
    }
    Ok(())
}

/// Two versions of a corpus, the second of which compares what is new with the first.
const AGAINST: &str = "CREATE EXTERNAL TABLE posts STORED AS PARQUET LOCATION 'input/posts/';
    CREATE OR REPLACE VIEW part AS SELECT * FROM posts WHERE post_id % 3 < 2;
    CREATE OR REFRESH CORPUS kept (PRIMARY KEY (post_id)) WITH (shards = 4) AS
      SELECT post_id, dup_cluster_id, dup_is_representative, dup_similarity, dup_linked_to
      FROM near_duplicates(TABLE part, key => 'post_id', text => 'body', threshold => 0.7, against => 'history:kept');
    CREATE OR REPLACE VIEW part AS SELECT * FROM posts;
    CREATE OR REFRESH CORPUS kept (PRIMARY KEY (post_id)) WITH (shards = 4) AS
      SELECT post_id, dup_cluster_id, dup_is_representative, dup_similarity, dup_linked_to
      FROM near_duplicates(TABLE part, key => 'post_id', text => 'body', threshold => 0.7, against => 'history:kept');";

/// The digests of the versions, oldest first.
fn digests(out: &str) -> Result<Vec<String>> {
    let documents = serde_json::Deserializer::from_str(out)
        .into_iter::<Value>()
        .collect::<Result<Vec<_>, _>>()?;
    let of_kept = documents.iter().filter(|document| document["corpus"] == "kept");
    let digests = of_kept.filter_map(|build| build["digest"].as_str().map(str::to_owned));
    Ok(digests.collect())
}

#[test]
fn a_history_is_the_same_on_a_cluster() -> Result<()> {
    let place = Place::new()?;
    with_data(&place)?;
    place.write("against.sql", AGAINST)?;
    let out = Program::new(&place, &["run", "against.sql", "-o", "json"])?
        .run()?
        .succeeded()?;
    let want = digests(&out)?;
    assert_eq!(want.len(), 2, "{out}");
    // Who stood for a cluster still does, and new rows are linked to it.
    let kept = "SELECT count(*), count(*) FILTER (WHERE a.dup_is_representative = b.dup_is_representative AND a.dup_cluster_id = b.dup_cluster_id)
                FROM kept VERSION AS OF 0 a JOIN kept b ON a.post_id = b.post_id";
    let stayed = numbers(&place, kept)?;
    assert!(stayed[0] > 100.0 && stayed[0] == stayed[1], "{stayed:?}");
    let joined = "SELECT count(*) FROM kept n JOIN kept o ON n.dup_linked_to = o.post_id
                  WHERE n.post_id % 3 = 2 AND o.post_id % 3 < 2 AND n.dup_cluster_id = o.dup_cluster_id";
    assert!(numbers(&place, joined)?[0] > 10.0);
    let mut sandbox = Sandbox::new(Place::new()?)?;
    with_data(sandbox.place())?;
    let script = sandbox.place().write("against.sql", AGAINST)?.display().to_string();
    for _ in 0..2 {
        sandbox.worker(None)?;
    }
    sandbox.wait_for_workers(2)?;
    let ended = sandbox.submit(&script)?.run()?;
    let out = ended.succeeded().with_context(|| sandbox.logs())?;
    assert_eq!(digests(&out)?, want);
    Ok(())
}

/// Posts of a flood: one text whose tail differs, all with the same shingles in front.
fn flood(place: &Place, posts: usize) -> Result<()> {
    let sql = format!(
        "COPY (SELECT value AS id, concat('buy cheap followers now at our little shop, best price in town, trust us, write today to agent number ',
                                        CAST(value AS VARCHAR)) AS body FROM generate_series(1, {posts})) TO 'flood-{posts}.parquet' STORED AS PARQUET"
    );
    csv(place, &sql).map(|_| ())
}

#[test]
fn a_flood_of_100_000_copies_is_one_cluster_in_linear_time() -> Result<()> {
    let place = Place::new()?;
    let mut pairs = Vec::new();
    for posts in [12_500usize, 100_000] {
        flood(&place, posts)?;
        let sql = format!(
            "CREATE OR REPLACE EXTERNAL TABLE flood STORED AS PARQUET LOCATION 'flood-{posts}.parquet';
             SELECT count(*) AS rows, count(*) FILTER (WHERE dup_is_representative) AS kept, min(dup_similarity) >= 0.7 AS near
             FROM near_duplicates(TABLE flood, key => 'id', text => 'body', threshold => 0.7);
             EXPLAIN ANALYZE SELECT count(dup_similarity) FROM near_duplicates(TABLE flood, key => 'id', text => 'body', threshold => 0.7)"
        );
        place.write("flood.sql", sql)?;
        let out = Program::new(&place, &["run", "flood.sql", "-o", "csv"])?
            .run()?
            .succeeded()?;
        assert!(out.contains(&format!("{posts},1,true")), "{out}");
        pairs.push(compared(&out)?);
    }
    // Eight times the rows: about eight times the pairs that are compared, not sixty-four.
    let growth = pairs[1] as f64 / pairs[0] as f64;
    assert!((4.0..16.0).contains(&growth), "pairs compared: {pairs:?}");
    Ok(())
}

/// Rows that left the comparison of pairs, as the plan that ran says.
fn compared(plan: &str) -> Result<u64> {
    let lines = plan
        .lines()
        .filter(|line| line.contains("shingle_similarity") && line.contains("ProjectionExec"));
    let rows = lines.filter_map(|line| {
        let after = line.split_once("output_rows=")?.1;
        let text: String = after.chars().take_while(|c| !matches!(c, ',' | ']')).collect();
        let (number, unit) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let scale = match unit.trim() {
            "K" => 1e3,
            "M" => 1e6,
            _ => 1.0,
        };
        Some((number.parse::<f64>().ok()? * scale) as u64)
    });
    rows.max()
        .filter(|rows| *rows > 0)
        .with_context(|| format!("no comparison in the plan: {plan}"))
}

#[test]
fn retweets_are_near_duplicates_of_each_other() -> Result<()> {
    let Some(file) = shared("data/tweets/labeled_data.csv") else {
        let why = "../shared/data/tweets/labeled_data.csv is not here";
        not_run_here("retweets_are_near_duplicates_of_each_other", why);
        return Ok(());
    };
    let place = Place::new()?;
    let sql = format!(
        "CREATE EXTERNAL TABLE tweets (id BIGINT, \"count\" INT, hate_speech INT, offensive_language INT, neither INT,
                                       class INT, tweet VARCHAR)
           STORED AS CSV LOCATION '{}' OPTIONS ('format.has_header' 'true', 'format.newlines_in_values' 'true');
         CREATE VIEW texts AS SELECT id, regexp_replace(tweet, '^[!\" ]*RT @[A-Za-z0-9_]+:?', '') AS body FROM tweets;
         CREATE MATERIALIZED VIEW near AS
           SELECT * FROM near_duplicates(TABLE texts, key => 'id', text => 'body', threshold => 0.7);",
        file.display()
    );
    place.write("tweets.sql", sql)?;
    Program::new(&place, &["run", "tweets.sql"])?.run()?.succeeded()?;
    let found = numbers(
        &place,
        "SELECT count(*), count(*) FILTER (WHERE NOT dup_is_representative) FROM near",
    )?;
    assert_eq!(found[0], 24_783.0);
    assert!(found[1] > 50.0, "{found:?}");
    // Whatever is equal but for case, references and punctuation is together.
    let apart = "SELECT count(*) FROM (SELECT normalize_text(lower(body)) AS body FROM near GROUP BY 1
                 HAVING count(DISTINCT dup_cluster_id) > 1 AND length(normalize_text(lower(min(body)))) > 20)";
    assert_eq!(numbers(&place, apart)?[0], 0.0);
    Ok(())
}

#[test]
fn real_pictures_are_found_turned_and_edited() -> Result<()> {
    let Some(folder) = shared("data/pdq") else {
        let why = "../shared/data/pdq is not here";
        not_run_here("real_pictures_are_found_turned_and_edited", why);
        return Ok(());
    };
    let place = Place::new()?;
    let pictures = |hash: &str, what: &str| {
        format!(
            "SELECT count(*), count(*) FILTER (WHERE media_is_representative)
             FROM media_duplicates((SELECT filename, {hash} AS h FROM read_blob('{}/bridge-{what}*.jpg')), key => 'filename', hash => 'h')",
            folder.display()
        )
    };
    // The same bridge as it is, turned three times and mirrored twice.
    assert_eq!(
        numbers(&place, &pictures("pdq_dihedral(content)", "[1-6]"))?,
        [6.0, 1.0]
    );
    assert_eq!(numbers(&place, &pictures("pdq(content)['hash']", "[1-6]"))?, [6.0, 6.0]);
    assert_eq!(numbers(&place, &pictures("pdq(content)['hash']", "mod"))?[1], 1.0);
    needles(&place, &folder)
}

/// The needles of the reference in its haystack: what brute force finds.
fn needles(place: &Place, folder: &Path) -> Result<()> {
    let folder = folder.display();
    let sql = format!(
        "CREATE EXTERNAL TABLE needles (hash VARCHAR) STORED AS CSV LOCATION '{folder}/needles.txt' OPTIONS ('format.has_header' 'false');
         CREATE HASH LIST haystack WITH (signal = 'pdq', uri = '{folder}/haystack.txt');
         CREATE MATERIALIZED VIEW found AS
           SELECT hash, match_id, match_distance FROM hash_match(TABLE needles, HASHLIST haystack, hash => 'hash');"
    );
    place.write("needles.sql", sql)?;
    Program::new(place, &["run", "needles.sql"])?.run()?.succeeded()?;
    let brute =
        "SELECT n.hash, min(pdq_distance(n.hash, h.hash)) AS bits FROM needles n CROSS JOIN haystack h GROUP BY n.hash";
    let compared = numbers(
        place,
        &format!(
            "SELECT count(*), count(f.match_distance),
                    count(*) FILTER (WHERE f.match_distance IS DISTINCT FROM CASE WHEN b.bits <= 31 THEN b.bits END)
             FROM found f JOIN ({brute}) b ON b.hash = f.hash"
        ),
    )?;
    assert!(compared[0] >= 100.0, "{compared:?}");
    assert_eq!(compared[2], 0.0, "{compared:?}");
    Ok(())
}
