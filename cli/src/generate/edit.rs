//! Edits that turn a post into a near-duplicate of it, the way people and bots make them.

use super::body::{handle, token};
use super::rng::Rng;

/// One kind of edit. Its name is what the ground truth says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    Case,
    Typo,
    DropWord,
    Emoji,
    Hashtag,
    Link,
    ZeroWidth,
    Retweet,
    Entities,
    Truncate,
    Stretch,
}

const EDITS: &[(Edit, &str)] = &[
    (Edit::Case, "case"),
    (Edit::Typo, "typo"),
    (Edit::DropWord, "drop_word"),
    (Edit::Emoji, "emoji"),
    (Edit::Hashtag, "hashtag"),
    (Edit::Link, "link"),
    (Edit::ZeroWidth, "zero_width"),
    (Edit::Retweet, "retweet"),
    (Edit::Entities, "entities"),
    (Edit::Truncate, "truncate"),
    (Edit::Stretch, "stretch"),
];

/// Applies one to three edits, and returns the new text with their names, joined by `+`.
///
/// The result always differs from the original, by at least one character.
pub(crate) fn edit(original: &str, rng: &mut Rng) -> (String, String) {
    let mut text = original.to_owned();
    let mut names: Vec<&str> = Vec::new();
    for _ in 0..1 + rng.skewed(3) {
        let (edit, name) = rng.pick(EDITS);
        let next = apply(edit, &text, rng);
        if next != text && !names.contains(&name) {
            text = next;
            names.push(name);
        }
    }
    if text == original {
        text = apply(Edit::Hashtag, original, rng);
        names = vec!["hashtag"];
    }
    (text, names.join("+"))
}

fn apply(edit: Edit, text: &str, rng: &mut Rng) -> String {
    match edit {
        Edit::Case => {
            if rng.chance(500) {
                text.to_uppercase()
            } else {
                text.to_lowercase()
            }
        }
        Edit::Typo => swap_letters(text, rng),
        Edit::DropWord => drop_word(text, rng),
        Edit::Emoji => format!("{text} {}", rng.pick(&["😂😂", "🔥", "👀👀👀", "❤️", "🙏🏽"])),
        Edit::Hashtag => {
            let mut out = format!("{text} #");
            token(rng, 6, &mut out);
            out
        }
        Edit::Link => {
            let mut out = format!("{text} https://t.example/");
            token(rng, 8, &mut out);
            out
        }
        Edit::ZeroWidth => insert(text, rng.pick(&['\u{200b}', '\u{200d}', '\u{feff}', '\u{00ad}']), rng),
        Edit::Retweet => {
            let mut out = String::from("RT ");
            handle(rng.bits(), &mut out);
            out.push_str(": ");
            out.push_str(text);
            out
        }
        Edit::Entities => text
            .replace('&', "&amp;")
            .replace('\'', "&#39;")
            .replace('"', "&quot;")
            .replace('<', "&lt;"),
        Edit::Truncate => truncate(text),
        Edit::Stretch => stretch(text, rng),
    }
}

/// The character boundaries of a text, its end left out.
fn boundaries(text: &str) -> Vec<usize> {
    text.char_indices().map(|(at, _)| at).collect()
}

fn swap_letters(text: &str, rng: &mut Rng) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    if chars.len() > 3 {
        let at = 1 + rng.below(chars.len() as u64 - 2) as usize;
        // Only letters are swapped: a typo in a mark or an emoji sequence would break it rather than edit it.
        if chars[at - 1].is_alphabetic() && chars[at].is_alphabetic() {
            chars.swap(at - 1, at);
        }
    }
    chars.into_iter().collect()
}

fn drop_word(text: &str, rng: &mut Rng) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    if words.len() < 6 {
        return text.to_owned();
    }
    let gone = rng.below(words.len() as u64) as usize;
    let kept: Vec<&str> = words
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != gone)
        .map(|(_, w)| *w)
        .collect();
    kept.join(" ")
}

fn insert(text: &str, c: char, rng: &mut Rng) -> String {
    let at = rng.pick(&boundaries(text));
    format!("{}{c}{}", &text[..at], &text[at..])
}

/// Cuts the last tenth off, as clients do with long posts that are shared.
fn truncate(text: &str) -> String {
    let starts = boundaries(text);
    if starts.len() < 40 {
        return text.to_owned();
    }
    format!("{}…", &text[..starts[starts.len() * 9 / 10]])
}

/// Repeats one letter: "so" becomes "sooooo".
fn stretch(text: &str, rng: &mut Rng) -> String {
    let at = rng.pick(&boundaries(text));
    match text[at..].chars().next() {
        Some(c) if c.is_alphabetic() => {
            let repeated: String = std::iter::repeat_n(c, 4).collect();
            format!("{}{repeated}{}", &text[..at], &text[at..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Domain;
    use super::*;

    #[test]
    fn an_edit_always_changes_the_text_and_keeps_most_of_it() {
        let original = "the ancient river in Kalo is more crowded than I remembered 👩‍👩‍👧‍👦 नमस्ते & thanks";
        let kept = |text: &str| {
            let words: Vec<String> = text.to_lowercase().split(' ').map(str::to_owned).collect();
            original
                .to_lowercase()
                .split(' ')
                .filter(|w| words.contains(&(*w).to_owned()))
                .count()
        };
        for i in 0..500 {
            let (text, names) = edit(original, &mut Rng::new(1, Domain::Edit, i));
            assert_ne!(text, original);
            assert!(!names.is_empty());
            assert!(kept(&text) >= 9, "{names}: {text}");
        }
    }

    #[test]
    fn short_and_wide_texts_survive_every_edit() {
        for text in ["a", "ok", "日本", "👍", "é́"] {
            for (i, (edit, _)) in EDITS.iter().enumerate() {
                apply(*edit, text, &mut Rng::new(2, Domain::Edit, i as u64));
            }
        }
    }
}
