use super::{failure, open_with, rows};

#[tokio::test]
async fn components_are_named_by_their_smallest_node() {
    let session = open_with(
        "CREATE VIEW edges(a, b) AS VALUES ('d', 'c'), ('c', 'b'), ('x', 'y'), ('y', 'x'), ('alone', NULL), ('b', 'd'), (NULL, NULL);",
    );
    let found = rows(
        &session,
        "SELECT node, component FROM connected_components(TABLE edges, source => 'a', target => 'b')",
    );
    assert_eq!(found.await, ["alone|alone", "b|b", "c|b", "d|b", "x|x", "y|x"]);
    // Components of a long chain and of many rings, as counted by hand.
    let session = open_with(
        "CREATE VIEW edges(a, b) AS
           SELECT value, value + 1 FROM generate_series(1, 999)
           UNION ALL SELECT 2000 + value, 2000 + value / 10 * 10 + (value + 1) % 10 FROM generate_series(0, 99);",
    );
    let sizes = "SELECT size, count(*) FROM (SELECT component, count(*) AS size
                 FROM connected_components(TABLE edges, source => 'a', target => 'b') GROUP BY component) GROUP BY size";
    assert_eq!(rows(&session, sizes).await, ["1000|1", "10|10"]);
}

#[tokio::test]
async fn labels_of_a_cluster_that_differ_are_marked() {
    let session = open_with(
        "CREATE VIEW t(id, c, label) AS VALUES
           (1, 10, 'ok'), (2, 10, 'spam'), (3, 11, 'ok'), (4, 11, 'ok'), (5, 11, NULL), (6, NULL, 'ok'), (7, NULL, 'spam'), (8, 12, NULL);",
    );
    let sql = "SELECT id, conflict FROM label_conflicts(TABLE t, cluster => 'c', label => 'label') ORDER BY id";
    let found = rows(&session, sql).await;
    assert_eq!(
        found,
        [
            "1|true", "2|true", "3|false", "4|false", "5|false", "6|false", "7|false", "8|false"
        ]
    );
}

/// A hash of zeros with some bits set.
fn hash(bits: std::ops::Range<usize>) -> String {
    let mut digits = [0u8; 64];
    bits.for_each(|bit| digits[bit / 4] |= 1 << (bit % 4));
    digits
        .iter()
        .map(|digit| char::from_digit(u32::from(*digit), 16).unwrap())
        .collect()
}

#[tokio::test]
async fn pictures_are_linked_within_31_bits() {
    let values = [
        (1, hash(0..0), 90),
        (2, hash(0..31), 90),
        (3, hash(0..62), 90),
        (4, hash(0..94), 90),
        (5, hash(0..0).to_uppercase(), 90),
        (6, hash(0..1), 10),
    ];
    let values: Vec<String> = values
        .iter()
        .map(|(id, hash, quality)| format!("({id}, '{hash}', {quality})"))
        .collect();
    let definition = format!(
        "CREATE VIEW t(id, h, q) AS VALUES {}, (7, NULL, 90);",
        values.join(", ")
    );
    let session = open_with(&definition);
    let sql = |more: &str| {
        format!(
            "SELECT id, media_is_representative, media_distance, media_linked_to,
                    min(id) OVER (PARTITION BY media_cluster_id)
             FROM media_duplicates(TABLE t, key => 'id', hash => 'h', quality => 'q'{more}) ORDER BY id"
        )
    };
    assert_eq!(
        rows(&session, &sql("")).await,
        [
            "1|true|0|-|1",
            "2|false|31|1|1",
            "3|false|62|2|1",
            "4|true|0|-|4",
            "5|false|0|1|1",
            "6|true|0|-|6",
            "7|true|0|-|7"
        ]
    );
    let star = rows(&session, &sql(", cluster => 'star', keep => 'id DESC'")).await;
    assert_eq!(
        star[..3],
        ["1|false|0|5|1", "2|false|31|5|1", "3|true|0|-|3"].map(String::from)
    );
    let wrong = failure(&session, &sql(", max_distance => 40")).await;
    assert!(
        wrong.contains("max_distance of media_duplicates is from 0 to 31"),
        "{wrong}"
    );
    let wrong = failure(&session, "SELECT pdq_distance('abc', h) FROM t").await;
    assert!(wrong.contains("'abc' is not a PDQ hash"), "{wrong}");
    let nothing = rows(
        &session,
        "SELECT pdq(arrow_cast('no picture', 'Binary')) IS NULL, pdq_distance(NULL, h) FROM t WHERE id = 1",
    );
    assert_eq!(nothing.await, ["true|-"]);
}

#[tokio::test]
async fn pictures_with_several_hashes_are_linked_by_the_nearest() {
    let (a, b, c) = (hash(0..0), hash(0..128), hash(100..256));
    let definition = format!(
        "CREATE VIEW t(id, h) AS VALUES (1, make_array('{a}', '{b}')), (2, make_array('{}')), (3, make_array('{c}')),
                                        (4, make_array('{}', '{}')), (5, NULL);",
        hash(5..128),
        hash(0..60),
        hash(90..256),
    );
    let session = open_with(&definition);
    let sql = "SELECT id, media_is_representative, media_distance, media_linked_to
               FROM media_duplicates(TABLE t, key => 'id', hash => 'h') ORDER BY id";
    assert_eq!(
        rows(&session, sql).await,
        ["1|true|0|-", "2|false|5|1", "3|true|0|-", "4|false|10|3", "5|true|0|-"]
    );
    let nearest = rows(&session, &format!("SELECT pdq_distance('{a}', '{b}{c}')")).await;
    assert_eq!(nearest, ["128"]);
    let wrong = failure(&session, &format!("SELECT pdq_distance('{a}', '{b}ab')")).await;
    assert!(wrong.contains("'ab' is not a PDQ hash"), "{wrong}");
}

#[tokio::test]
async fn texts_of_an_evaluation_are_found_with_their_words() {
    let session = open_with(
        "CREATE VIEW t(id, body) AS VALUES
           (1, 'Today I learned: what is the capital of France, and since when? Who knows.'),
           (2, 'What is the capital of Spain and why do you ask me this'), (3, NULL), (4, 'What is the capital of France'),
           (5, 'WHAT is the capital -- of France and since when');
         CREATE VIEW evals(name, question) AS VALUES
           ('q1', 'What is the capital of France and since when?'), ('q2', 'entirely different words in this one here'), ('q3', NULL);",
    );
    let sql = |more: &str| {
        format!(
            "SELECT id, contaminated, contaminated_by, overlap, contamination_spans[1] FROM contamination(TABLE t, TABLE evals,
             text => 'body', evals_text => 'question', ngram => 4{more}) ORDER BY id"
        )
    };
    assert_eq!(
        rows(&session, &sql(", evals_key => 'name'")).await,
        [
            "1|true|q1|1.0|what is the capital of france and since when",
            "2|false|-|-|-",
            "3|false|-|-|-",
            "4|true|q1|0.5|what is the capital of france",
            "5|true|q1|1.0|what is the capital of france and since when",
        ]
    );
    let strict = rows(&session, &sql(", min_overlap => 0.9")).await;
    assert!(strict[3].starts_with("4|false"), "{strict:?}");
    assert!(
        strict[0].starts_with("1|true|What is the capital of France and since when?|1.0"),
        "{strict:?}"
    );
    let wrong = failure(
        &session,
        "SELECT * FROM contamination(TABLE t, TABLE evals, text => 'body')",
    )
    .await;
    assert!(wrong.contains("evals_text"), "{wrong}");
    let wrong = failure(
        &session,
        "SELECT * FROM exact_duplicates(TABLE t, TABLE evals, key => 'id', columns => 'body')",
    )
    .await;
    assert!(wrong.contains("takes one relation"), "{wrong}");
}
