//! Everything of the lists travels: what is encoded in one session is the same in another, which knows no objects.

use std::sync::Arc;

use corpusmill_kernels::Tokenizer;
use corpusmill_kernels::hash_list::Signal;
use datafusion::execution::FunctionRegistry as _;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::physical_plan::{collect, displayable};
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use datafusion_proto::physical_plan::{DefaultPhysicalExtensionCodec, PhysicalExtensionCodec as _};
use tempfile::TempDir;

use super::hash_lists::list_in;
use super::python::python_is_there;
use super::{Script, open, open_with, rows, rows_of};
use crate::codec::PlanCodec;
use crate::functions::{Function, all};
use crate::script::parse_script;
use crate::session::{RunTime, Session};
use crate::table_functions::NAMES;

fn codec() -> PlanCodec {
    PlanCodec::over(Arc::new(DefaultPhysicalExtensionCodec {}))
}

/// Functions that are sent only with what planning puts into them: a tokenizer, or a constant in their place.
const BOUND_BY_PLANNING: [&str; 5] = ["tokenize", "token_count", "detokenize", "run_start", "run_end"];

#[test]
fn every_function_of_the_list_is_found_again() {
    let (sender, receiver) = (codec(), codec());
    let there = open_with("").context().state();
    let scalar = |function: ScalarUDF| {
        let name = function.name().to_owned();
        let mut bytes = Vec::new();
        let sent = sender.try_encode_udf(&function, &mut bytes);
        if BOUND_BY_PLANNING.contains(&name.as_str()) {
            assert!(sent.is_err(), "{name} travels without what it needs");
            return;
        }
        sent.unwrap();
        // As the engine does it: by name, unless the codec wrote something.
        let found = match bytes.is_empty() {
            true => there.udf(&name),
            false => receiver.try_decode_udf(&name, &bytes),
        };
        assert_eq!(*found.unwrap(), function, "{name}");
    };
    let aggregate = |function: AggregateUDF| {
        let name = function.name().to_owned();
        let mut bytes = Vec::new();
        sender.try_encode_udaf(&function, &mut bytes).unwrap();
        let found = match bytes.is_empty() {
            true => there.udaf(&name),
            false => receiver.try_decode_udaf(&name, &bytes),
        };
        assert_eq!(*found.unwrap(), function, "{name}");
    };
    let mut seen = 0;
    for function in all(RunTime::at(chrono::DateTime::UNIX_EPOCH)) {
        seen += 1;
        match function {
            Function::Scalar(function) => scalar(function),
            Function::Aggregate(function) => aggregate(function),
        }
    }
    assert!(seen > 15, "the list has {seen} functions");
    for name in BOUND_BY_PLANNING {
        assert!(there.udf(name).is_ok(), "{name} is no function any more");
    }
}

/// A table function that reads the files of a model when it is planned; its operator is sent in the tests of
/// `operators`.
const NEEDS_A_MODEL: &str = "ml_predict";

/// A session with posts, blobs, a tokenizer and a Python function.
async fn session() -> (TempDir, Session) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let mut posts = String::from("id,user_id,body,made_on\n");
    for id in 0..40 {
        posts += &format!(
            "{id},u{},\"the same {} words again\",2026-01-{:02}\n",
            id % 7,
            id % 11,
            id % 28 + 1
        );
    }
    std::fs::write(format!("{path}/posts.csv"), posts).unwrap();
    std::fs::write(format!("{path}/a.bin"), b"\x00\x01").unwrap();
    std::fs::write(format!("{path}/b.bin"), b"more").unwrap();
    let mut script = Script::of(&format!(
        "CREATE EXTERNAL TABLE posts STORED AS CSV LOCATION '{path}/posts.csv';
         CREATE VIEW blobs AS SELECT filename, size, content FROM read_blob('{path}/*.bin');
         CREATE FUNCTION shout(s VARCHAR) RETURNS VARCHAR LANGUAGE python AS $$
import pyarrow.compute as pc
def shout(s):
    return pc.utf8_upper(s)
$$;"
    ));
    let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[UNK]":0,"the":1,"same":2,"words":3,"again":4},"unk_token":"[UNK]"}}"#;
    let tokenizer = Tokenizer::from_bytes("words", json.as_bytes(), Some(4)).unwrap();
    script.tokenizers.insert("words".into(), Arc::new(tokenizer));
    let known = "SELECT encode(sha256('the same 3 words again'), 'hex') AS hash, 'three' AS id";
    let known = list_in(folder.path(), "known", Signal::Pdq, known).await;
    script.lists.insert("known".into(), Arc::new(known));
    (folder, open(script))
}

/// A query over each table function; a new one needs its line here.
fn of_table_function(name: &str) -> Option<&'static str> {
    Some(match name {
        "assign_split" => "SELECT id, split FROM assign_split(TABLE posts, key => 'id', groups => ['user_id'])",
        "exact_duplicates" => {
            "SELECT id, dup_cluster_id, dup_is_representative FROM exact_duplicates(TABLE posts, key => 'id', columns => ['body'])"
        }
        "near_duplicates" => {
            "SELECT id, dup_cluster_id, dup_is_representative FROM near_duplicates(TABLE posts, key => 'id', text => 'body')"
        }
        "connected_components" => {
            "SELECT node, component FROM connected_components((SELECT id, id % 7 + 100 AS other FROM posts), source => 'id', target => 'other')"
        }
        "contamination" => {
            "SELECT id, contaminated, contaminated_by, overlap FROM contamination(TABLE posts, (SELECT id, body FROM posts WHERE id < 3), text => 'body', evals_key => 'id', ngram => 3)"
        }
        "hash_match" => {
            "SELECT id, match_id, match_distance FROM hash_match((SELECT id, encode(sha256(body), 'hex') AS h FROM posts), HASHLIST known, key => 'id', hash => 'h', max_distance => 5)"
        }
        "corpus_diff" => {
            "SELECT id, change FROM corpus_diff((SELECT * FROM posts WHERE id % 3 > 0), (SELECT id, id % 4 AS body FROM posts), key => 'id')"
        }
        "stratified_sample" => {
            "SELECT id, inclusion_prob FROM stratified_sample((SELECT id, id % 3 AS part FROM posts), key => 'id', by => 'part', rows => 2)"
        }
        "label_conflicts" => {
            "SELECT id, conflict FROM label_conflicts((SELECT id, body, id % 2 AS label FROM posts), cluster => 'body', label => 'label')"
        }
        "media_duplicates" => {
            "SELECT id, media_cluster_id, media_distance FROM media_duplicates((SELECT id, encode(sha256(body), 'hex') AS h FROM posts), key => 'id', hash => 'h')"
        }
        "semantic_duplicates" => {
            "SELECT id, dup_cluster_id, dup_is_representative FROM semantic_duplicates((SELECT id, make_array(id % 5, 1.0, id % 3) AS e FROM posts), key => 'id', embedding => 'e', threshold => 0.9, clusters => 3)"
        }
        "read_blob" => "SELECT filename, size, content FROM blobs",
        "substring_duplicates" => {
            "SELECT id, substring_share FROM substring_duplicates(TABLE posts, text => 'body', min_length => 8)"
        }
        "video_duplicates" => {
            "SELECT id, video_cluster_id, video_share FROM video_duplicates((SELECT id, make_array(named_struct('hash', encode(sha256(body), 'hex'), 'quality', 80 + id % 2)) AS f FROM posts), key => 'id', frames => 'f', min_quality => 81)"
        }
        _ => return None,
    })
}

/// Plans in a session that knows all, runs in one that knows nothing: both give the same rows.
async fn travels(here: &Session, sql: &str) {
    let statement = parse_script(sql, "q.sql").unwrap().remove(0);
    let logical = here.plan(&statement).await.unwrap();
    let plan = here.context().state().create_physical_plan(&logical).await.unwrap();
    let bytes = physical_plan_to_bytes_with_extension_codec(Arc::clone(&plan), &codec())
        .unwrap_or_else(|error| panic!("{sql} does not travel: {error}"));
    let there = open_with("");
    let context = there.context().task_ctx();
    let back = physical_plan_from_bytes_with_extension_codec(&bytes, &context, &codec())
        .unwrap_or_else(|error| panic!("{sql} does not arrive: {error}"));
    assert_eq!(
        displayable(back.as_ref()).indent(true).to_string(),
        displayable(plan.as_ref()).indent(true).to_string(),
        "{sql}"
    );
    let mut found = rows_of(&collect(back, context).await.unwrap());
    found.sort();
    assert!(!found.is_empty(), "{sql} gives no row");
    assert_eq!(found, rows(here, sql).await, "{sql}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_function_gives_the_same_rows_elsewhere() {
    let (_folder, session) = session().await;
    for name in NAMES.iter().filter(|name| **name != NEEDS_A_MODEL) {
        let sql = of_table_function(name).unwrap_or_else(|| panic!("table function {name} has no line in this test"));
        travels(&session, sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_travel_with_what_they_carry() {
    let (_folder, session) = session().await;
    for sql in [
        "SELECT id, tokenize(body, 'words') FROM posts",
        "SELECT token_count(body, 'words') AS n, count(*) FROM posts GROUP BY 1",
        "SELECT detokenize(tokenize(body, 'words'), 'words') FROM posts",
        "SELECT id, made_on < run_end() FROM posts",
        "SELECT user_id, exact_sum(CAST(id AS DOUBLE) / 3), exact_avg(CAST(id AS DOUBLE)) FROM posts GROUP BY 1",
    ] {
        travels(&session, sql).await;
    }
    if python_is_there() {
        travels(&session, "SELECT id, shout(body) FROM posts").await;
    }
}
