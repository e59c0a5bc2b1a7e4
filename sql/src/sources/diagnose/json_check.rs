//! Finds the line of a JSON-lines file that does not fit the table.

use datafusion::arrow::datatypes::{DataType, Schema};
use serde_json::Value;

use super::utf8_fault;

/// `:line: what is wrong`, or nothing if the file is fine.
pub(super) fn check(bytes: &[u8], schema: &Schema) -> Option<String> {
    if let Some(fault) = utf8_fault(bytes) {
        return Some(fault);
    }
    let text = std::str::from_utf8(bytes).ok()?;
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = index + 1;
        let value: Value = match serde_json::from_str(line) {
            Ok(value) => value,
            Err(error) => {
                return Some(format!(
                    ":{number}:{}: not JSON: {}",
                    error.column(),
                    without_place(&error.to_string())
                ));
            }
        };
        let Value::Object(row) = value else {
            return Some(format!(":{number}: expected an object, one a line"));
        };
        for field in schema.fields() {
            let Some(value) = row.get(field.name()) else {
                continue;
            };
            if !fits(value, field.data_type()) {
                return Some(format!(
                    ":{number}: column '{}': {value} is not a value of type {}",
                    field.name(),
                    field.data_type()
                ));
            }
        }
    }
    None
}

fn without_place(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message)
}

fn fits(value: &Value, data_type: &DataType) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) => matches!(data_type, DataType::Boolean) || data_type.is_string(),
        Value::Number(number) => match data_type {
            other if other.is_integer() => number.is_i64() || number.is_u64(),
            other => other.is_numeric() || other.is_string() || other.is_temporal(),
        },
        Value::String(text) => data_type.is_string() || super::csv_check::value_fault(text, data_type, true).is_none(),
        Value::Array(_) => data_type.is_nested() && !matches!(data_type, DataType::Struct(_)),
        Value::Object(_) => matches!(data_type, DataType::Struct(_) | DataType::Map(_, _)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::datatypes::Field;

    #[test]
    fn faults_name_line_and_column() {
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, true)]);
        assert_eq!(check(b"{\"id\": 1}\n\n{\"id\": null}\n", &schema), None);
        assert_eq!(
            check(b"{\"id\": 1}\n{\"id\": \"x\"}\n", &schema),
            Some(":2: column 'id': \"x\" is not a value of type Int64".into())
        );
        let broken = check(b"{\"id\": 1}\n{\"id\": \n", &schema).unwrap();
        assert!(broken.starts_with(":2:7: not JSON: EOF"), "{broken}");
    }
}
