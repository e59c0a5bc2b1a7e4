//! Characters that cannot be seen.

use std::borrow::Cow;

use unicode_script::{Script, UnicodeScript};

const ZWNJ: char = '\u{200c}';
const ZWJ: char = '\u{200d}';

/// Removes the characters that cannot be seen, but keeps those that change what is seen.
///
/// Removed: controls (Cc) other than white space, and the default-ignorable characters of Unicode that posts use to
/// hide text or to break words: zero-width space and joiners, bidirectional controls, soft hyphen, word joiner,
/// byte-order marks, fillers, tags, variation selectors. Kept:
/// - variation selectors 15 and 16, and ZWJ, after something that can begin or continue an emoji (UTS #51);
/// - tags after the black flag (flags of England, Scotland, Wales);
/// - ZWJ and ZWNJ between letters or marks of one script that joins or stacks (UAX #31, 2.3.1, without its classes of
///   joining type).
pub(super) fn remove(s: &str) -> Cow<'_, str> {
    if !s.chars().any(is_invisible) {
        return Cow::Borrowed(s);
    }
    let mut out = String::with_capacity(s.len());
    let mut rest = s.chars();
    // The emoji that a run of tags would belong to, as long as nothing else has come in between.
    let mut flag = false;
    while let Some(c) = rest.next() {
        let next = || rest.as_str().chars().find(|c| !is_invisible(*c));
        let keep = !is_invisible(c)
            || match c {
                ZWNJ => joins(&out, next()),
                ZWJ => joins_emoji(&out, next()) || joins(&out, next()),
                '\u{fe0e}' | '\u{fe0f}' => out.chars().next_back().is_some_and(takes_selector),
                '\u{e0020}'..='\u{e007f}' => flag,
                _ => false,
            };
        if keep {
            flag = c == '🏴' || flag && matches!(c, '\u{e0020}'..='\u{e007e}');
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn is_invisible(c: char) -> bool {
    match c {
        '\u{0}'..='\u{8}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{84}' | '\u{86}'..='\u{9f}' => true,
        // The rest of Unicode's Default_Ignorable_Code_Point and the interlinear annotation marks.
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' => true,
        '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => true,
        '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' => true,
        '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' => true,
        '\u{e0000}'..='\u{e0fff}' => true,
        _ => false,
    }
}

/// Says whether an emoji presentation selector can follow: emoji lie in these blocks, keycaps begin with a digit.
fn takes_selector(c: char) -> bool {
    is_pictograph(c) || matches!(c, '0'..='9' | '#' | '*' | '©' | '®' | '‼' | '⁉' | '™' | 'ℹ')
}

fn is_pictograph(c: char) -> bool {
    matches!(c, '\u{2190}'..='\u{21ff}' | '\u{2300}'..='\u{23ff}' | '\u{2460}'..='\u{24ff}' | '\u{25a0}'..='\u{27bf}'
        | '\u{2900}'..='\u{297f}' | '\u{2b00}'..='\u{2bff}' | '\u{3030}' | '\u{303d}' | '\u{3297}' | '\u{3299}'
        | '\u{1f000}'..='\u{1faff}')
}

fn joins_emoji(before: &str, next: Option<char>) -> bool {
    let mut previous = before.chars().rev().skip_while(|c| *c == '\u{fe0f}');
    previous.next().is_some_and(is_pictograph) && next.is_some_and(is_pictograph)
}

fn joins(before: &str, next: Option<char>) -> bool {
    let Some((previous, next)) = before.chars().next_back().zip(next) else {
        return false;
    };
    let script = previous.script();
    use Script as S;
    script == next.script()
        && matches!(
            script,
            S::Arabic
                | S::Syriac
                | S::Nko
                | S::Mongolian
                | S::Devanagari
                | S::Bengali
                | S::Gurmukhi
                | S::Gujarati
                | S::Oriya
                | S::Tamil
                | S::Telugu
                | S::Kannada
                | S::Malayalam
                | S::Sinhala
                | S::Khmer
                | S::Myanmar
                | S::Tibetan
                | S::Balinese
                | S::Javanese
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_text_goes() {
        for (raw, clean) in [
            ("k\u{200b}i\u{2060}l\u{ad}l", "kill"),
            ("a\u{202e}b\u{2066}c\u{2069}", "abc"),
            ("\u{feff}bom\u{0}\u{1b}[0m", "bom[0m"),
            ("say\u{e0041}\u{e0042}", "say"),
            ("h\u{fe0f}i\u{200d}\u{200c}!", "hi!"),
            ("x\u{3164}y\u{115f}", "xy"),
            ("😀\u{200d}", "😀"),
            ("😀\u{200d}a", "😀a"),
            ("\u{200d}😀", "😀"),
        ] {
            assert_eq!(remove(raw), clean, "{raw:?}");
        }
    }

    #[test]
    fn what_changes_the_picture_stays() {
        for kept in [
            "👨\u{200d}👩\u{200d}👧 family",
            "🏳\u{fe0f}\u{200d}🌈",
            "👩🏽\u{200d}🚀",
            "❤\u{fe0f}",
            "1\u{fe0f}\u{20e3}",
            "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "می\u{200c}خواهم",
            "क्\u{200d}ष",
            "line\nend\ttab",
        ] {
            assert_eq!(remove(kept), kept);
        }
    }

    #[test]
    fn tags_after_the_end_of_a_flag_go() {
        assert_eq!(remove("🏴\u{e0067}\u{e007f}\u{e0041}"), "🏴\u{e0067}\u{e007f}");
        assert_eq!(remove("🏴 \u{e0041}"), "🏴 ");
    }
}
