//! `SHOW`, `DESCRIBE`, `DROP` and `CALL`.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use crate::error::{Result, nearest};
use crate::statement::{Call, DropObject, ObjectKind, ObjectRef, Show};

const SHOWN: [(&str, Show); 10] = [
    ("CORPORA", Show::Corpora),
    ("BUILDS", Show::Builds),
    ("TABLES", Show::Tables),
    ("VIEWS", Show::Views),
    ("TOKENIZERS", Show::Tokenizers),
    ("FUNCTIONS", Show::Functions),
    ("MODELS", Show::Models),
    ("HASH LISTS", Show::HashLists),
    ("SCHEDULES", Show::Schedules),
    ("SCHEDULED RUNS", Show::Runs),
];

/// Parses `SHOW things`.
pub(super) fn parse_show(cursor: &mut Cursor<'_>) -> Result<Show> {
    cursor.expect("SHOW")?;
    for (words, show) in SHOWN {
        if cursor.eat(words) {
            cursor.finish()?;
            return Ok(show);
        }
    }
    let word = cursor.peek_word().unwrap_or_default();
    let known = SHOWN.map(|(words, _)| words.to_string());
    let list = known.join(", ");
    match nearest(&word, known) {
        Some(near) => Err(cursor.fault(
            cursor.position(),
            format!("cannot show '{word}' (did you mean SHOW {near}?)"),
        )),
        None => Err(cursor.expected(&format!("one of {list}"))),
    }
}

/// Parses `DESCRIBE [kind] name [VERSION AS OF n]`.
pub(super) fn parse_describe(cursor: &mut Cursor<'_>) -> Result<ObjectRef> {
    cursor.advance();
    // `DESCRIBE corpus` alone may describe an object of that name.
    let kind = if cursor.peek_word_at(1).is_some() {
        object_kind(cursor)
    } else {
        None
    };
    let position = cursor.position();
    let name = cursor.relation_name("the name of an object")?;
    cursor.finish()?;
    Ok(ObjectRef { kind, name, position })
}

/// Parses `DROP kind [IF EXISTS] name`.
pub(super) fn parse_drop(cursor: &mut Cursor<'_>) -> Result<DropObject> {
    cursor.expect("DROP")?;
    let Some(kind) = object_kind(cursor) else {
        return Err(cursor.expected("TABLE, VIEW, MATERIALIZED VIEW, TOKENIZER, MODEL, HASH LIST, FUNCTION or CORPUS"));
    };
    let if_exists = cursor.eat("IF EXISTS");
    let name = cursor.name("the object's name")?;
    cursor.finish()?;
    Ok(DropObject { kind, name, if_exists })
}

fn object_kind(cursor: &mut Cursor<'_>) -> Option<ObjectKind> {
    for (words, kind) in [
        ("EXTERNAL TABLE", ObjectKind::Table),
        ("TABLE", ObjectKind::Table),
        ("MATERIALIZED VIEW", ObjectKind::MaterializedView),
        ("VIEW", ObjectKind::View),
        ("TOKENIZER", ObjectKind::Tokenizer),
        ("MODEL", ObjectKind::Model),
        ("HASH LIST", ObjectKind::HashList),
        ("FUNCTION", ObjectKind::Function),
        ("CORPUS", ObjectKind::Corpus),
    ] {
        if cursor.eat(words) {
            return Some(kind);
        }
    }
    None
}

/// Parses `CALL procedure(…)`, keeping the arguments as text.
pub(super) fn parse_call(cursor: &mut Cursor<'_>) -> Result<Call> {
    cursor.expect("CALL")?;
    let procedure = cursor.name("a procedure's name")?;
    cursor.expect_token(&Token::LParen)?;
    let mut arguments = Vec::new();
    while !cursor.eat_token(&Token::RParen) {
        arguments.push(cursor.argument()?);
        if !cursor.eat_token(&Token::Comma) && !cursor.peek_is(&Token::RParen) {
            return Err(cursor.expected("',' or ')'"));
        }
    }
    cursor.finish()?;
    Ok(Call { procedure, arguments })
}
