use super::{failure, open_with, rows};

/// Texts as a view `t(id, body)`; ids from 1.
fn view(texts: &[String]) -> String {
    let values: Vec<String> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| format!("({}, '{text}')", i + 1))
        .collect();
    format!("CREATE VIEW t(id, body) AS VALUES {}, (1000, NULL);", values.join(", "))
}

/// Spans of a text by brute force: each place that stands in a window which occurs again.
fn expected(texts: &[String], of: usize, length: usize, times: usize) -> Vec<(usize, usize)> {
    let letters: Vec<Vec<char>> = texts.iter().map(|text| text.chars().collect()).collect();
    let occurrences = |window: &[char]| {
        letters
            .iter()
            .map(|text| text.windows(length).filter(|w| *w == window).count())
            .sum::<usize>()
    };
    let mut covered = vec![false; letters[of].len()];
    for (start, window) in letters[of].windows(length).enumerate() {
        if occurrences(window) >= times {
            covered[start..start + length].fill(true);
        }
    }
    let offset = |at: usize| letters[of][..at].iter().map(|c| c.len_utf8()).sum::<usize>();
    let mut spans = Vec::new();
    let mut start = None;
    for at in 0..=covered.len() {
        match (start, covered.get(at).copied().unwrap_or(false)) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                spans.push((offset(from), offset(at)));
                start = None;
            }
            _ => {}
        }
    }
    spans
}

#[tokio::test]
async fn spans_are_those_that_occur_again() {
    let texts: Vec<String> = [
        "Dear friend, win a prize today at our shop! ref 81734",
        "Hello! win a prize today at our shop, tell nobody",
        "abcabcabcabcabcabc",
        "ünïcödé win a prize 漢字漢字漢字漢字漢字",
        "short",
        "short",
        "nothing of this stands anywhere else in the list",
        "",
    ]
    .map(String::from)
    .to_vec();
    let session = open_with(&view(&texts));
    for (length, times) in [(5, 2), (9, 2), (9, 3), (20, 2)] {
        let sql = format!(
            "SELECT id, substring_spans, round(substring_share, 9) FROM substring_duplicates(TABLE t, key => 'id', text => 'body', min_length => {length}, min_rows => {times}) ORDER BY id"
        );
        let found = rows(&session, &sql).await;
        assert_eq!(found.len(), texts.len() + 1);
        for (of, text) in texts.iter().enumerate() {
            let spans = expected(&texts, of, length, times);
            let covered: usize = spans.iter().map(|(start, end)| end - start).sum();
            let share = (covered as f64 / text.len().max(1) as f64 * 1e9).round() / 1e9;
            let shown: Vec<String> = spans
                .iter()
                .map(|(start, end)| format!("{{start: {start}, end: {end}}}"))
                .collect();
            let shown = if spans.is_empty() {
                "-".into()
            } else {
                format!("[{}]", shown.join(", "))
            };
            assert_eq!(
                found[of],
                format!("{}|{shown}|{share:?}", of + 1),
                "{length} {times} '{text}'"
            );
        }
        assert_eq!(found[texts.len()], "1000|-|-");
    }
    let wrong = failure(
        &session,
        "SELECT * FROM substring_duplicates(TABLE t, text => 'body', min_length => 1)",
    )
    .await;
    assert!(wrong.contains("min_length from 2 to 100000"), "{wrong}");
}
