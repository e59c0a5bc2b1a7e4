//! What makes a candidate a finding: check digits, number plans and what stands around it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::PiiKind;

/// Returns the part of a candidate that is data of its kind, if it is.
pub(super) fn verified(kind: PiiKind, text: &str, at: Range<usize>) -> Option<Range<usize>> {
    let found = &text[at.clone()];
    let before = text[..at.start].chars().next_back();
    let after = text[at.end..].chars().next();
    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    match kind {
        PiiKind::Url => {
            let range = at.start..at.start + trim_url(found).len();
            let host = text[range.clone()].split_once("://").map_or(found, |(_, rest)| rest);
            host.starts_with(|c: char| c.is_alphanumeric() || c == '[')
                .then_some(range)
        }
        PiiKind::Email => {
            let local = found.split_once('@')?.0;
            (!local.ends_with('.') && !local.contains("..") && !word(before) && before != Some('@')).then_some(at)
        }
        PiiKind::Iban => iban(found).map(|len| at.start..at.start + len),
        PiiKind::CreditCard => {
            let part_of_number = matches!(before, Some('.' | '+' | '/' | '_'))
                || after == Some('.') && text[at.end + 1..].starts_with(|c: char| c.is_ascii_digit());
            (!part_of_number && card(found)).then_some(at)
        }
        PiiKind::Ip => ip(text, at, before, after),
        PiiKind::Phone => phone(text, at, before, after),
        PiiKind::Mention => {
            // `a@b` is no mention, and neither is the @ of an address that was refused.
            (!before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '@'))).then_some(at)
        }
    }
}

/// Bytes to skip in a refused candidate: its first run of letters or digits, or its first character.
pub(super) fn skip(found: &str) -> usize {
    let run = found.bytes().take_while(u8::is_ascii_alphanumeric).count();
    run.max(found.chars().next().map_or(1, char::len_utf8))
}

/// Leaves out punctuation that ends a sentence, and a closing bracket that was opened before the link.
fn trim_url(url: &str) -> &str {
    let mut url = url;
    loop {
        let shorter = url.trim_end_matches([
            '.', ',', ';', ':', '!', '?', '*', '_', '~', '。', '、', '，', '！', '？', '）', '」',
        ]);
        let shorter = match shorter.strip_suffix(')') {
            Some(open) if open.matches('(').count() < shorter.matches(')').count() => open,
            _ => shorter,
        };
        if shorter.len() == url.len() {
            return url;
        }
        url = shorter;
    }
}

/// Lengths of IBANs by country (SWIFT IBAN registry, release 99).
const IBAN_LENGTHS: &str = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 \
    EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 \
    LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 \
    RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30";

/// Returns how many bytes of the candidate are an IBAN.
fn iban(found: &str) -> Option<usize> {
    let country = found.get(..2)?.to_ascii_uppercase();
    let entry = IBAN_LENGTHS
        .split_ascii_whitespace()
        .find(|e| e.starts_with(&country))?;
    let length: usize = entry[2..].parse().ok()?;
    let mut compact = Vec::with_capacity(length);
    let mut end = 0;
    for (i, b) in found.bytes().enumerate() {
        if b != b' ' && compact.len() < length {
            compact.push(b.to_ascii_uppercase());
            end = i + 1;
        }
    }
    let whole_word = found[end..].is_empty() || found[end..].starts_with(' ');
    if compact.len() != length || !whole_word {
        return None;
    }
    let rearranged = compact[4..].iter().chain(&compact[..4]);
    let remainder = rearranged.fold(0u32, |n, b| match b {
        b'0'..=b'9' => (n * 10 + u32::from(b - b'0')) % 97,
        _ => (n * 100 + u32::from(b - b'A') + 10) % 97,
    });
    (remainder == 1).then_some(end)
}

/// Luhn's check digit (ISO/IEC 7812-1) and the ranges and lengths of the large networks.
fn card(found: &str) -> bool {
    let digits: Vec<u32> = found.chars().filter_map(|c| c.to_digit(10)).collect();
    let prefix = |n: usize| digits[..n].iter().fold(0, |p, d| p * 10 + d);
    let known = match digits.len() {
        13 | 19 => {
            digits[0] == 4 || (digits.len() == 19 && matches!(prefix(2), 62 | 60 | 64 | 65 | 50 | 56..=58 | 63 | 67))
        }
        14 => matches!(prefix(3), 300..=305 | 309) || matches!(prefix(2), 36 | 38 | 39),
        15 => matches!(prefix(2), 34 | 37),
        16 => {
            digits[0] == 4
                || matches!(prefix(2), 51..=55 | 62 | 64 | 65)
                || matches!(prefix(4), 2221..=2720 | 6011 | 3528..=3589 | 2200..=2204 | 5018 | 5020 | 5038 | 6304 | 6759 | 6761..=6763)
        }
        _ => false,
    };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| {
            if i % 2 == 0 {
                *d
            } else {
                d * 2 - if *d > 4 { 9 } else { 0 }
            }
        })
        .sum();
    known && sum.is_multiple_of(10) && digits.iter().any(|d| *d != digits[0])
}

fn ip(text: &str, at: Range<usize>, before: Option<char>, after: Option<char>) -> Option<Range<usize>> {
    let found = &text[at.clone()];
    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    // "1.2.3.4.5" is a section, "v1.2.3.4" and "version 1.2.3.4" are versions.
    let digit_follows = |i: usize| text[i..].starts_with(|c: char| c.is_ascii_digit());
    if word(before) || matches!(before, Some('.' | ':')) {
        return None;
    }
    if !found.contains(':') {
        let section = after == Some('.') && digit_follows(at.end + 1);
        let version = {
            let head = text[..at.start]
                .trim_end()
                .trim_end_matches(['.', ':', 'v', 'V'])
                .trim_end()
                .to_ascii_lowercase();
            ["version", "release", "ver", "build", "firmware"]
                .iter()
                .any(|w| head.ends_with(w))
        };
        let valid = found.parse::<Ipv4Addr>().is_ok_and(|a| a.octets() != [0; 4]);
        return (valid && !section && !version && !word(after)).then_some(at);
    }
    // A sentence may end in a colon or a full stop; "::" alone and times such as 12:30:45 are no addresses.
    let trimmed = found.trim_end_matches('.');
    let trimmed = if trimmed.ends_with("::") {
        trimmed
    } else {
        trimmed.trim_end_matches(':')
    };
    let end = at.start + trimmed.len();
    let digits = trimmed.bytes().filter(u8::is_ascii_hexdigit).count();
    let valid = trimmed.parse::<Ipv6Addr>().is_ok() && (digits >= 3 || trimmed == "::1");
    // "std::fade" and "face::b00c" are code, not addresses: ask for a digit, and for two groups beside the gap.
    let likely = trimmed == "::1"
        || (trimmed.bytes().any(|b| b.is_ascii_digit()) && trimmed.matches(':').count() >= 3)
        || (trimmed.contains("::")
            && trimmed.bytes().next().is_some_and(|b| matches!(b, b'2' | b'f'))
            && trimmed.bytes().any(|b| b.is_ascii_digit()));
    let glued = text[end..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
    (valid && likely && !glued).then_some(at.start..end)
}

/// International numbers: 8 to 15 digits (ITU-T E.164). North American ones: area and exchange codes begin with 2 to 9
/// and the area code does not end in 9x beyond 989 (NANPA).
fn phone(text: &str, at: Range<usize>, before: Option<char>, after: Option<char>) -> Option<Range<usize>> {
    let found = &text[at.clone()];
    let glued = |c: Option<char>| {
        c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '@' | '#' | '$' | '€' | '£' | '/' | '='))
    };
    let decimal_before =
        matches!(before, Some('.' | ',' | '-')) && text[..at.start - 1].ends_with(|c: char| c.is_ascii_digit());
    let decimal_after =
        matches!(after, Some('.' | ',' | '-')) && text[at.end + 1..].starts_with(|c: char| c.is_ascii_digit());
    if glued(before)
        || decimal_before
        || decimal_after
        || after.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '%')
    {
        return None;
    }
    let digits: Vec<u8> = found.bytes().filter(u8::is_ascii_digit).collect();
    if found.starts_with('+') || found.starts_with("00") {
        // The 00 of a longer number in groups ("… 3704 0044 …") is no prefix.
        let head = text[..at.start].trim_end_matches([' ', '-']);
        if !found.starts_with('+') && head.ends_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let digits = digits
            .strip_prefix(b"00")
            .filter(|_| !found.starts_with('+'))
            .unwrap_or(&digits);
        let balanced = found.matches('(').count() == found.matches(')').count();
        return ((8..=15).contains(&digits.len()) && balanced && digits.iter().any(|d| *d != digits[0])).then_some(at);
    }
    let national = digits.strip_prefix(b"1").filter(|d| d.len() == 10).unwrap_or(&digits);
    let plan = national.len() == 10
        && matches!(national[0], b'2'..=b'9')
        && matches!(national[3], b'2'..=b'9')
        && national[1] != b'9';
    plan.then_some(at)
}
