//! Repeated substrings: the windows of a text, and the spans that windows cover together.

use xxhash_rust::xxh3::xxh3_128;

/// Some characters in a row of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Offset of its first byte.
    pub start: usize,
    /// Offset behind its last byte.
    pub end: usize,
    /// 128 bits of its text.
    pub hash: u128,
}

/// Cuts a text into all its windows of `length` characters, one for each place; none for a shorter text and for a
/// length of 0.
pub fn windows(text: &str, length: usize) -> impl Iterator<Item = Window> + '_ {
    let starts = text.char_indices().map(|(start, _)| start);
    let ends = text.char_indices().map(|(start, c)| start + c.len_utf8());
    let ends = ends
        .skip(length.saturating_sub(1))
        .take(if length == 0 { 0 } else { usize::MAX });
    starts.zip(ends).map(|(start, end)| Window {
        start,
        end,
        hash: xxh3_128(&text.as_bytes()[start..end]),
    })
}

/// Joins spans that overlap or touch; gives them in order.
#[must_use]
pub fn merged(mut spans: Vec<(i32, i32)>) -> Vec<(i32, i32)> {
    spans.sort_unstable();
    let mut whole: Vec<(i32, i32)> = Vec::new();
    for (start, end) in spans {
        match whole.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => whole.push((start, end)),
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn windows_are_those_of_the_characters(text in "[aé漢😀 ]{0,30}", length in 0usize..8) {
            let letters: Vec<char> = text.chars().collect();
            let want: Vec<String> = match length {
                0 => Vec::new(),
                _ => letters.windows(length).map(|window| window.iter().collect()).collect(),
            };
            let found: Vec<&str> = windows(&text, length).map(|w| &text[w.start..w.end]).collect();
            prop_assert_eq!(&found, &want);
            for window in windows(&text, length) {
                prop_assert_eq!(window.hash, xxh3_128(&text.as_bytes()[window.start..window.end]));
            }
        }

        #[test]
        fn merged_spans_cover_the_same_places(spans in prop::collection::vec((0i32..50, 1i32..6), 0..12)) {
            let spans: Vec<(i32, i32)> = spans.into_iter().map(|(start, length)| (start, start + length)).collect();
            let covered = |spans: &[(i32, i32)]| -> Vec<bool> {
                (0..60).map(|at| spans.iter().any(|(start, end)| (*start..*end).contains(&at))).collect()
            };
            let whole = merged(spans.clone());
            prop_assert_eq!(covered(&whole), covered(&spans));
            prop_assert!(whole.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
