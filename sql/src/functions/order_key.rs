//! Rows as bytes that compare as the rows do under an `ORDER BY`.
//!
//! - `order_key(order, a, b, …)` → `Binary`. `order` has two letters for each column: `a` or `d` (ascending or
//!   descending), then `f` or `l` (NULLs first or last).
//! - `order_key_value(order, key, a, b, …)`: the value of the last column in a key; the columns give the types.
//!
//! The bytes are those of `arrow-row`; they are used inside of one plan and kept nowhere.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::compute::{SortOptions, cast};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::cast::as_binary_array;
use datafusion::common::{Result, exec_datafusion_err, plan_err};
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use super::text_function::constant_text;

/// `order_key` of an order.
pub(crate) fn of(order: &[Sort]) -> Expr {
    let columns = order.iter().map(|term| term.expr.clone());
    key().call([lit(letters(order))].into_iter().chain(columns).collect())
}

/// The value of the last term of the order in `key`.
pub(crate) fn last_value(order: &[Sort], key: Expr) -> Expr {
    let columns = order.iter().map(|term| term.expr.clone());
    value().call([lit(letters(order)), key].into_iter().chain(columns).collect())
}

fn letters(order: &[Sort]) -> String {
    let of_term = |term: &Sort| match (term.asc, term.nulls_first) {
        (true, true) => "af",
        (true, false) => "al",
        (false, true) => "df",
        (false, false) => "dl",
    };
    order.iter().map(of_term).collect()
}

pub(crate) fn key() -> ScalarUDF {
    OrderKey::udf("order_key", 1)
}

pub(crate) fn value() -> ScalarUDF {
    OrderKey::udf("order_key_value", 2)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OrderKey {
    name: &'static str,
    /// Arguments before the columns.
    before: usize,
    signature: Signature,
}

impl OrderKey {
    fn udf(name: &'static str, before: usize) -> ScalarUDF {
        ScalarUDF::new_from_impl(OrderKey {
            name,
            before,
            signature: Signature::variadic_any(Volatility::Immutable),
        })
    }

    fn fields(&self, order: &str, columns: &[DataType]) -> Result<Vec<SortField>> {
        let letters: Vec<char> = order.chars().collect();
        if letters.len() != 2 * columns.len() {
            return plan_err!(
                "{}: '{order}' has not two letters for each of {} columns",
                self.name,
                columns.len()
            );
        }
        Ok(letters
            .chunks(2)
            .zip(columns)
            .map(|(letters, data_type)| {
                let options = SortOptions {
                    descending: letters[0] == 'd',
                    nulls_first: letters[1] == 'f',
                };
                SortField::new_with_options(data_type.clone(), options)
            })
            .collect())
    }
}

/// The type that a column of a key has when it is read back.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        other => other.clone(),
    }
}

impl ScalarUDFImpl for OrderKey {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [_, .., last] if types.len() > self.before => Ok(match self.before {
                1 => DataType::Binary,
                _ => plain(last),
            }),
            _ => plan_err!("{} takes an order and one or more columns", self.name),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let order = constant_text(self.name, "order", &args.args[0])?;
        let columns = args.args[self.before..]
            .iter()
            .map(|value| {
                let array = value.to_array(args.number_rows)?;
                Ok(cast(&array, &plain(array.data_type()))?)
            })
            .collect::<Result<Vec<ArrayRef>>>()?;
        let types: Vec<DataType> = columns.iter().map(|column| column.data_type().clone()).collect();
        let converter = RowConverter::new(self.fields(&order, &types)?)?;
        if self.before == 1 {
            let rows = converter.convert_columns(&columns)?;
            return Ok(ColumnarValue::Array(Arc::new(rows.try_into_binary()?)));
        }
        let keys = args.args[1].to_array(args.number_rows)?;
        let keys = as_binary_array(&keys)?;
        let parser = converter.parser();
        // Where there is no key, any row is read, and then left out.
        let filler = converter.convert_columns(&columns)?;
        let rows = (0..keys.len()).map(|row| match keys.is_valid(row) {
            true => parser.parse(keys.value(row)),
            false => filler.row(row),
        });
        let values = converter.convert_rows(rows)?;
        let last = values
            .last()
            .ok_or_else(|| exec_datafusion_err!("an order without columns"))?;
        let missing = datafusion::arrow::compute::is_null(keys)?;
        Ok(ColumnarValue::Array(datafusion::arrow::compute::nullif(
            last, &missing,
        )?))
    }
}
