//! Another program commits to the table of a corpus: nothing is lost, and nothing half published.

use anyhow::{Context as _, Result};
use corpusmill_tests::{Place, Program, not_run_here, python};
use serde_json::Value;

/// A corpus whose build has the Python library commit to the table that is being built, once: after this build has
/// looked at the table, and before it commits.
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
    deltalake.write_deltalake('{work}/home/warehouse/c', rows, mode='append')
    return id
$$;
CREATE OR REFRESH CORPUS c (PRIMARY KEY (id)) WITH (shards = 2) AS
  SELECT value AS id, meddle(value) + 1 AS more FROM generate_series(1, 30);
";

const PLAIN: &str = "CREATE CORPUS c (PRIMARY KEY (id)) WITH (shards = 2) AS
  SELECT value AS id, value AS more FROM generate_series(1, 20);";

fn count(place: &Place) -> Result<Value> {
    let out = Program::new(place, &["run", "-c", "SELECT count(*) AS n FROM c", "-o", "json"])?;
    let rows: Value = serde_json::from_str(&out.run()?.succeeded()?)?;
    Ok(rows[0]["n"].clone())
}

#[test]
fn a_foreign_commit_in_the_middle_of_a_build_is_a_conflict() -> Result<()> {
    let Some(python) = python(&["deltalake", "pyarrow"]) else {
        not_run_here(
            "a_foreign_commit_in_the_middle_of_a_build_is_a_conflict",
            "no Python with deltalake and pyarrow",
        );
        return Ok(());
    };
    let python = python.display().to_string();
    let place = Place::new()?;
    place.write("plain.sql", PLAIN)?;
    place.write(
        "meddled.sql",
        MEDDLED.replace("{work}", &place.path().display().to_string()),
    )?;
    let run = |arguments: &[&str]| Program::new(&place, arguments)?.env("CORPUSMILL_PYTHON", &python).run();
    run(&["run", "plain.sql"])?.succeeded()?;
    let error = run(&["run", "meddled.sql", "--target-partitions", "1"])?.failed(75)?;
    assert!(
        error.contains("another writer committed") && error.contains("run the statement again"),
        "{error}"
    );
    assert_eq!(
        place.commits("c")?,
        2,
        "the first version, and what was committed from outside"
    );
    // Whoever reads a version of ours goes on; the newest one is not ours, and that is said.
    let error = run(&["run", "-c", "SELECT count(*) FROM c"])?.failed(1)?;
    assert!(
        error.contains("version 1 of `c` was committed by something else") && error.contains("REFRESH CORPUS c FULL"),
        "{error}"
    );
    let listed: Value = serde_json::from_str(&run(&["corpora", "-o", "json"])?.succeeded()?)?;
    assert_eq!((&listed[0]["version"], &listed[0]["rows"]), (&0.into(), &20.into()));
    let swept = run(&["vacuum", "--older-than-hours", "0"])?;
    assert!(
        swept.err.contains("versions that corpusmill did not make"),
        "{}",
        swept.err
    );
    swept.succeeded()?;
    // The same statement again says so too, instead of losing the rows that somebody put there.
    let error = run(&["run", "meddled.sql"])?.failed(1)?;
    assert!(error.contains("REFRESH CORPUS c FULL"), "{error}");
    run(&["run", "-c", "REFRESH CORPUS c FULL"])?.succeeded()?;
    assert_eq!(count(&place)?, 20, "the definition is still the first one");
    run(&["run", "meddled.sql"])?.succeeded()?;
    assert_eq!(count(&place)?, 30);
    assert_eq!(place.commits("c")?, 4);
    run(&["verify", "c"])?.succeeded()?;
    // The row of the foreign commit is in no version of ours, for other readers either.
    let read = "import sys, os, deltalake\n\
                table = deltalake.DeltaTable(sys.argv[1]).to_pyarrow_table()\n\
                print(table.num_rows, max(table['id'].to_pylist()), flush=True)\n\
                os._exit(0)";
    let folder = place.home().join("warehouse/c");
    let seen = std::process::Command::new(&python)
        .args(["-c", read])
        .arg(folder)
        .output()?;
    let seen = String::from_utf8(seen.stdout).context("not text")?;
    assert_eq!(seen.trim(), "30 30");
    Ok(())
}

#[test]
fn a_delta_table_of_somebody_else_is_left_alone() -> Result<()> {
    let Some(python) = python(&["deltalake", "pyarrow"]) else {
        not_run_here(
            "a_delta_table_of_somebody_else_is_left_alone",
            "no Python with deltalake and pyarrow",
        );
        return Ok(());
    };
    let place = Place::new()?;
    let folder = place.home().join("warehouse/c");
    let write = "import sys, os, deltalake, pyarrow\n\
                 deltalake.write_deltalake(sys.argv[1], pyarrow.table({'id': [1]}))\n\
                 os._exit(0)";
    std::fs::create_dir_all(&folder)?;
    let written = std::process::Command::new(python)
        .args(["-c", write])
        .arg(&folder)
        .output()?;
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    place.write("c.sql", PLAIN.replace("CREATE CORPUS", "CREATE OR REPLACE CORPUS"))?;
    let error = Program::new(&place, &["run", "c.sql"])?.run()?.failed(1)?;
    assert!(
        error.contains("corpusmill did not make") && error.contains("c.sql:1"),
        "{error}"
    );
    assert_eq!(place.commits("c")?, 1);
    Ok(())
}
