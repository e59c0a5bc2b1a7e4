//! A text taken apart once, for all rule sets.

use std::collections::HashMap;
use std::collections::HashSet;

use unicode_segmentation::UnicodeSegmentation;
use xxhash_rust::xxh3::xxh3_64;

/// The words, lines and paragraphs of a text.
pub(super) struct Document<'a> {
    /// Characters (Unicode scalar values) of the whole text.
    pub(super) chars: usize,
    pub(super) text: &'a str,
    /// The pieces of UAX #29 that are not white space.
    pub(super) pieces: Vec<Piece<'a>>,
    /// Lines that are not blank, trimmed.
    pub(super) lines: Vec<&'a str>,
}

/// A word or a mark.
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    pub(super) chars: usize,
    /// xxh3 of the text, so that n-grams are compared by one number.
    hash: u64,
    /// Holds a letter or a digit.
    pub(super) is_word: bool,
    /// Holds a letter.
    pub(super) is_alpha: bool,
}

impl<'a> Document<'a> {
    pub(super) fn read(text: &'a str) -> Self {
        let pieces = text
            .split_word_bounds()
            .filter(|p| !p.trim().is_empty())
            .map(|text| Piece {
                text,
                chars: text.chars().count(),
                hash: xxh3_64(text.as_bytes()),
                is_word: text.chars().any(char::is_alphanumeric),
                is_alpha: text.chars().any(char::is_alphabetic),
            })
            .collect();
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        Self {
            chars: text.chars().count(),
            text,
            pieces,
            lines,
        }
    }

    /// Number of pieces that are words.
    pub(super) fn words(&self) -> usize {
        self.pieces.iter().filter(|p| p.is_word).count()
    }

    /// Paragraphs: what blank lines separate.
    pub(super) fn paragraphs(&self) -> Vec<&'a str> {
        let mut paragraphs = Vec::new();
        let mut start = None;
        let mut offset = 0;
        for line in self.text.split_inclusive('\n') {
            match (line.trim().is_empty(), start) {
                (true, Some(from)) => {
                    paragraphs.push(self.text[from..offset].trim());
                    start = None;
                }
                (false, None) => start = Some(offset),
                _ => {}
            }
            offset += line.len();
        }
        paragraphs.extend(start.map(|from| self.text[from..].trim()));
        paragraphs
    }

    /// Share of `count` in `total`; 0 of nothing.
    pub(super) fn share(count: usize, total: usize) -> f64 {
        if total == 0 { 0.0 } else { count as f64 / total as f64 }
    }

    /// Share of the pieces that were seen before, by number and by characters of the whole text.
    pub(super) fn repeated(&self, parts: &[&str]) -> (f64, f64) {
        let mut seen = HashSet::new();
        let (mut count, mut chars) = (0, 0);
        for part in parts.iter().filter(|p| !seen.insert(**p)) {
            count += 1;
            chars += part.chars().count();
        }
        (Self::share(count, parts.len()), Self::share(chars, self.chars))
    }

    /// Share of the characters that the most frequent `n`-gram of pieces covers, if it is there more than once; of
    /// several as frequent, the longest.
    pub(super) fn top_ngram(&self, n: usize) -> f64 {
        // Occurrences and characters, by hash of the n-gram.
        let mut counts: HashMap<u64, (usize, usize)> = HashMap::with_capacity(self.pieces.len());
        for window in self.pieces.windows(n) {
            let entry = counts.entry(ngram_hash(window)).or_default();
            *entry = (entry.0 + 1, window.iter().map(|p| p.chars).sum());
        }
        let top = counts.into_values().filter(|(count, _)| *count > 1).max();
        // Overlapping occurrences can count a character twice.
        top.map_or(0.0, |(count, chars)| Self::share(count * chars, self.chars).min(1.0))
    }

    /// Share of the characters in `n`-grams of pieces that were there before, none counted twice.
    pub(super) fn repeated_ngrams(&self, n: usize) -> f64 {
        let mut seen = HashSet::with_capacity(self.pieces.len());
        let (mut i, mut chars) = (0, 0);
        while i + n <= self.pieces.len() {
            let window = &self.pieces[i..i + n];
            if seen.insert(ngram_hash(window)) {
                i += 1;
            } else {
                chars += window.iter().map(|p| p.chars).sum::<usize>();
                i += n;
            }
        }
        Self::share(chars, self.chars)
    }
}

/// One number for the words of an n-gram in their order (a polynomial in an odd base, so that order counts).
fn ngram_hash(pieces: &[Piece<'_>]) -> u64 {
    pieces.iter().fold(0, |hash: u64, piece| {
        hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(piece.hash)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_what_blank_lines_separate() {
        let paragraphs = |s| Document::read(s).paragraphs();
        assert_eq!(paragraphs("\n\na\nb\n \t\n\nc"), ["a\nb", "c"]);
        assert_eq!(paragraphs(" \n"), Vec::<&str>::new());
    }

    #[test]
    fn ngrams_by_hand() {
        let d = Document::read("a b a b x");
        assert_eq!(d.top_ngram(2), 4.0 / 9.0, "'a b' twice");
        assert_eq!(d.repeated_ngrams(2), 2.0 / 9.0, "the second 'a b'");
        assert_eq!(Document::read("a b c").top_ngram(2), 0.0, "once is no repetition");
    }
}
