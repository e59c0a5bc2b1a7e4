//! Shingles of texts, and the exact Jaccard similarity of their sets.

use std::str::FromStr;

use unicode_normalization::char::is_combining_mark;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{KernelError, Result};
use crate::text::{Cleaning, Form, normalize_str};

/// Texts with fewer words than twice this have shingles of characters, those with at least this many of words.
///
/// The ranges overlap by a factor of two, so two texts of similarity above one half always have one kind in common.
const LONG_WORDS: usize = 32;

/// What a shingle is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShingleUnit {
    /// Characters for texts of a few words, words for longer ones; both in between.
    Auto,
    /// Words: runs of letters, digits and their marks, in lower case. In scripts that are written without spaces
    /// (Han, Kana, Thai, Lao, Khmer, Burmese, Tibetan) every character is a word, and so is every visible character of
    /// a text that has no letter and no digit.
    Word,
    /// Characters of the words joined by single spaces.
    Char,
}

impl FromStr for ShingleUnit {
    type Err = KernelError;

    /// Reads `auto`, `word` or `char`, in any case.
    fn from_str(s: &str) -> Result<Self> {
        match s.trim().to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "word" => Ok(Self::Word),
            "char" => Ok(Self::Char),
            _ => Err(KernelError::unknown_name(
                "unit of shingles",
                s,
                &["auto", "word", "char"],
            )),
        }
    }
}

/// How texts are cut into shingles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShingleOptions {
    /// What a shingle is made of.
    pub unit: ShingleUnit,
    /// Words in a shingle of words, at least 1.
    pub words: usize,
    /// Characters in a shingle of characters, at least 1.
    pub chars: usize,
}

impl Default for ShingleOptions {
    fn default() -> Self {
        Self {
            unit: ShingleUnit::Auto,
            words: 3,
            chars: 5,
        }
    }
}

impl ShingleOptions {
    /// Makes options with shingles of `ngram` units, or as many as are usual for each unit.
    ///
    /// # Errors
    /// When `ngram` is not from 1 to 64.
    pub fn new(unit: ShingleUnit, ngram: Option<i64>) -> Result<Self> {
        let usual = Self::default();
        let Some(ngram) = ngram else {
            return Ok(Self { unit, ..usual });
        };
        match usize::try_from(ngram) {
            Ok(n @ 1..=64) => Ok(Self {
                unit,
                words: n,
                chars: n,
            }),
            _ => Err(KernelError::InvalidOption {
                option: "ngram",
                value: ngram.to_string(),
                problem: "a shingle has 1 to 64 words or characters".into(),
                fix: "use for example ngram => 5".into(),
            }),
        }
    }
}

/// The shingles of one text at a time, in buffers that are used again for the next.
///
/// A shingle is the xxh3 hash of some words or characters in a row of the text in NFKC, lower case, without HTML
/// references and invisible characters; punctuation and white space do not count. A text of fewer units than a shingle
/// holds has one shingle, all of it; a text without visible characters has none.
#[derive(Debug, Clone)]
pub struct Shingler {
    options: ShingleOptions,
    /// Words in lower case, joined by single spaces.
    joined: String,
    /// Where each unit of `joined` begins.
    starts: Vec<usize>,
    words: Option<Vec<u64>>,
    chars: Option<Vec<u64>>,
    spare: Vec<Vec<u64>>,
}

impl Shingler {
    /// Makes one that has read no text.
    #[must_use]
    pub fn new(options: ShingleOptions) -> Self {
        Self {
            options,
            joined: String::new(),
            starts: Vec::new(),
            words: None,
            chars: None,
            spare: Vec::new(),
        }
    }

    /// Reads a text in place of the one before it. The hashes are in the order of the text, with repetitions.
    pub fn read(&mut self, text: &str) {
        for used in [self.words.take(), self.chars.take()].into_iter().flatten() {
            self.spare.push(used);
        }
        self.join_words(text);
        let words = self.starts.len();
        let (by_words, by_chars) = match self.options.unit {
            ShingleUnit::Auto => (words >= LONG_WORDS, words < 2 * LONG_WORDS),
            ShingleUnit::Word => (true, false),
            ShingleUnit::Char => (false, true),
        };
        if by_words {
            let mut hashes = self.empty();
            // A shingle ends before the space that precedes the next word.
            self.starts.push(self.joined.len() + usize::from(words > 0));
            hash_units(self.joined.as_bytes(), &self.starts, 1, self.options.words, &mut hashes);
            self.words = Some(hashes);
        }
        if by_chars {
            let mut hashes = self.empty();
            self.hash_chars(&mut hashes);
            self.chars = Some(hashes);
        }
    }

    /// Shingles of words of the text, where it is long enough to be compared by them.
    #[must_use]
    pub fn words(&self) -> Option<&[u64]> {
        self.words.as_deref()
    }

    /// Shingles of characters of the text, where it is short enough to be compared by them.
    #[must_use]
    pub fn chars(&self) -> Option<&[u64]> {
        self.chars.as_deref()
    }

    /// The shingles of words as text, in the order of [`words`](Self::words): words in lower case, single spaces between.
    /// Nothing for a text that was read by characters.
    pub fn word_shingles(&self) -> impl Iterator<Item = &str> {
        let by_words = self.options.unit == ShingleUnit::Word;
        let units = if by_words {
            self.starts.len().saturating_sub(1)
        } else {
            0
        };
        let n = self.options.words.min(units);
        let count = if n == 0 { 0 } else { units - n + 1 };
        (0..count).map(move |i| &self.joined[self.starts[i]..self.starts[i + n] - 1])
    }

    /// Turns the shingles into sets: sorted, each once.
    pub fn make_sets(&mut self) {
        for hashes in [&mut self.words, &mut self.chars].into_iter().flatten() {
            hashes.sort_unstable();
            hashes.dedup();
        }
    }

    /// The exact Jaccard similarity to another text, after [`make_sets`](Self::make_sets) of both.
    ///
    /// By characters where both are short enough for it, else by words where both are long enough, else 0: then one
    /// is more than twice as long as the other. A text without shingles has the similarity 0 to all others.
    #[must_use]
    pub fn similarity(&self, other: &Self) -> f64 {
        let sets = match (self.chars(), other.chars()) {
            (Some(a), Some(b)) => Some((a, b)),
            _ => self.words().zip(other.words()),
        };
        match sets {
            Some((a, b)) if !a.is_empty() => jaccard(a, b),
            _ => 0.0,
        }
    }

    fn empty(&mut self) -> Vec<u64> {
        let mut hashes = self.spare.pop().unwrap_or_default();
        hashes.clear();
        hashes
    }

    fn hash_chars(&mut self, hashes: &mut Vec<u64>) {
        let n = self.options.chars;
        let bytes = self.joined.as_bytes();
        if self.joined.is_ascii() {
            if bytes.len() > n {
                hashes.extend(bytes.windows(n).map(xxh3_64));
            } else if !bytes.is_empty() {
                hashes.push(xxh3_64(bytes));
            }
            return;
        }
        self.starts.clear();
        self.starts.extend(self.joined.char_indices().map(|(at, _)| at));
        self.starts.push(bytes.len());
        hash_units(bytes, &self.starts, 0, n, hashes);
    }

    /// Fills `joined` and `starts` with the words of a text.
    fn join_words(&mut self, text: &str) {
        self.joined.clear();
        self.starts.clear();
        if text.is_ascii() && memchr::memchr(b'&', text.as_bytes()).is_none() {
            self.join_ascii(text);
            if self.starts.is_empty() {
                self.join_symbols(text);
            }
            return;
        }
        let text = normalize_str(text, Form::Nfkc, Cleaning::default());
        let mut before = Place::Outside;
        for c in text.chars() {
            if is_combining_mark(c) {
                if before != Place::Outside {
                    self.joined.push(c);
                }
                continue;
            }
            if !c.is_alphanumeric() {
                before = Place::Outside;
                continue;
            }
            let here = if is_unspaced(c) { Place::Alone } else { Place::Word };
            if here == Place::Alone || before != Place::Word {
                self.begin_word();
            }
            self.joined.extend(c.to_lowercase());
            before = here;
        }
        if self.starts.is_empty() {
            self.join_symbols(&text);
        }
    }

    fn join_ascii(&mut self, text: &str) {
        let mut inside = false;
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() {
                if !inside {
                    self.begin_word();
                    inside = true;
                }
                self.joined.push(char::from(byte.to_ascii_lowercase()));
            } else if !byte.is_ascii_control() || (9..=13).contains(&byte) {
                // Other control characters are invisible: they do not end a word.
                inside = false;
            }
        }
    }

    fn join_symbols(&mut self, text: &str) {
        for c in text.chars().filter(|c| !c.is_whitespace() && !c.is_control()) {
            self.begin_word();
            self.joined.push(c);
        }
    }

    fn begin_word(&mut self) {
        if !self.joined.is_empty() {
            self.joined.push(' ');
        }
        self.starts.push(self.joined.len());
    }
}

/// Where a character stands.
#[derive(PartialEq, Eq)]
enum Place {
    Outside,
    Word,
    /// A character that is a word of its own; marks may follow it.
    Alone,
}

/// Hashes each `n` units in a row; a unit ends `gap` bytes before the next begins, and `starts` has one more at its end.
fn hash_units(bytes: &[u8], starts: &[usize], gap: usize, n: usize, hashes: &mut Vec<u64>) {
    let units = starts.len() - 1;
    if units == 0 {
        return;
    }
    let n = n.min(units);
    hashes.extend((0..=units - n).map(|i| xxh3_64(&bytes[starts[i]..starts[i + n] - gap])));
}

/// Whether a letter is of a script that is written without spaces between words.
fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c),
        0x0E00..=0x0EFF        // Thai, Lao
        | 0x0F00..=0x109F      // Tibetan, Burmese
        | 0x1780..=0x17FF      // Khmer
        | 0x2E80..=0x30FF      // radicals, Kana
        | 0x31F0..=0x31FF      // Kana
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x323AF) // Han
}

/// The exact Jaccard similarity `|a ∩ b| / |a ∪ b|` of two sorted sets; 1 for two empty ones.
#[must_use]
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        both += usize::from(a[i] == b[j]);
        let (x, y) = (a[i], b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let either = a.len() + b.len() - both;
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn sets(text: &str, unit: ShingleUnit, n: usize) -> Shingler {
        let mut shingler = Shingler::new(ShingleOptions {
            unit,
            words: n,
            chars: n,
        });
        shingler.read(text);
        shingler.make_sets();
        shingler
    }

    /// Sets of strings instead of sorted hashes; for texts of plain letters.
    fn naive(text: &str, unit: ShingleUnit, n: usize) -> BTreeSet<String> {
        let lower = text.to_lowercase();
        let spaced: String = lower
            .chars()
            .flat_map(|c| if c == '中' { vec![' ', c, ' '] } else { vec![c] })
            .collect();
        let words: Vec<&str> = spaced
            .split(|c: char| !c.is_alphanumeric())
            .filter(|w| !w.is_empty())
            .collect();
        let (units, glue): (Vec<String>, &str) = match unit {
            ShingleUnit::Char => (words.join(" ").chars().map(String::from).collect(), ""),
            _ => (words.iter().map(|w| (*w).to_string()).collect(), " "),
        };
        match units.len() {
            0 => BTreeSet::new(),
            len => units.windows(n.min(len)).map(|w| w.join(glue)).collect(),
        }
    }

    proptest! {
        #[test]
        fn similarity_is_that_of_sets_of_strings(a in "([abA]{1,2}|é|中|[.,!]| ){1,25}", b in "([ab]{1,2}|é|中|[.,!]| ){1,25}", n in 1usize..5, words: bool) {
            let unit = if words { ShingleUnit::Word } else { ShingleUnit::Char };
            let (x, y) = (naive(&a, unit, n), naive(&b, unit, n));
            prop_assume!(!x.is_empty() && !y.is_empty());
            let want = x.intersection(&y).count() as f64 / x.union(&y).count() as f64;
            prop_assert_eq!(sets(&a, unit, n).similarity(&sets(&b, unit, n)), want);
        }

        #[test]
        fn any_text_is_read_and_like_itself(text in "([a-z ]|&(amp|lt|#65)?;?|[\u{0}-\u{ff}]|[\u{200b}-\u{206f}]|\\PC|👩|\u{fe0f}|\u{300}){0,60}") {
            let read = sets(&text, ShingleUnit::Auto, 3);
            let some = read.chars().is_some_and(|set| !set.is_empty()) || read.words().is_some_and(|set| !set.is_empty());
            prop_assert_eq!(read.similarity(&read), if some { 1.0 } else { 0.0 });
        }

        #[test]
        fn ascii_is_cut_like_other_text(text in "[\u{0}-\u{7f}]{0,40}") {
            // The entity sends the text the long way, and its letter stands alone at the end.
            let (short, long) = (format!("{text} z"), format!("{text} &#122;"));
            prop_assume!(!text.contains('&'));
            for unit in [ShingleUnit::Word, ShingleUnit::Char] {
                let (a, b) = (sets(&short, unit, 2), sets(&long, unit, 2));
                prop_assert_eq!((a.words(), a.chars()), (b.words(), b.chars()));
            }
        }
    }

    #[test]
    fn what_cannot_be_seen_or_is_only_style_does_not_count() {
        let plain = "free followers at the link below";
        for same in [
            "FREE followers, at the link below!!!",
            "fr\u{200b}ee fol\u{ad}lowers at\u{a0}the\nlink   below",
            "ｆｒｅｅ followers at the link below 🔥🔥",
            "free &#102;ollowers at the link below",
        ] {
            let (a, b) = (sets(plain, ShingleUnit::Auto, 3), sets(same, ShingleUnit::Auto, 3));
            assert_eq!(a.similarity(&b), 1.0, "{same}");
        }
        // Letters of other scripts that look alike are other letters.
        let other = sets("frее fоllоwеrs аt thе link bеlоw", ShingleUnit::Auto, 3);
        assert!(sets(plain, ShingleUnit::Auto, 3).similarity(&other) < 0.5);
    }

    #[test]
    fn scripts_without_spaces_are_cut_by_characters_and_emoji_count_where_there_is_nothing_else() {
        assert_eq!(
            sets("我喜歡這個", ShingleUnit::Word, 2).words().map(<[u64]>::len),
            Some(4)
        );
        assert_eq!(sets("ภาษาไทย", ShingleUnit::Word, 1).words().map(<[u64]>::len), Some(6));
        assert_eq!(
            sets("नमस्ते दुनिया", ShingleUnit::Word, 1).words().map(<[u64]>::len),
            Some(2)
        );
        let (a, b) = (
            sets("🔥🔥🔥🚀", ShingleUnit::Word, 1),
            sets("🔥🚀 🚀", ShingleUnit::Word, 1),
        );
        assert_eq!(a.similarity(&b), 1.0);
        let nothing = sets(" \u{200b}", ShingleUnit::Word, 1);
        assert_eq!(nothing.similarity(&nothing), 0.0);
    }

    #[test]
    fn lengths_in_between_are_compared_with_both_kinds() {
        let text = |n: usize| (0..n).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ");
        for (n, chars, words) in [(31, true, false), (32, true, true), (63, true, true), (64, false, true)] {
            let read = sets(&text(n), ShingleUnit::Auto, 3);
            assert_eq!((read.chars().is_some(), read.words().is_some()), (chars, words), "{n}");
        }
        let near =
            |a: usize, b: usize| sets(&text(a), ShingleUnit::Auto, 3).similarity(&sets(&text(b), ShingleUnit::Auto, 3));
        assert!(near(31, 32) > 0.9 && near(63, 64) > 0.9 && near(64, 65) > 0.9);
        assert_eq!(near(31, 64), 0.0, "one is twice as long");
    }

    #[test]
    fn options_are_checked() {
        let wrong = "words".parse::<ShingleUnit>().unwrap_err().to_string();
        assert!(wrong.contains("did you mean 'word'"), "{wrong}");
        assert!(ShingleOptions::new(ShingleUnit::Auto, Some(0)).is_err());
        assert_eq!(
            ShingleOptions::new(ShingleUnit::Auto, None).unwrap(),
            ShingleOptions::default()
        );
    }
}
