//! Bad input: each is an error that says what and where, with nothing half published.

use anyhow::Result;
use corpusmill_tests::{Place, Program};

/// Runs a script as `bad.sql` and returns its error. No table may come of it.
fn error_of(place: &Place, sql: &str, code: i32) -> Result<String> {
    place.write("bad.sql", sql)?;
    let error = Program::new(place, &["run", "bad.sql", "--quiet"])?
        .run()?
        .failed(code)?;
    assert!(!error.contains("panicked"), "{error}");
    assert!(
        !place.home().join("warehouse/c/_delta_log").exists(),
        "half a corpus was published:\n{error}"
    );
    Ok(error)
}

/// Asserts that a message has all of these parts.
fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in the message:\n{error}");
    }
}

fn table(place: &Place, content: impl AsRef<[u8]>) -> Result<&'static str> {
    place.write("t.csv", content)?;
    Ok("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 't.csv' OPTIONS ('format.has_header' 'true');\n")
}

const CORPUS: &str = "CREATE CORPUS c (PRIMARY KEY (id)) AS SELECT * FROM t;";

#[test]
fn a_missing_file_is_named() -> Result<()> {
    let place = Place::new()?;
    let sql = "SELECT 1;\nCREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'nowhere/posts/';\nSELECT * FROM t;";
    says(&error_of(&place, sql, 1)?, &["bad.sql:", "nowhere/posts"]);
    Ok(())
}

#[test]
fn a_ragged_row_is_found() -> Result<()> {
    let place = Place::new()?;
    let create = table(&place, "id,body\n1,fine\n2,too,many\n3,fine\n")?;
    says(&error_of(&place, &format!("{create}{CORPUS}"), 1)?, &["t.csv", "3"]);
    Ok(())
}

#[test]
fn invalid_utf8_is_found() -> Result<()> {
    let place = Place::new()?;
    let create = table(&place, b"id,body\n1,fine\n2,b\xff\xfed\n")?;
    says(&error_of(&place, &format!("{create}{CORPUS}"), 1)?, &["t.csv", "UTF-8"]);
    Ok(())
}

#[test]
fn a_null_key_is_shown() -> Result<()> {
    let place = Place::new()?;
    let create = table(&place, "id,body\n1,a\n,lost\n3,c\n")?;
    says(
        &error_of(&place, &format!("{create}{CORPUS}"), 1)?,
        &["bad.sql:", "NULL", "id"],
    );
    Ok(())
}

#[test]
fn a_duplicate_key_is_shown() -> Result<()> {
    let place = Place::new()?;
    let create = table(&place, "id,body\n1,a\n77,b\n77,c\n")?;
    says(
        &error_of(&place, &format!("{create}{CORPUS}"), 1)?,
        &["bad.sql:", "77", "id"],
    );
    Ok(())
}

#[test]
fn a_wrong_type_is_explained() -> Result<()> {
    let place = Place::new()?;
    let create = table(&place, "id,body\n1,a\n2,b\n")?;
    let error = error_of(
        &place,
        &format!("{create}SELECT normalize_text(id + INTERVAL '1 day') FROM t;"),
        1,
    )?;
    says(&error, &["bad.sql:2"]);
    let create = "CREATE EXTERNAL TABLE u (id BIGINT, body VARCHAR) STORED AS CSV LOCATION 'u.csv' \
                  OPTIONS ('format.has_header' 'true');\nSELECT sum(id) FROM u;";
    place.write("u.csv", "id,body\n1,a\nseven,b\n")?;
    says(&error_of(&place, create, 1)?, &["u.csv", "seven"]);
    Ok(())
}

#[test]
fn the_nearest_name_is_offered() -> Result<()> {
    let place = Place::new()?;
    let create = table(&place, "id,body\n1,a\n")?;
    let error = error_of(&place, &format!("{create}SELECT id,\n  bdy FROM t;"), 1)?;
    says(&error, &["bad.sql:3:3", "bdy", "body"]);
    let error = error_of(&place, "SELECT normalise_text('a');", 1)?;
    says(&error, &["bad.sql:1:8", "normalise_text", "normalize_text"]);
    Ok(())
}

#[test]
fn a_syntax_error_points_at_its_place() -> Result<()> {
    let place = Place::new()?;
    says(
        &error_of(&place, "SELECT 1;\nSELEC 2;\n", 1)?,
        &["bad.sql:2:1", "SELEC"],
    );
    let sql =
        "CREATE CORPUS c (PRIMARY KEY (id),\n  CONSTRAINT x EXPECT (id > 1) ON VIOLATION DROPP ROW) AS SELECT 1 AS id;";
    says(&error_of(&place, sql, 1)?, &["bad.sql:2", "DROPP"]);
    place.write("latin1.sql", b"SELECT 1;\nSELECT '\xe9';\n")?;
    let error = Program::new(&place, &["run", "latin1.sql"])?.run()?.failed(1)?;
    says(&error, &["latin1.sql:2", "UTF-8"]);
    Ok(())
}

#[test]
fn a_tokenizer_that_is_none_is_refused() -> Result<()> {
    let place = Place::new()?;
    place.write("tokenizer.json", "{\"hello\": 1}")?;
    let error = error_of(&place, "CREATE TOKENIZER t WITH (uri = 'tokenizer.json');", 1)?;
    says(&error, &["bad.sql:1", "tokenizer.json"]);
    let error = error_of(&place, "CREATE TOKENIZER t WITH (uri = 'no-such-tokenizer.json');", 1)?;
    says(&error, &["no-such-tokenizer.json"]);
    Ok(())
}

#[test]
fn an_expectation_that_fails_ends_with_3() -> Result<()> {
    let place = Place::new()?;
    let create = table(&place, "id,body\n1,a\n2,b\n")?;
    let corpus = "CREATE CORPUS c (PRIMARY KEY (id), CONSTRAINT enough EXPECT CORPUS (count(*) >= 1000) \
                  ON VIOLATION FAIL BUILD) AS SELECT * FROM t;";
    says(
        &error_of(&place, &format!("{create}{corpus}"), 3)?,
        &["enough", "count(*) >= 1000", "2"],
    );
    let builds = Program::new(&place, &["builds", "-o", "json"])?.run()?.succeeded()?;
    assert!(builds.contains("\"failed\"") && builds.contains("enough"), "{builds}");
    Ok(())
}

#[test]
fn what_is_not_reproducible_is_refused_with_the_fix() -> Result<()> {
    let place = Place::new()?;
    let create = table(&place, "id,body\n1,a\n")?;
    let sql = format!("{create}CREATE CORPUS c (PRIMARY KEY (id)) AS SELECT id, now() AS at FROM t;");
    says(&error_of(&place, &sql, 1)?, &["now()", "run_start()"]);
    Ok(())
}

#[test]
fn a_home_that_cannot_be_written_is_named() -> Result<()> {
    let place = Place::new()?;
    place.write("file", "in the way")?;
    let ended = Program::new(
        &place,
        &["run", "-c", "CREATE VIEW v AS SELECT 1 AS n", "--home", "file/home"],
    )?
    .run()?;
    says(&ended.failed(1)?, &["file/home"]);
    Ok(())
}

#[test]
fn every_refusal_says_where_in_the_script() -> Result<()> {
    let place = Place::new()?;
    for (sql, parts) in [
        (
            "CREATE CORPUS c (PRIMARY KEY (idd)) AS SELECT 1 AS id;",
            &["bad.sql:2: corpus c: PRIMARY KEY (idd)", "did you mean id?"][..],
        ),
        (
            "CREATE CORPUS c (PRIMARY KEY (id)) WITH (shard = 3) AS SELECT 1 AS id;",
            &["bad.sql:2: corpus c: unknown option shard", "did you mean shards?"],
        ),
        (
            "CREATE CORPUS c AS SELECT 1 AS id;",
            &["bad.sql:2:17", "(PRIMARY KEY (column, …))"],
        ),
        (
            "DESCRIBE nothing;",
            &["bad.sql:2:10: unknown table 'nothing'", "2 | DESCRIBE nothing"],
        ),
        ("REFRESH CORPUS nothing;", &["bad.sql:2: there is no corpus nothing"]),
        (
            "SELECT 1 / (value - 3) FROM generate_series(1, 5);",
            &[
                "bad.sql:2: SELECT 1 / (value - 3) FROM generate_series(1, 5)",
                "ivide by zero",
            ],
        ),
    ] {
        let error = error_of(&place, &format!("SELECT 1;\n{sql}"), 1)?;
        says(&error, parts);
        assert_eq!(
            error.matches("ivide by zero").count(),
            sql.matches(" / ").count(),
            "{error}"
        );
    }
    let submit = Program::new(&place, &["submit", "-c", "SELECT 1", "--coordinator", "localhost:1"])?.run()?;
    says(
        &submit.failed(1)?,
        &["`localhost:1` is no address", "http://127.0.0.1:50050"],
    );
    let comment = Program::new(&place, &["run", "-c", "-- nothing but a comment"])?.run()?;
    comment.succeeded()?;
    Ok(())
}
