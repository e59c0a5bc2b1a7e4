//! Where personal data may be. What is found here is verified in `validate.rs`.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::{PiiKind, validate};

/// One compiled expression a kind.
pub(super) struct Patterns(Vec<Regex>);

pub(super) static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| Patterns(PiiKind::ALL.map(compile).into()));

fn compile(kind: PiiKind) -> Regex {
    let pattern = match kind {
        PiiKind::Url => {
            r#"(?i)\b(?:https?|ftp)://[^\s<>"'`{}|\\^\[\]“”‘’…]+|\bwww\.[a-z0-9-]+\.[^\s<>"'`{}|\\^\[\]“”‘’…]+"#
        }
        // RFC 5322's dot-atom and an RFC 1035 domain with an alphabetic last label; letters beyond ASCII (RFC 6531)
        // are taken too.
        PiiKind::Email => {
            r"[\p{L}\p{N}][\p{L}\p{N}.!#$%&'*+/=?^_`{|}~-]{0,63}@(?:[\p{L}\p{N}](?:[\p{L}\p{N}-]{0,61}[\p{L}\p{N}])?\.)+\p{L}{2,24}"
        }
        PiiKind::Iban => r"(?i)\b[a-z]{2}\d{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,3})?\b",
        PiiKind::CreditCard => r"\b\d(?:[ -]?\d){12,18}\b",
        PiiKind::Ip => r"(?:\d{1,3}\.){3}\d{1,3}|[0-9a-fA-F:]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*",
        PiiKind::Phone => {
            r"(?:\+|\b00)[1-9](?:[ .()/-]{0,2}\d){6,14}\b|(?:\b1[ .-]?)?(?:\(\d{3}\)[ .-]?|\b\d{3}[ .-])\d{3}[ .-]\d{4}\b"
        }
        PiiKind::Mention => r"@[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?(?:@[A-Za-z0-9.-]+\.[A-Za-z]{2,24})?",
    };
    Regex::new(pattern).expect("the patterns are constants, and a test compiles all of them")
}

impl Patterns {
    /// Finds verified data of one kind, in order.
    pub(super) fn find(&self, kind: PiiKind, text: &str) -> Vec<Range<usize>> {
        if !may_hold(kind, text.as_bytes()) {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(at) = self.0[kind as usize].find_at(text, from) {
            match validate::verified(kind, text, at.range()) {
                Some(range) => {
                    from = range.end.max(at.start() + 1);
                    found.push(range);
                }
                // The rest of a refused candidate may hold a good one: go on after its first run of characters that
                // could not begin another.
                None => from = at.start() + validate::skip(&text[at.range()]),
            }
        }
        found
    }
}

/// Cheap tests that spare most texts the expression.
fn may_hold(kind: PiiKind, text: &[u8]) -> bool {
    let digits = |least: usize| text.iter().filter(|b| b.is_ascii_digit()).take(least).count() == least;
    match kind {
        PiiKind::Url => {
            memchr::memmem::find(text, b"://").is_some() || text.windows(4).any(|w| w.eq_ignore_ascii_case(b"www."))
        }
        PiiKind::Email | PiiKind::Mention => memchr::memchr(b'@', text).is_some(),
        PiiKind::Iban => text.len() >= 15 && digits(4),
        PiiKind::CreditCard => digits(13),
        PiiKind::Ip => {
            memchr::memchr2(b'.', b':', text).is_some()
                && (digits(4)
                    || memchr::memmem::find(text, b"::").is_some()
                    || text.iter().filter(|b| **b == b':').count() >= 7)
        }
        PiiKind::Phone => digits(7),
    }
}
