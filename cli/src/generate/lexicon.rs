//! The words and sentence templates of each language, read from `lexicon/*.txt`.

use anyhow::{Context, Result, bail};

use super::label::Label;

/// One language: its words, and its sentences by label.
#[derive(Debug)]
pub(crate) struct Language {
    /// ISO 639-1 code.
    pub(crate) code: &'static str,
    /// Share among the users, relative to the other languages.
    pub(crate) share: u64,
    nouns: Vec<&'static str>,
    adjectives: Vec<&'static str>,
    verbs: Vec<&'static str>,
    syllables: Vec<&'static str>,
    groups: Vec<&'static str>,
    /// Sentences by `Label as usize`.
    sentences: [Vec<Template>; Label::COUNT],
}

/// A sentence with slots.
pub(crate) type Template = Vec<Piece>;

/// A part of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    Literal(&'static str),
    Slot(Slot),
}

/// What a slot is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Noun,
    Adjective,
    Verb,
    Name,
    Group,
    Number,
    Link,
    Handle,
    Email,
    Phone,
}

/// To add a language: one file in `lexicon/`, one line here.
const FILES: &[(&str, &str)] = &[
    ("en", include_str!("lexicon/en.txt")),
    ("es", include_str!("lexicon/es.txt")),
    ("pt", include_str!("lexicon/pt.txt")),
    ("fr", include_str!("lexicon/fr.txt")),
    ("de", include_str!("lexicon/de.txt")),
    ("ru", include_str!("lexicon/ru.txt")),
    ("ar", include_str!("lexicon/ar.txt")),
    ("ja", include_str!("lexicon/ja.txt")),
    ("zh", include_str!("lexicon/zh.txt")),
    ("hi", include_str!("lexicon/hi.txt")),
    ("tr", include_str!("lexicon/tr.txt")),
    ("ko", include_str!("lexicon/ko.txt")),
    ("vi", include_str!("lexicon/vi.txt")),
    ("th", include_str!("lexicon/th.txt")),
    ("el", include_str!("lexicon/el.txt")),
    ("he", include_str!("lexicon/he.txt")),
    ("fa", include_str!("lexicon/fa.txt")),
];

/// All languages.
#[derive(Debug)]
pub(crate) struct Lexicon {
    pub(crate) languages: Vec<Language>,
}

impl Lexicon {
    /// Reads the embedded files.
    ///
    /// # Errors
    /// When a file has an unknown key or slot, or lacks a list: a mistake in the source tree, named by file and line.
    pub(crate) fn load() -> Result<Self> {
        let languages = FILES
            .iter()
            .map(|(code, text)| Language::parse(code, text))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { languages })
    }

    /// The shares of the languages, in their order.
    pub(crate) fn shares(&self) -> Vec<u64> {
        self.languages.iter().map(|l| l.share).collect()
    }
}

impl Language {
    fn parse(code: &'static str, text: &'static str) -> Result<Self> {
        let mut language = Self {
            code,
            share: 0,
            nouns: Vec::new(),
            adjectives: Vec::new(),
            verbs: Vec::new(),
            syllables: Vec::new(),
            groups: Vec::new(),
            sentences: Default::default(),
        };
        for (number, line) in text.lines().enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                language
                    .line(line)
                    .with_context(|| format!("lexicon/{code}.txt line {}", number + 1))?;
            }
        }
        let lists = [
            &language.nouns,
            &language.adjectives,
            &language.verbs,
            &language.syllables,
            &language.groups,
        ];
        if language.share == 0 || lists.iter().any(|l| l.is_empty()) || language.sentences.iter().any(Vec::is_empty) {
            bail!("lexicon/{code}.txt lacks a share, a word list, or a sentence for one of the labels");
        }
        Ok(language)
    }

    fn line(&mut self, line: &'static str) -> Result<()> {
        let (key, value) = line.split_once(' ').context("expected `key value`")?;
        let words = || value.split('|').collect();
        match key {
            "share" => self.share = value.parse()?,
            "noun" => self.nouns = words(),
            "adj" => self.adjectives = words(),
            "verb" => self.verbs = words(),
            "syl" => self.syllables = words(),
            "group" => self.groups = words(),
            _ => {
                let label = Label::from_name(key).with_context(|| format!("unknown key `{key}`"))?;
                self.sentences[label as usize].push(template(value)?);
            }
        }
        Ok(())
    }

    /// The sentences that carry a label.
    pub(crate) fn sentences(&self, label: Label) -> &[Template] {
        &self.sentences[label as usize]
    }

    /// The words that fill a slot; `None` where a slot is not filled from a list.
    pub(crate) fn words(&self, slot: Slot) -> Option<&[&'static str]> {
        match slot {
            Slot::Noun => Some(&self.nouns),
            Slot::Adjective => Some(&self.adjectives),
            Slot::Verb => Some(&self.verbs),
            Slot::Group => Some(&self.groups),
            _ => None,
        }
    }

    /// The syllables that names are made of.
    pub(crate) fn syllables(&self) -> &[&'static str] {
        &self.syllables
    }
}

fn template(mut rest: &'static str) -> Result<Template> {
    let mut pieces = Vec::new();
    while let Some(open) = rest.find('{') {
        if open > 0 {
            pieces.push(Piece::Literal(&rest[..open]));
        }
        let close = rest.find('}').context("a slot without `}`")?;
        pieces.push(Piece::Slot(match &rest[open + 1..close] {
            "n" => Slot::Noun,
            "a" => Slot::Adjective,
            "v" => Slot::Verb,
            "p" => Slot::Name,
            "g" => Slot::Group,
            "d" => Slot::Number,
            "u" => Slot::Link,
            "h" => Slot::Handle,
            "e" => Slot::Email,
            "t" => Slot::Phone,
            other => bail!("unknown slot {{{other}}}"),
        }));
        rest = &rest[close + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_loads() {
        let lexicon = Lexicon::load().unwrap();
        assert!(lexicon.languages.len() >= 15);
        assert_eq!(lexicon.languages[0].code, "en");
    }

    #[test]
    fn a_mistake_names_file_and_line() {
        let error = Language::parse("xx", "share 1\nok hello {z}\n").unwrap_err();
        assert_eq!(format!("{error:#}"), "lexicon/xx.txt line 2: unknown slot {z}");
    }
}
