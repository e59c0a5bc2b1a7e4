//! A small reader over tokens for the statements that are ours.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::lexer;
use crate::error::{Fault, Result, SqlError};
use crate::source_text::{Position, SqlText};

/// Reads the tokens of one statement from left to right.
pub(super) struct Cursor<'a> {
    tokens: &'a [TokenWithSpan],
    at: usize,
    text: &'a SqlText,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(tokens: &'a [TokenWithSpan], text: &'a SqlText) -> Self {
        Cursor { tokens, at: 0, text }
    }

    pub(super) fn text(&self) -> &'a SqlText {
        self.text
    }

    /// Where the next token starts, or the end of the statement.
    pub(super) fn position(&self) -> Position {
        match (self.tokens.get(self.at), self.tokens.last()) {
            (Some(token), _) => lexer::start(token),
            (None, Some(last)) => lexer::end(last),
            (None, None) => self.text.start,
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.tokens.len()
    }

    pub(super) fn advance(&mut self) {
        self.at += 1;
    }

    /// The next word in capitals, unless it is quoted.
    pub(super) fn peek_word(&self) -> Option<String> {
        self.peek_word_at(0)
    }

    pub(super) fn peek_word_at(&self, ahead: usize) -> Option<String> {
        match &self.tokens.get(self.at + ahead)?.token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
            _ => None,
        }
    }

    pub(super) fn peek_is_left_parenthesis(&self) -> bool {
        self.peek_is(&Token::LParen)
    }

    pub(super) fn peek_is(&self, token: &Token) -> bool {
        self.tokens.get(self.at).is_some_and(|next| next.token == *token)
    }

    /// Consumes these words if they come next, all or none.
    pub(super) fn eat(&mut self, words: &str) -> bool {
        let mut count = 0;
        for word in words.split(' ') {
            if self.peek_word_at(count).as_deref() != Some(word) {
                return false;
            }
            count += 1;
        }
        self.at += count;
        true
    }

    /// Consumes these words or says that they were expected.
    pub(super) fn expect(&mut self, words: &str) -> Result<()> {
        if self.eat(words) {
            Ok(())
        } else {
            Err(self.expected(words))
        }
    }

    pub(super) fn eat_token(&mut self, token: &Token) -> bool {
        let is = self.peek_is(token);
        if is {
            self.at += 1;
        }
        is
    }

    pub(super) fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.eat_token(token) {
            Ok(())
        } else {
            Err(self.expected(&format!("'{token}'")))
        }
    }

    /// An identifier in normal form: lower case unless quoted.
    pub(super) fn name(&mut self, what: &str) -> Result<String> {
        match self.tokens.get(self.at).map(|token| &token.token) {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(if word.quote_style.is_some() {
                    word.value.clone()
                } else {
                    word.value.to_lowercase()
                })
            }
            _ => Err(self.expected(what)),
        }
    }

    /// `a` or `a.b`, joined by a dot, and `VERSION AS OF n` behind it as `a@n`.
    pub(super) fn relation_name(&mut self, what: &str) -> Result<String> {
        let mut name = self.name(what)?;
        while self.eat_token(&Token::Period) {
            name = format!("{name}.{}", self.name(what)?);
        }
        if self.eat("VERSION AS OF") {
            name = format!("{name}@{}", self.unsigned("a version number")?);
        }
        Ok(name)
    }

    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        match self.tokens.get(self.at).map(|token| &token.token) {
            Some(Token::SingleQuotedString(value)) => {
                self.at += 1;
                Ok(value.clone())
            }
            Some(Token::DollarQuotedString(value)) => {
                self.at += 1;
                Ok(value.value.clone())
            }
            _ => Err(self.expected(what)),
        }
    }

    pub(super) fn unsigned(&mut self, what: &str) -> Result<u64> {
        if let Some(Token::Number(digits, false)) = self.tokens.get(self.at).map(|t| &t.token)
            && let Ok(value) = digits.parse()
        {
            self.at += 1;
            return Ok(value);
        }
        Err(self.expected(what))
    }

    /// `(a, b, …)` of identifiers, never empty.
    pub(super) fn names_in_parentheses(&mut self, what: &str) -> Result<Vec<String>> {
        self.expect_token(&Token::LParen)?;
        let mut names = vec![self.name(what)?];
        while self.eat_token(&Token::Comma) {
            names.push(self.name(what)?);
        }
        self.expect_token(&Token::RParen)?;
        Ok(names)
    }

    /// `(key = value, …)`: keys are words or strings, values strings, numbers or words, all as text.
    pub(super) fn options(&mut self) -> Result<Vec<(String, String)>> {
        self.expect_token(&Token::LParen)?;
        let mut options: Vec<(String, String)> = Vec::new();
        while !self.eat_token(&Token::RParen) {
            let position = self.position();
            let key = match self.string("an option") {
                Ok(key) => key.to_lowercase(),
                Err(_) => self.relation_name("an option name")?,
            };
            self.eat_token(&Token::Eq);
            let value = self.option_value()?;
            if options.iter().any(|(known, _)| *known == key) {
                return Err(SqlError::Syntax(Fault::at(
                    self.text,
                    Some(position),
                    format!("option '{key}' is given twice"),
                )));
            }
            options.push((key, value));
            if !self.eat_token(&Token::Comma) && !self.peek_is(&Token::RParen) {
                return Err(self.expected("',' or ')'"));
            }
        }
        Ok(options)
    }

    fn option_value(&mut self) -> Result<String> {
        let negative = self.eat_token(&Token::Minus);
        let value = match self.tokens.get(self.at).map(|token| &token.token) {
            Some(Token::SingleQuotedString(value)) if !negative => value.clone(),
            Some(Token::Word(word)) if !negative => word.value.to_lowercase(),
            Some(Token::Number(digits, _)) if negative => format!("-{digits}"),
            Some(Token::Number(digits, _)) => digits.clone(),
            _ => return Err(self.expected("a value: a string in single quotes, a number or a word")),
        };
        self.at += 1;
        Ok(value)
    }

    /// The text between a pair of parentheses, without them.
    pub(super) fn parenthesized(&mut self, what: &str) -> Result<SqlText> {
        let open = self.position();
        self.expect_token(&Token::LParen)
            .map_err(|_| self.expected(&format!("'(' and {what}")))?;
        let from = self.position();
        let mut depth = 1usize;
        while let Some(token) = self.tokens.get(self.at) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                let to = lexer::start(token);
                if to == from {
                    return Err(self.fault(from, format!("expected {what}, found ')'")));
                }
                return Ok(self.text.slice(from, to));
            }
        }
        Err(self.fault(open, "this parenthesis is never closed"))
    }

    /// One argument of a call, `value` or `name => value`, up to the next comma or closing parenthesis.
    pub(super) fn argument(&mut self) -> Result<(Option<String>, String)> {
        let is_named = self
            .tokens
            .get(self.at + 1)
            .is_some_and(|next| next.token == Token::RArrow);
        let name = if is_named {
            let name = self.name("an argument's name")?;
            self.at += 1;
            Some(name)
        } else {
            None
        };
        let from = self.position();
        let mut to = from;
        let mut depth = 0usize;
        while let Some(token) = self.tokens.get(self.at) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen | Token::Comma if depth == 0 => break,
                Token::RParen => depth -= 1,
                _ => {}
            }
            to = lexer::end(token);
            self.at += 1;
        }
        if to == from {
            return Err(self.expected("an argument"));
        }
        Ok((name, self.text.slice(from, to).text.to_string()))
    }

    /// All that is left, to the end of the statement.
    pub(super) fn rest(&mut self, what: &str) -> Result<SqlText> {
        if self.is_at_end() {
            return Err(self.expected(what));
        }
        let from = self.position();
        let to = self.tokens.last().map_or(from, lexer::end);
        self.at = self.tokens.len();
        Ok(self.text.slice(from, to))
    }

    /// Says that nothing may follow.
    pub(super) fn finish(&self) -> Result<()> {
        if self.is_at_end() {
            Ok(())
        } else {
            Err(self.expected("the end of the statement or ';'"))
        }
    }

    pub(super) fn fault(&self, position: Position, message: impl Into<String>) -> SqlError {
        SqlError::Syntax(Fault::at(self.text, Some(position), message))
    }

    /// `expected X, found Y`, at the next token.
    pub(super) fn expected(&self, what: &str) -> SqlError {
        let found = match self.tokens.get(self.at) {
            Some(token) => token.token.to_string(),
            None => "the end of the statement".to_string(),
        };
        let found: String = found.chars().take(60).collect();
        self.fault(self.position(), format!("expected {what}, found {found}"))
    }
}
