//! Other people's readers open a corpus as it is.

use std::path::Path;
use std::process::Command;

use corpusmill_corpus::*;

use crate::fixture::*;

/// Ends a script whose assertions all held. The threads of `deltalake` 1.6 abort about one in four interpreters that
/// shut down in the usual way, after the last line of the script ran.
const LEAVE: &str = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n";

/// Runs a script; `false`, after saying so by name, if there is no Python with these modules.
pub(crate) fn python(test: &str, modules: &[&str], script: &str, arguments: &[&Path]) -> bool {
    let default = std::env::var("HOME").map(|home| format!("{home}/.cache/corpusmill/venv/bin/python"));
    let python = std::env::var("CORPUSMILL_PYTHON").or(default).unwrap();
    let imports = format!("import {}", modules.join(", "));
    if !Command::new(&python)
        .args(["-c", &imports])
        .output()
        .is_ok_and(|o| o.status.success())
    {
        eprintln!(
            "SKIPPED {test}: {python} with {} is not there (set CORPUSMILL_PYTHON)",
            modules.join(", ")
        );
        return false;
    }
    let output = Command::new(&python)
        .arg("-c")
        .arg(format!("{script}{LEAVE}"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{test}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    true
}

async fn local(folder: &Path) -> Manifest {
    let warehouse = Warehouse::open(folder.to_str().unwrap(), &StoreOptions::new()).unwrap();
    build(&warehouse, "posts", 0, &posts(100), &["split"], SMALL).await
}

#[test]
fn pyarrow_opens_a_shard() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = run(local(folder.path()));
    let shard = &manifest.shard_files[0];
    python(
        "pyarrow_opens_a_shard",
        &["pyarrow.parquet"],
        r#"
import sys, pyarrow as pa, pyarrow.parquet as pq
f = pq.ParquetFile(sys.argv[1])
t = f.read()
assert t.num_rows == int(sys.argv[2]), t.num_rows
assert f.num_row_groups == int(sys.argv[3])
assert t.schema.field("tokens").type == pa.list_(pa.field("element", pa.int32())), t.schema
assert t.schema.field("embedding").type == pa.list_(pa.field("element", pa.float32()), 4), t.schema
assert t.schema.field("seen").type == pa.timestamp("us", "UTC")
assert "split" not in t.schema.names
for row in t.to_pylist():
    i = int(row["post_id"][1:])
    assert row["score"] == i / 3.0
    assert row["tokens"] == (None if i % 11 == 5 else [(k * 31 + i) % 30000 for k in range((i * 13) % 60)]), row
    assert row["embedding"] is None or row["embedding"][0] == i
    assert row["image"] is None or row["image"][:3] == b"\xff\xd8\xff"
"#,
        &[
            &folder.path().join("posts").join(&shard.path),
            Path::new(&shard.rows.to_string()),
            Path::new(&shard.blocks.len().to_string()),
        ],
    );
}

#[test]
fn duckdb_opens_a_corpus() {
    let folder = tempfile::tempdir().unwrap();
    run(local(folder.path()));
    python(
        "duckdb_opens_a_corpus",
        &["duckdb"],
        r#"
import sys, duckdb
files = sys.argv[1] + "/posts/split=*/*.parquet"
q = f"select count(*), count(distinct post_id), sum(len(tokens)), min(day)::varchar, sum(price)::varchar from read_parquet('{files}', hive_partitioning=true)"
rows = duckdb.sql(q).fetchall()[0]
tokens = sum((i * 13) % 60 for i in range(100) if i % 11 != 5)
assert rows == (100, 100, tokens, "2022-01-08", "5197.50"), rows
assert duckdb.sql(f"select split, count(*) from read_parquet('{files}', hive_partitioning=true) group by 1 order by 1").fetchall() == [("test", 10), ("train", 80), ("valid", 10)]
"#,
        &[folder.path()],
    );
}

#[test]
fn the_deltalake_package_opens_a_corpus() {
    let folder = tempfile::tempdir().unwrap();
    run(local(folder.path()));
    python(
        "the_deltalake_package_opens_a_corpus",
        &["deltalake", "pyarrow"],
        r#"
import sys
from deltalake import DeltaTable
t = DeltaTable(sys.argv[1] + "/posts")
assert t.version() == 0
rows = t.to_pyarrow_table(partitions=[("split", "=", "valid")]).to_pylist()
assert sorted(int(r["post_id"][1:]) for r in rows) == [i for i in range(100) if i % 10 == 8], rows
assert all(r["split"] == "valid" for r in rows)
"#,
        &[folder.path()],
    );
}
