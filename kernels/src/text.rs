//! `normalize_text`: one spelling for texts that read the same.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use arrow::array::{Array, StringArray, StringBuilder};
use unicode_normalization::UnicodeNormalization;

use crate::error::{KernelError, Result};

mod entities;
mod invisible;

/// A Unicode normalization form (UAX #15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Canonical composition.
    Nfc,
    /// Canonical decomposition.
    Nfd,
    /// Compatibility composition: also folds full-width letters, ligatures, mathematical alphabets, ….
    Nfkc,
    /// Compatibility decomposition.
    Nfkd,
}

impl Form {
    /// Names of all forms, as SQL writes them.
    pub const NAMES: [&str; 4] = ["NFC", "NFD", "NFKC", "NFKD"];
}

impl FromStr for Form {
    type Err = KernelError;

    /// Reads a name of [`Form::NAMES`], in any case.
    fn from_str(s: &str) -> Result<Self> {
        match s.trim().to_ascii_uppercase().as_str() {
            "NFC" => Ok(Self::Nfc),
            "NFD" => Ok(Self::Nfd),
            "NFKC" => Ok(Self::Nfkc),
            "NFKD" => Ok(Self::Nfkd),
            _ => Err(KernelError::unknown_name("Unicode form", s, &Self::NAMES)),
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES[*self as usize])
    }
}

/// What [`normalize_with`] does beside the Unicode form. The default does all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleaning {
    /// Decodes HTML character references: named, decimal and hexadecimal ones, by the rules of the HTML standard
    /// for attribute values (so that `?a=1&copy=2` in a link stays as it is), malformed ones without a semicolon
    /// and pairs of UTF-16 surrogates (`&#55357;&#56834;`) included.
    pub entities: bool,
    /// Removes what cannot be seen: control characters, zero-width characters, bidirectional controls, soft hyphens,
    /// tags, fillers, stray variation selectors. Joiners stay where they change what is seen: inside emoji, and
    /// between letters of scripts that join or stack (Arabic, Indic scripts and their neighbours).
    pub invisible: bool,
    /// Turns each run of white space into one space, or, where it holds line ends, into one line feed (two where it
    /// holds more than one: paragraphs stay), and removes it at both ends.
    pub whitespace: bool,
}

impl Default for Cleaning {
    fn default() -> Self {
        Self {
            entities: true,
            invisible: true,
            whitespace: true,
        }
    }
}

/// Decoding can bring up more of what it decodes (`&amp;lt;`, `＆lt;`), so it goes on until nothing changes, but no
/// longer than this: input made to nest deeper is left with its rest, and the cost stays linear.
const PASSES_MAX: usize = 8;

/// Normalizes each text: HTML references, invisible characters, the Unicode form, white space, in this order and
/// again until nothing changes. `NULL` stays `NULL`; a text of nothing but white space becomes empty.
///
/// # Errors
/// [`KernelError::TooLarge`] when the results of the batch do not fit 2 GiB.
pub fn normalize(texts: &StringArray, form: Form) -> Result<StringArray> {
    normalize_with(texts, form, Cleaning::default())
}

/// As [`normalize`], with a choice of what is cleaned.
///
/// # Errors
/// [`KernelError::TooLarge`] when the results of the batch do not fit 2 GiB.
pub fn normalize_with(texts: &StringArray, form: Form, cleaning: Cleaning) -> Result<StringArray> {
    let mut out = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
    let mut written = 0usize;
    for text in texts {
        let Some(text) = text else {
            out.append_null();
            continue;
        };
        let normal = normalize_str(text, form, cleaning);
        written += normal.len();
        // Compatibility forms can grow a text (U+FDFA becomes 18 characters), past what 32-bit offsets hold.
        if written > i32::MAX as usize {
            return Err(KernelError::TooLarge {
                function: "normalize_text",
                rows: texts.len(),
            });
        }
        out.append_value(normal);
    }
    Ok(out.finish())
}

/// As [`normalize_with`], for one text.
#[must_use]
pub fn normalize_str(text: &str, form: Form, cleaning: Cleaning) -> Cow<'_, str> {
    let mut current = Cow::Borrowed(text);
    for _ in 0..PASSES_MAX {
        let next = one_pass(&current, form, cleaning);
        if next == current {
            break;
        }
        current = Cow::Owned(next.into_owned());
    }
    current
}

fn one_pass(text: &str, form: Form, cleaning: Cleaning) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    if cleaning.entities {
        text = then(text, entities::decode);
    }
    if cleaning.invisible {
        text = then(text, invisible::remove);
    }
    text = then(text, |s| to_form(s, form));
    if cleaning.whitespace {
        text = then(text, collapse_whitespace);
    }
    text
}

/// Applies a step without copying what it leaves as it is.
fn then<'a>(text: Cow<'a, str>, step: impl Fn(&str) -> Cow<'_, str>) -> Cow<'a, str> {
    match text {
        Cow::Borrowed(s) => step(s),
        Cow::Owned(s) => match step(&s) {
            Cow::Borrowed(b) if b.len() == s.len() => Cow::Owned(s),
            changed => Cow::Owned(changed.into_owned()),
        },
    }
}

fn to_form(s: &str, form: Form) -> Cow<'_, str> {
    use unicode_normalization::{IsNormalized::Yes, is_nfc_quick, is_nfd_quick, is_nfkc_quick, is_nfkd_quick};
    if s.is_ascii() {
        return Cow::Borrowed(s);
    }
    let quick = match form {
        Form::Nfc => is_nfc_quick(s.chars()),
        Form::Nfd => is_nfd_quick(s.chars()),
        Form::Nfkc => is_nfkc_quick(s.chars()),
        Form::Nfkd => is_nfkd_quick(s.chars()),
    };
    if quick == Yes {
        return Cow::Borrowed(s);
    }
    Cow::Owned(match form {
        Form::Nfc => s.nfc().collect(),
        Form::Nfd => s.nfd().collect(),
        Form::Nfkc => s.nfkc().collect(),
        Form::Nfkd => s.nfkd().collect(),
    })
}

fn collapse_whitespace(s: &str) -> Cow<'_, str> {
    if !needs_collapsing(s) {
        return Cow::Borrowed(s);
    }
    let mut out = String::with_capacity(s.len());
    let mut run: Option<usize> = None;
    let mut chars = s.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_whitespace() {
            let line_ends = match c {
                '\r' if chars.peek() == Some(&'\n') => 0,
                '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' => 1,
                '\u{2029}' => 2,
                _ => 0,
            };
            run = Some(run.unwrap_or(0) + line_ends);
            continue;
        }
        if let Some(line_ends) = run.take().filter(|_| !out.is_empty()) {
            out.push_str(match line_ends {
                0 => " ",
                1 => "\n",
                _ => "\n\n",
            });
        }
        out.push(c);
    }
    Cow::Owned(out)
}

fn needs_collapsing(s: &str) -> bool {
    let mut previous = ' ';
    for c in s.chars() {
        if c.is_whitespace() && (c != ' ' || previous == ' ') {
            return true;
        }
        previous = c;
    }
    previous == ' ' && !s.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nfkc(s: &str) -> String {
        normalize_str(s, Form::Nfkc, Cleaning::default()).into_owned()
    }

    #[test]
    fn real_tweets_read_as_their_writers_saw_them() {
        for (raw, clean) in [
            ("&#8220;@user: hi &amp; bye&#8221; &#128514;", "“@user: hi & bye” 😂"),
            ("a &lt;3 b &gt; c", "a <3 b > c"),
            ("tom &amp jerry &amp; co", "tom & jerry & co"),
            ("&amp;amp;lt;", "<"),
            ("wide&#12288;space &#160; and&nbsp;more", "wide space and more"),
            ("&#10084;&#65039; love", "❤\u{fe0f} love"),
            ("&#55357;&#56834;", "😂"),
            ("http://x.io/?a=1&copy=2&lt=3", "http://x.io/?a=1&copy=2&lt=3"),
            ("AT&T &; &#; &#x; &unknown; &", "AT&T &; &#; &#x; &unknown; &"),
            ("＆lt; full width", "< full width"),
        ] {
            assert_eq!(nfkc(raw), clean, "{raw}");
        }
    }

    #[test]
    fn forms_differ_as_in_uax_15() {
        let plain = |s, form| {
            normalize_str(
                s,
                form,
                Cleaning {
                    entities: false,
                    invisible: false,
                    whitespace: false,
                },
            )
            .into_owned()
        };
        assert_eq!(plain("ﬁ é", Form::Nfc), "ﬁ é");
        assert_eq!(plain("ﬁ é", Form::Nfd), "ﬁ e\u{301}");
        assert_eq!(plain("ﬁ e\u{301}", Form::Nfkc), "fi é");
        assert_eq!(plain("ﬁ é", Form::Nfkd), "fi e\u{301}");
        assert_eq!(
            plain("  &amp;\u{200b}", Form::Nfkc),
            "  &amp;\u{200b}",
            "nothing but the form when nothing is asked for"
        );
    }

    #[test]
    fn names_of_forms_are_read_in_any_case_and_a_wrong_one_is_explained() {
        for name in Form::NAMES {
            assert_eq!(name.to_lowercase().parse::<Form>().unwrap().to_string(), name);
        }
        assert_eq!(
            "NFCK".parse::<Form>().unwrap_err().to_string(),
            "unknown Unicode form 'NFCK': expected one of NFC, NFD, NFKC, NFKD; did you mean 'NFC'?"
        );
    }

    #[test]
    fn white_space_keeps_lines_and_paragraphs() {
        assert_eq!(
            nfkc("  a \t b\r\nc \n \n\n d\u{2029}e\u{2028}f \n"),
            "a b\nc\n\nd\n\ne\nf"
        );
        assert_eq!(nfkc(" \u{3000}\n"), "");
    }

    #[test]
    fn null_stays_null() {
        let got = normalize(&StringArray::from(vec![None, Some(" ｈｉ "), Some("")]), Form::Nfkc).unwrap();
        assert_eq!(got, StringArray::from(vec![None, Some("hi"), Some("")]));
    }

    #[test]
    fn deep_nesting_costs_a_bounded_number_of_passes() {
        let nested = format!("&{}lt;", "amp;".repeat(50_000));
        assert_eq!(nfkc(&nested).len(), nested.len() - 4 * PASSES_MAX);
    }

    proptest! {
        #[test]
        fn a_second_time_changes_nothing(s in "([a-z ]|&(amp|lt|nbsp|#65|#x1f602|copy)?;?|[\u{0}-\u{ff}]|[\u{200b}-\u{206f}]|\\PC|👩|🏳|\u{fe0f}|\u{300}){0,30}") {
            for form in [Form::Nfc, Form::Nfd, Form::Nfkc, Form::Nfkd] {
                let once = normalize_str(&s, form, Cleaning::default()).into_owned();
                prop_assert_eq!(normalize_str(&once, form, Cleaning::default()), once.as_str());
            }
        }

        #[test]
        fn without_cleaning_it_is_the_unicode_form(s in "\\PC{0,30}") {
            let off = Cleaning { entities: false, invisible: false, whitespace: false };
            prop_assert_eq!(normalize_str(&s, Form::Nfkc, off), s.nfkc().collect::<String>());
            prop_assert_eq!(normalize_str(&s, Form::Nfd, off), s.nfd().collect::<String>());
        }
    }
}
