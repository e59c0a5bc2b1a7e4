//! Rewrites of the token stream, before the engine's parser sees it.
//!
//! - `c VERSION AS OF 3` becomes the relation `"c@3" AS c` (or keeps the alias that was written);
//! - `f(…, MODEL m, DESCRIPTOR(c))` becomes `f(…, model => 'm', descriptor => 'c')`, and `HASHLIST h` `hashlist => 'h'`;
//! - `f(TABLE t, …)` becomes `f((SELECT * FROM t), …)`: a sub-query, so that the engine resolves `t` before planning.
//!
//! The new tokens carry the spans of those they replace, so errors still point into the file.

use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

/// Applies all rewrites.
pub(super) fn rewrite(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    table_arguments(object_arguments(versions(tokens)))
}

/// `MODEL m`, `HASHLIST h` and `DESCRIPTOR(c)` as arguments by name.
fn object_arguments(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        let begins = begins_argument(&out);
        let (name, length) = match tokens.get(at..).unwrap_or_default() {
            [model, name, ..] if begins && is_word(model, "MODEL") => (Some(name), 2),
            // Behind a rewritten version stands the name again, as an alias.
            [list, name, as_, _, ..] if begins && is_word(list, "HASHLIST") && is_word(as_, "AS") => (Some(name), 4),
            [list, name, ..] if begins && is_word(list, "HASHLIST") => (Some(name), 2),
            [descriptor, open, name, close, ..]
                if begins
                    && is_word(descriptor, "DESCRIPTOR")
                    && open.token == Token::LParen
                    && close.token == Token::RParen =>
            {
                (Some(name), 4)
            }
            _ => (None, 1),
        };
        match name.map(|name| (&name.token, name.span)) {
            Some((Token::Word(name), span)) => {
                let argument = match &tokens[at].token {
                    Token::Word(word) => word.value.to_lowercase(),
                    _ => String::new(),
                };
                out.push(word(&argument, false, tokens[at].span));
                out.push(TokenWithSpan::new(Token::RArrow, span));
                out.push(TokenWithSpan::new(Token::SingleQuotedString(normalized(name)), span));
                at += length;
            }
            _ => {
                out.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    out
}

fn versions(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        match version_at(&tokens, at) {
            Some((name, version)) => {
                let token = &tokens[at];
                let span = Span::new(token.span.start, tokens[at + 4].span.end);
                out.push(word(&format!("{name}@{version}"), true, span));
                at += 5;
                // A table argument is the whole sub-query, so that an alias there would be of no use, but does no harm.
                if !has_alias(tokens.get(at)) {
                    out.push(keyword("AS", span));
                    out.push(token.clone());
                }
            }
            None => {
                out.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    out
}

/// `name VERSION AS OF n` at this place.
fn version_at(tokens: &[TokenWithSpan], at: usize) -> Option<(String, String)> {
    let [name, version, as_, of, number] = tokens.get(at..at + 5)? else {
        return None;
    };
    let Token::Word(name) = &name.token else {
        return None;
    };
    let Token::Number(number, false) = &number.token else {
        return None;
    };
    let is = is_word(version, "VERSION") && is_word(as_, "AS") && is_word(of, "OF");
    is.then(|| (normalized(name), number.clone()))
}

fn has_alias(next: Option<&TokenWithSpan>) -> bool {
    match next.map(|token| &token.token) {
        Some(Token::Word(word)) => {
            word.keyword == Keyword::AS
                || word.quote_style.is_some()
                || !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword)
        }
        _ => false,
    }
}

fn table_arguments(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if is_word(&tokens[at], "TABLE") && begins_argument(&out) {
            if tokens.get(at + 1).is_some_and(|next| next.token == Token::LParen) {
                at += 1;
                continue;
            }
            let length = relation_length(&tokens[at + 1..]);
            if length > 0 {
                let span = tokens[at].span;
                out.push(TokenWithSpan::new(Token::LParen, span));
                out.push(keyword("SELECT", span));
                out.push(TokenWithSpan::new(Token::Mul, span));
                out.push(keyword("FROM", span));
                out.extend_from_slice(&tokens[at + 1..at + 1 + length]);
                out.push(TokenWithSpan::new(Token::RParen, tokens[at + length].span));
                at += 1 + length;
                continue;
            }
        }
        out.push(tokens[at].clone());
        at += 1;
    }
    out
}

/// True after `f(`, after a comma, and after `name =>`: where an argument of a function begins.
fn begins_argument(before: &[TokenWithSpan]) -> bool {
    match before {
        [.., name, open] if open.token == Token::LParen => match &name.token {
            Token::Word(word) => {
                word.keyword == Keyword::NoKeyword
                    || !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword)
                        && !matches!(word.keyword, Keyword::AS | Keyword::IN | Keyword::EXISTS)
            }
            _ => false,
        },
        [.., last] => matches!(last.token, Token::Comma | Token::RArrow),
        [] => false,
    }
}

/// Tokens of `a`, `a.b`, `a.b.c`, with `AS alias` behind a rewritten version.
fn relation_length(tokens: &[TokenWithSpan]) -> usize {
    let is_name = |at: usize| {
        tokens
            .get(at)
            .is_some_and(|token| matches!(token.token, Token::Word(_)))
    };
    if !is_name(0) {
        return 0;
    }
    let mut length = 1;
    while tokens.get(length).is_some_and(|token| token.token == Token::Period) && is_name(length + 1) {
        length += 2;
    }
    if tokens.get(length).is_some_and(|token| is_word(token, "AS")) && is_name(length + 1) {
        length += 2;
    }
    length
}

fn normalized(word: &Word) -> String {
    if word.quote_style.is_some() {
        word.value.clone()
    } else {
        word.value.to_lowercase()
    }
}

fn is_word(token: &TokenWithSpan, expected: &str) -> bool {
    match &token.token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected),
        _ => false,
    }
}

fn word(value: &str, quoted: bool, span: Span) -> TokenWithSpan {
    let quote = quoted.then_some('"');
    TokenWithSpan::new(Token::make_word(value, quote), span)
}

fn keyword(value: &str, span: Span) -> TokenWithSpan {
    TokenWithSpan::new(Token::make_keyword(value), span)
}

/// The dialect's normal form of an identifier: lower case unless quoted.
pub(crate) fn normalized_ident(ident: &Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    }
}
