//! The text of a post: sentences from the templates of a language, filled, then roughed up as real posts are.

use super::label::Label;
use super::lexicon::{Language, Piece, Slot, Template};
use super::rng::Rng;

/// A text and the personal data that was put in it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) text: String,
    /// (kind, exact text) of each e-mail address, phone number, IP address and card number in `text`.
    pub(crate) pii: Vec<(&'static str, String)>,
}

const EMOJI: &[&str] = &[
    "😂",
    "❤️",
    "🔥",
    "👍",
    "😭",
    "🙏",
    "😍",
    "🎉",
    "🤔",
    "😅",
    "👀",
    "💯",
    "🥲",
    "🚀",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "🇸🇬",
    "👋🏽",
    "☕",
    "🐶",
];
const ENTITIES: &[&str] = &[
    "&amp;",
    "&lt;3",
    "&quot;",
    "&#39;",
    "&#128514;",
    "&#8230;",
    "&nbsp;",
    "&hellip",
];
const HOSTS: &[&str] = &[
    "example.com",
    "shop.example.net",
    "t.example",
    "news.example.org",
    "xn--bcher-kva.example",
];

/// Writes a post of a label in a language; `mixed` lends it a second language now and then.
pub(crate) fn write(language: &Language, mixed: &Language, label: Label, rng: &mut Rng) -> Body {
    let mut body = Body::default();
    let sentences = 1 + rng.skewed(5);
    // The sentence that carries the label stands anywhere; the others are everyday talk, so that labels must be read.
    let at = rng.below(sentences);
    for i in 0..sentences {
        let speaker = if rng.chance(30) { mixed } else { language };
        let wanted = if i == at || (label != Label::Ok && rng.chance(250)) {
            label
        } else {
            Label::Ok
        };
        if i > 0 {
            body.text.push_str(if rng.chance(80) { "\n" } else { " " });
        }
        let of = speaker.sentences(wanted);
        sentence(speaker, &of[rng.below(of.len() as u64) as usize], rng, &mut body);
    }
    trimmings(label, rng, &mut body);
    body
}

/// Fills one template at the end of the body.
fn sentence(language: &Language, template: &Template, rng: &mut Rng, body: &mut Body) {
    for piece in template {
        match piece {
            Piece::Literal(text) => body.text.push_str(text),
            Piece::Slot(slot) => fill(language, *slot, rng, body),
        }
    }
    match rng.below(8) {
        0 => body.text.push('!'),
        1 => body.text.push_str("..."),
        2 => body.text.push_str("!!"),
        _ => {}
    }
}

fn fill(language: &Language, slot: Slot, rng: &mut Rng, body: &mut Body) {
    match slot {
        Slot::Name => name(language, rng, &mut body.text),
        Slot::Number => push_number(&mut body.text, 2 + rng.skewed(998)),
        Slot::Link => link(rng, &mut body.text),
        Slot::Handle => handle(rng.bits(), &mut body.text),
        Slot::Email => pii(body, "email", |text| email(rng, text)),
        Slot::Phone => pii(body, "phone", |text| phone(rng, text)),
        _ => {
            if let Some(words) = language.words(slot) {
                body.text.push_str(rng.pick_skewed(words));
            }
        }
    }
}

/// Appends personal data and notes what was appended.
fn pii(body: &mut Body, kind: &'static str, write: impl FnOnce(&mut String)) {
    let start = body.text.len();
    write(&mut body.text);
    body.pii.push((kind, body.text[start..].to_owned()));
}

/// What users put around their sentences.
fn trimmings(label: Label, rng: &mut Rng, body: &mut Body) {
    if rng.chance(300) {
        for _ in 0..=rng.skewed(4) {
            body.text.push_str(rng.pick_skewed(EMOJI));
        }
    }
    if rng.chance(60) {
        body.text.push(' ');
        body.text.push_str(rng.pick(ENTITIES));
    }
    if rng.chance(15) {
        body.text.push_str(" ping ");
        pii(body, "ip", |text| ip(rng, text));
    }
    if rng.chance(8) {
        body.text.push_str(" card ");
        pii(body, "card", |text| card(rng, text));
    }
    if rng.chance(20) {
        body.text.insert_str(0, "<p>");
        body.text.push_str("</p>");
    }
    // Those who break the rules try to get past filters. Personal data stays whole, or its ground truth would lie.
    if label != Label::Ok && body.pii.is_empty() && rng.chance(150) {
        body.text = disguise(&body.text, rng);
    }
}

/// Look-alike digits, letters from other scripts, and zero-width characters inside words.
fn disguise(text: &str, rng: &mut Rng) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let style = rng.below(3);
    for c in text.chars() {
        let turned = rng.chance(300);
        match (style, c) {
            (0, 'o') if turned => out.push('0'),
            (0, 'e') if turned => out.push('3'),
            (0, 'a') if turned => out.push('4'),
            (1, 'a') if turned => out.push('а'),
            (1, 'e') if turned => out.push('е'),
            (1, 'o') if turned => out.push('о'),
            (2, c) if c.is_alphabetic() && turned => {
                out.push(c);
                out.push('\u{200b}');
            }
            _ => out.push(c),
        }
    }
    out
}

/// An invented name of two or three syllables, with a capital where the script has them.
fn name(language: &Language, rng: &mut Rng, out: &mut String) {
    let start = out.len();
    for _ in 0..2 + rng.below(2) {
        out.push_str(rng.pick(language.syllables()));
    }
    if let Some(first) = out[start..].chars().next() {
        let upper: String = first.to_uppercase().collect();
        out.replace_range(start..start + first.len_utf8(), &upper);
    }
}

/// A user's handle, `@` and all, from a number that stands for the user.
pub(crate) fn handle(user: u64, out: &mut String) {
    const FIRST: &[&str] = &[
        "blue", "mad", "tiny", "real", "old", "its", "the_", "xx", "lady", "captain", "not", "super",
    ];
    const SECOND: &[&str] = &[
        "fox", "maria", "yusuf", "chen", "bean", "rider", "nova", "goat", "olga", "kim", "lopez", "owl",
    ];
    out.push('@');
    out.push_str(FIRST[(user % 12) as usize]);
    out.push_str(SECOND[(user / 12 % 12) as usize]);
    push_number(out, user / 144 % 100_000);
}

fn link(rng: &mut Rng, out: &mut String) {
    out.push_str(if rng.chance(850) { "https://" } else { "http://www." });
    out.push_str(rng.pick_skewed(HOSTS));
    out.push('/');
    let length = 5 + rng.below(6);
    token(rng, length, out);
    if rng.chance(150) {
        out.push_str("?ref=");
        token(rng, 4, out);
    }
}

/// Random letters and digits.
pub(crate) fn token(rng: &mut Rng, length: u64, out: &mut String) {
    for _ in 0..length {
        out.push(char::from(rng.pick(b"abcdefghijkmnpqrstuvwxyz23456789")));
    }
}

fn email(rng: &mut Rng, out: &mut String) {
    token(rng, 4, out);
    out.push(rng.pick(&['.', '_', '-']));
    token(rng, 5, out);
    out.push('@');
    out.push_str(rng.pick(&["example.com", "mail.example", "post.example.org"]));
}

/// Numbers from ranges that are set aside for fiction (555-01xx; Ofcom's 07700 900xxx).
fn phone(rng: &mut Rng, out: &mut String) {
    if rng.chance(600) {
        out.push_str(rng.pick(&["+1 212-555-01", "(415) 555-01", "+1 (310) 555-01"]));
        push_padded(out, rng.below(100), 2);
    } else {
        out.push_str("+44 7700 900");
        push_padded(out, rng.below(1000), 3);
    }
}

/// Addresses of the documentation blocks (RFC 5737, RFC 3849).
fn ip(rng: &mut Rng, out: &mut String) {
    if rng.chance(800) {
        out.push_str(rng.pick(&["192.0.2.", "198.51.100.", "203.0.113."]));
        push_number(out, 1 + rng.below(254));
    } else {
        out.push_str("2001:db8::");
        push_number(out, 1 + rng.below(9));
        push_padded(out, rng.below(1000), 3);
    }
}

/// A card number of a test range, valid by Luhn's check (ISO/IEC 7812-1).
fn card(rng: &mut Rng, out: &mut String) {
    let mut digits = vec![4u8, 2, 4, 2];
    digits.extend((0..11).map(|_| rng.below(10) as u8));
    // From the right, the check digit itself is not doubled, so of fifteen digits every other one from the first is.
    let sum: u32 = digits
        .iter()
        .enumerate()
        .map(|(i, d)| {
            let doubled = u32::from(*d) * if i % 2 == 0 { 2 } else { 1 };
            doubled / 10 + doubled % 10
        })
        .sum();
    digits.push(((10 - sum % 10) % 10) as u8);
    for (i, digit) in digits.iter().enumerate() {
        if i > 0 && i % 4 == 0 {
            out.push(' ');
        }
        out.push(char::from(b'0' + digit));
    }
}

fn push_number(out: &mut String, number: u64) {
    push_padded(out, number, 1);
}

fn push_padded(out: &mut String, mut number: u64, width: usize) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    while number > 0 || digits.len() - at < width {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend(digits[at..].iter().map(|d| char::from(*d)));
}

#[cfg(test)]
mod tests {
    use super::super::lexicon::Lexicon;
    use super::super::rng::Domain;
    use super::*;

    #[test]
    fn personal_data_is_in_the_text_as_noted() {
        let lexicon = Lexicon::load().unwrap();
        let mut kinds = std::collections::BTreeSet::new();
        for i in 0..5_000 {
            let mut rng = Rng::new(3, Domain::Body, i);
            let label = Label::ALL[(i % 5) as usize];
            let language = &lexicon.languages[(i % 17) as usize];
            let body = write(language, &lexicon.languages[0], label, &mut rng);
            assert!(!body.text.is_empty());
            for (kind, value) in &body.pii {
                assert!(
                    body.text.contains(value.as_str()),
                    "{kind} {value} not in {:?}",
                    body.text
                );
                kinds.insert(*kind);
            }
        }
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["card", "email", "ip", "phone"]);
    }

    #[test]
    fn cards_pass_luhn() {
        for i in 0..100 {
            let mut out = String::new();
            card(&mut Rng::new(1, Domain::Body, i), &mut out);
            let sum: u32 = out
                .chars()
                .filter_map(|c| c.to_digit(10))
                .rev()
                .enumerate()
                .map(|(i, d)| if i % 2 == 1 { d * 2 / 10 + d * 2 % 10 } else { d })
                .sum();
            assert_eq!(sum % 10, 0, "{out}");
        }
    }

    #[test]
    fn numbers_are_padded() {
        let mut out = String::new();
        push_number(&mut out, 0);
        push_padded(&mut out, 7, 3);
        push_number(&mut out, u64::MAX);
        assert_eq!(out, format!("0007{}", u64::MAX));
    }
}
