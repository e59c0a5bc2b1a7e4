//! Evaluates a predicate: exactly over a batch, or as the set of possible outcomes when only some columns are known.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, Scalar, StringArray};
use arrow::compute::kernels::cmp;
use arrow::compute::{CastOptions, and_kleene, cast_with_options, is_not_null, is_null, like, not, or_kleene};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;

use crate::error::{BatchError, Result};
use crate::plan::nearest;

use super::{Comparison, Literal, Predicate};

/// The values that a predicate can still take for the rows of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcomes {
    pub can_be_true: bool,
    pub can_be_false: bool,
    pub can_be_null: bool,
}

impl Outcomes {
    const UNKNOWN: Self = Self {
        can_be_true: true,
        can_be_false: true,
        can_be_null: true,
    };

    fn of(value: Option<bool>) -> Self {
        Self {
            can_be_true: value == Some(true),
            can_be_false: value == Some(false),
            can_be_null: value.is_none(),
        }
    }

    fn and(self, other: Self) -> Self {
        let (a, b) = (self, other);
        Self {
            can_be_true: a.can_be_true && b.can_be_true,
            can_be_false: a.can_be_false || b.can_be_false,
            can_be_null: (a.can_be_null && (b.can_be_null || b.can_be_true)) || (b.can_be_null && a.can_be_true),
        }
    }

    fn not(self) -> Self {
        Self {
            can_be_true: self.can_be_false,
            can_be_false: self.can_be_true,
            ..self
        }
    }

    /// Whether every row passes.
    pub(crate) fn all_pass(self) -> bool {
        self.can_be_true && !self.can_be_false && !self.can_be_null
    }
}

impl Predicate {
    /// Checks that every column exists and can be compared as written.
    ///
    /// # Errors
    /// A plan error that names the column, the nearest one or the type.
    pub(crate) fn check(&self, schema: &Schema) -> Result<()> {
        for column in self.columns() {
            if schema.column_with_name(column).is_none() {
                let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                return Err(BatchError::Plan(format!(
                    "filter: no column `{column}`{}",
                    nearest(column, &names)
                )));
            }
        }
        // Types are found out by evaluating no rows.
        self.evaluate(&RecordBatch::new_empty(Arc::new(schema.clone())))
            .map(drop)
    }

    /// Evaluates the predicate for each row of `batch`, which has its columns.
    ///
    /// # Errors
    /// A plan error for a value that does not fit its column's type.
    pub(crate) fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let column = |name: &str| -> Result<ArrayRef> {
            let array = batch.column_by_name(name);
            array
                .cloned()
                .ok_or_else(|| BatchError::Plan(format!("filter: no column `{name}`")))
        };
        match self {
            Self::Compare {
                column: name,
                operator,
                literal,
            } => compare(name, &column(name)?, *operator, literal),
            Self::In {
                column: name,
                literals,
                negated,
            } => {
                let array = column(name)?;
                let any = fold(
                    literals.iter().map(|l| compare(name, &array, Comparison::Equal, l)),
                    or_kleene,
                )?;
                if *negated {
                    not(&any).map_err(failed(name))
                } else {
                    Ok(any)
                }
            }
            Self::Like {
                column: name,
                pattern,
                negated,
            } => {
                let array = as_type(name, &column(name)?, &DataType::Utf8, pattern)?;
                let hits = like(&array, &Scalar::new(StringArray::from(vec![pattern.as_str()])));
                let hits = hits.map_err(failed(name))?;
                if *negated {
                    not(&hits).map_err(failed(name))
                } else {
                    Ok(hits)
                }
            }
            Self::IsNull { column: name, negated } => {
                let test = if *negated { is_not_null } else { is_null };
                test(column(name)?.as_ref()).map_err(failed(name))
            }
            Self::Truth { column: name } => match column(name)?.as_boolean_opt() {
                Some(flags) => Ok(flags.clone()),
                None => Err(BatchError::Plan(format!(
                    "filter: column `{name}` is {}, not boolean: compare it with a value",
                    column(name)?.data_type()
                ))),
            },
            Self::And(parts) => fold(parts.iter().map(|p| p.evaluate(batch)), and_kleene),
            Self::Or(parts) => fold(parts.iter().map(|p| p.evaluate(batch)), or_kleene),
            Self::Not(inner) => not(&inner.evaluate(batch)?).map_err(failed("NOT")),
        }
    }

    /// The outcomes that are possible given one row with the values of some columns (those of the partition).
    ///
    /// # Errors
    /// As `evaluate`.
    pub(crate) fn outcomes(&self, known: &RecordBatch) -> Result<Outcomes> {
        Ok(match self {
            Self::And(parts) => {
                let start = Outcomes::of(Some(true));
                parts
                    .iter()
                    .try_fold(start, |all, p| Ok::<_, BatchError>(all.and(p.outcomes(known)?)))?
            }
            // a OR b = NOT (NOT a AND NOT b), in three-valued logic too.
            Self::Or(parts) => {
                let start = Outcomes::of(Some(true));
                let none = parts
                    .iter()
                    .try_fold(start, |all, p| Ok::<_, BatchError>(all.and(p.outcomes(known)?.not())))?;
                none.not()
            }
            Self::Not(inner) => inner.outcomes(known)?.not(),
            leaf => {
                let is_known = leaf.columns().iter().all(|c| known.column_by_name(c).is_some());
                if !is_known || known.num_rows() != 1 {
                    return Ok(Outcomes::UNKNOWN);
                }
                let value = leaf.evaluate(known)?;
                Outcomes::of(value.is_valid(0).then(|| value.value(0)))
            }
        })
    }
}

fn failed(column: &str) -> impl FnOnce(ArrowError) -> BatchError {
    BatchError::arrow(format!("filter on `{column}`"))
}

fn fold(
    mut parts: impl Iterator<Item = Result<BooleanArray>>,
    with: impl Fn(&BooleanArray, &BooleanArray) -> Result<BooleanArray, ArrowError>,
) -> Result<BooleanArray> {
    let first = parts
        .next()
        .unwrap_or_else(|| Err(BatchError::Plan("filter: an empty list".into())))?;
    parts.try_fold(first, |all, part| with(&all, &part?).map_err(failed("AND/OR")))
}

/// Casts strictly: a value that does not fit is an error, not NULL.
fn as_type(name: &str, array: &ArrayRef, to: &DataType, shown: &str) -> Result<ArrayRef> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(array, to, &strict).map_err(|e| {
        BatchError::Plan(format!(
            "filter: column `{name}` is {}, and {shown} does not fit it: {e}",
            array.data_type()
        ))
    })
}

fn compare(name: &str, array: &ArrayRef, operator: Comparison, literal: &Literal) -> Result<BooleanArray> {
    let mut array = array.clone();
    if let DataType::Dictionary(_, values) = array.data_type() {
        let values = values.as_ref().clone();
        array = as_type(name, &array, &values, "its dictionary")?;
    }
    let (fits, expected) = match (array.data_type(), literal) {
        (t, Literal::Number(_)) => (t.is_numeric(), "a number is compared with a numeric column"),
        (DataType::Boolean, Literal::Text(_)) => (false, "write TRUE or FALSE"),
        (t, Literal::Text(_)) => (!t.is_nested() && !t.is_numeric(), "numbers are written without quotes"),
        (t, Literal::Bool(_)) => (
            *t == DataType::Boolean,
            "TRUE and FALSE are compared with a boolean column",
        ),
    };
    if !fits {
        return Err(BatchError::Plan(format!(
            "filter: column `{name}` is {} and cannot be compared with {literal}: {expected}",
            array.data_type()
        )));
    }
    // 0.5 is compared with an integer column as a number, not refused.
    if let Literal::Number(digits) = literal
        && array.data_type().is_integer()
        && digits.parse::<i128>().is_err()
    {
        array = as_type(name, &array, &DataType::Float64, digits)?;
    }
    let plain = match literal {
        Literal::Number(text) | Literal::Text(text) => text.as_str(),
        Literal::Bool(true) => "true",
        Literal::Bool(false) => "false",
    };
    let value: ArrayRef = Arc::new(StringArray::from(vec![plain]));
    let value = cast_with_options(
        &value,
        array.data_type(),
        &CastOptions {
            safe: false,
            ..CastOptions::default()
        },
    )
    .map_err(|e| {
        let kind = array.data_type();
        BatchError::Plan(format!(
            "filter: column `{name}` is {kind}, and {literal} is not a value of it: {e}"
        ))
    })?;
    let value = Scalar::new(value);
    let result = match operator {
        Comparison::Equal => cmp::eq(&array, &value),
        Comparison::NotEqual => cmp::neq(&array, &value),
        Comparison::Less => cmp::lt(&array, &value),
        Comparison::LessOrEqual => cmp::lt_eq(&array, &value),
        Comparison::Greater => cmp::gt(&array, &value),
        Comparison::GreaterOrEqual => cmp::gt_eq(&array, &value),
    };
    result.map_err(failed(name))
}
