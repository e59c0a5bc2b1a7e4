//! `pii_spans` and `pii_redact`: personal data in texts.

use std::sync::Arc;

use arrow::array::{Array, Int32Builder, ListArray, StringArray, StringBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};

use crate::error::{KernelError, Result};

mod patterns;
mod validate;

use patterns::PATTERNS;

/// A kind of personal data.
///
/// The order is the order of precedence: where two findings overlap, the one whose kind comes first here stays (an
/// e-mail address in a link is part of the link; the digits of an IBAN are no phone number).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PiiKind {
    /// A link with a scheme, or one that begins with `www.`.
    Url,
    /// An e-mail address.
    Email,
    /// An international bank account number, its check digits right (ISO 13616, mod 97).
    Iban,
    /// A payment card number of 13 to 19 digits of a known issuer range, its check digit right (Luhn).
    CreditCard,
    /// An IPv4 or IPv6 address.
    Ip,
    /// A phone number: international with `+` or `00`, or of the North American plan.
    Phone,
    /// A mention of a user: `@name`.
    Mention,
}

impl PiiKind {
    /// All kinds, in order of precedence.
    pub const ALL: [Self; 7] = [
        Self::Url,
        Self::Email,
        Self::Iban,
        Self::CreditCard,
        Self::Ip,
        Self::Phone,
        Self::Mention,
    ];
    const NAMES: [&str; 7] = ["url", "email", "iban", "credit_card", "ip", "phone", "mention"];

    /// The name that SQL uses, e.g. `credit_card`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// What [`pii_redact`] writes in its place, e.g. `<CREDIT_CARD>`.
    #[must_use]
    pub fn placeholder(self) -> &'static str {
        [
            "<URL>",
            "<EMAIL>",
            "<IBAN>",
            "<CREDIT_CARD>",
            "<IP>",
            "<PHONE>",
            "<MENTION>",
        ][self as usize]
    }
}

/// The kinds of personal data to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PiiKinds(Vec<PiiKind>);

impl PiiKinds {
    /// All kinds.
    #[must_use]
    pub fn all() -> Self {
        Self(PiiKind::ALL.to_vec())
    }

    /// The kinds, in order of precedence.
    #[must_use]
    pub fn kinds(&self) -> &[PiiKind] {
        &self.0
    }
}

impl FromIterator<PiiKind> for PiiKinds {
    fn from_iter<I: IntoIterator<Item = PiiKind>>(kinds: I) -> Self {
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_unstable();
        kinds.dedup();
        Self(kinds)
    }
}

impl std::str::FromStr for PiiKinds {
    type Err = KernelError;

    /// Reads `email,phone,…` in any order and case, or `all`.
    fn from_str(s: &str) -> Result<Self> {
        let names: Vec<_> = s
            .split(',')
            .map(|n| n.trim().to_lowercase())
            .filter(|n| !n.is_empty())
            .collect();
        if names.is_empty() {
            return Err(KernelError::InvalidOption {
                option: "kinds",
                value: s.to_string(),
                problem: "it names no kind of personal data".into(),
                fix: format!("write 'all', or some of '{}'", PiiKind::NAMES.join(",")),
            });
        }
        let mut kinds = Vec::new();
        for name in names {
            match PiiKind::NAMES.iter().position(|n| *n == name) {
                Some(i) => kinds.push(PiiKind::ALL[i]),
                None if name == "all" => kinds.extend(PiiKind::ALL),
                None => {
                    return Err(KernelError::unknown_name(
                        "kind of personal data",
                        &name,
                        &PiiKind::NAMES,
                    ));
                }
            }
        }
        Ok(kinds.into_iter().collect())
    }
}

/// One finding: bytes `start..end` of the text hold data of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PiiSpan {
    /// What was found.
    pub kind: PiiKind,
    /// Offset of its first byte.
    pub start: usize,
    /// Offset after its last byte.
    pub end: usize,
}

/// Finds personal data of the given kinds in one text: findings in the order of the text, none overlapping.
///
/// Kinds that are not asked for still count where they contain others: with `phone` alone, the digits of a valid card
/// number or of a link are no phone number.
#[must_use]
pub fn find_pii(text: &str, kinds: &PiiKinds) -> Vec<PiiSpan> {
    let mut found: Vec<PiiSpan> = Vec::new();
    let Some(least) = kinds.0.last() else { return found };
    for kind in PiiKind::ALL.into_iter().filter(|k| k <= least) {
        for range in PATTERNS.find(kind, text) {
            let at = found.partition_point(|s| s.end <= range.start);
            if found.get(at).is_none_or(|s| s.start >= range.end) {
                found.insert(
                    at,
                    PiiSpan {
                        kind,
                        start: range.start,
                        end: range.end,
                    },
                );
            }
        }
    }
    found.retain(|s| kinds.0.contains(&s.kind));
    found
}

/// Finds personal data in each text.
///
/// Returns `List<Struct{kind: Utf8, start: Int32, end: Int32}>`, `NULL` for `NULL`; `start` and `end` are offsets in
/// bytes of the UTF-8 text, `end` exclusive, findings in order and not overlapping. Patterns alone do not make a
/// finding: check digits, address syntax and number plans are verified (see [`PiiKind`]).
///
/// # Errors
/// [`KernelError::Arrow`] when the findings of the batch do not fit 32-bit offsets.
pub fn pii_spans(texts: &StringArray, kinds: &PiiKinds) -> Result<ListArray> {
    let (mut names, mut starts, mut ends) = (StringBuilder::new(), Int32Builder::new(), Int32Builder::new());
    let mut lengths = Vec::with_capacity(texts.len());
    for text in texts {
        let spans = text.map(|t| find_pii(t, kinds)).unwrap_or_default();
        lengths.push(spans.len());
        for span in spans {
            names.append_value(span.kind.name());
            // A StringArray is at most 2 GiB, so its offsets are Int32.
            starts.append_value(span.start as i32);
            ends.append_value(span.end as i32);
        }
    }
    let spans = StructArray::try_new(
        span_fields(),
        vec![
            Arc::new(names.finish()),
            Arc::new(starts.finish()),
            Arc::new(ends.finish()),
        ],
        None,
    )?;
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(ListArray::try_new(
        span_item(),
        offsets,
        Arc::new(spans),
        texts.nulls().cloned(),
    )?)
}

/// Replaces each finding by the name of its kind: `<EMAIL>`, `<PHONE>`, …. `NULL` stays `NULL`.
///
/// # Errors
/// [`KernelError::TooLarge`] when the results of the batch do not fit 2 GiB.
pub fn pii_redact(texts: &StringArray, kinds: &PiiKinds) -> Result<StringArray> {
    let mut out = StringBuilder::with_capacity(texts.len(), texts.value_data().len());
    let (mut redacted, mut written) = (String::new(), 0usize);
    for text in texts {
        let Some(text) = text else {
            out.append_null();
            continue;
        };
        redacted.clear();
        let mut copied = 0;
        for span in find_pii(text, kinds) {
            redacted.push_str(&text[copied..span.start]);
            redacted.push_str(span.kind.placeholder());
            copied = span.end;
        }
        redacted.push_str(&text[copied..]);
        written += redacted.len();
        if written > i32::MAX as usize {
            return Err(KernelError::TooLarge {
                function: "pii_redact",
                rows: texts.len(),
            });
        }
        out.append_value(&redacted);
    }
    Ok(out.finish())
}

/// Type of the arrays that [`pii_spans`] returns.
#[must_use]
pub fn pii_spans_type() -> DataType {
    DataType::List(span_item())
}

fn span_fields() -> Fields {
    Fields::from(vec![
        Field::new("kind", DataType::Utf8, false),
        Field::new("start", DataType::Int32, false),
        Field::new("end", DataType::Int32, false),
    ])
}

fn span_item() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Struct(span_fields()), false))
}

#[cfg(test)]
mod tests;
