//! HTML character references.

use std::borrow::Cow;

/// Decodes HTML character references once.
///
/// The rules are those of the HTML standard for attribute values (13.2.5.72 ff., crate `htmlize`), because posts
/// hold links: a named reference without a semicolon is left alone when a letter, a digit or `=` follows. One
/// addition: two numeric references that are a pair of UTF-16 surrogates are one character, as old exports write
/// emoji; the standard would give two U+FFFD.
pub(super) fn decode(s: &str) -> Cow<'_, str> {
    if memchr::memchr(b'&', s.as_bytes()).is_none() {
        return Cow::Borrowed(s);
    }
    match join_surrogates(s) {
        Some(joined) => Cow::Owned(htmlize::unescape_attribute(joined.as_str()).into_owned()),
        None => htmlize::unescape_attribute(s),
    }
}

/// Replaces `&#55357;&#56834;` by `😂`; `None` when there is no such pair.
fn join_surrogates(s: &str) -> Option<String> {
    let mut out = String::new();
    let (mut copied, mut from) = (0, 0);
    while let Some(at) = s[from..].find("&#").map(|i| i + from) {
        from = at + 2;
        let Some((high, middle)) = numeric_reference(s, at).filter(|(n, _)| (0xd800..0xdc00).contains(n)) else {
            continue;
        };
        let Some((low, end)) = numeric_reference(s, middle).filter(|(n, _)| (0xdc00..0xe000).contains(n)) else {
            continue;
        };
        let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        out.push_str(&s[copied..at]);
        out.extend(char::from_u32(code));
        (copied, from) = (end, end);
    }
    (copied > 0).then(|| {
        out.push_str(&s[copied..]);
        out
    })
}

/// Reads `&#123;` or `&#x7b;` at `at`: its number, and where it ends.
fn numeric_reference(s: &str, at: usize) -> Option<(u32, usize)> {
    let body = s[at..].strip_prefix("&#")?;
    let (digits, radix) = match body.strip_prefix(['x', 'X']) {
        Some(hex) => (hex, 16),
        None => (body, 10),
    };
    let length = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let number = u32::from_str_radix(&digits[..length], radix).ok()?;
    let end = s.len() - digits.len() + length;
    Some((number, end + usize::from(s[end..].starts_with(';'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surrogates_join_only_as_a_pair() {
        assert_eq!(decode("a&#xD83D;&#xde02 b"), "a😂 b");
        assert_eq!(decode("&#55357;&#55357;&#56834;"), "\u{fffd}😂");
        assert_eq!(decode("&#56834;"), "\u{fffd}");
        assert_eq!(decode("&#55357; &#56834;"), "\u{fffd} \u{fffd}");
    }

    #[test]
    fn numbers_out_of_range_follow_the_standard() {
        assert_eq!(
            decode("&#0;&#1114112;&#99999999999999999999;&#150;"),
            "\u{fffd}\u{fffd}\u{fffd}–"
        );
    }
}
