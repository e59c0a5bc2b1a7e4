use std::fs;

use tempfile::TempDir;

use super::{failure, open_with, rows};
use crate::script::parse_script;
use crate::statement::StatementKind;

fn folder() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap().to_string();
    (folder, path)
}

#[tokio::test]
async fn bad_files_are_named_with_line_and_column() {
    let (_keep, path) = folder();
    let csv: String = (0..50).map(|i| format!("{i},row {i}\n")).collect();
    fs::write(format!("{path}/good.csv"), format!("id,body\n{csv}")).unwrap();
    fs::write(format!("{path}/ragged.csv"), format!("id,body\n{csv}50,a,b\n")).unwrap();
    fs::write(format!("{path}/type.csv"), format!("id,body\n{csv}x50,a\n")).unwrap();
    fs::write(
        format!("{path}/utf8.csv"),
        [format!("id,body\n{csv}50,a").as_bytes(), b"\xe9\n"].concat(),
    )
    .unwrap();
    fs::write(
        format!("{path}/bad.json"),
        "{\"id\": 1, \"body\": \"a\"}\n{\"id\": 2, \"body\": \n",
    )
    .unwrap();
    fs::write(
        format!("{path}/type.json"),
        "{\"id\": 1, \"body\": \"a\"}\n{\"id\": \"two\", \"body\": \"b\"}\n",
    )
    .unwrap();
    fs::write(format!("{path}/not.parquet"), "this is no parquet file at all").unwrap();
    let table = |name: &str, format: &str| {
        format!(
            "CREATE EXTERNAL TABLE {name}_{} (id BIGINT, body VARCHAR) STORED AS {format} LOCATION '{path}/{name}.{}';\n",
            format.to_lowercase(),
            format.to_lowercase()
        )
    };
    let definitions = [
        ("good", "CSV"),
        ("ragged", "CSV"),
        ("type", "CSV"),
        ("utf8", "CSV"),
        ("bad", "JSON"),
        ("type", "JSON"),
        ("not", "PARQUET"),
        ("missing", "CSV"),
    ]
    .map(|(name, format)| table(name, format))
    .concat();
    let session = open_with(&definitions);
    assert_eq!(
        rows(&session, "SELECT count(*), sum(id) FROM good_csv").await,
        ["50|1225"]
    );
    for (table, expected) in [
        ("ragged_csv", "/ragged.csv:52: expected 2 columns, found 3"),
        (
            "type_csv",
            "/type.csv:52: column 'id': 'x50' is not a value of type Int64",
        ),
        ("utf8_csv", "/utf8.csv:52: not UTF-8 at byte"),
        ("bad_json", "/bad.json:2:"),
        (
            "type_json",
            "/type.json:2: column 'id': \"two\" is not a value of type Int64",
        ),
        ("missing_csv", "table 'missing_csv': there is no file at"),
    ] {
        let message = failure(&session, &format!("SELECT * FROM {table}")).await;
        assert!(message.contains(expected), "{table}: {message}");
    }
    let message = failure(&session, "SELECT * FROM not_parquet").await;
    assert!(
        message.contains("not.parquet") || message.contains("Parquet"),
        "{message}"
    );
    let message = failure(&session, "SELECT * FROM missing_csv").await;
    assert!(message.starts_with("defs.sql:8:"), "{message}");
}

#[tokio::test]
async fn formats_globs_and_copy() {
    let (_keep, path) = folder();
    fs::create_dir(format!("{path}/csv")).unwrap();
    fs::write(format!("{path}/csv/a.csv"), "id,body\n1,a\n").unwrap();
    fs::write(format!("{path}/csv/b.csv"), "id,body\n2,b\n").unwrap();
    fs::write(
        format!("{path}/lines.json"),
        "{\"id\": 1, \"tags\": [\"x\"]}\n{\"id\": 2}\n",
    )
    .unwrap();
    let session = open_with(&format!(
        "CREATE EXTERNAL TABLE folder STORED AS CSV LOCATION '{path}/csv/';
         CREATE EXTERNAL TABLE glob STORED AS CSV LOCATION '{path}/csv/a*.csv';
         CREATE EXTERNAL TABLE lines STORED AS JSON LOCATION '{path}/lines.json';"
    ));
    assert_eq!(rows(&session, "SELECT id, body FROM folder").await, ["1|a", "2|b"]);
    assert_eq!(rows(&session, "SELECT id, body FROM glob").await, ["1|a"]);
    assert_eq!(rows(&session, "SELECT id, tags FROM lines").await, ["1|[x]", "2|-"]);
    for (format, extension) in [
        ("PARQUET", "parquet"),
        ("ARROW", "arrow"),
        ("CSV", "csv"),
        ("JSON", "json"),
    ] {
        rows(
            &session,
            &format!("COPY (SELECT id, body FROM folder) TO '{path}/out.{extension}' STORED AS {format}"),
        )
        .await;
        let again = open_with(&format!(
            "CREATE EXTERNAL TABLE out STORED AS {format} LOCATION '{path}/out.{extension}'"
        ));
        assert_eq!(
            rows(&again, "SELECT id, body FROM out").await,
            ["1|a", "2|b"],
            "{format}"
        );
    }
}

#[tokio::test]
async fn blobs_are_rows() {
    let (_keep, path) = folder();
    fs::write(format!("{path}/a.jpg"), b"\xff\xd8\x00").unwrap();
    fs::write(format!("{path}/b.jpg"), b"x").unwrap();
    // The engine lists no file without bytes.
    fs::write(format!("{path}/empty.jpg"), b"").unwrap();
    fs::write(format!("{path}/c.png"), b"png").unwrap();
    let session = open_with("");
    assert_eq!(
        rows(&session, &format!("SELECT filename, encode(content, 'hex'), size, last_modified > TIMESTAMP '2020-01-01' FROM read_blob('{path}/*.jpg')")).await,
        [format!("{path}/a.jpg|ffd800|3|true"), format!("{path}/b.jpg|78|1|true")]
    );
    assert_eq!(
        rows(
            &session,
            &format!("SELECT count(*), sum(size) FROM read_blob('{path}/*') b WHERE b.filename LIKE '%g'")
        )
        .await,
        ["3|7"]
    );
    assert_eq!(
        rows(&session, &format!("SELECT filename FROM read_blob('{path}/c.png')")).await,
        [format!("{path}/c.png")]
    );
    let message = failure(&session, &format!("SELECT * FROM read_blob('{path}/*.gif')")).await;
    assert!(message.contains("read_blob: there is no file at"), "{message}");
}

/// A Delta log written by hand: two files, one removed again, a partition column that no file holds.
fn delta(path: &str, extra_protocol: &str, extra_add: &str) {
    fs::create_dir_all(format!("{path}/_delta_log")).unwrap();
    let schema = r#"{\"type\":\"struct\",\"fields\":[{\"name\":\"split\",\"type\":\"string\",\"nullable\":true,\"metadata\":{}},{\"name\":\"id\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}}]}"#;
    let size = |file: &str| fs::metadata(format!("{path}/{file}")).unwrap().len();
    let add = |file: &str, split: &str| {
        format!(
            r#"{{"add":{{"path":"{file}","partitionValues":{{"split":{split}}},"size":{},"modificationTime":0,"dataChange":true{extra_add}}}}}"#,
            size(file)
        )
    };
    let first = [
        format!(r#"{{"protocol":{extra_protocol}}}"#),
        format!(
            r#"{{"metaData":{{"id":"5fba94ed-9794-4965-ba6e-6ee3c0d22af9","format":{{"provider":"parquet","options":{{}}}},"schemaString":"{schema}","partitionColumns":["split"],"configuration":{{}},"createdTime":0}}}}"#
        ),
        add("one.parquet", "\"train\""),
        add("two.parquet", "null"),
    ];
    fs::write(format!("{path}/_delta_log/00000000000000000000.json"), first.join("\n")).unwrap();
    let second = r#"{"remove":{"path":"two.parquet","deletionTimestamp":1,"dataChange":true}}"#;
    fs::write(format!("{path}/_delta_log/00000000000000000001.json"), second).unwrap();
}

#[tokio::test]
async fn delta_snapshots_are_plain_scans() {
    let (_keep, path) = folder();
    let session = open_with("");
    for (file, id) in [("one", 1), ("two", 2)] {
        rows(
            &session,
            &format!("COPY (SELECT CAST({id} AS BIGINT) AS id) TO '{path}/{file}.parquet' STORED AS PARQUET"),
        )
        .await;
    }
    delta(&path, r#"{"minReaderVersion":1,"minWriterVersion":2}"#, "");
    let session = open_with(&format!(
        "CREATE EXTERNAL TABLE newest STORED AS DELTA LOCATION '{path}';
         CREATE EXTERNAL TABLE first STORED AS DELTA LOCATION '{path}/' OPTIONS ('version' '0');
         CREATE EXTERNAL TABLE none STORED AS DELTA LOCATION '{path}/nowhere';"
    ));
    assert_eq!(rows(&session, "SELECT * FROM newest").await, ["train|1"]);
    assert_eq!(rows(&session, "SELECT id, split FROM first").await, ["1|train", "2|-"]);
    assert_eq!(
        rows(&session, "SELECT count(*) FROM first WHERE split = 'train'").await,
        ["1"]
    );
    let plan = rows(&session, "EXPLAIN SELECT * FROM first").await.join("\n");
    assert!(
        plan.contains("DataSourceExec") && plan.contains("file_type=parquet"),
        "{plan}"
    );
    let message = failure(&session, "SELECT * FROM none").await;
    assert!(message.contains("is not a Delta table that can be read"), "{message}");
}

#[tokio::test]
async fn column_mapping_is_refused() {
    for (protocol, mode) in [
        (r#"{"minReaderVersion":2,"minWriterVersion":5}"#, "name"),
        (
            r#"{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["columnMapping"],"writerFeatures":["columnMapping"]}"#,
            "id",
        ),
    ] {
        let (_keep, path) = folder();
        let session = open_with("");
        for file in ["one", "two"] {
            rows(
                &session,
                &format!("COPY (SELECT CAST(1 AS BIGINT) AS id) TO '{path}/{file}.parquet' STORED AS PARQUET"),
            )
            .await;
        }
        delta(&path, protocol, "");
        // Names in the files are not those of the table then.
        let log = format!("{path}/_delta_log/00000000000000000000.json");
        let text = fs::read_to_string(&log).unwrap();
        let mut number = 0;
        let text = text.replace(r#""partitionColumns":["split"]"#, r#""partitionColumns":[]"#);
        let text = text
            .replace(r#"{"split":"train"}"#, "{}")
            .replace(r#"{"split":null}"#, "{}");
        let text = text.replace(
            r#""configuration":{}"#,
            &format!(
                r#""configuration":{{"delta.columnMapping.mode":"{mode}","delta.columnMapping.maxColumnId":"2"}}"#
            ),
        );
        let parts: Vec<&str> = text.split(r#"\"metadata\":{}"#).collect();
        let text = parts.iter().skip(1).fold(parts[0].to_owned(), |text, part| {
            number += 1;
            text + &format!(
                r#"\"metadata\":{{\"delta.columnMapping.id\":{number},\"delta.columnMapping.physicalName\":\"col-{number}\"}}"#
            ) + part
        });
        assert_eq!(number, 2);
        fs::write(&log, text).unwrap();
        let session = open_with(&format!("CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{path}'"));
        let message = failure(&session, "SELECT * FROM t").await;
        assert!(
            message.contains("it uses column mapping (copy it into a table without), which is not supported"),
            "{mode}: {message}"
        );
        assert!(message.starts_with("defs.sql:1:"), "{message}");
    }
}

#[tokio::test]
async fn deletion_vectors_are_refused() {
    let (_keep, path) = folder();
    let session = open_with("");
    for file in ["one", "two"] {
        rows(
            &session,
            &format!("COPY (SELECT CAST(1 AS BIGINT) AS id) TO '{path}/{file}.parquet' STORED AS PARQUET"),
        )
        .await;
    }
    delta(
        &path,
        r#"{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}"#,
        r#","deletionVector":{"storageType":"u","pathOrInlineDv":"vBn[lx{q8@P<9BNH/isA","offset":1,"sizeInBytes":36,"cardinality":2}"#,
    );
    let text = format!("CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{path}'");
    let statement = parse_script(&text, "d.sql").unwrap().remove(0);
    let StatementKind::CreateExternalTable(table) = &statement.kind else {
        panic!();
    };
    let message = session
        .check_external_table(table, &statement.text)
        .await
        .unwrap_err()
        .to_string();
    assert!(message.contains("it uses deletion vectors"), "{message}");
}
