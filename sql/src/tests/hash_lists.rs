use std::collections::BTreeSet;
use std::sync::Arc;

use corpusmill_kernels::hash_list::Signal;
use corpusmill_kernels::pdq::{PdqHash, pdq_distance};
use datafusion::parquet::arrow::ArrowWriter;

use super::{Script, collect, failure, open, open_with, rows};
use crate::hash_lists::HashList;
use crate::script::parse_script;
use crate::session::Session;
use crate::sources::{DataFile, FileTable};

/// A hash of zeros with some bits set.
fn hash(bits: std::ops::Range<usize>) -> String {
    let mut digits = [0u8; 64];
    bits.for_each(|bit| digits[bit / 4] |= 1 << (bit % 4));
    let digit = |digit: &u8| char::from_digit(u32::from(*digit), 16).unwrap();
    digits.iter().map(digit).collect()
}

/// The rows of a list, as they are planned.
async fn listed(session: &Session, statement: &str) -> Result<Vec<datafusion::arrow::array::RecordBatch>, String> {
    let statement = parse_script(statement, "list.sql")
        .map_err(|e| e.to_string())?
        .remove(0);
    let plan = session.plan(&statement).await.map_err(|e| e.to_string())?;
    let frame = session.context().execute_logical_plan(plan.clone()).await.unwrap();
    match frame.collect().await {
        Ok(batches) => Ok(batches),
        Err(error) => Err(session.explain_error(error, &plan).await.to_string()),
    }
}

/// A list whose version lies in a Parquet file of `folder`.
pub(super) async fn list_in(folder: &std::path::Path, name: &str, signal: Signal, query: &str) -> HashList {
    let session = open_with("");
    let statement = format!("CREATE HASH LIST l WITH (signal = '{}') AS {query}", signal.name());
    let batches = listed(&session, &statement).await.unwrap();
    let path = folder.join(format!("{name}.parquet"));
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batches[0].schema(), None).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
    HashList {
        name: name.to_owned(),
        version: 0,
        signal,
        max_distance: 31,
        min_quality: 50,
        table: FileTable {
            schema: batches[0].schema(),
            partition_columns: vec![],
            root: format!("file://{}", folder.display()),
            files: vec![DataFile {
                path: format!("{name}.parquet"),
                bytes: path.metadata().unwrap().len(),
                rows: Some(batches.iter().map(|batch| batch.num_rows() as u64).sum()),
                partition_values: vec![],
            }],
        },
    }
}

fn session_with(definitions: &str, lists: Vec<HashList>) -> Session {
    let mut script = Script::of(definitions);
    script.lists = lists
        .into_iter()
        .map(|list| (list.name.clone(), Arc::new(list)))
        .collect();
    open(script)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_entry_within_the_distance_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let entries = [
        ("c", hash(0..10)),
        ("b", hash(0..40)),
        ("a", hash(0..40)),
        ("z", hash(200..256)),
    ];
    let entries: Vec<String> = entries
        .iter()
        .map(|(id, hash)| format!("('{id}', '{}')", hash.to_uppercase()))
        .collect();
    let query = format!("SELECT id, hash FROM (VALUES {}) t(id, hash)", entries.join(", "));
    let list = list_in(folder.path(), "bad", Signal::Pdq, &query).await;
    let posts = [
        (1, hash(0..10), 90),
        (2, hash(0..39), 90),
        (3, hash(0..71), 90),
        (4, hash(0..72), 90),
        (5, hash(0..25), 90),
        (6, hash(0..10), 49),
    ];
    let posts: Vec<String> = posts
        .iter()
        .map(|(id, hash, quality)| format!("({id}, '{hash}', {quality})"))
        .collect();
    let view = format!(
        "CREATE VIEW t(id, h, q, match_id) AS SELECT *, 'old' FROM (VALUES {}, (7, NULL, 90));",
        posts.join(", ")
    );
    let session = session_with(&view, vec![list]);
    let sql = |more: &str| {
        format!(
            "SELECT id, match_id, match_distance FROM hash_match(TABLE t, HASHLIST bad, key => 'id', hash => 'h'{more}) ORDER BY id"
        )
    };
    assert_eq!(
        rows(&session, &sql(", quality => 'q'")).await,
        ["1|c|0", "2|a|1", "3|a|31", "4|-|-", "5|a|15", "6|-|-", "7|-|-"]
    );
    assert_eq!(
        rows(&session, &sql(", max_distance => 0")).await,
        ["1|c|0", "2|-|-", "3|-|-", "4|-|-", "5|-|-", "6|c|0", "7|-|-"]
    );
    assert_eq!(
        rows(&session, "SELECT count(*) FROM bad b WHERE b.hash = lower(b.hash)").await,
        ["4"]
    );
    assert!(
        failure(&session, &sql(", max_distance => 32"))
            .await
            .contains("from 0 to 31 bits")
    );
    let wrong = failure(
        &session,
        "SELECT * FROM hash_match(TABLE t, HASHLIST bed, key => 'id', hash => 'h')",
    )
    .await;
    assert!(
        wrong.contains("unknown hash list 'bed' (did you mean 'bad'?)"),
        "{wrong}"
    );
    let wrong = failure(
        &session,
        "SELECT * FROM hash_match(TABLE t, HASHLIST bad, hash => 'id')",
    )
    .await;
    assert!(
        wrong.contains("a hash is text of hexadecimal digits or bytes"),
        "{wrong}"
    );
}

/// What brute force finds for the frames of one video: the best listed video, bits, and both shares in percent.
fn best_video(frames: &[&String], listed: &[(u32, String)], least: (f64, f64)) -> Option<(String, u32, f64, f64)> {
    let bits =
        |text: &str| -> PdqHash { std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()) };
    let frames: BTreeSet<&String> = frames.iter().copied().collect();
    let videos: BTreeSet<u32> = listed.iter().map(|(video, _)| *video).collect();
    let mut found: Vec<(String, u32, f64, f64)> = Vec::new();
    for video in videos {
        let own: BTreeSet<&String> = listed
            .iter()
            .filter(|(of, _)| *of == video)
            .map(|(_, hash)| hash)
            .collect();
        let near: Vec<(&String, &String, u32)> = frames
            .iter()
            .flat_map(|a| own.iter().map(move |b| (*a, *b, pdq_distance(&bits(a), &bits(b)))))
            .filter(|(_, _, distance)| *distance <= 31)
            .collect();
        let met = |side: fn(&(&String, &String, u32)) -> String| near.iter().map(side).collect::<BTreeSet<_>>().len();
        let query = met(|(a, _, _)| (*a).clone()) as f64 * 100.0 / frames.len() as f64;
        let bank = met(|(_, b, _)| (*b).clone()) as f64 * 100.0 / own.len() as f64;
        if !near.is_empty() && query >= least.0 && bank >= least.1 {
            let distance = near.iter().map(|(_, _, distance)| *distance).min().unwrap();
            found.push((video.to_string(), distance, query, bank));
        }
    }
    found.sort_by(|x, y| y.2.total_cmp(&x.2).then(y.3.total_cmp(&x.3)).then(x.0.cmp(&y.0)));
    found.into_iter().next()
}

#[tokio::test(flavor = "multi_thread")]
async fn videos_match_by_shares_of_their_frames() {
    let folder = tempfile::tempdir().unwrap();
    // Frames of 12 scenes, each a few bits away from its scene; scenes are far from each other.
    let frame = |scene: usize, bits: usize| hash(scene * 20 + bits % 4..scene * 20 + 16 + bits % 7);
    let mut state = 0x9e37_79b9_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % below
    };
    let mut listed: Vec<(u32, String)> = Vec::new();
    for video in 0..9 {
        listed.extend((0..4 + random(5)).map(|_| (video, frame(random(12), random(9)))));
    }
    let entries: Vec<String> = (0..)
        .zip(&listed)
        .map(|(id, (video, hash))| format!("({id}, '{hash}', {video})"))
        .collect();
    let query = format!(
        "SELECT id, hash, video FROM (VALUES {}) t(id, hash, video)",
        entries.join(", ")
    );
    let list = list_in(folder.path(), "videos", Signal::Pdq, &query).await;
    let frames: Vec<(usize, String, i64)> = (0..80)
        .map(|_| {
            (
                random(14),
                frame(random(12), random(9)),
                if random(6) == 0 { 10 } else { 90 },
            )
        })
        .collect();
    let values: Vec<String> = frames
        .iter()
        .map(|(video, hash, quality)| format!("({video}, '{hash}', {quality})"))
        .collect();
    let view = format!(
        "CREATE VIEW t(v, h, q) AS VALUES {}, (99, NULL, 90);",
        values.join(", ")
    );
    let session = session_with(&view, vec![list]);
    let sql = |more: &str| {
        format!(
            "SELECT DISTINCT v, match_id, match_distance, match_query_pct, match_bank_pct
             FROM hash_match(TABLE t, HASHLIST videos, key => 'v', hash => 'h', quality => 'q', bank_key => 'video'{more})"
        )
    };
    for (more, least) in [
        ("", (80.0, 0.0)),
        (", query_match_pct => 50, bank_match_pct => 40", (50.0, 40.0)),
        (", query_match_pct => 0, bank_match_pct => 100", (0.0, 100.0)),
    ] {
        let mut want: Vec<String> = vec!["99|-|-|-|-".to_owned()];
        for video in 0..14 {
            let of_video: Vec<&(usize, String, i64)> = frames.iter().filter(|frame| frame.0 == video).collect();
            if of_video.is_empty() {
                continue;
            }
            let good: Vec<&String> = of_video
                .iter()
                .filter(|frame| frame.2 >= 50)
                .map(|frame| &frame.1)
                .collect();
            want.push(match best_video(&good, &listed, least) {
                Some((id, distance, query, bank)) => format!("{video}|{id}|{distance}|{query:?}|{bank:?}"),
                None => format!("{video}|-|-|-|-"),
            });
        }
        want.sort();
        assert!(want.iter().any(|row| !row.contains("|-")), "{more}: {want:?}");
        assert_eq!(rows(&session, &sql(more)).await, want, "{more}");
    }
    let wrong = failure(&session, &sql("").replace("key => 'v', ", "")).await;
    assert!(wrong.contains("hash_match compares videos by key"), "{wrong}");
    let wrong = failure(&session, &sql("").replace("'video'", "'film'")).await;
    assert!(
        wrong.contains("has no column 'film'; it has hash, id, video"),
        "{wrong}"
    );
    let wrong = failure(&session, &sql(", bank_match_pct => 101")).await;
    assert!(wrong.contains("from 0 to 100, found 101"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_signals_are_joined_as_text_or_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let md5 = |text: &str| format!("md5('{text}')");
    let query = format!(
        "SELECT upper({}) AS hash, 'x' AS id, 'spam' AS why UNION ALL SELECT {}, 'a', NULL UNION ALL SELECT {}, 'b', NULL",
        md5("one"),
        md5("two"),
        md5("two")
    );
    let texts = list_in(folder.path(), "texts", Signal::Md5, &query).await;
    let contents = list_in(
        folder.path(),
        "contents",
        Signal::ContentHash,
        "SELECT content_hash('two') AS hash",
    )
    .await;
    let session = session_with(
        "CREATE VIEW t(id, body) AS VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, NULL);",
        vec![texts, contents],
    );
    let sql = "SELECT id, match_id, match_distance, why FROM hash_match((SELECT *, md5(body) AS h FROM t), HASHLIST texts, hash => 'h') m
               LEFT JOIN texts l ON l.id = m.match_id ORDER BY m.id";
    let session_rows = rows(&session, &sql.replace("SELECT id", "SELECT m.id")).await;
    assert_eq!(session_rows, ["1|x|0|spam", "2|a|0|-", "3|-|-|-", "4|-|-|-"]);
    let sql = "SELECT id, match_id IS NOT NULL FROM hash_match((SELECT *, content_hash(body) AS h FROM t), HASHLIST contents, hash => 'h') ORDER BY id";
    assert_eq!(rows(&session, sql).await, ["1|false", "2|true", "3|false", "4|false"]);
    let sql =
        "SELECT * FROM hash_match((SELECT *, md5(body) AS h FROM t), HASHLIST texts, hash => 'h', max_distance => 3)";
    assert!(failure(&session, sql).await.contains("which matches exactly"));
    let sql = "SELECT * FROM hash_match(TABLE t, HASHLIST texts, hash => 'body')";
    let wrong = failure(&session, sql).await;
    assert!(
        wrong.contains("is not a hash of signal md5: expected 32 hexadecimal digits"),
        "{wrong}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_kind_make_a_list_and_say_what_is_wrong_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let session = open_with("");
    let made = |glob: &str| {
        let (session, statement) = (
            session.clone(),
            format!("CREATE HASH LIST l WITH (signal = 'pdq', uri = '{path}/{glob}')"),
        );
        async move { listed(&session, &statement).await }
    };
    let (a, b) = (hash(0..7), hash(3..90));
    write("good.txt", &format!("{a}\n"));
    write("good.csv", &format!("id,hash\n5,{b}\n"));
    write(
        "good.json",
        &format!(r#"{{"data": [{{"id": "6", "indicator": "{b}", "type": "HASH_PDQ", "tags": ["t"]}}]}}"#),
    );
    collect(
        &session,
        &format!("COPY (SELECT '{b}' AS hash, 8 AS id) TO '{path}/good.parquet' STORED AS PARQUET"),
    )
    .await
    .unwrap();
    let mut found = super::rows_of(&made("good.*").await.unwrap());
    found.sort();
    let mut want = [
        format!("{a}|{a}|-"),
        format!("{b}|5|-"),
        format!("{b}|6|t"),
        format!("{b}|8|-"),
    ];
    want.sort();
    assert_eq!(found, want);

    write("bad.csv", &format!("id,hash\n1,{a}\n2,{}\n", &a[1..]));
    let wrong = made("bad.csv").await.unwrap_err();
    assert!(
        wrong.contains("bad.csv, row 3") && wrong.contains("expected 64 hexadecimal digits, found 63"),
        "{wrong}"
    );
    write("twice.txt", &format!("{a}\n{b}\n{}\n", a.to_uppercase()));
    let wrong = made("twice.txt").await.unwrap_err();
    assert!(
        wrong.contains("twice.txt, row 3")
            && wrong.contains("in the list already")
            && wrong.contains("twice.txt, row 1)"),
        "{wrong}"
    );
    collect(
        &session,
        &format!("COPY (SELECT '{b}' AS hash UNION ALL SELECT 'q') TO '{path}/bad.parquet' STORED AS PARQUET"),
    )
    .await
    .unwrap();
    let wrong = made("bad.parquet").await.unwrap_err();
    assert!(
        wrong.contains("bad.parquet, row") && wrong.contains("found the character 'q'"),
        "{wrong}"
    );
    write("no.parquet", "not at all");
    assert!(made("no.parquet").await.unwrap_err().contains("it is no Parquet file"));

    let of_query = |query: &str| {
        let (session, statement) = (
            session.clone(),
            format!("CREATE HASH LIST l WITH (signal = 'pdq') AS {query}"),
        );
        async move { listed(&session, &statement).await.unwrap_err() }
    };
    assert!(of_query("SELECT 1 AS id").await.contains("no column 'hash'"));
    assert!(
        of_query(&format!("SELECT '{a}' AS hash, 7 AS id UNION ALL SELECT NULL, 8"))
            .await
            .contains("the row with id 8: the hash is NULL")
    );
    let wrong = of_query(&format!("SELECT '{a}' AS hash UNION ALL SELECT '{a}'")).await;
    assert!(wrong.contains("in the list already"), "{wrong}");
}
