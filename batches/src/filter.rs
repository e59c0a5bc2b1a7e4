//! Filters on the rows of a corpus: `split = 'train' AND (agreement >= 0.8 OR label IS NULL)`.
//!
//! ```text
//! text ──parse──▶ Predicate ──outcomes(partition values)──▶ shard left out │ taken whole │ scanned
//!                     └──────evaluate(batch of its columns)─▶ BooleanArray (three-valued, as in SQL)
//! ```
//! To add an operator: a token in `filter/parse.rs` if it needs one, a variant here, an arm in `filter/evaluate.rs`.

mod evaluate;
mod parse;

use std::collections::BTreeSet;
use std::fmt;

use crate::error::Result;

/// The canonical text of a filter: what its plan's hash is over.
///
/// # Errors
/// Plan, with the place in the text.
pub fn canonical_filter(text: &str) -> Result<String> {
    Ok(Predicate::parse(text)?.to_string())
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// The operator with its sides exchanged: `1 < a` is `a > 1`.
    fn flipped(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// A constant of the filter; its type is decided by the column it is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Literal {
    Number(String),
    Text(String),
    Bool(bool),
}

/// A condition over columns that is TRUE, FALSE or NULL for a row; a row passes when it is TRUE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Predicate {
    Compare {
        column: String,
        operator: Comparison,
        literal: Literal,
    },
    In {
        column: String,
        literals: Vec<Literal>,
        negated: bool,
    },
    Like {
        column: String,
        pattern: String,
        negated: bool,
    },
    IsNull {
        column: String,
        negated: bool,
    },
    Truth {
        column: String,
    },
    And(Vec<Predicate>),
    Or(Vec<Predicate>),
    Not(Box<Predicate>),
}

impl Predicate {
    /// The columns that the predicate reads, each once, sorted.
    pub(crate) fn columns(&self) -> BTreeSet<&str> {
        match self {
            Self::Compare { column, .. }
            | Self::In { column, .. }
            | Self::Like { column, .. }
            | Self::IsNull { column, .. }
            | Self::Truth { column } => BTreeSet::from([column.as_str()]),
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::columns).collect(),
            Self::Not(inner) => inner.columns(),
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => f.write_str(n),
            Self::Text(t) => write!(f, "'{}'", t.replace('\'', "''")),
            Self::Bool(b) => f.write_str(if *b { "TRUE" } else { "FALSE" }),
        }
    }
}

/// Writes an identifier in quotes, so that the text parses back to the same predicate.
fn quoted(column: &str) -> String {
    format!("\"{}\"", column.replace('"', "\"\""))
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: bool| if negated { " NOT" } else { "" };
        let joined = |parts: &[Predicate], by: &str| {
            let parts: Vec<String> = parts.iter().map(|p| format!("({p})")).collect();
            parts.join(by)
        };
        match self {
            Self::Compare {
                column,
                operator,
                literal,
            } => {
                write!(f, "{} {} {literal}", quoted(column), operator.text())
            }
            Self::In {
                column,
                literals,
                negated,
            } => {
                let list: Vec<String> = literals.iter().map(Literal::to_string).collect();
                write!(f, "{}{} IN ({})", quoted(column), not(*negated), list.join(", "))
            }
            Self::Like {
                column,
                pattern,
                negated,
            } => {
                write!(
                    f,
                    "{}{} LIKE {}",
                    quoted(column),
                    not(*negated),
                    Literal::Text(pattern.clone())
                )
            }
            Self::IsNull { column, negated } => write!(f, "{} IS{} NULL", quoted(column), not(*negated)),
            Self::Truth { column } => f.write_str(&quoted(column)),
            Self::And(parts) => f.write_str(&joined(parts, " AND ")),
            Self::Or(parts) => f.write_str(&joined(parts, " OR ")),
            Self::Not(inner) => write!(f, "NOT ({inner})"),
        }
    }
}
