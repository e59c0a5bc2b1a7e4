use super::*;
use crate::statement::{
    AlterCorpusAction, Expectation, ExpectationScope, HashSource, ObjectKind, Schedule, Show, ViolationAction,
};

fn one(text: &str) -> StatementKind {
    let mut statements = parse_script(text, "t.sql").unwrap();
    assert_eq!(statements.len(), 1);
    statements.remove(0).kind
}

fn error(text: &str) -> String {
    parse_script(text, "t.sql").unwrap_err().to_string()
}

const CORPUS: &str = "CREATE OR REFRESH CORPUS mod_text (
  PRIMARY KEY (post_id),
  CONSTRAINT has_label EXPECT (label IS NOT NULL) ON VIOLATION DROP ROW,
  CONSTRAINT agreed    EXPECT (agreement >= 0.6)  ON VIOLATION QUARANTINE ROW,
  CONSTRAINT enough    EXPECT CORPUS (count(*) >= 1000) ON VIOLATION FAIL BUILD,
  CONSTRAINT drift     EXPECT CORPUS (psi('label', previous()) < 0.2) ON VIOLATION WARN
)
PARTITIONED BY (split)
WITH (shards = 64, erase_key = 'user_id', retention = '400 days')
SCHEDULE CRON '0 2 * * *' AT TIME ZONE 'Asia/Singapore'
AS SELECT post_id, label, agreement, split FROM posts";

#[test]
fn a_corpus_is_read_in_full() {
    let StatementKind::CreateCorpus(corpus) = one(CORPUS) else {
        panic!("not a corpus");
    };
    assert_eq!(corpus.name, "mod_text");
    assert!(corpus.or_refresh && !corpus.or_replace);
    assert_eq!(corpus.primary_key, ["post_id"]);
    assert_eq!(corpus.partitioned_by, ["split"]);
    assert_eq!(
        corpus.options,
        [("shards", "64"), ("erase_key", "user_id"), ("retention", "400 days")]
            .map(|(k, v)| (k.to_string(), v.to_string()))
    );
    assert_eq!(
        corpus.schedule,
        Some(Schedule::Cron {
            expression: "0 2 * * *".into(),
            time_zone: "Asia/Singapore".into()
        })
    );
    let Expectation {
        name,
        scope,
        condition,
        action,
    } = &corpus.expectations[1];
    assert_eq!((name.as_str(), &*condition.text), ("agreed", "agreement >= 0.6"));
    assert_eq!(condition.start, Position { line: 4, column: 32 });
    assert_eq!(
        (*scope, *action),
        (ExpectationScope::Row, ViolationAction::QuarantineRow)
    );
    assert_eq!(corpus.expectations[3].scope, ExpectationScope::Corpus);
    assert_eq!(corpus.query.start, Position { line: 11, column: 4 });
    assert!(corpus.query.text.starts_with("SELECT post_id"));
}

#[test]
fn a_statement_of_the_catalogue_keeps_its_place() {
    let text = format!("SELECT 1;\n\n  {CORPUS};");
    let statement = parse_script(&text, "t.sql").unwrap().remove(1);
    assert_eq!(statement.position(), Position { line: 3, column: 3 });
    let again = parse_text(&statement.text).unwrap().remove(0);
    let StatementKind::CreateCorpus(corpus) = again.kind else {
        panic!("not a corpus");
    };
    assert_eq!(corpus.query.start, Position { line: 13, column: 4 });
}

#[test]
fn small_statements() {
    let StatementKind::CreateTokenizer(tokenizer) =
        one("CREATE TOKENIZER xlmr WITH (uri = 'a/tokenizer.json', max_length = 512)")
    else {
        panic!();
    };
    assert_eq!(
        (tokenizer.uri.as_str(), tokenizer.max_length),
        ("a/tokenizer.json", Some(512))
    );
    let StatementKind::CreateFunction(function) = one(
        "CREATE OR REPLACE FUNCTION F(s VARCHAR, n INT) RETURNS VARCHAR LANGUAGE python AS $$\ndef f(s, n):\n  return s; \n$$",
    ) else {
        panic!();
    };
    assert_eq!(function.name, "f");
    assert_eq!(function.arguments.len(), 2);
    assert_eq!(function.body, "\ndef f(s, n):\n  return s; \n");
    let StatementKind::CreateExternalTable(table) =
        one("CREATE EXTERNAL TABLE p STORED AS parquet PARTITIONED BY (dt) LOCATION 's3://lake/p/'")
    else {
        panic!();
    };
    assert_eq!((table.format.as_str(), table.locations.len()), ("PARQUET", 1));
    let StatementKind::CreateHashList(list) =
        one("CREATE OR REPLACE HASH LIST IF NOT EXISTS H WITH (signal = 'pdq', max_distance = 12, uri = 'a/*.json')")
    else {
        panic!();
    };
    assert_eq!((list.name.as_str(), list.max_distance, list.min_quality), ("h", 12, 50));
    assert_eq!(list.source, HashSource::Files("a/*.json".into()));
    assert!(matches!(
        one("DROP HASH LIST h"),
        StatementKind::Drop(drop) if drop.kind == ObjectKind::HashList
    ));
    assert!(matches!(one("SHOW HASH LISTS"), StatementKind::Show(Show::HashLists)));
    assert!(matches!(
        one("DROP MATERIALIZED VIEW IF EXISTS v"),
        StatementKind::Drop(drop) if drop.kind == ObjectKind::MaterializedView && drop.if_exists
    ));
    assert!(matches!(
        one("DESCRIBE c.quarantine VERSION AS OF 4"),
        StatementKind::Describe(object) if object.name == "c.quarantine@4"
    ));
    assert!(matches!(
        one("ALTER CORPUS c ROLLBACK TO VERSION 3"),
        StatementKind::AlterCorpus(alter) if alter.action == AlterCorpusAction::RollbackTo(3)
    ));
    assert!(matches!(
        one("REFRESH CORPUS c FULL AS OF TIMESTAMP '2026-11-01 02:00:00'"),
        StatementKind::RefreshCorpus(refresh) if refresh.full && refresh.as_of.is_some()
    ));
    assert!(matches!(
        one("EXPLAIN REFRESH CORPUS c"),
        StatementKind::ExplainRefresh(_)
    ));
    assert!(matches!(
        one("COPY (SELECT 1) TO 'x.parquet' STORED AS PARQUET"),
        StatementKind::CopyTo(_)
    ));
    let StatementKind::Call(call) = one("CALL erase('c', keys => (SELECT a, b FROM r), versions => 'all')") else {
        panic!();
    };
    assert_eq!(call.arguments[1], (Some("keys".into()), "(SELECT a, b FROM r)".into()));
}

#[test]
fn rewrites_reach_the_engine() {
    let sql = |text: &str| match one(text) {
        StatementKind::Query(query) => query.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        sql("SELECT * FROM c VERSION AS OF 41 WHERE c.x = 1"),
        "SELECT * FROM \"c@41\" AS c WHERE c.x = 1"
    );
    assert_eq!(sql("SELECT * FROM C VERSION AS OF 41 d"), "SELECT * FROM \"c@41\" d");
    assert_eq!(
        sql("SELECT * FROM f(TABLE t, key => 'a', gold => TABLE g)"),
        "SELECT * FROM f((SELECT * FROM t), key => 'a', gold => (SELECT * FROM g))"
    );
    assert_eq!(
        sql("SELECT * FROM f(TABLE c VERSION AS OF 2, key => 'a')"),
        "SELECT * FROM f((SELECT * FROM \"c@2\" AS c), key => 'a')"
    );
}

#[test]
fn errors_point_into_the_file() {
    assert_eq!(
        error("SELECT 1;\nSELEC 2"),
        "t.sql:2:1: unknown statement 'SELEC' (did you mean 'SELECT'?)\n2 | SELEC 2\n  | ^\nhelp: docs/SQL.md lists every statement"
    );
    let message = error("SELECT 1;\n  SELECT a FROM t\n  WHERE");
    assert_eq!(
        message,
        "t.sql:3:8: expected an expression, found the end\n3 |   WHERE\n  |        ^"
    );
    let message = error("CREATE CORPUS c (CONSTRAINT a EXPECT (x > ) ON VIOLATION WARN) AS SELECT 1");
    assert!(message.starts_with("t.sql:1:"), "{message}");
    let message = error("CREATE CORPUS c (CONSTRAINT a EXPECT (x > 1) ON VIOLATION EXPLODE) AS SELECT 1");
    assert!(
        message.contains("expected DROP ROW, QUARANTINE ROW, FAIL BUILD or WARN, found EXPLODE"),
        "{message}"
    );
    let message = error("CREATE CORPUS c (CONSTRAINT a EXPECT (x > 1) ON VIOLATION WARN) AS SELECT 1");
    assert!(message.contains("corpus c needs PRIMARY KEY"), "{message}");
    for (options, said) in [
        ("(max_distance = 3) AS SELECT 1", "a hash list needs signal = 'pdq'"),
        ("(signal = 'pqd', uri = 'x')", "unknown signal 'pqd'"),
        (
            "(signal = 'pdq')",
            "either from files, uri = 'lists/*.json', or from a query",
        ),
        ("(signal = 'pdq', uri = 'x') AS SELECT 1", "either from files"),
        (
            "(signal = 'pdq', max_distance = 32, uri = 'x')",
            "expected bits from 0 to 31",
        ),
        ("(signal = 'md5', max_distance = 3, uri = 'x')", "match exactly"),
        ("(signal = 'pdq', url = 'x')", "did you mean 'uri'?"),
    ] {
        let message = error(&format!("CREATE HASH LIST h WITH {options}"));
        assert!(message.contains(said), "{options}: {message}");
    }
    let message = error("CREATE EXTERNAL TABLE t STORED AS PARQET LOCATION 'x'");
    assert!(
        message.contains("unknown format 'PARQET' (did you mean PARQUET?)"),
        "{message}"
    );
    let message = error("CREATE TOKENIZER t WITH (url = 'x')");
    assert!(
        message.contains("unknown option 'url' (did you mean 'uri'?)"),
        "{message}"
    );
    let message = error("SHOW CORPRA");
    assert!(message.contains("did you mean SHOW CORPORA?"), "{message}");
    let message = error("SELECT 'never closed");
    assert!(
        message.starts_with("t.sql:1:8: Unterminated string literal"),
        "{message}"
    );
    let message = error("DELETE FROM t");
    assert!(message.contains("not part of this dialect"), "{message}");
}
