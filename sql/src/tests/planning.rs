use super::{failure, open_with, rows};
use crate::script::parse_script;

const DEFS: &str = "
CREATE VIEW posts(post_id, body, score) AS VALUES (1, 'a', 0.5), (2, 'b', 0.25);
CREATE VIEW good AS SELECT post_id, body FROM posts WHERE score > 0.3;
CREATE VIEW broken AS
  SELECT post_id,
         boddy FROM posts;
CREATE VIEW round AS SELECT * FROM about;
CREATE VIEW about AS SELECT * FROM round;
";

#[tokio::test]
async fn unknown_names_are_located_with_the_nearest() {
    let session = open_with(DEFS);
    assert_eq!(
        failure(&session, "SELECT post_id,\n  boddy FROM posts").await,
        "q.sql:2:3: unknown column 'boddy' (did you mean 'body'?)\n2 |   boddy FROM posts\n  |   ^\nhelp: columns here: posts.post_id, posts.body, posts.score"
    );
    assert_eq!(
        failure(&session, "SELECT 1 FROM\n post").await,
        "q.sql:2:2: unknown table 'post' (did you mean 'posts'?)\n2 |  post\n  |  ^"
    );
    assert_eq!(
        failure(&session, "SELECT uper(body) FROM posts").await,
        "q.sql:1:8: unknown function 'uper' (did you mean 'upper'?)\n1 | SELECT uper(body) FROM posts\n  |        ^"
    );
    let function = failure(&session, "SELECT * FROM exact_duplicate(TABLE posts, key => 'post_id')").await;
    assert!(
        function.starts_with("q.sql:1:15: unknown table function 'exact_duplicate' (did you mean 'exact_duplicates'?)"),
        "{function}"
    );
    let later = failure(&session, "SELECT * FROM hard_negatives(TABLE posts, key => 'post_id')").await;
    assert!(
        later.contains("'hard_negatives' is not supported by this build"),
        "{later}"
    );
}

#[tokio::test]
async fn a_fault_in_a_view_points_into_the_view() {
    let session = open_with(DEFS);
    let message = failure(&session, "SELECT * FROM broken").await;
    assert!(
        message.starts_with("defs.sql:6:10: unknown column 'boddy' (did you mean 'body'?)"),
        "{message}"
    );
    let message = failure(&session, "SELECT * FROM round").await;
    assert!(
        message.contains("view 'round' refers to itself: round → about → round"),
        "{message}"
    );
}

#[tokio::test]
async fn types_that_do_not_fit_are_planning_errors() {
    let session = open_with(DEFS);
    let message = failure(&session, "SELECT normalize_text(post_id) FROM posts").await;
    assert!(message.contains("normalize_text takes text, found Int64"), "{message}");
    let message = failure(&session, "SELECT jaccard(body, post_id) FROM posts").await;
    assert!(message.contains("jaccard takes two texts, or two lists"), "{message}");
}

#[tokio::test]
async fn views_qualify_and_explain_work() {
    let session = open_with(DEFS);
    assert_eq!(rows(&session, "SELECT * FROM good").await, ["1|a"]);
    assert_eq!(
        rows(
            &session,
            "SELECT body FROM posts QUALIFY row_number() OVER (ORDER BY score) = 1"
        )
        .await,
        ["b"]
    );
    let explained = rows(&session, "EXPLAIN SELECT * FROM good").await.join("\n");
    assert!(explained.contains("Filter"), "{explained}");
}

async fn reproducible(sql: &str) -> Result<String, String> {
    let session = open_with(DEFS);
    let statement = parse_script(sql, "q.sql").unwrap().remove(0);
    let plan = session.plan(&statement).await.map_err(|e| e.to_string())?;
    session
        .check_reproducible(plan, &statement.text)
        .map(|plan| plan.display_indent().to_string())
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_would_differ_from_run_to_run_is_refused_with_the_fix() {
    for (sql, place, fix) in [
        (
            "SELECT now() FROM posts",
            "q.sql:1:8: now() reads the clock",
            "run_start()",
        ),
        (
            "SELECT random() FROM posts",
            "q.sql:1:8: random() gives another value",
            "content_id(key",
        ),
        (
            "SELECT\n uuid() FROM posts",
            "q.sql:2:2: uuid() gives another value",
            "content_hash(key)",
        ),
        (
            "SELECT array_agg(body) FROM posts",
            "q.sql:1:8: array_agg depends on the order",
            "ORDER BY",
        ),
        (
            "SELECT first_value(body) FROM posts",
            "q.sql:1:8: first_value depends",
            "ORDER BY",
        ),
        (
            "SELECT * FROM posts LIMIT 1",
            "q.sql:1:21: LIMIT without ORDER BY",
            "add ORDER BY",
        ),
        (
            "SELECT row_number() OVER () FROM posts",
            "q.sql:1:8: row_number without ORDER BY",
            "add ORDER BY",
        ),
        (
            "SELECT approx_distinct(body) FROM posts",
            "q.sql:1:8: approx_distinct approximates",
            "count(DISTINCT",
        ),
        (
            "SELECT stddev(score) FROM posts",
            "q.sql:1:8: stddev",
            "exact in a corpus",
        ),
    ] {
        let message = reproducible(sql).await.unwrap_err();
        assert!(message.starts_with(place), "{sql}: {message}");
        assert!(message.contains(fix), "{sql}: {message}");
    }
    for sql in [
        "SELECT run_start() FROM posts",
        "SELECT array_agg(body ORDER BY post_id) FROM posts",
        "SELECT * FROM posts ORDER BY post_id LIMIT 1",
        "SELECT row_number() OVER (ORDER BY post_id) FROM posts",
    ] {
        reproducible(sql).await.unwrap();
    }
}

#[tokio::test]
async fn sums_of_floats_become_exact_under_their_old_names() {
    let plan = reproducible("SELECT body, sum(score) AS s, avg(score), sum(post_id) FROM posts GROUP BY body HAVING sum(score) > 0 ORDER BY avg(score)").await.unwrap();
    assert!(plan.contains("exact_sum(posts.score) AS sum(posts.score)"), "{plan}");
    assert!(plan.contains("exact_avg(posts.score) AS avg(posts.score)"), "{plan}");
    assert!(!plan.contains("exact_sum(posts.post_id)"), "{plan}");

    let session =
        open_with("CREATE VIEW v(g, x) AS VALUES (1, 1e16), (1, 1.0), (1, -1e16), (2, 0.1), (2, 0.2), (2, 0.3)");
    let sql = "SELECT g, sum(x) AS s, avg(x) AS a FROM v GROUP BY g ORDER BY g";
    let statement = parse_script(sql, "q.sql").unwrap().remove(0);
    let plan = session.plan(&statement).await.unwrap();
    let plan = session.check_reproducible(plan, &statement.text).unwrap();
    let frame = session.context().execute_logical_plan(plan).await.unwrap();
    let found = super::rows_of(&frame.collect().await.unwrap());
    assert_eq!(found, ["1|1.0|0.3333333333333333", "2|0.6|0.19999999999999998"]);
}
