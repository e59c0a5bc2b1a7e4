//! Where a piece of SQL came from: the file, the place in it, and how a fault at a place is shown.

use std::fmt;
use std::sync::Arc;

/// A place in a source file; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

impl Position {
    /// The first character of a file.
    pub const START: Position = Position { line: 1, column: 1 };

    /// Moves a position that was counted inside a piece of text to where that piece starts in its file.
    pub(crate) fn shifted_by(self, start: Position) -> Position {
        Position {
            line: start.line + self.line - 1,
            column: if self.line == 1 {
                start.column + self.column - 1
            } else {
                self.column
            },
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A piece of SQL together with the file it came from and the place where it starts in it.
///
/// A statement that the catalogue kept is parsed again through this type, so that its errors still point into the
/// file that a person edited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlText {
    /// The SQL as it was written.
    pub text: Arc<str>,
    /// The file's name, or something in brackets such as `<command line>`.
    pub origin: Arc<str>,
    /// Where `text` starts in that file.
    pub start: Position,
}

impl SqlText {
    /// Wraps a whole file.
    pub fn file(text: &str, origin: &str) -> SqlText {
        SqlText::at(text, origin, Position::START)
    }

    /// Wraps a piece of a file that starts at `start`.
    pub fn at(text: &str, origin: &str, start: Position) -> SqlText {
        SqlText {
            text: text.into(),
            origin: origin.into(),
            start,
        }
    }

    /// Cuts out the part between two positions of the file (`from` inclusive, `to` exclusive).
    pub(crate) fn slice(&self, from: Position, to: Position) -> SqlText {
        let begin = self.offset(from).min(self.text.len());
        let end = self.offset(to).clamp(begin, self.text.len());
        SqlText {
            text: self.text[begin..end].into(),
            origin: Arc::clone(&self.origin),
            start: from,
        }
    }

    /// Byte offset in `text` of a position of the file.
    fn offset(&self, position: Position) -> usize {
        let mut at = self.start;
        for (offset, character) in self.text.char_indices() {
            if at >= position {
                return offset;
            }
            if character == '\n' {
                at = Position {
                    line: at.line + 1,
                    column: 1,
                };
            } else {
                at.column += 1;
            }
        }
        self.text.len()
    }

    /// The line of the file with this number, as far as this piece holds it.
    fn line(&self, line: u64) -> Option<&str> {
        let index = line.checked_sub(self.start.line)?;
        self.text.lines().nth(usize::try_from(index).ok()?)
    }

    /// Shows a fault: `file:line:column: message`, then the line and a caret.
    pub(crate) fn render(&self, position: Position, message: &str) -> String {
        let mut shown = format!("{}:{position}: {message}", self.origin);
        let Some(line) = self.line(position.line) else {
            return shown;
        };
        let column_of_line = if position.line == self.start.line {
            self.start.column
        } else {
            1
        };
        let caret = position.column.saturating_sub(column_of_line);
        let number = position.line.to_string();
        // Tabs are kept in the padding, so that the caret stands under its character whatever the tab width.
        let padding: String = line
            .chars()
            .chain(std::iter::repeat(' '))
            .take(usize::try_from(caret).unwrap_or(0))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let gutter = " ".repeat(number.len());
        shown.push_str(&format!("\n{number} | {line}\n{gutter} | {padding}^"));
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_keeps_its_place_in_the_file() {
        let file = SqlText::file("SELECT 1;\nSELECT é, b;\n", "a.sql");
        let piece = file.slice(Position { line: 2, column: 8 }, Position { line: 2, column: 12 });
        assert_eq!(&*piece.text, "é, b");
        assert_eq!(
            piece.render(Position { line: 2, column: 11 }, "bad"),
            "a.sql:2:11: bad\n2 | é, b\n  |    ^"
        );
    }

    #[test]
    fn a_caret_stands_under_tabs() {
        let file = SqlText::file("\tSELECT x", "a.sql");
        assert_eq!(
            file.render(Position { line: 1, column: 9 }, "bad"),
            "a.sql:1:9: bad\n1 | \tSELECT x\n  | \t       ^"
        );
    }
}
