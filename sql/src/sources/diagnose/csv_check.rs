//! Finds the record of a CSV file that does not fit the table.

use datafusion::arrow::array::StringArray;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::datasource::file_format::csv::CsvFormat;

use super::utf8_fault;

/// `:line: what is wrong`, or nothing if the file is fine.
pub(super) fn check(bytes: &[u8], format: &CsvFormat, schema: &Schema) -> Option<String> {
    if let Some(fault) = utf8_fault(bytes) {
        return Some(fault);
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let has_header = format.has_header().unwrap_or(true);
    let records = Records {
        text,
        at: 0,
        line: 1,
        delimiter: char::from(format.delimiter()),
        quote: char::from(format.quote()),
    };
    let expected = schema.fields().len();
    for (index, record) in records.enumerate() {
        if let Some(line) = record.open_quote {
            return Some(format!(":{line}: a quote is opened here and never closed"));
        }
        if record.fields.len() != expected {
            return Some(format!(
                ":{}: expected {expected} columns, found {}",
                record.line,
                record.fields.len()
            ));
        }
        if index == 0 && has_header {
            continue;
        }
        for (field, value) in schema.fields().iter().zip(&record.fields) {
            if let Some(fault) = value_fault(value, field.data_type(), field.is_nullable()) {
                return Some(format!(":{}: column '{}': {fault}", record.line, field.name()));
            }
        }
    }
    None
}

/// Why a text is no value of a type.
pub(super) fn value_fault(value: &str, data_type: &DataType, nullable: bool) -> Option<String> {
    if value.is_empty() {
        return (!nullable).then(|| "empty, expected a value".to_string());
    }
    if data_type.is_string() {
        return None;
    }
    let array = StringArray::from(vec![value]);
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    match cast_with_options(&array, data_type, &strict) {
        Ok(_) => None,
        Err(_) => Some(format!("'{value}' is not a value of type {data_type}")),
    }
}

struct Record {
    line: usize,
    fields: Vec<String>,
    open_quote: Option<usize>,
}

/// Records by RFC 4180, with the line that each starts on; empty lines are skipped, as the reader does.
struct Records<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    delimiter: char,
    quote: char,
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            let rest = &self.text[self.at..];
            if let Some(after) = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n')) {
                self.at = self.text.len() - after.len();
                self.line += 1;
            } else {
                break;
            }
        }
        if self.at >= self.text.len() {
            return None;
        }
        let mut record = Record {
            line: self.line,
            fields: vec![String::new()],
            open_quote: None,
        };
        let mut quoted = false;
        let mut characters = self.text[self.at..].char_indices().peekable();
        let mut end = self.text.len();
        while let Some((offset, character)) = characters.next() {
            let field = record.fields.last_mut()?;
            if character == '\n' {
                self.line += 1;
            }
            if quoted {
                if character != self.quote {
                    field.push(character);
                } else if characters.next_if(|(_, next)| *next == self.quote).is_some() {
                    field.push(self.quote);
                } else {
                    quoted = false;
                    record.open_quote = None;
                }
            } else if character == self.quote && field.is_empty() {
                quoted = true;
                record.open_quote = Some(self.line);
            } else if character == self.delimiter {
                record.fields.push(String::new());
            } else if character == '\n' {
                if field.ends_with('\r') {
                    field.pop();
                }
                end = self.at + offset + 1;
                break;
            } else {
                field.push(character);
            }
        }
        self.at = end;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::datatypes::Field;

    fn fault(bytes: &[u8]) -> Option<String> {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("body", DataType::Utf8, true),
        ]);
        check(bytes, &CsvFormat::default().with_has_header(true), &schema)
    }

    #[test]
    fn a_good_file_has_no_fault() {
        assert_eq!(fault(b"id,body\n1,\"a, \"\"b\"\"\nc\"\r\n\n2,x\n"), None);
    }

    #[test]
    fn faults_name_the_line_of_the_file() {
        assert_eq!(
            fault(b"id,body\n1,\"two\nlines\"\n2,x,y\n"),
            Some(":4: expected 2 columns, found 3".into())
        );
        assert_eq!(
            fault(b"id,body\n1,a\nabc,x\n"),
            Some(":3: column 'id': 'abc' is not a value of type Int64".into())
        );
        assert_eq!(
            fault(b"id,body\n1,\"open\n2,x\n"),
            Some(":2: a quote is opened here and never closed".into())
        );
        assert!(
            fault(b"id,body\n1,a\xff\n")
                .is_some_and(|fault| { fault.starts_with(":2: not UTF-8 at byte 11 of the file (found ff 0a)") })
        );
    }
}
