//! Text to tokens whose spans are places in the file.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, Whitespace};

use crate::error::{Fault, Result, SqlError};
use crate::source_text::{Position, SqlText};

/// Tokens of a text without blanks and comments, their spans shifted to the file.
pub(super) fn tokenize(text: &SqlText) -> Result<Vec<TokenWithSpan>> {
    let source = text.text.strip_prefix('\u{feff}').unwrap_or(&text.text);
    let mut tokens = Tokenizer::new(&GenericDialect {}, source)
        .tokenize_with_location()
        .map_err(|error| {
            let position = position(error.location).shifted_by(text.start);
            SqlError::Syntax(Fault::at(text, Some(position), error.message))
        })?;
    tokens.retain(|token| {
        !matches!(
            token.token,
            Token::Whitespace(
                Whitespace::Space
                    | Whitespace::Newline
                    | Whitespace::Tab
                    | Whitespace::SingleLineComment { .. }
                    | Whitespace::MultiLineComment(_)
            )
        )
    });
    for token in &mut tokens {
        token.span = Span::new(
            location(position(token.span.start).shifted_by(text.start)),
            location(position(token.span.end).shifted_by(text.start)),
        );
    }
    Ok(tokens)
}

/// Splits tokens at semicolons; empty statements vanish. A dollar-quoted body is one token, so it is never cut.
pub(super) fn split(tokens: Vec<TokenWithSpan>) -> Vec<Vec<TokenWithSpan>> {
    tokens
        .split(|token| token.token == Token::SemiColon)
        .filter(|tokens| !tokens.is_empty())
        .map(<[TokenWithSpan]>::to_vec)
        .collect()
}

/// Where a token starts.
pub(super) fn start(token: &TokenWithSpan) -> Position {
    position(token.span.start)
}

/// Where a token ends, exclusive.
pub(super) fn end(token: &TokenWithSpan) -> Position {
    position(token.span.end)
}

fn position(location: Location) -> Position {
    Position {
        line: location.line.max(1),
        column: location.column.max(1),
    }
}

fn location(position: Position) -> Location {
    Location::new(position.line, position.column)
}
