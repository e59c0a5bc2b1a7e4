//! A corpus depends on all that its statement names: what is defined anew is built anew, and nothing else is.

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Ended, Place, Program, dataset, not_run_here, python};
use serde_json::Value;

/// Runs a script, and gives the report of the corpus that it ends with.
fn run(place: &Place, sql: &str, environment: &[(&str, &str)]) -> Result<Value> {
    report(program(place, sql, environment)?.run()?)
}

fn program(place: &Place, sql: &str, environment: &[(&str, &str)]) -> Result<Program> {
    place.write("s.sql", sql)?;
    let program = Program::new(place, &["run", "s.sql", "-o", "json", "--target-partitions", "2"])?;
    Ok(environment
        .iter()
        .fold(program, |program, (name, value)| program.env(name, value)))
}

fn report(ended: Ended) -> Result<Value> {
    let out = ended.succeeded()?;
    Ok(serde_json::from_str(
        out.trim().lines().last().context("nothing was printed")?,
    )?)
}

/// Builds `corpus` over `first` twice and over `second` once: a version, nothing to do, another version.
fn depends(place: &Place, environment: &[(&str, &str)], first: &str, second: &str, corpus: &str) -> Result<()> {
    let built = run(place, &format!("{first};\n{corpus};"), environment)?;
    assert_eq!(
        (&built["state"], &built["version"]),
        (&"committed".into(), &0.into()),
        "{first}"
    );
    let again = run(place, &format!("{first};\n{corpus};"), environment)?;
    assert_eq!(again["state"], "unchanged", "{first}");
    let other = run(place, &format!("{second};\n{corpus};"), environment)?;
    assert_eq!(
        (&other["state"], &other["version"]),
        (&"committed".into(), &1.into()),
        "{second}"
    );
    ensure!(other["digest"] != built["digest"], "{second} gave the same rows");
    Ok(())
}

#[test]
fn tables_views_and_tokenizers() -> Result<()> {
    let place = Place::new()?;
    place.write("d/a.csv", "1;2,3\n4;5,6\n")?;
    let table = |delimiter: &str, header: bool| {
        format!(
            "CREATE OR REPLACE EXTERNAL TABLE t (a VARCHAR, b VARCHAR) STORED AS CSV LOCATION 'd/' \
             OPTIONS ('format.delimiter' '{delimiter}', 'format.has_header' '{header}')"
        )
    };
    let corpus = "CREATE OR REFRESH CORPUS delimiter (PRIMARY KEY (a)) AS SELECT a, b FROM t";
    depends(&place, &[], &table(";", false), &table(",", false), corpus)?;
    // Through a view, whose own text stays the same.
    let through = |table: String| format!("{table};\nCREATE OR REPLACE VIEW v AS SELECT a, b FROM t");
    let corpus = "CREATE OR REFRESH CORPUS header (PRIMARY KEY (a)) AS SELECT a, b FROM v";
    depends(
        &place,
        &[],
        &through(table(";", false)),
        &through(table(";", true)),
        corpus,
    )?;
    // Through a materialised view.
    let through = |table: String| format!("{table};\nCREATE MATERIALIZED VIEW IF NOT EXISTS m AS SELECT a, b FROM t");
    let corpus = "CREATE OR REFRESH CORPUS kept (PRIMARY KEY (a)) AS SELECT a, b FROM m";
    depends(
        &place,
        &[],
        &through(table(";", false)),
        &through(table(",", false)),
        corpus,
    )?;
    let view =
        |b: i64| format!("CREATE OR REPLACE VIEW w AS SELECT value AS a, value % {b} AS b FROM generate_series(1, 9)");
    let corpus = "CREATE OR REFRESH CORPUS views (PRIMARY KEY (a)) AS SELECT a, b FROM w";
    depends(&place, &[], &view(2), &view(3), corpus)?;
    let uri = dataset()?.join("tokenizer.json").display().to_string();
    let tokenizer =
        |length: usize| format!("CREATE OR REPLACE TOKENIZER k WITH (uri = '{uri}', max_length = {length})");
    let corpus = "CREATE OR REFRESH CORPUS tokens (PRIMARY KEY (a)) AS
        SELECT value AS a, tokenize('one two three four five six seven eight nine', 'k') AS ids FROM generate_series(1, 9)";
    depends(&place, &[], &tokenizer(64), &tokenizer(4), corpus)
}

const PYTHON: &str = "CREATE OR REPLACE FUNCTION f(a BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import pyarrow.compute as pc
def f(a):
    return pc.add(a, NUMBER)
$$";

#[test]
fn functions_in_python() -> Result<()> {
    let Some(python) = python(&["pyarrow"]) else {
        not_run_here("functions_in_python", "no Python with pyarrow");
        return Ok(());
    };
    let python = python.display().to_string();
    let environment = [("CORPUSMILL_PYTHON", python.as_str())];
    let place = Place::new()?;
    let function = |number: &str| PYTHON.replace("NUMBER", number);
    let corpus = "CREATE OR REFRESH CORPUS query (PRIMARY KEY (a)) AS SELECT f(value) AS a FROM generate_series(1, 9)";
    depends(&place, &environment, &function("1"), &function("2"), corpus)?;
    let through = |number: &str| {
        format!(
            "{};\nCREATE OR REPLACE VIEW v AS SELECT f(value) AS a FROM generate_series(1, 9)",
            function(number)
        )
    };
    let corpus = "CREATE OR REFRESH CORPUS views (PRIMARY KEY (a)) AS SELECT a FROM v";
    depends(&place, &environment, &through("1"), &through("2"), corpus)?;
    let corpus =
        "CREATE OR REFRESH CORPUS condition (PRIMARY KEY (a), CONSTRAINT small EXPECT (f(a) < 6) ON VIOLATION DROP ROW)
        AS SELECT value AS a FROM generate_series(1, 9)";
    depends(&place, &environment, &function("1"), &function("2"), corpus)
}

#[test]
fn a_build_that_was_killed_does_not_go_on_with_another_function() -> Result<()> {
    let Some(python) = python(&["pyarrow"]) else {
        not_run_here(
            "a_build_that_was_killed_does_not_go_on_with_another_function",
            "no Python with pyarrow",
        );
        return Ok(());
    };
    let python = python.display().to_string();
    let corpus = "CREATE OR REFRESH CORPUS c (PRIMARY KEY (a)) WITH (shards = 4) AS SELECT f(value) AS a FROM generate_series(1, 900)";
    let script = |number: &str| format!("{};\n{corpus};", PYTHON.replace("NUMBER", number));
    let environment = [("CORPUSMILL_PYTHON", python.as_str())];
    let expected = run(&Place::new()?, &script("2"), &environment)?;
    let place = Place::new()?;
    let killed = program(&place, &script("1"), &environment)?.env("CORPUSMILL_FAILPOINT", "split-done:2");
    ensure!(killed.run()?.code != Some(0), "the build was not killed");
    let built = run(&place, &script("2"), &environment)?;
    assert_eq!((&built["resumed"], &built["version"]), (&false.into(), &0.into()));
    assert_eq!(built["digest"], expected["digest"]);
    Ok(())
}
