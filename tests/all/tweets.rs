//! The pipeline over 24,783 real posts (Davidson et al., "Automated Hate Speech Detection", ICWSM 2017): malformed
//! entities, retweets, quotes in quotes, line breaks in fields. The file is not part of the project.

use anyhow::Result;
use corpusmill_tests::{Place, Program, dataset, not_run_here, shared};
use serde_json::Value;

#[test]
fn real_posts_become_a_corpus() -> Result<()> {
    let Some(file) = shared("data/tweets/labeled_data.csv") else {
        not_run_here(
            "real_posts_become_a_corpus",
            "../shared/data/tweets/labeled_data.csv is not here",
        );
        return Ok(());
    };
    let place = Place::new()?;
    let tokenizer = dataset()?.join("tokenizer.json");
    let sql = format!(
        "CREATE EXTERNAL TABLE tweets (id BIGINT, \"count\" INT, hate_speech INT, offensive_language INT, neither INT,
                                       class INT, tweet VARCHAR)
           STORED AS CSV LOCATION '{}' OPTIONS ('format.has_header' 'true', 'format.newlines_in_values' 'true');
         CREATE TOKENIZER k WITH (uri = '{}', max_length = 128);
         CREATE VIEW clean AS
           SELECT id, pii_redact(normalize_text(tweet, 'NFKC'), 'email,phone,ip') AS body, class,
                  CAST(greatest(hate_speech, offensive_language, neither) AS DOUBLE) / \"count\" AS agreement,
                  lang_id(tweet)['lang'] AS lang
           FROM tweets;
         CREATE VIEW marked AS SELECT * FROM exact_duplicates(TABLE clean, key => 'id', columns => ['body']);
         CREATE VIEW divided AS
           SELECT * FROM assign_split(TABLE marked, key => 'id', groups => ['dup_cluster_id']);
         CREATE CORPUS tweets_text (
           PRIMARY KEY (id),
           CONSTRAINT representative EXPECT (dup_is_representative) ON VIOLATION DROP ROW,
           CONSTRAINT agreed EXPECT (agreement >= 0.6) ON VIOLATION QUARANTINE ROW,
           CONSTRAINT whole EXPECT CORPUS (count(*) > 20000) ON VIOLATION FAIL BUILD
         ) PARTITIONED BY (split) WITH (shards = 4) AS
           SELECT id, body, class, agreement, lang, split, dup_cluster_id, dup_is_representative,
                  tokenize(body, 'k') AS input_ids FROM divided;",
        file.display(),
        tokenizer.display()
    );
    place.write("tweets.sql", sql)?;
    let out = Program::new(&place, &["run", "tweets.sql", "-o", "json"])?
        .run()?
        .succeeded()?;
    let build: Value = serde_json::from_str(&out)?;
    assert_eq!(build["rows_in"], 24_783);
    assert!(
        build["drops"]["representative"].as_u64().is_some_and(|n| n > 0),
        "{build}"
    );
    let csv = |sql: &str| {
        Program::new(&place, &["run", "-c", sql, "-o", "csv"])?
            .run()?
            .succeeded()
    };
    // Character references were resolved, and most posts are known to be English.
    assert_eq!(
        csv("SELECT count(*) AS n FROM tweets_text WHERE body LIKE '%&amp;%' OR body LIKE '%&#%;%'")?,
        "n\n0\n"
    );
    let english = csv("SELECT avg(CASE WHEN lang = 'en' THEN 1.0 ELSE 0.0 END) > 0.7 AS ok FROM tweets_text")?;
    assert_eq!(english, "ok\ntrue\n");
    Program::new(&place, &["verify", "tweets_text"])?.run()?.succeeded()?;
    Ok(())
}
