//! `CREATE MODEL name INPUT (text VARCHAR) OUTPUT (embedding FLOAT ARRAY) WITH (uri = …, task = …)`

use corpusmill_operators::ModelTask;

use super::create::{Prefix, unknown_option};
use super::cursor::Cursor;
use crate::error::Result;
use crate::source_text::Position;
use crate::statement::{CreateModel, ModelColumnType};

const OPTIONS: [&str; 6] = ["uri", "task", "device", "dtype", "max_length", "pooling"];

pub(super) fn parse(cursor: &mut Cursor<'_>, prefix: Prefix) -> Result<CreateModel> {
    cursor.expect("MODEL")?;
    let if_not_exists = cursor.eat("IF NOT EXISTS");
    let name = cursor.name("the model's name")?;
    cursor.expect("INPUT")?;
    let position = cursor.position();
    let input = columns(cursor, "the text column of INPUT, (text VARCHAR)")?;
    if !matches!(input.as_slice(), [(_, ModelColumnType::Varchar)]) {
        return Err(cursor.fault(position, "a model takes one text: INPUT (text VARCHAR)"));
    }
    cursor.expect("OUTPUT")?;
    let outputs = columns(cursor, "the columns of OUTPUT, (embedding FLOAT ARRAY)")?;
    cursor.expect("WITH")?;
    let position = cursor.position();
    let options = cursor.options()?;
    cursor.finish()?;
    let mut model = CreateModel {
        name,
        or_replace: prefix.or_replace,
        if_not_exists,
        outputs,
        uri: String::new(),
        task: ModelTask::Embedding,
        max_length: None,
        pooling: None,
    };
    for (key, value) in options {
        set(&mut model, cursor, position, &key, value)?;
    }
    if model.uri.is_empty() {
        return Err(cursor.fault(position, "a model needs uri = 'path/to/folder' with its files"));
    }
    Ok(model)
}

fn set(model: &mut CreateModel, cursor: &Cursor<'_>, position: Position, key: &str, value: String) -> Result<()> {
    let refuse = |expected: &str| cursor.fault(position, format!("{key} is '{value}', expected {expected}"));
    match key {
        "uri" => model.uri = value,
        "task" => {
            model.task = match value.as_str() {
                "embedding" => ModelTask::Embedding,
                "classification" => ModelTask::Classification,
                _ => return Err(refuse("embedding or classification")),
            }
        }
        "device" if ["auto", "cpu"].contains(&value.as_str()) => {}
        "device" => return Err(refuse("auto or cpu: this build computes on the processor")),
        "dtype" if ["auto", "fp32"].contains(&value.as_str()) => {}
        "dtype" => {
            return Err(refuse(
                "auto or fp32: the processor computes in fp32, whatever the weights are",
            ));
        }
        "max_length" => match value.parse::<u32>() {
            Ok(length) if length > 0 => model.max_length = Some(length),
            _ => return Err(refuse("a number of tokens above 0")),
        },
        "pooling" => model.pooling = Some(value),
        _ => return Err(unknown_option(cursor, key, &OPTIONS, position)),
    }
    Ok(())
}

/// `(name TYPE, …)`
fn columns(cursor: &mut Cursor<'_>, what: &str) -> Result<Vec<(String, ModelColumnType)>> {
    let text = cursor.parenthesized(what)?;
    let mut columns = Vec::new();
    for column in text.text.split(',') {
        let mut words = column.split_whitespace();
        let name = words.next().unwrap_or_default().to_lowercase();
        let words: Vec<String> = words.map(str::to_uppercase).collect();
        let kind = match words.join(" ").as_str() {
            "VARCHAR" | "TEXT" | "STRING" => ModelColumnType::Varchar,
            "FLOAT" | "REAL" => ModelColumnType::Float,
            "FLOAT ARRAY" | "REAL ARRAY" | "FLOAT[]" | "REAL[]" | "ARRAY<FLOAT>" => ModelColumnType::FloatArray,
            other => {
                return Err(cursor.fault(
                    text.start,
                    format!("column '{name}' is {other}, expected VARCHAR, FLOAT or FLOAT ARRAY"),
                ));
            }
        };
        columns.push((name.trim_matches('"').to_owned(), kind));
    }
    Ok(columns)
}
