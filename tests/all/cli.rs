//! The program from outside: exit codes, outputs, pipes.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, Result, ensure};
use corpusmill_tests::{Place, Program, dataset};
use serde_json::Value;

#[test]
fn help_shows_examples_and_exit_codes() -> Result<()> {
    let place = Place::new()?;
    let help = Program::new(&place, &["--help"])?.run()?.succeeded()?;
    for wanted in [
        "run",
        "corpora",
        "builds",
        "show",
        "verify",
        "vacuum",
        "takedown",
        "runs",
        "export",
        "generate",
        "doctor",
        "completions",
    ] {
        assert!(
            help.contains(&format!("\n  {wanted} ")),
            "{wanted} is not in the help:\n{help}"
        );
        let help = Program::new(&place, &[wanted, "--help"])?.run()?.succeeded()?;
        assert!(help.contains("Example"), "{wanted} --help has no example");
    }
    assert!(help.contains("130") && help.contains("expectation"), "{help}");
    Ok(())
}

#[test]
fn a_wrong_command_line_ends_with_2() -> Result<()> {
    let place = Place::new()?;
    for arguments in [
        &["rnu"][..],
        &["run"],
        &["run", "a.sql", "-c", "SELECT 1"],
        &["show", "a@"],
        &["run", "x", "--memory-limit", "3"],
    ] {
        Program::new(&place, arguments)?.run()?.failed(2)?;
    }
    Ok(())
}

#[test]
fn looking_makes_no_home() -> Result<()> {
    let place = Place::new()?;
    let error = Program::new(&place, &["corpora"])?.run()?.failed(1)?;
    assert!(error.contains("is no corpusmill home"), "{error}");
    assert!(!place.home().exists());
    Ok(())
}

#[test]
fn rows_come_as_table_json_and_csv() -> Result<()> {
    let place = Place::new()?;
    let sql = "SELECT 1 AS a, 'x,y' AS b UNION ALL SELECT 2, NULL ORDER BY a";
    let run = |output| {
        Program::new(&place, &["run", "-c", sql, "--output", output])?
            .run()?
            .succeeded()
    };
    assert_eq!(run("csv")?, "a,b\n1,\"x,y\"\n2,\n");
    let rows: Value = serde_json::from_str(&run("json")?)?;
    assert_eq!(rows, serde_json::json!([{ "a": 1, "b": "x,y" }, { "a": 2 }]));
    let table = run("table")?;
    assert!(table.contains("| 1 | x,y  |") && table.ends_with("2 rows\n"), "{table}");
    Ok(())
}

#[test]
fn several_files_and_standard_input_are_scripts() -> Result<()> {
    let place = Place::new()?;
    place.write("one.sql", "\u{feff}CREATE VIEW one AS SELECT 1 AS n;")?;
    place.write("two.sql", "SELECT n + 1 AS m FROM one;")?;
    let out = Program::new(&place, &["run", "one.sql", "two.sql", "-o", "csv"])?
        .run()?
        .succeeded()?;
    assert_eq!(out, "m\n2\n");
    // No second file, no first statement: a mistyped name shows before anything ran.
    let error = Program::new(&place, &["run", "one.sql", "thre.sql"])?
        .run()?
        .failed(1)?;
    assert!(error.contains("thre.sql"), "{error}");
    Ok(())
}

#[test]
fn a_reader_that_leaves_early_is_no_error() -> Result<()> {
    let place = Place::new()?;
    let sql = "SELECT * FROM generate_series(1, 200000)";
    let mut child = Program::new(&place, &["run", "-c", sql, "-o", "csv"])?.start()?;
    let mut first = String::new();
    let mut out = BufReader::new(child.stdout.take().context("no standard output")?);
    out.read_line(&mut first)?;
    drop(out);
    let mut error = String::new();
    child
        .stderr
        .take()
        .context("no standard error")?
        .read_to_string(&mut error)?;
    assert_eq!(child.wait()?.code(), Some(0), "{error}");
    assert!(!error.contains("error") && !error.contains("panicked"), "{error}");
    Ok(())
}

#[test]
fn completions_are_printed_for_each_shell() -> Result<()> {
    let place = Place::new()?;
    for shell in ["bash", "zsh", "fish"] {
        let script = Program::new(&place, &["completions", shell])?.run()?.succeeded()?;
        assert!(
            script.contains("generate") && script.contains("corpusmill"),
            "{shell}: {script}"
        );
    }
    Ok(())
}

#[test]
fn generate_says_what_it_wrote_and_that_it_is_there() -> Result<()> {
    let place = Place::new()?;
    let generate = || Program::new(&place, &["generate", "--posts", "300", "--out", "data", "-o", "json"]);
    let written: Value = serde_json::from_str(&generate()?.run()?.succeeded()?)?;
    assert_eq!(written["tables"]["posts"]["rows"], 300);
    let again = generate()?.run()?;
    assert!(again.err.contains("already holds"), "{}", again.err);
    let other = Program::new(&place, &["generate", "--posts", "301", "--out", "data"])?
        .run()?
        .failed(1)?;
    assert!(other.contains("--force"), "{other}");
    Ok(())
}

/// Publishes a small corpus and returns what the build said.
fn publish(place: &Place) -> Result<Value> {
    let data = dataset()?.display();
    let sql = format!(
        "CREATE EXTERNAL TABLE posts STORED AS PARQUET LOCATION '{data}/posts/';
         CREATE TOKENIZER t WITH (uri = '{data}/tokenizer.json', max_length = 64);
         CREATE CORPUS small (PRIMARY KEY (post_id), CONSTRAINT typed EXPECT (lang IS NOT NULL) ON VIOLATION DROP ROW)
         WITH (shards = 2) AS SELECT post_id, lang, tokenize(body, 't') AS input_ids FROM posts;"
    );
    place.write("small.sql", sql)?;
    let out = Program::new(place, &["run", "small.sql", "-o", "json"])?
        .run()?
        .succeeded()?;
    Ok(serde_json::from_str(&out)?)
}

#[test]
fn a_version_can_be_listed_shown_verified_and_vacuumed() -> Result<()> {
    let place = Place::new()?;
    let build = publish(&place)?;
    assert_eq!(build["version"], 0);
    assert!(build["drops"]["typed"].as_u64().is_some_and(|n| n > 50), "{build}");
    let json = |arguments: &[&str]| -> Result<Value> {
        let arguments = [arguments, &["-o", "json"]].concat();
        Ok(serde_json::from_str(
            &Program::new(&place, &arguments)?.run()?.succeeded()?,
        )?)
    };
    let corpora = json(&["corpora"])?;
    assert_eq!(corpora[0]["name"], "small");
    assert_eq!(corpora[0]["digest"], build["digest"]);
    assert_eq!(json(&["builds", "--corpus", "small"])?[0]["state"], "committed");
    assert_eq!(json(&["show", "small@0"])?["digest"], build["digest"]);
    assert_eq!(json(&["verify", "small"])?["digest"], build["digest"]);
    json(&["vacuum", "--older-than-hours", "0"])?;
    assert_eq!(json(&["verify", "small"])?["fault_count"], 0);
    let error = Program::new(&place, &["show", "smal"])?.run()?.failed(1)?;
    assert!(error.contains("smal"), "{error}");
    let error = Program::new(&place, &["show", "small@7"])?.run()?.failed(1)?;
    assert!(error.contains('7') && error.contains("small"), "{error}");
    for listing in ["corpora", "builds"] {
        let table = Program::new(&place, &[listing])?.run()?.succeeded()?;
        assert!(table.contains("small"), "{table}");
    }
    Ok(())
}

#[test]
fn a_version_is_exported_in_each_format() -> Result<()> {
    let place = Place::new()?;
    let rows = publish(&place)?["rows"].clone();
    for (format, to, file) in [
        ("mds", "mds", "mds/index.json"),
        ("webdataset", "wds", "wds"),
        ("parquet", "parquet", "parquet"),
        ("megatron", "mega/small", "mega/small.idx"),
    ] {
        let mut arguments = vec!["export", "small", "--format", format, "--to", to, "-o", "json"];
        if format == "megatron" {
            arguments.extend(["--columns", "input_ids"]);
        }
        let written: Value = serde_json::from_str(&Program::new(&place, &arguments)?.run()?.succeeded()?)?;
        let all = written["rows"].as_u64().unwrap_or(0) + written["empty"].as_u64().unwrap_or(0);
        assert_eq!(Value::from(all), rows, "{format}");
        assert!(place.path().join(file).exists(), "{file}");
    }
    let error = Program::new(&place, &["export", "small", "--format", "mds", "--to", "mds"])?
        .run()?
        .failed(1)?;
    assert!(error.contains("mds"), "{error}");
    Ok(())
}

#[test]
fn an_altered_shard_is_found_and_ends_with_4() -> Result<()> {
    let place = Place::new()?;
    publish(&place)?;
    let folder = place.home().join("warehouse/small");
    let mut shards: Vec<_> = std::fs::read_dir(&folder)?
        .filter_map(|e| Some(e.ok()?.path()))
        .collect();
    shards.retain(|path| path.extension().is_some_and(|e| e == "parquet"));
    shards.sort();
    let shard = shards.first().context("no shard was written")?;
    let mut bytes = std::fs::read(shard)?;
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x10;
    std::fs::write(shard, &bytes)?;
    let ended = Program::new(&place, &["verify", "small"])?.run()?;
    let name = shard.file_name().unwrap_or_default().to_string_lossy().into_owned();
    assert!(ended.out.contains(&name), "{}\n{}", ended.out, ended.err);
    ended.failed(4)?;
    std::fs::write(shard, &bytes[..bytes.len() - 100])?;
    Program::new(&place, &["verify", "small"])?.run()?.failed(4)?;
    Ok(())
}

#[test]
fn versions_have_names() -> Result<()> {
    let place = Place::new()?;
    let build = publish(&place)?;
    let sql = |sql: &str| Program::new(&place, &["run", "-c", sql])?.run();
    sql("ALTER CORPUS small SET TAG 'prod' = 0")?.succeeded()?;
    let shown = Program::new(&place, &["show", "small@prod", "-o", "json"])?
        .run()?
        .succeeded()?;
    assert_eq!(serde_json::from_str::<Value>(&shown)?["digest"], build["digest"]);
    let listed = Program::new(&place, &["corpora", "-o", "json"])?.run()?.succeeded()?;
    assert_eq!(
        serde_json::from_str::<Value>(&listed)?[0]["tags"],
        serde_json::json!({"prod": 0})
    );
    // A vacuum leaves them.
    Program::new(&place, &["vacuum", "--older-than-hours", "0"])?
        .run()?
        .succeeded()?;
    Program::new(&place, &["verify", "small@prod"])?.run()?.succeeded()?;
    for (statement, told) in [
        ("ALTER CORPUS small SET TAG 'prod' = 7", "small@7"),
        ("ALTER CORPUS small SET TAG '7' = 0", "neither a number"),
        ("ALTER CORPUS small SET TAG 'latest' = 0", "neither a number"),
        ("ALTER CORPUS small DROP TAG 'stage'", "it has prod"),
    ] {
        let error = sql(statement)?.failed(1)?;
        ensure!(error.contains(told), "{statement}: {error}");
    }
    sql("ALTER CORPUS small DROP TAG 'prod'")?.succeeded()?;
    let error = Program::new(&place, &["show", "small@prod"])?.run()?.failed(1)?;
    ensure!(error.contains("it has no tags"), "{error}");
    Ok(())
}
