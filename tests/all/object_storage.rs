//! Sources and the warehouse in object storage: a real S3 server, and one that fails.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Azurite, Ended, Place, Program, S3, Sandbox};
use serde_json::Value;

/// A view, an exchange, quarantine, partitions: all kinds of files that a warehouse holds.
const CORPUS: &str = "
CREATE EXTERNAL TABLE IF NOT EXISTS posts STORED AS CSV LOCATION 'posts/' OPTIONS ('format.has_header' 'true');
CREATE MATERIALIZED VIEW IF NOT EXISTS clean AS
  SELECT post_id, post_id % 7 AS topic, normalize_text(body, 'NFKC') AS body FROM posts;
CREATE OR REFRESH CORPUS text (
    PRIMARY KEY (post_id),
    CONSTRAINT odd EXPECT (post_id % 5 <> 0) ON VIOLATION DROP ROW,
    CONSTRAINT short EXPECT (post_id % 11 <> 0) ON VIOLATION QUARANTINE ROW
  ) PARTITIONED BY (half) WITH (shards = 3) AS
  SELECT post_id, topic, body, CASE WHEN post_id % 2 = 0 THEN 'even' ELSE 'odd' END AS half FROM clean;
";

/// A place with posts, its CSV files local, and the corpus over them.
fn place() -> Result<Place> {
    let place = Place::new()?;
    for file in 0..3 {
        let mut text = String::from("post_id,body\n");
        for id in file * 200..file * 200 + 200 {
            text.push_str(&format!("{id},post number {id} about topic {}\n", id % 31));
        }
        place.write(&format!("posts/part-{file}.csv"), text)?;
    }
    place.write("corpus.sql", CORPUS)?;
    Ok(place)
}

fn run(place: &Place, arguments: &[&str]) -> Result<Ended> {
    Program::new(place, arguments)?.run()
}

fn json(place: &Place, arguments: &[&str]) -> Result<Value> {
    let out = run(place, &[arguments, &["-o", "json"]].concat())?.succeeded()?;
    let last = out.trim().lines().last().context("nothing was printed")?.to_owned();
    serde_json::from_str(&last).or_else(|_| Ok(serde_json::from_str(&out)?))
}

fn query(place: &Place, sql: &str) -> Result<Value> {
    json(place, &["run", "-c", sql])
}

const BUILD: [&str; 4] = ["run", "corpus.sql", "--as-of", "2026-07-01"];

/// Digest, and checksums of the shards in order: what must not depend on where the warehouse is.
fn content(place: &Place, corpus: &str) -> Result<(Value, Vec<Value>)> {
    let manifest = json(place, &["show", corpus])?;
    let shards = manifest["shard_files"].as_array().context("no shards")?;
    ensure!(shards.len() == 6, "{manifest}");
    Ok((
        manifest["digest"].clone(),
        shards.iter().map(|shard| shard["xxh3"].clone()).collect(),
    ))
}

/// The same corpus in a warehouse on the local disk.
fn local() -> Result<(Value, Vec<Value>)> {
    let place = place()?;
    run(&place, &BUILD)?.succeeded()?;
    content(&place, "text")
}

/// A place whose warehouse is on S3, by the environment.
fn on_s3(test: &str) -> Result<Option<(Place, S3)>> {
    let mut place = place()?;
    let Some(s3) = S3::start(test, &mut place)? else {
        return Ok(None);
    };
    place.set("CORPUSMILL_WAREHOUSE", "s3://lake/corpora");
    Ok(Some((place, s3)))
}

const SOURCES: &str = "
import io, json, os, deltalake, pyarrow, pyarrow.parquet
for file in range(3):
    put('lake', f'csv/part-{file}.csv', 'id,word\\n' + ''.join(f'{file * 10 + i},w{i}\\n' for i in range(10)))
    put('lake', f'json/part-{file}.json', ''.join(json.dumps({'id': i, 'word': 'w'}) + '\\n' for i in range(5)))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({'id': list(range(4))}), buffer)
    put('lake', f'parquet/dt=2026-07-0{file + 1}/part.parquet', buffer.getvalue())
    put('lake', f'media/{file}.bin', bytes([file]) * (file + 1))
for version in range(2):
    rows = pyarrow.table({'id': [version * 2, version * 2 + 1]})
    deltalake.write_deltalake('s3://lake/bronze', rows, mode='append', storage_options=options)
open('served.csv', 'w').write('id,word\\n1,a\\n2,b\\n')
pyarrow.parquet.write_table(pyarrow.table({'id': list(range(9))}), 'served.parquet')
";

#[test]
fn sources_are_read_from_s3_and_http() -> Result<()> {
    let mut place = Place::new()?;
    let Some(mut s3) = S3::start("sources_are_read_from_s3_and_http", &mut place)? else {
        return Ok(());
    };
    s3.python(SOURCES)?;
    let web = s3.web();
    let sql = format!(
        "CREATE EXTERNAL TABLE words STORED AS CSV LOCATION 's3://lake/csv/' OPTIONS ('format.has_header' 'true');
         CREATE EXTERNAL TABLE lines STORED AS JSON LOCATION 's3://lake/json/';
         CREATE EXTERNAL TABLE days STORED AS PARQUET PARTITIONED BY (dt) LOCATION 's3://lake/parquet/';
         CREATE EXTERNAL TABLE bronze STORED AS DELTA LOCATION 's3://lake/bronze/';
         CREATE EXTERNAL TABLE first STORED AS DELTA LOCATION 's3://lake/bronze' OPTIONS ('version' '0');
         CREATE EXTERNAL TABLE page STORED AS CSV LOCATION '{web}/served.csv' OPTIONS ('format.has_header' 'true');
         CREATE EXTERNAL TABLE ranges STORED AS PARQUET LOCATION '{web}/served.parquet';"
    );
    place.write("sources.sql", sql)?;
    run(&place, &["run", "sources.sql"])?.succeeded()?;
    let counts = query(
        &place,
        "SELECT (SELECT count(*) FROM words) AS words, (SELECT count(*) FROM lines) AS lines,
                (SELECT count(*) FROM days WHERE dt > '2026-07-01') AS days, (SELECT sum(id) FROM bronze) AS bronze,
                (SELECT count(*) FROM first) AS first, (SELECT sum(id) FROM page) AS page,
                (SELECT count(*) FROM ranges) AS ranges,
                (SELECT sum(length(content)) FROM read_blob('s3://lake/media/')) AS bytes,
                (SELECT max(filename) FROM read_blob('s3://lake/media/')) AS blob",
    )?;
    let expected = serde_json::json!({
        "words": 30, "lines": 15, "days": 8, "bronze": 6, "first": 2, "page": 3, "ranges": 9, "bytes": 6,
        "blob": "s3://lake/media/2.bin",
    });
    assert_eq!(counts[0], expected);
    Ok(())
}

#[test]
fn globs_of_urls_choose_files() -> Result<()> {
    let mut place = Place::new()?;
    let Some(mut s3) = S3::start("globs_of_urls_choose_files", &mut place)? else {
        return Ok(());
    };
    s3.python(SOURCES)?;
    let blobs = query(
        &place,
        "SELECT count(*) AS n FROM read_blob('s3://lake/media/[01].bin')",
    )?;
    assert_eq!(blobs[0]["n"], 2);
    let table = "CREATE EXTERNAL TABLE globbed STORED AS CSV LOCATION 's3://lake/csv/part-[01].csv'
                 OPTIONS ('format.has_header' 'true')";
    run(&place, &["run", "-c", table])?.succeeded()?;
    assert_eq!(query(&place, "SELECT count(*) AS n FROM globbed")?[0]["n"], 20);
    Ok(())
}

#[test]
fn sources_are_read_from_google() -> Result<()> {
    let mut place = Place::new()?;
    // Google's XML interface is that of S3, as far as reading goes.
    let Some(mut s3) = S3::start("sources_are_read_from_google", &mut place)? else {
        return Ok(());
    };
    s3.python(SOURCES)?;
    // The server knows no account of Google's: what anybody may read is read.
    s3.python("for key in keys('lake', ''): s3.put_object_acl(Bucket='lake', Key=key, ACL='public-read')")?;
    let account = serde_json::json!({
        "gcs_base_url": s3.endpoint(), "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": "",
    });
    place.set("GOOGLE_SERVICE_ACCOUNT_KEY", &account.to_string());
    place.set("GOOGLE_ALLOW_HTTP", "true");
    place.set("GOOGLE_SKIP_SIGNATURE", "true");
    place.write(
        "sources.sql",
        "CREATE EXTERNAL TABLE words STORED AS CSV LOCATION 'gs://lake/csv/part-[12].csv' OPTIONS ('format.has_header' 'true');
         CREATE EXTERNAL TABLE days STORED AS PARQUET PARTITIONED BY (dt) LOCATION 'gs://lake/parquet/';",
    )?;
    run(&place, &["run", "sources.sql"])?.succeeded()?;
    let counts = query(
        &place,
        "SELECT (SELECT count(*) FROM words) AS words, (SELECT count(*) FROM days WHERE dt > '2026-07-01') AS days,
                (SELECT sum(length(content)) FROM read_blob('gs://lake/media/*.bin')) AS bytes",
    )?;
    assert_eq!(counts[0], serde_json::json!({"words": 20, "days": 8, "bytes": 6}));
    Ok(())
}

#[test]
fn a_warehouse_on_azure_has_the_same_corpus() -> Result<()> {
    let mut place = place()?;
    let Some(_azurite) = Azurite::start("a_warehouse_on_azure_has_the_same_corpus", &mut place)? else {
        return Ok(());
    };
    place.set("CORPUSMILL_WAREHOUSE", "az://lake/corpora");
    run(&place, &BUILD)?.succeeded()?;
    assert_eq!(content(&place, "text")?, local()?);
    run(&place, &["verify", "text"])?.succeeded()?;
    let copied = "COPY (SELECT post_id FROM text) TO 'az://lake/out/ids.csv' STORED AS CSV";
    run(&place, &["run", "-c", copied])?.succeeded()?;
    let table = "CREATE EXTERNAL TABLE ids STORED AS CSV LOCATION 'az://lake/out/*.csv'
                 OPTIONS ('format.has_header' 'true')";
    run(&place, &["run", "-c", table])?.succeeded()?;
    let rows = query(
        &place,
        "SELECT (SELECT count(*) FROM ids) - (SELECT count(*) FROM text) AS n",
    )?;
    assert_eq!(rows[0]["n"], 0);
    Ok(())
}

#[test]
fn what_is_wrong_with_a_store_is_said_at_once() -> Result<()> {
    let mut place = Place::new()?;
    let Some(mut s3) = S3::start("what_is_wrong_with_a_store_is_said_at_once", &mut place)? else {
        return Ok(());
    };
    s3.python("put('lake', 'csv/posts.csv', 'id\\n1\\n')")?;
    let table = |location: &str| format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{location}'");
    let told = |program: Program, parts: &[&str]| -> Result<()> {
        let began = Instant::now();
        let error = program.run()?.failed(1)?;
        for part in parts {
            ensure!(error.contains(part), "`{part}` is not in: {error}");
        }
        ensure!(
            began.elapsed() < Duration::from_secs(25),
            "{:?}: {error}",
            began.elapsed()
        );
        Ok(())
    };
    let try_to = |sql: &str| Program::new(&place, &["run", "-c", sql]);

    let absent = try_to(&table("s3://lake/csv/post.csv"))?;
    told(
        absent,
        &["no file at 's3://lake/csv/post.csv'", "did you mean 'posts.csv'?"],
    )?;
    let bucket = &["there is no bucket `pond`", "make it, or correct s3://pond"];
    told(try_to(&table("s3://pond/csv/posts.csv"))?, bucket)?;
    told(try_to(&table("s3://pond/csv/"))?, bucket)?;
    told(try_to("SELECT * FROM read_blob('s3://pond/media/')")?, bucket)?;
    told(
        try_to(&table("s3://lake/csv/").replace("CSV", "DELTA"))?,
        &["'s3://lake/csv/' is not a Delta table"],
    )?;
    told(
        try_to(&table("s3://pond/t").replace("CSV", "DELTA"))?,
        &["there is no bucket `pond`"],
    )?;

    let nobody = try_to(&table("s3://lake/csv/"))?.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    told(nobody, &["no answer from http://127.0.0.1:1", "check AWS_ENDPOINT_URL"])?;
    let plain = try_to(&table("s3://lake/csv/"))?.without("AWS_ALLOW_HTTP");
    told(plain, &["is plain http: set AWS_ALLOW_HTTP=true"])?;
    let anonymous = try_to(&table("s3://lake/csv/"))?
        .without("AWS_ACCESS_KEY_ID")
        .without("AWS_SECRET_ACCESS_KEY");
    told(anonymous, &["no credentials for s3://lake", "set AWS_ACCESS_KEY_ID"])?;

    s3.python("proxy.every = {'403': 1}")?;
    told(
        try_to(&table("s3://lake/csv/"))?,
        &["refuses s3://lake", "(InvalidAccessKeyId)", "AWS_SECRET_ACCESS_KEY"],
    )
}

#[test]
fn a_warehouse_on_s3_holds_what_a_local_one_holds() -> Result<()> {
    let Some((place, mut s3)) = on_s3("a_warehouse_on_s3_holds_what_a_local_one_holds")? else {
        return Ok(());
    };
    run(&place, &BUILD)?.succeeded()?;
    assert_eq!(content(&place, "text")?, local()?);
    run(&place, &["verify", "text"])?.succeeded()?;
    assert!(
        !place.home().join("warehouse").exists(),
        "something was written to the home"
    );
    let quarantined = "SELECT count(*) AS n, min(_reason) AS why FROM text.quarantine";
    assert_eq!(
        query(&place, quarantined)?[0],
        serde_json::json!({"n": 44, "why": "short"})
    );
    assert_eq!(s3.keys("corpora/_staging/")?, Vec::<String>::new());

    // Another version, the first one again, and what no version knows.
    place.write("posts/part-3.csv", "post_id,body\n601,one more\n")?;
    run(&place, &["run", "corpus.sql", "--as-of", "2026-07-02"])?.succeeded()?;
    assert_eq!(query(&place, "SELECT count(*) AS n FROM text")?[0]["n"], 437);
    run(&place, &["run", "-c", "ALTER CORPUS text ROLLBACK TO VERSION 0"])?.succeeded()?;
    assert_eq!(content(&place, "text@2")?, local()?);
    s3.python("put('lake', 'corpora/text/half=odd/g0-s0000-lost-0.parquet', 'x')")?;
    let swept = json(&place, &["vacuum", "--older-than-hours", "0"])?;
    ensure!(swept.to_string().contains("g0-s0000-lost-0"), "{swept}");
    run(&place, &["verify", "text@1"])?.succeeded()?;
    let to = place.path().join("out");
    let to = to.to_str().context("a strange path")?;
    run(&place, &["export", "text@0", "--format", "parquet", "--to", to])?.succeeded()?;
    run(
        &place,
        &["export", "text@0", "--format", "mds", "--to", "s3://lake/mds"],
    )?
    .succeeded()?;
    assert!(s3.keys("mds/")?.contains(&"mds/index.json".to_owned()));

    // The home remembers, and holds to it.
    let own = Program::new(&place, &["show", "text"])?.without("CORPUSMILL_WAREHOUSE");
    own.run()?.succeeded()?;
    let other = run(&place, &["corpora", "--warehouse", "s3://lake/elsewhere"])?.failed(1)?;
    ensure!(other.contains("keeps its corpora in s3://lake/corpora"), "{other}");
    Ok(())
}

#[test]
fn a_build_on_s3_that_was_killed_goes_on() -> Result<()> {
    let Some((place, mut s3)) = on_s3("a_build_on_s3_that_was_killed_goes_on")? else {
        return Ok(());
    };
    for failpoint in ["shard-written:2", "step-done", "before-commit", "after-commit"] {
        let killed = Program::new(&place, &BUILD)?
            .env("CORPUSMILL_FAILPOINT", failpoint)
            .run()?;
        ensure!(killed.code != Some(0), "the build never came to {failpoint}");
        let published = s3.keys("corpora/text/_delta_log/")?.len();
        assert_eq!(published, usize::from(failpoint == "after-commit"), "at {failpoint}");
    }
    run(&place, &BUILD)?.succeeded()?;
    assert_eq!(content(&place, "text@0")?, local()?);
    assert_eq!(s3.keys("corpora/text/_delta_log/")?.len(), 1);
    run(&place, &["verify", "text"])?.succeeded()?;
    Ok(())
}

/// A build that has another program commit to its table on S3, after it has looked there.
const MEDDLED: &str = "
CREATE OR REPLACE FUNCTION meddle(id BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import os
def meddle(id):
    try:
        os.close(os.open('{work}/meddled', os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return id
    import deltalake, pyarrow
    rows = pyarrow.table({'id': pyarrow.array([1000], pyarrow.int64()), 'more': pyarrow.array([7], pyarrow.int64())})
    deltalake.write_deltalake('s3://lake/corpora/c', rows, mode='append', storage_options=dict(os.environ))
    return id
$$;
CREATE OR REFRESH CORPUS c (PRIMARY KEY (id)) WITH (shards = 2) AS
  SELECT value AS id, meddle(value) + 1 AS more FROM generate_series(1, 30);
";

#[test]
fn a_foreign_commit_on_s3_is_a_conflict() -> Result<()> {
    let Some((mut place, mut s3)) = on_s3("a_foreign_commit_on_s3_is_a_conflict")? else {
        return Ok(());
    };
    let python = corpusmill_tests::python(&["deltalake", "pyarrow"]).context("the S3 server had it")?;
    place.set("CORPUSMILL_PYTHON", &python.display().to_string());
    let plain = "CREATE CORPUS c (PRIMARY KEY (id)) WITH (shards = 2) AS
      SELECT value AS id, value AS more FROM generate_series(1, 20)";
    run(&place, &["run", "-c", plain])?.succeeded()?;
    place.write(
        "meddled.sql",
        MEDDLED.replace("{work}", &place.path().display().to_string()),
    )?;
    let error = run(&place, &["run", "meddled.sql", "--target-partitions", "1"])?.failed(75)?;
    ensure!(error.contains("another writer committed a version"), "{error}");
    let log = s3.keys("corpora/c/_delta_log/")?;
    let commits = log.iter().filter(|key| key.ends_with(".json")).count();
    assert_eq!(commits, 2, "ours was published beside theirs: {log:?}");
    Ok(())
}

#[test]
fn a_server_that_fails_costs_time_and_no_row() -> Result<()> {
    let Some((mut place, mut s3)) = on_s3("a_server_that_fails_costs_time_and_no_row")? else {
        return Ok(());
    };
    let expected = local()?;
    place.set("AWS_TIMEOUT", "2s");
    s3.python("for file in range(3): put('lake', f'posts/part-{file}.csv', open(f'posts/part-{file}.csv').read())")?;
    place.write("corpus.sql", CORPUS.replace("'posts/'", "'s3://lake/posts/'"))?;
    s3.python("proxy.every = {'500': 7, '503': 11, 'drop': 5, 'lost': 6, 'hang': 41}")?;
    let ended = run(&place, &BUILD)?;
    let told = ended.err.clone();
    ended.succeeded()?;
    run(&place, &["verify", "text"])?.succeeded()?;
    assert_eq!(content(&place, "text")?, expected);
    let made = s3.python("value = proxy.made")?;
    for fault in ["500", "503", "drop", "lost", "hang"] {
        ensure!(
            made[fault].as_u64().is_some_and(|n| n > 0),
            "no fault of kind {fault}: {made}"
        );
    }
    let line = told.lines().find(|line| line.starts_with("object storage:"));
    let line = line.with_context(|| format!("no summary in: {told}"))?;
    for part in ["refused by the server", "not answered", "broken off"] {
        ensure!(line.contains(part), "{line}");
    }
    Ok(())
}

#[test]
fn versions_are_read_from_a_checkpoint_when_commits_were_cleaned_up() -> Result<()> {
    let Some((place, mut s3)) = on_s3("versions_are_read_from_a_checkpoint_when_commits_were_cleaned_up")? else {
        return Ok(());
    };
    for version in 0..3 {
        let rows = format!("post_id,body\n{},more\n", 1_001 + version);
        place.write(&format!("posts/part-{}.csv", 3 + version), rows)?;
        run(&place, &BUILD)?.succeeded()?;
    }
    let before: Vec<_> = (0..3)
        .map(|v| content(&place, &format!("text@{v}")))
        .collect::<Result<_>>()?;
    s3.python(
        "import deltalake
deltalake.DeltaTable('s3://lake/corpora/text', storage_options=options).create_checkpoint()
for version in range(2):
    s3.delete_object(Bucket='lake', Key=f'corpora/text/_delta_log/{version:020}.json')",
    )?;
    let log = s3.keys("corpora/text/_delta_log/")?;
    ensure!(log.iter().any(|key| key.ends_with(".checkpoint.parquet")), "{log:?}");
    let after: Vec<_> = (0..3)
        .map(|v| content(&place, &format!("text@{v}")))
        .collect::<Result<_>>()?;
    assert_eq!(after, before);
    run(&place, &["verify", "text@0"])?.succeeded()?;
    let gone = run(&place, &["show", "text@3"])?.failed(1)?;
    ensure!(gone.contains("versions 0 to 2"), "{gone}");
    // A build goes on from there, and a sweep knows all versions.
    place.write("posts/part-9.csv", "post_id,body\n2001,after\n")?;
    run(&place, &BUILD)?.succeeded()?;
    run(&place, &["vacuum", "--older-than-hours", "0"])?.succeeded()?;
    run(&place, &["verify", "text@0"])?.succeeded()?;
    run(&place, &["verify", "text@3"])?.succeeded()?;
    Ok(())
}

#[test]
fn workers_build_on_s3_what_one_process_builds() -> Result<()> {
    let Some((place, mut s3)) = on_s3("workers_build_on_s3_what_one_process_builds")? else {
        return Ok(());
    };
    s3.python("for file in range(3): put('lake', f'posts/part-{file}.csv', open(f'posts/part-{file}.csv').read())")?;
    place.write("corpus.sql", CORPUS.replace("'posts/'", "'s3://lake/posts/'"))?;
    s3.python("proxy.every = {'503': 13, 'lost': 9}")?;
    let mut sandbox = Sandbox::new(place)?;
    for _ in 0..2 {
        sandbox.worker(None)?;
    }
    sandbox.wait_for_workers(2)?;
    let digest = sandbox.digest("corpus.sql")?;
    let (expected, shards) = local()?;
    assert_eq!(Value::from(digest), expected, "{}", sandbox.logs());
    let there = content(sandbox.place(), "text").with_context(|| sandbox.logs())?;
    assert_eq!(there, (expected, shards));
    ensure!(
        s3.python("value = proxy.made")?["503"].as_u64() > Some(0),
        "no fault was made"
    );
    Ok(())
}
