//! `CREATE …` of everything but a corpus.

use datafusion::sql::parser::{DFParserBuilder, Statement as EngineStatement};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::cursor::Cursor;
use super::rewrite::normalized_ident;
use super::{corpus, hash_list, lexer, model, parse_engine, parse_query, syntax_error};
use crate::error::{Fault, Result, SqlError, nearest};
use crate::source_text::SqlText;
use crate::statement::{CreateExternalTable, CreateFunction, CreateTokenizer, CreateView, StatementKind};

/// What stood between `CREATE` and the kind of object.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Prefix {
    pub(super) or_replace: bool,
    pub(super) or_refresh: bool,
}

/// Parses a statement whose next word is `CREATE`.
pub(super) fn parse(cursor: &mut Cursor<'_>, tokens: &[TokenWithSpan]) -> Result<StatementKind> {
    cursor.expect("CREATE")?;
    let mut prefix = Prefix::default();
    if cursor.eat("OR REPLACE") {
        prefix.or_replace = true;
    } else if cursor.eat("OR REFRESH") {
        prefix.or_refresh = true;
    } else if cursor.eat("OR") {
        return Err(cursor.expected("REPLACE or REFRESH"));
    }
    let kind_position = cursor.position();
    let kind = cursor.peek_word().unwrap_or_default();
    if prefix.or_refresh && kind != "CORPUS" {
        return Err(cursor.expected("CORPUS after OR REFRESH"));
    }
    match kind.as_str() {
        "CORPUS" => corpus::parse_create(cursor, prefix).map(|corpus| StatementKind::CreateCorpus(Box::new(corpus))),
        "TOKENIZER" => parse_tokenizer(cursor, prefix).map(StatementKind::CreateTokenizer),
        "VIEW" => parse_view(cursor, prefix).map(StatementKind::CreateView),
        "MATERIALIZED" => {
            cursor.advance();
            parse_view(cursor, prefix).map(StatementKind::CreateMaterializedView)
        }
        "FUNCTION" => parse_function(cursor, tokens).map(StatementKind::CreateFunction),
        "EXTERNAL" => parse_external_table(cursor, tokens).map(StatementKind::CreateExternalTable),
        "MODEL" => model::parse(cursor, prefix).map(StatementKind::CreateModel),
        "HASH" => hash_list::parse(cursor, prefix).map(StatementKind::CreateHashList),
        "TABLE" => Err(SqlError::Unsupported(
            Fault::at(
                cursor.text(),
                Some(kind_position),
                "CREATE TABLE is not part of this dialect",
            )
            .with_help("use CREATE EXTERNAL TABLE over files, a view, or a corpus"),
        )),
        _ => {
            const KINDS: [&str; 8] = [
                "CORPUS",
                "TOKENIZER",
                "VIEW",
                "MATERIALIZED VIEW",
                "FUNCTION",
                "EXTERNAL TABLE",
                "MODEL",
                "HASH LIST",
            ];
            let hint = nearest(&kind, KINDS.map(String::from))
                .map(|near| format!(" (did you mean CREATE {near}?)"))
                .unwrap_or_default();
            Err(cursor.fault(
                kind_position,
                format!(
                    "unknown kind of object '{kind}'{hint}; expected one of {}",
                    KINDS.join(", ")
                ),
            ))
        }
    }
}

fn parse_tokenizer(cursor: &mut Cursor<'_>, prefix: Prefix) -> Result<CreateTokenizer> {
    cursor.expect("TOKENIZER")?;
    let if_not_exists = cursor.eat("IF NOT EXISTS");
    let name = cursor.name("the tokenizer's name")?;
    cursor.expect("WITH")?;
    let options_position = cursor.position();
    let options = cursor.options()?;
    cursor.finish()?;
    let mut uri = None;
    let mut max_length = None;
    for (key, value) in options {
        match key.as_str() {
            "uri" => uri = Some(value),
            "max_length" => match value.parse::<u32>() {
                Ok(length) if length > 0 => max_length = Some(length),
                _ => {
                    return Err(cursor.fault(
                        options_position,
                        format!("max_length is '{value}', expected a number of tokens above 0"),
                    ));
                }
            },
            _ => {
                return Err(unknown_option(cursor, &key, &["uri", "max_length"], options_position));
            }
        }
    }
    let uri = uri.ok_or_else(|| cursor.fault(options_position, "a tokenizer needs uri = 'path/to/tokenizer.json'"))?;
    Ok(CreateTokenizer {
        name,
        or_replace: prefix.or_replace,
        if_not_exists,
        uri,
        max_length,
    })
}

/// Says that an option is unknown, naming the nearest.
pub(super) fn unknown_option(
    cursor: &Cursor<'_>,
    key: &str,
    known: &[&str],
    position: crate::source_text::Position,
) -> SqlError {
    let hint = match nearest(key, known.iter().map(|name| (*name).to_string())) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("known are {}", known.join(", ")),
    };
    cursor.fault(position, format!("unknown option '{key}' ({hint})"))
}

fn parse_view(cursor: &mut Cursor<'_>, prefix: Prefix) -> Result<CreateView> {
    cursor.expect("VIEW")?;
    let if_not_exists = cursor.eat("IF NOT EXISTS");
    let name = cursor.name("the view's name")?;
    let columns = if cursor.peek_is_left_parenthesis() {
        cursor.names_in_parentheses("a column name")?
    } else {
        Vec::new()
    };
    let options = if cursor.eat("WITH") {
        cursor.options()?
    } else {
        Vec::new()
    };
    cursor.expect("AS")?;
    let query = query_text(cursor)?;
    Ok(CreateView {
        name,
        or_replace: prefix.or_replace,
        if_not_exists,
        options,
        columns,
        query,
    })
}

/// The rest of the statement, checked to be a query.
pub(super) fn query_text(cursor: &mut Cursor<'_>) -> Result<SqlText> {
    let query = cursor.rest("a query")?;
    parse_query(&query)?;
    Ok(query)
}

fn parse_external_table(cursor: &Cursor<'_>, tokens: &[TokenWithSpan]) -> Result<CreateExternalTable> {
    let definition = parse_engine(tokens.to_vec(), cursor.text())?;
    let EngineStatement::CreateExternalTable(table) = &definition else {
        return Err(cursor.expected("EXTERNAL TABLE"));
    };
    const FORMATS: [&str; 6] = ["PARQUET", "CSV", "JSON", "NDJSON", "ARROW", "DELTA"];
    let format = table.file_type.to_uppercase();
    if !FORMATS.contains(&format.as_str()) {
        let hint = nearest(&format, FORMATS.map(String::from))
            .map(|near| format!(" (did you mean {near}?)"))
            .unwrap_or_default();
        return Err(cursor.fault(
            place_of(tokens, &table.file_type).unwrap_or(cursor.text().start),
            format!(
                "unknown format '{}'{hint}; STORED AS takes {}",
                table.file_type,
                FORMATS.join(", ")
            ),
        ));
    }
    let name = match table.name.0.as_slice() {
        [part] => part.as_ident().map(normalized_ident),
        _ => None,
    }
    .ok_or_else(|| cursor.fault(cursor.text().start, "a table's name is a single identifier"))?;
    Ok(CreateExternalTable {
        name,
        or_replace: table.or_replace,
        if_not_exists: table.if_not_exists,
        format,
        locations: table.locations.clone(),
        definition: Box::new(definition.clone()),
    })
}

fn place_of(tokens: &[TokenWithSpan], word: &str) -> Option<crate::source_text::Position> {
    tokens
        .iter()
        .find(|token| token.token.to_string().eq_ignore_ascii_case(word))
        .map(lexer::start)
}

fn parse_function(cursor: &Cursor<'_>, tokens: &[TokenWithSpan]) -> Result<CreateFunction> {
    let text = cursor.text();
    let (tokens, if_not_exists) = without_if_not_exists(tokens);
    let mut parser = DFParserBuilder::new(tokens)
        .build()
        .map_err(|error| syntax_error(error, text))?;
    let parsed = parser.parse_statements().map_err(|error| syntax_error(error, text))?;
    let function = match parsed.into_iter().next() {
        Some(EngineStatement::Statement(statement)) => match *statement {
            ast::Statement::CreateFunction(function) => function,
            _ => return Err(cursor.expected("FUNCTION")),
        },
        _ => return Err(cursor.expected("FUNCTION")),
    };
    let fault = |message: String| cursor.fault(text.start, message);
    let name = match function.name.0.as_slice() {
        [part] => part.as_ident().map(normalized_ident),
        _ => None,
    }
    .ok_or_else(|| fault("a function's name is a single identifier".into()))?;
    let language = function.language.map(|language| language.value.to_lowercase());
    if language.as_deref() != Some("python") {
        return Err(fault(format!(
            "function {name} is in {}; expected LANGUAGE python",
            language.as_deref().unwrap_or("no language")
        )));
    }
    let returns = match function.return_type {
        Some(ast::FunctionReturnType::DataType(returns)) => returns,
        _ => return Err(fault(format!("function {name} needs RETURNS with a type"))),
    };
    let mut arguments = Vec::new();
    for (index, argument) in function.args.unwrap_or_default().into_iter().enumerate() {
        let argument_name = argument
            .name
            .map_or_else(|| format!("arg{}", index + 1), |ident| normalized_ident(&ident));
        arguments.push((argument_name, argument.data_type));
    }
    if arguments.is_empty() {
        return Err(fault(format!(
            "function {name} takes no argument, so it could not know how many rows to return"
        )));
    }
    let body = match function.function_body {
        Some(ast::CreateFunctionBody::AsBeforeOptions { body, .. } | ast::CreateFunctionBody::AsAfterOptions(body)) => {
            string_literal(&body)
        }
        _ => None,
    }
    .ok_or_else(|| fault(format!("function {name} needs its source as AS $$ … $$")))?;
    Ok(CreateFunction {
        name,
        or_replace: function.or_replace,
        if_not_exists,
        arguments,
        returns,
        body,
        volatile: matches!(function.behavior, Some(ast::FunctionBehavior::Volatile)),
    })
}

/// The engine's parser knows no `IF NOT EXISTS` for functions.
fn without_if_not_exists(tokens: &[TokenWithSpan]) -> (Vec<TokenWithSpan>, bool) {
    let is = |token: &TokenWithSpan, word: &str| matches!(&token.token, Token::Word(w) if w.value.eq_ignore_ascii_case(word));
    for (at, window) in tokens.windows(3).enumerate().take(5) {
        if is(&window[0], "IF") && is(&window[1], "NOT") && is(&window[2], "EXISTS") {
            let mut kept = tokens.to_vec();
            kept.drain(at..at + 3);
            return (kept, true);
        }
    }
    (tokens.to_vec(), false)
}

fn string_literal(expression: &ast::Expr) -> Option<String> {
    match expression {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::SingleQuotedString(body) => Some(body.clone()),
            ast::Value::DollarQuotedString(body) => Some(body.value.clone()),
            _ => None,
        },
        _ => None,
    }
}
