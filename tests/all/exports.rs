//! Exports, read back by the libraries that they are for.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use corpusmill_tests::{Place, Program, dataset, not_run_here, python};
use serde_json::Value;

/// A corpus of posts with text, ids, a label that may be NULL, a number and a time; gives its rows as a query sees them.
fn corpus(place: &Place) -> Result<Vec<Value>> {
    let data = dataset()?.display();
    let sql = format!(
        "CREATE EXTERNAL TABLE posts STORED AS PARQUET LOCATION '{data}/posts/';
         CREATE TOKENIZER k WITH (uri = '{data}/tokenizer.json', max_length = 64);
         CREATE CORPUS t (PRIMARY KEY (post_id)) WITH (shards = 3) AS
           SELECT post_id, body, lang, CAST(post_id AS DOUBLE) / 3 AS third, tokenize(body, 'k') AS input_ids FROM posts;"
    );
    place.write("t.sql", sql)?;
    Program::new(place, &["run", "t.sql"])?.run()?.succeeded()?;
    let query = "SELECT post_id, body, lang, third, input_ids FROM t ORDER BY post_id";
    let out = Program::new(place, &["run", "-c", query, "-o", "json"])?
        .run()?
        .succeeded()?;
    Ok(serde_json::from_str(&out)?)
}

/// Runs a script over a folder; gives the JSON that it prints in its last line.
fn read(python: &Path, script: &str, folder: &Path) -> Result<Value> {
    let read = Command::new(python)
        .args(["-c", script])
        .arg(folder)
        .env("PYTHONWARNINGS", "ignore")
        .output()?;
    if !read.status.success() {
        bail!("{}: {}", read.status, String::from_utf8_lossy(&read.stderr));
    }
    let out = String::from_utf8(read.stdout)?;
    Ok(serde_json::from_str(out.trim().lines().last().unwrap_or_default())?)
}

#[test]
fn mosaicml_streaming_reads_mds() -> Result<()> {
    let Some(python) = python(&["streaming", "numpy"]) else {
        not_run_here(
            "mosaicml_streaming_reads_mds",
            "no Python with mosaicml-streaming (tools/setup bench)",
        );
        return Ok(());
    };
    let place = Place::new()?;
    let rows = corpus(&place)?;
    let arguments = ["export", "t", "--format", "mds", "--to", "mds"];
    Program::new(&place, &arguments)?.run()?.succeeded()?;
    // The class that trainers use, by index: shards are loaded, checked and decoded by the library.
    let script = r#"
import json, sys
from streaming import LocalDataset
rows = LocalDataset(sys.argv[1])
plain = lambda v: v.tolist() if hasattr(v, "tolist") else v
found = [{k: plain(v) for k, v in rows[i].items()} for i in range(len(rows))]
print(json.dumps({"rows": found}))
"#;
    let seen = read(&python, script, &place.path().join("mds"))?;
    let mut found = seen["rows"].as_array().cloned().unwrap_or_default();
    found.sort_by_key(|row| row["post_id"].as_i64());
    assert_eq!(found.len(), rows.len());
    for (theirs, ours) in found.iter().zip(&rows) {
        for column in ["post_id", "body", "lang", "third", "input_ids"] {
            assert_eq!(theirs[column], ours[column], "{column} of {}", ours["post_id"]);
        }
    }
    Ok(())
}

#[test]
fn megatron_core_reads_bin_and_idx() -> Result<()> {
    let Some(python) = python(&["megatron.core", "torch"]) else {
        not_run_here(
            "megatron_core_reads_bin_and_idx",
            "no Python with megatron-core (tools/setup bench)",
        );
        return Ok(());
    };
    let place = Place::new()?;
    let rows = corpus(&place)?;
    let arguments = [
        "export",
        "t",
        "--format",
        "megatron",
        "--to",
        "mega/t",
        "--columns",
        "input_ids",
    ];
    Program::new(&place, &arguments)?.run()?.succeeded()?;
    let script = r#"
import json, sys
from megatron.core.datasets.indexed_dataset import IndexedDataset
def read(mmap):
    # What it gives points into the file: the data set must outlive it.
    rows = IndexedDataset(sys.argv[1], mmap=mmap)
    return [rows[i].tolist() for i in range(len(rows))]
mapped, copied = read(True), read(False)
rows = IndexedDataset(sys.argv[1])
documents = rows.document_indices.tolist()
print(json.dumps({"same": mapped == copied, "documents": documents, "sequences": mapped}))
"#;
    let seen = read(&python, script, &place.path().join("mega/t"))?;
    assert_eq!(seen["same"], true);
    let sequences = seen["sequences"].as_array().cloned().unwrap_or_default();
    let documents: Vec<u64> = serde_json::from_value(seen["documents"].clone())?;
    assert_eq!(
        documents,
        (0..=sequences.len() as u64).collect::<Vec<_>>(),
        "one sequence a document"
    );
    let sorted = |ids: Vec<Value>| {
        let mut ids: Vec<String> = ids.iter().map(Value::to_string).collect();
        ids.sort();
        ids
    };
    let ours = rows.iter().map(|row| row["input_ids"].clone());
    // Megatron has no empty documents; the export counts them and leaves them out.
    let ours = ours
        .filter(|ids| ids.as_array().is_some_and(|ids| !ids.is_empty()))
        .collect();
    assert_eq!(sorted(sequences), sorted(ours));
    Ok(())
}
