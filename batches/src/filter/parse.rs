//! From the text of a filter to a `Predicate`: a tokenizer and a recursive-descent parser.

use crate::error::{BatchError, Result};

use super::{Comparison, Literal, Predicate};

/// Parentheses and NOTs that may be nested; deeper text is an error rather than a stack overflow.
const DEPTH_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Text(String),
    Number(String),
    Compare(Comparison),
    Open,
    Close,
    Comma,
    End,
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Word(w) | Self::Number(w) => format!("`{w}`"),
            Self::Quoted(w) => format!("`\"{w}\"`"),
            Self::Text(t) => format!("`'{t}'`"),
            Self::Compare(c) => format!("`{}`", c.text()),
            Self::Open => "`(`".into(),
            Self::Close => "`)`".into(),
            Self::Comma => "`,`".into(),
            Self::End => "the end".into(),
        }
    }
}

fn failed(text: &str, at: usize, message: &str) -> BatchError {
    let column = text[..at.min(text.len())].chars().count() + 1;
    BatchError::Plan(format!("filter, character {column}: {message}, in: {text}"))
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let two = bytes.get(at + 1).copied();
        let token = match bytes[at] {
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'(' => single(&mut at, Token::Open),
            b')' => single(&mut at, Token::Close),
            b',' => single(&mut at, Token::Comma),
            b'=' => {
                at += if two == Some(b'=') { 2 } else { 1 };
                Token::Compare(Comparison::Equal)
            }
            b'<' | b'>' | b'!' => comparison(text, &mut at)?,
            quote @ (b'\'' | b'"') => {
                let value = quoted(text, &mut at, quote)?;
                if quote == b'"' {
                    Token::Quoted(value)
                } else {
                    Token::Text(value)
                }
            }
            b if b.is_ascii_digit() || b == b'.' || ((b == b'-' || b == b'+') && two.is_some_and(starts_number)) => {
                number(text, &mut at)?
            }
            _ => {
                let rest = &text[at..];
                let end = rest
                    .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                if end == 0 {
                    let c = rest.chars().next().unwrap_or(' ');
                    return Err(failed(text, at, &format!("`{c}` is not part of a filter")));
                }
                at += end;
                Token::Word(rest[..end].to_owned())
            }
        };
        out.push((start, token));
    }
    out.push((text.len(), Token::End));
    Ok(out)
}

fn single(at: &mut usize, token: Token) -> Token {
    *at += 1;
    token
}

fn starts_number(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'.'
}

fn comparison(text: &str, at: &mut usize) -> Result<Token> {
    let rest = &text.as_bytes()[*at..];
    let (operator, width) = match rest {
        [b'<', b'=', ..] => (Comparison::LessOrEqual, 2),
        [b'<', b'>', ..] | [b'!', b'=', ..] => (Comparison::NotEqual, 2),
        [b'>', b'=', ..] => (Comparison::GreaterOrEqual, 2),
        [b'<', ..] => (Comparison::Less, 1),
        [b'>', ..] => (Comparison::Greater, 1),
        _ => return Err(failed(text, *at, "`!` is not an operator: write != or NOT")),
    };
    *at += width;
    Ok(Token::Compare(operator))
}

/// Reads a quoted text; a doubled quote inside stands for one.
fn quoted(text: &str, at: &mut usize, quote: u8) -> Result<String> {
    let start = *at;
    let mut value = String::new();
    loop {
        let from = *at + 1;
        let Some(length) = text.as_bytes()[from..].iter().position(|&b| b == quote) else {
            return Err(failed(text, start, "this quote is not closed"));
        };
        value.push_str(&text[from..from + length]);
        *at = from + length + 1;
        if text.as_bytes().get(*at) != Some(&quote) {
            return Ok(value);
        }
        value.push(quote as char);
    }
}

fn number(text: &str, at: &mut usize) -> Result<Token> {
    let start = *at;
    let bytes = text.as_bytes();
    *at += 1;
    while let Some(&b) = bytes.get(*at) {
        let exponent_sign = (b == b'-' || b == b'+') && matches!(bytes[*at - 1], b'e' | b'E');
        if !(b.is_ascii_alphanumeric() || b == b'.' || exponent_sign) {
            break;
        }
        *at += 1;
    }
    let digits = text[start..*at].trim_start_matches('+');
    match digits.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Token::Number(digits.to_owned())),
        _ => Err(failed(text, start, &format!("`{digits}` is not a number"))),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(usize, Token)>,
    next: usize,
}

impl Predicate {
    /// Parses a filter.
    ///
    /// # Errors
    /// A plan error that names the place and what was expected there.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser {
            text,
            tokens: tokens(text)?,
            next: 0,
        };
        let predicate = parser.or(0)?;
        match parser.peek() {
            Token::End => Ok(predicate),
            other => {
                let message = format!("expected AND, OR or the end, found {}", other.shown());
                Err(parser.error(&message))
            }
        }
    }
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        // `tokens` ends with End, and nothing advances past it.
        &self.tokens[self.next].1
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        if token != Token::End {
            self.next += 1;
        }
        token
    }

    fn error(&self, message: &str) -> BatchError {
        failed(self.text, self.tokens[self.next].0, message)
    }

    fn keyword(&mut self, word: &str) -> bool {
        let hit = matches!(self.peek(), Token::Word(w) if w.eq_ignore_ascii_case(word));
        self.next += usize::from(hit);
        hit
    }

    fn expect_keyword(&mut self, word: &str) -> Result<()> {
        if self.keyword(word) {
            return Ok(());
        }
        let found = self.peek().shown();
        Err(self.error(&format!("expected {word}, found {found}")))
    }

    fn or(&mut self, depth: usize) -> Result<Predicate> {
        let mut parts = vec![self.and(depth)?];
        while self.keyword("OR") {
            parts.push(self.and(depth)?);
        }
        Ok(if parts.len() == 1 {
            parts.remove(0)
        } else {
            Predicate::Or(parts)
        })
    }

    fn and(&mut self, depth: usize) -> Result<Predicate> {
        let mut parts = vec![self.not(depth)?];
        while self.keyword("AND") {
            parts.push(self.not(depth)?);
        }
        Ok(if parts.len() == 1 {
            parts.remove(0)
        } else {
            Predicate::And(parts)
        })
    }

    fn not(&mut self, depth: usize) -> Result<Predicate> {
        if depth > DEPTH_MAX {
            return Err(self.error(&format!("nested deeper than {DEPTH_MAX}")));
        }
        if self.keyword("NOT") {
            return Ok(Predicate::Not(Box::new(self.not(depth + 1)?)));
        }
        if *self.peek() == Token::Open {
            self.next += 1;
            let inner = self.or(depth + 1)?;
            if self.take() != Token::Close {
                self.next = self.next.saturating_sub(1);
                return Err(self.error("expected `)`"));
            }
            return Ok(inner);
        }
        self.condition()
    }

    fn condition(&mut self) -> Result<Predicate> {
        if let Some(literal) = self.literal() {
            let Token::Compare(operator) = self.take() else {
                self.next -= 1;
                return Err(self.error("expected a comparison after the value"));
            };
            let column = self.column()?;
            return Ok(Predicate::Compare {
                column,
                operator: operator.flipped(),
                literal,
            });
        }
        let column = self.column()?;
        if let Token::Compare(operator) = *self.peek() {
            self.next += 1;
            let literal = self.expect_literal()?;
            return Ok(Predicate::Compare {
                column,
                operator,
                literal,
            });
        }
        if self.keyword("IS") {
            let negated = self.keyword("NOT");
            self.expect_keyword("NULL")?;
            return Ok(Predicate::IsNull { column, negated });
        }
        let negated = self.keyword("NOT");
        if self.keyword("IN") {
            let literals = self.list()?;
            return Ok(Predicate::In {
                column,
                literals,
                negated,
            });
        }
        if self.keyword("LIKE") {
            let Literal::Text(pattern) = self.expect_literal()? else {
                return Err(self.error("LIKE takes a text such as 'en%'"));
            };
            return Ok(Predicate::Like {
                column,
                pattern,
                negated,
            });
        }
        if self.keyword("BETWEEN") {
            return self.between(column, negated);
        }
        if negated {
            return Err(self.error("expected IN, LIKE or BETWEEN after NOT"));
        }
        Ok(Predicate::Truth { column })
    }

    fn between(&mut self, column: String, negated: bool) -> Result<Predicate> {
        let low = self.expect_literal()?;
        self.expect_keyword("AND")?;
        let high = self.expect_literal()?;
        let side = |operator, literal| Predicate::Compare {
            column: column.clone(),
            operator,
            literal,
        };
        let both = Predicate::And(vec![
            side(Comparison::GreaterOrEqual, low),
            side(Comparison::LessOrEqual, high),
        ]);
        Ok(if negated { Predicate::Not(Box::new(both)) } else { both })
    }

    fn column(&mut self) -> Result<String> {
        match self.peek().clone() {
            Token::Word(w) if !is_reserved(&w) => {
                self.next += 1;
                Ok(w)
            }
            Token::Quoted(w) => {
                self.next += 1;
                Ok(w)
            }
            other => Err(self.error(&format!("expected a column, found {}", other.shown()))),
        }
    }

    fn literal(&mut self) -> Option<Literal> {
        let literal = match self.peek() {
            Token::Number(n) => Literal::Number(n.clone()),
            Token::Text(t) => Literal::Text(t.clone()),
            Token::Word(w) if w.eq_ignore_ascii_case("true") => Literal::Bool(true),
            Token::Word(w) if w.eq_ignore_ascii_case("false") => Literal::Bool(false),
            _ => return None,
        };
        self.next += 1;
        Some(literal)
    }

    fn expect_literal(&mut self) -> Result<Literal> {
        if let Some(literal) = self.literal() {
            return Ok(literal);
        }
        Err(match self.peek().clone() {
            Token::Word(w) if w.eq_ignore_ascii_case("null") => {
                self.error("nothing compares with NULL: write IS NULL or IS NOT NULL")
            }
            Token::Word(w) => self.error(&format!(
                "expected a value, found `{w}`: texts are in single quotes: '{w}'"
            )),
            Token::Quoted(w) => self.error(&format!(
                "expected a value, found a column: texts are in single quotes: '{w}'"
            )),
            other => self.error(&format!("expected a value, found {}", other.shown())),
        })
    }

    fn list(&mut self) -> Result<Vec<Literal>> {
        if self.take() != Token::Open {
            self.next -= 1;
            return Err(self.error("expected `(` after IN"));
        }
        let mut literals = vec![self.expect_literal()?];
        loop {
            match self.peek() {
                Token::Comma => {
                    self.next += 1;
                    literals.push(self.expect_literal()?);
                }
                Token::Close => {
                    self.next += 1;
                    return Ok(literals);
                }
                other => {
                    let message = format!("expected `,` or `)`, found {}", other.shown());
                    return Err(self.error(&message));
                }
            }
        }
    }
}

fn is_reserved(word: &str) -> bool {
    [
        "and", "or", "not", "in", "is", "null", "like", "between", "true", "false",
    ]
    .iter()
    .any(|reserved| word.eq_ignore_ascii_case(reserved))
}
