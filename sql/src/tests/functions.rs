use super::{failure, open_with, rows};
use crate::session::RunTime;

#[tokio::test]
async fn text_functions_take_every_string_type() {
    let session = open_with("CREATE VIEW v(s) AS VALUES ('  Ｈｅｌｌｏ &amp; a@b.org '), (NULL)");
    for cast in [
        "s",
        "CAST(s AS VARCHAR)",
        "arrow_cast(s, 'Utf8View')",
        "arrow_cast(s, 'LargeUtf8')",
    ] {
        assert_eq!(
            rows(&session, &format!("SELECT normalize_text({cast}, 'NFKC') FROM v")).await,
            ["-", "Hello & a@b.org"]
        );
        assert_eq!(
            rows(
                &session,
                &format!("SELECT pii_redact(normalize_text({cast}), 'email,phone') FROM v")
            )
            .await,
            ["-", "Hello & <EMAIL>"]
        );
    }
    assert_eq!(
        rows(&session, "SELECT pii_spans('a@b.org')[1]['kind']").await,
        ["email"]
    );
    assert_eq!(
        rows(
            &session,
            "SELECT lang_id('This is without any doubt an English sentence about the weather')['lang']"
        )
        .await,
        ["en"]
    );
    assert_eq!(
        rows(
            &session,
            "SELECT quality_signals('one two three', 'fineweb')['words'] > 0"
        )
        .await,
        ["true"]
    );
    let message = failure(&session, "SELECT pii_redact(s, 'emails') FROM v").await;
    assert!(message.contains("did you mean 'email'?"), "{message}");
}

#[tokio::test]
async fn hashes_and_similarities() {
    let session = open_with("");
    assert_eq!(
        rows(&session, "SELECT content_hash('a', 1) = content_hash('a', 1), content_hash('a', 1) = content_hash('a', 2), content_id(NULL), content_id('x') >= 0").await,
        ["true|false|-|true"]
    );
    assert_eq!(
        rows(&session, "SELECT jaccard('The cat sat', 'the cat ran!'), jaccard([1, 2, 2], [2, 3]), jaccard('', ''), jaccard(NULL, 'a')").await,
        ["0.5|0.3333333333333333|1.0|-"]
    );
}

#[tokio::test]
async fn the_logical_time_is_a_constant_of_the_session() {
    let session = open_with("");
    let start = "2026-11-01T02:00:00Z".parse().unwrap();
    let end = "2026-11-02T02:00:00Z".parse().unwrap();
    session.set_run_time(RunTime { start, end }).unwrap();
    assert_eq!(
        rows(
            &session,
            "SELECT run_start(), run_end() - INTERVAL '1 day' = run_start()"
        )
        .await,
        ["2026-11-01T02:00:00|true"]
    );
    let plan = rows(
        &session,
        "EXPLAIN SELECT * FROM generate_series(1, 3) WHERE run_start() > TIMESTAMP '2030-01-01'",
    )
    .await
    .join(" ");
    assert!(plan.contains("EmptyExec"), "{plan}");
}

#[tokio::test]
async fn what_a_function_says_of_its_arguments_is_all_that_is_said() {
    let message = failure(&open_with(""), "SELECT tokenize('a')").await;
    assert!(
        message.starts_with("q.sql:1:8: tokenize takes two arguments: tokenize(…, 'name of a tokenizer')\n"),
        "{message}"
    );
}

#[tokio::test]
async fn tokenizers_are_bound_by_name() {
    use std::sync::Arc;

    use corpusmill_kernels::Tokenizer;

    let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":{"type":"Lowercase"},
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[UNK]":0,"hello":1,"world":2},"unk_token":"[UNK]"}}"#;
    let tokenizer = Tokenizer::from_bytes("words", json.as_bytes(), None).unwrap();
    let mut objects = super::Script::of("CREATE VIEW v(s) AS VALUES ('Hello world'), ('hello moon'), (NULL)");
    objects.tokenizers.insert("words".into(), Arc::new(tokenizer));
    let session = super::open(objects);
    assert_eq!(
        rows(&session, "SELECT tokenize(s, 'words') AS ids, token_count(s, 'words'), detokenize(tokenize(s, 'words'), 'words') FROM v").await,
        ["-|-|-", "[1, 0]|2|hello [UNK]", "[1, 2]|2|hello world"]
    );
    assert_eq!(
        rows(
            &session,
            "SELECT count(*) FROM v WHERE token_count(s, 'words') > (SELECT min(token_count(s, 'words')) - 1 FROM v)"
        )
        .await,
        ["2"]
    );
    let message = failure(&session, "SELECT tokenize(s,\n 'word') FROM v").await;
    assert!(
        message.starts_with("q.sql:2:3: unknown tokenizer 'word' (did you mean 'words'?)"),
        "{message}"
    );
}
