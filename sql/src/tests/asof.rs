use super::{failure, open_with, rows};

const DEFS: &str = "
CREATE VIEW c(id, user_id, t) AS VALUES
  (1, 'a', TIMESTAMP '2026-01-01 00:00:10'), (2, 'a', TIMESTAMP '2026-01-01 00:00:20'),
  (3, 'b', TIMESTAMP '2026-01-01 00:00:05'), (4, NULL, TIMESTAMP '2026-01-01 00:00:20'),
  (5, 'a', NULL), (6, 'a', TIMESTAMP '2026-01-01 00:00:20'), (7, 'z', TIMESTAMP '2026-01-01 00:00:20');
CREATE VIEW s(user_id, valid_from, strikes) AS VALUES
  ('a', TIMESTAMP '2026-01-01 00:00:10', 1), ('a', TIMESTAMP '2026-01-01 00:00:15', 2),
  ('a', TIMESTAMP '2026-01-01 00:00:20', 4), ('a', TIMESTAMP '2026-01-01 00:00:20', 3),
  ('b', TIMESTAMP '2026-01-01 00:00:06', 9), (NULL, TIMESTAMP '2026-01-01 00:00:01', 7), ('a', NULL, 8);
";

fn join(op: &str) -> String {
    format!(
        "SELECT c.id, s.strikes FROM c ASOF JOIN s MATCH_CONDITION (c.t {op} s.valid_from) ON c.user_id = s.user_id ORDER BY c.id"
    )
}

#[tokio::test]
async fn each_operator_takes_its_side_and_every_left_row_stays() {
    let session = open_with(DEFS);
    // Of two right rows at the same time, the one that sorts first (3 before 4) is taken, in every run.
    assert_eq!(
        rows(&session, &join(">=")).await,
        ["1|1", "2|3", "3|-", "4|-", "5|-", "6|3", "7|-"]
    );
    assert_eq!(
        rows(&session, &join(">")).await,
        ["1|-", "2|2", "3|-", "4|-", "5|-", "6|2", "7|-"]
    );
    assert_eq!(
        rows(&session, &join("<=")).await,
        ["1|1", "2|3", "3|9", "4|-", "5|-", "6|3", "7|-"]
    );
    assert_eq!(
        rows(&session, &join("<")).await,
        ["1|2", "2|-", "3|9", "4|-", "5|-", "6|-", "7|-"]
    );
}

#[tokio::test]
async fn it_agrees_with_a_lateral_search_on_many_rows() {
    let session = open_with(
        "CREATE VIEW l AS SELECT value AS id, value * 7919 % 97 AS k, value * 104729 % 1000 AS t FROM generate_series(1, 400);
         CREATE VIEW r AS SELECT value AS v, value * 6133 % 97 AS k, value * 48611 % 1000 AS t FROM generate_series(1, 700);",
    );
    let asof = rows(
        &session,
        "SELECT l.id, r.t FROM l ASOF JOIN r MATCH_CONDITION (l.t >= r.t) ON l.k = r.k ORDER BY l.id",
    )
    .await;
    let naive = rows(
        &session,
        "SELECT l.id, max(r.t) FROM l LEFT JOIN r ON l.k = r.k AND r.t <= l.t GROUP BY l.id ORDER BY l.id",
    )
    .await;
    assert_eq!(asof.len(), 400);
    assert_eq!(asof, naive);
}

#[tokio::test]
async fn it_stands_among_other_joins() {
    let session = open_with(DEFS);
    let found = rows(
        &session,
        "SELECT c.id, s.strikes, n.strikes AS later, d.id AS again
         FROM c ASOF JOIN s MATCH_CONDITION (c.t >= s.valid_from) USING (user_id)
         ASOF JOIN s n MATCH_CONDITION (n.valid_from > c.t) ON n.user_id = c.user_id
         LEFT JOIN c d ON d.id = c.id + 1
         WHERE c.id < 4 ORDER BY c.id",
    )
    .await;
    assert_eq!(found, ["1|1|2|2", "2|3|-|3", "3|-|9|4"]);
    let without_key = rows(
        &session,
        "SELECT c.id, s.user_id FROM c ASOF JOIN s MATCH_CONDITION (c.t >= s.valid_from) WHERE c.id = 3",
    )
    .await;
    assert_eq!(without_key, ["3|-"]);
}

#[tokio::test]
async fn wrong_conditions_are_named() {
    let session = open_with(DEFS);
    let equal = failure(&session, &join("=")).await;
    assert!(
        equal.starts_with("q.sql:1:60: MATCH_CONDITION takes one comparison"),
        "{equal}"
    );
    let on = failure(
        &session,
        "SELECT * FROM c ASOF JOIN s MATCH_CONDITION (c.t >= s.valid_from) ON c.user_id > s.user_id",
    )
    .await;
    assert!(on.contains("ASOF JOIN takes equalities in ON"), "{on}");
}
