//! Other programs open a corpus as it is.

use std::process::Command;

use anyhow::{Result, bail};
use corpusmill_tests::{Place, Program, dataset, not_run_here, python};
use serde_json::Value;

/// Reads the corpus `t` in the folder of its argument by three libraries, and prints what each saw.
const READ: &str = r#"
import json, sys
import duckdb, deltalake, pyarrow.dataset
table = deltalake.DeltaTable(sys.argv[1])
by_delta = table.to_pyarrow_table() if hasattr(table, "to_pyarrow_table") else None
files = [f if f.startswith("/") else sys.argv[1] + "/" + f for f in (getattr(table, "file_uris", None) or table.files)()]
files = [f.removeprefix("file://") for f in files]
dataset = pyarrow.dataset.dataset(files, format="parquet", partitioning=pyarrow.dataset.partitioning(flavor="hive"), partition_base_dir=sys.argv[1])
by_pyarrow = dataset.to_table()
rows, tokens = duckdb.sql(f"SELECT count(*), sum(len(input_ids)) FROM read_parquet({files}, hive_partitioning = true)").fetchall()[0]
print(json.dumps({
    "version": table.version(),
    "delta": by_delta.num_rows if by_delta is not None else by_pyarrow.num_rows,
    "pyarrow": by_pyarrow.num_rows,
    "columns": sorted(by_pyarrow.column_names),
    "duckdb": rows,
    "tokens": int(tokens),
}), flush=True)
# The threads of deltalake 1.6 abort about one in four interpreters that shut down in the usual way.
import os
os._exit(0)
"#;

#[test]
fn pyarrow_duckdb_and_deltalake_open_a_corpus() -> Result<()> {
    let Some(python) = python(&["duckdb", "deltalake", "pyarrow.dataset"]) else {
        not_run_here(
            "pyarrow_duckdb_and_deltalake_open_a_corpus",
            "no Python with duckdb, deltalake and pyarrow",
        );
        return Ok(());
    };
    let place = Place::new()?;
    let data = dataset()?.display();
    let sql = format!(
        "CREATE EXTERNAL TABLE posts STORED AS PARQUET LOCATION '{data}/posts/';
         CREATE TOKENIZER k WITH (uri = '{data}/tokenizer.json');
         CREATE CORPUS t (PRIMARY KEY (post_id)) PARTITIONED BY (half) WITH (shards = 3) AS
           SELECT post_id, created_at, CASE WHEN post_id % 2 = 0 THEN 'even' ELSE 'odd' END AS half, body,
                  tokenize(body, 'k') AS input_ids FROM posts;"
    );
    place.write("t.sql", sql)?;
    Program::new(&place, &["run", "t.sql"])?.run()?.succeeded()?;
    let count = "SELECT count(*) AS rows, sum(cardinality(input_ids)) AS tokens FROM t";
    let ours = Program::new(&place, &["run", "-c", count, "-o", "json"])?
        .run()?
        .succeeded()?;
    let ours: Value = serde_json::from_str(&ours)?;
    let read = Command::new(python)
        .arg("-c")
        .arg(READ)
        .arg(place.home().join("warehouse/t"))
        .output()?;
    if !read.status.success() {
        bail!("{}", String::from_utf8_lossy(&read.stderr));
    }
    let theirs: Value = serde_json::from_slice(&read.stdout)?;
    for reader in ["delta", "pyarrow", "duckdb"] {
        assert_eq!(theirs[reader], 1_500, "{reader}: {theirs}");
    }
    assert_eq!(theirs["version"], 0);
    assert_eq!(theirs["tokens"], ours[0]["tokens"]);
    assert_eq!(
        theirs["columns"],
        serde_json::json!(["body", "created_at", "half", "input_ids", "post_id"])
    );
    Ok(())
}
