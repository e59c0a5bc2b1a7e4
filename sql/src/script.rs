//! From the text of a script to its statements.
//!
//! ```text
//! text ── lexer ──▶ tokens ── split at ';' ──▶ one statement's tokens
//!                                                 │ rewrite: TABLE t, VERSION AS OF
//!                       own leading keywords ◀────┤
//!                    (create, corpus, inspect)    └──▶ the engine's parser
//! ```

mod corpus;
mod create;
mod cursor;
mod hash_list;
mod inspect;
mod lexer;
mod model;
mod rewrite;

use datafusion::common::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement as EngineStatement};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;

use crate::error::{Fault, Result, SqlError, nearest};
use crate::source_text::{Position, SqlText};
use crate::statement::{Statement, StatementKind};
use cursor::Cursor;
pub(crate) use rewrite::normalized_ident;

/// Depth of nesting at which a statement is refused rather than risking the stack.
const NESTING_MAX: usize = 100;

/// Parses a whole script into its statements.
///
/// `origin` is the file's name as errors will show it.
///
/// # Errors
/// [`SqlError::Syntax`] with line and column of the first statement that does not parse, and
/// [`SqlError::Unsupported`] for statements that a later part brings.
pub fn parse_script(text: &str, origin: &str) -> Result<Vec<Statement>> {
    parse_text(&SqlText::file(text, origin))
}

/// Parses a piece of a script, such as a statement that the catalogue kept; positions are those of the file.
///
/// # Errors
/// As [`parse_script`].
pub fn parse_text(text: &SqlText) -> Result<Vec<Statement>> {
    let tokens = lexer::tokenize(text)?;
    let mut statements = Vec::new();
    for tokens in lexer::split(tokens) {
        let from = lexer::start(&tokens[0]);
        let to = lexer::end(&tokens[tokens.len() - 1]);
        let statement_text = text.slice(from, to);
        let kind = parse_statement(&tokens, &statement_text)?;
        statements.push(Statement {
            text: statement_text,
            kind,
        });
    }
    Ok(statements)
}

/// Parses exactly one query.
pub(crate) fn parse_query(text: &SqlText) -> Result<ast::Query> {
    let tokens = lexer::tokenize(text)?;
    match parse_engine(tokens, text)? {
        EngineStatement::Statement(statement) => match *statement {
            ast::Statement::Query(query) => Ok(*query),
            _ => Err(SqlError::Syntax(Fault::at(
                text,
                Some(text.start),
                "expected a query (SELECT, WITH or VALUES)",
            ))),
        },
        _ => Err(SqlError::Syntax(Fault::at(
            text,
            Some(text.start),
            "expected a query (SELECT, WITH or VALUES)",
        ))),
    }
}

/// Parses exactly one scalar expression, such as the condition of an expectation.
pub(crate) fn parse_expression(text: &SqlText) -> Result<ast::Expr> {
    let tokens = rewrite::rewrite(lexer::tokenize(text)?);
    let mut parser = DFParserBuilder::new(tokens)
        .with_recursion_limit(NESTING_MAX)
        .build()
        .map_err(|error| syntax_error(error, text))?;
    let parsed = parser.parse_into_expr().map_err(|error| syntax_error(error, text))?;
    Ok(parsed.expr)
}

fn parse_statement(tokens: &[TokenWithSpan], text: &SqlText) -> Result<StatementKind> {
    let mut cursor = Cursor::new(tokens, text);
    let Some(word) = cursor.peek_word() else {
        if cursor.peek_is_left_parenthesis() {
            return parse_engine_kind(tokens, text);
        }
        return Err(cursor.expected("a statement"));
    };
    match word.as_str() {
        "CREATE" => create::parse(&mut cursor, tokens),
        "REFRESH" => corpus::parse_refresh(&mut cursor).map(StatementKind::RefreshCorpus),
        "ALTER" => corpus::parse_alter(&mut cursor).map(StatementKind::AlterCorpus),
        "SHOW" => inspect::parse_show(&mut cursor).map(StatementKind::Show),
        "DESCRIBE" | "DESC" => inspect::parse_describe(&mut cursor).map(StatementKind::Describe),
        "DROP" => inspect::parse_drop(&mut cursor).map(StatementKind::Drop),
        "CALL" => inspect::parse_call(&mut cursor).map(StatementKind::Call),
        "EXPLAIN" if cursor.peek_word_at(1).as_deref() == Some("REFRESH") => {
            cursor.advance();
            corpus::parse_refresh(&mut cursor).map(StatementKind::ExplainRefresh)
        }
        "SELECT" | "WITH" | "VALUES" | "TABLE" | "FROM" | "COPY" | "EXPLAIN" | "SET" | "RESET" => {
            parse_engine_kind(tokens, text)
        }
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "TRUNCATE" => Err(SqlError::Unsupported(
            Fault::at(
                text,
                Some(text.start),
                format!("{word} is not part of this dialect: sources are read, never written"),
            )
            .with_help("publish rows with CREATE CORPUS, or write files with COPY … TO"),
        )),
        _ => Err(unknown_statement(&cursor, &word)),
    }
}

fn unknown_statement(cursor: &Cursor<'_>, word: &str) -> SqlError {
    const STATEMENTS: [&str; 14] = [
        "CREATE", "REFRESH", "ALTER", "SHOW", "DESCRIBE", "DROP", "CALL", "EXPLAIN", "SELECT", "WITH", "VALUES",
        "COPY", "SET", "RESET",
    ];
    let message = match nearest(word, STATEMENTS.map(String::from)) {
        Some(near) => format!("unknown statement '{word}' (did you mean '{near}'?)"),
        None => format!("unknown statement '{word}'"),
    };
    SqlError::Syntax(
        Fault::at(cursor.text(), Some(cursor.position()), message).with_help("docs/SQL.md lists every statement"),
    )
}

fn parse_engine_kind(tokens: &[TokenWithSpan], text: &SqlText) -> Result<StatementKind> {
    let statement = parse_engine(tokens.to_vec(), text)?;
    Ok(match statement {
        EngineStatement::CopyTo(_) => StatementKind::CopyTo(Box::new(statement)),
        EngineStatement::Explain(_) => StatementKind::Explain(Box::new(statement)),
        EngineStatement::Reset(_) => StatementKind::Set(Box::new(statement)),
        EngineStatement::Statement(ref inner) => match inner.as_ref() {
            ast::Statement::Query(_) => StatementKind::Query(Box::new(statement)),
            ast::Statement::Set(_) => StatementKind::Set(Box::new(statement)),
            _ => {
                return Err(SqlError::Unsupported(Fault::at(
                    text,
                    Some(text.start),
                    "this form of the statement is not part of the dialect",
                )));
            }
        },
        EngineStatement::CreateExternalTable(_) => {
            return Err(SqlError::Syntax(Fault::at(text, Some(text.start), "expected a query")));
        }
    })
}

/// Rewrites the tokens and hands them to the engine's parser; everything must be consumed.
fn parse_engine(tokens: Vec<TokenWithSpan>, text: &SqlText) -> Result<EngineStatement> {
    let tokens = rewrite::rewrite(tokens);
    let mut parser = DFParserBuilder::new(tokens)
        .with_recursion_limit(NESTING_MAX)
        .build()
        .map_err(|error| syntax_error(error, text))?;
    let mut statements = parser.parse_statements().map_err(|error| syntax_error(error, text))?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(statement), true) => Ok(statement),
        _ => Err(SqlError::Syntax(Fault::at(
            text,
            Some(text.start),
            "expected exactly one statement",
        ))),
    }
}

/// Takes line and column out of the engine's message and points into the file instead.
fn syntax_error(error: DataFusionError, text: &SqlText) -> SqlError {
    let span = error.diagnostic().and_then(|diagnostic| diagnostic.span);
    let message = match error.find_root() {
        DataFusionError::SQL(inner, _) => match inner.as_ref() {
            ParserError::ParserError(message) | ParserError::TokenizerError(message) => message.clone(),
            ParserError::RecursionLimitExceeded => {
                format!("expressions are nested more than {NESTING_MAX} deep")
            }
        },
        other => other.message().into_owned(),
    };
    let (message, place) = split_place(&message);
    let position = span
        .map(|span| Position {
            line: span.start.line,
            column: span.start.column,
        })
        .or(place)
        .unwrap_or_else(|| end_of(text));
    let message = match message.strip_prefix("Expected: ") {
        Some(rest) => format!("expected {}", rest.replace("found: EOF", "found the end")),
        None => message.to_string(),
    };
    SqlError::Syntax(Fault::at(text, Some(position), message))
}

/// Splits `… at Line: 3, Column: 7` off a message of the parser.
fn split_place(message: &str) -> (&str, Option<Position>) {
    let Some((before, place)) = message.rsplit_once(" at Line: ") else {
        return (message, None);
    };
    let Some((line, column)) = place.split_once(", Column: ") else {
        return (message, None);
    };
    let column: String = column.chars().take_while(char::is_ascii_digit).collect();
    match (line.parse(), column.parse()) {
        (Ok(line), Ok(column)) => (before, Some(Position { line, column })),
        _ => (message, None),
    }
}

/// Position of the last character of a text.
fn end_of(text: &SqlText) -> Position {
    let mut position = Position::START;
    for character in text.text.trim_end().chars() {
        if character == '\n' {
            position = Position {
                line: position.line + 1,
                column: 1,
            };
        } else {
            position.column += 1;
        }
    }
    position.shifted_by(text.start)
}

#[cfg(test)]
mod tests;
