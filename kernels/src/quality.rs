//! `quality_signals`: the published heuristics for web text, as numbers and as verdicts.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanBuilder, Float64Builder, StringArray, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field, Fields};

use crate::error::{KernelError, Result};

mod document;
mod rules;

use document::Document;
use rules::{RuleSet, SETS};

/// The rule sets to judge by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QualityRules(Vec<usize>);

impl QualityRules {
    /// Names of all rule sets.
    #[must_use]
    pub fn names() -> [&'static str; 3] {
        SETS.map(|set| set.name)
    }

    fn sets(&self) -> impl Iterator<Item = &'static RuleSet> {
        self.0.iter().map(|i| SETS[*i])
    }

    /// Fields of the struct that [`quality_signals`] returns for these rules.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let number = |name: String| Field::new(name, DataType::Float64, false);
        let mut fields = vec![number("chars".into()), number("words".into())];
        for set in self.sets() {
            fields.extend(set.signals.iter().map(|s| number(format!("{}_{}", set.name, s.name))));
            fields.push(Field::new(format!("{}_pass", set.name), DataType::Boolean, false));
            fields.push(Field::new(format!("{}_failed", set.name), DataType::Utf8, false));
        }
        fields.into()
    }
}

impl FromStr for QualityRules {
    type Err = KernelError;

    /// Reads `gopher,c4,fineweb`, in any case, each at most once.
    fn from_str(s: &str) -> Result<Self> {
        let names = Self::names();
        let mut sets = Vec::new();
        for name in s.split(',').map(|n| n.trim().to_lowercase()).filter(|n| !n.is_empty()) {
            let set = names.iter().position(|n| *n == name);
            let set = set.ok_or_else(|| KernelError::unknown_name("quality rule set", &name, &names))?;
            if !sets.contains(&set) {
                sets.push(set);
            }
        }
        if sets.is_empty() {
            return Err(KernelError::InvalidOption {
                option: "rules",
                value: s.to_string(),
                problem: "it names no rule set".into(),
                fix: format!("write some of '{}'", names.join(",")),
            });
        }
        Ok(Self(sets))
    }
}

/// Measures each text by the signals of the rule sets.
///
/// Returns a struct of `chars` (Unicode scalar values) and `words`, and for every rule set its signals as
/// `SET_SIGNAL: Float64`, `SET_pass: Boolean` (every rule of the set holds) and `SET_failed: Utf8` (the signals whose
/// rules do not, separated by commas; empty if it passes). `NULL` stays `NULL`. The signals, their rules and their
/// sources:
///
/// *gopher* (Rae et al. 2021, arXiv 2112.11446, appendix A.1): `words` 50 to 100,000; `mean_word_length` 3 to 10;
/// `hash_ratio` and `ellipsis_ratio` per word ≤ 0.1; `bullet_lines` ≤ 0.9; `ellipsis_lines` ≤ 0.3; `alpha_words` ≥ 0.8;
/// `stop_words` ≥ 2 of eight English ones; repetition: `dup_lines`, `dup_paragraphs` ≤ 0.3, `dup_line_chars`,
/// `dup_paragraph_chars` ≤ 0.2, `top_2gram` ≤ 0.2, `top_3gram` ≤ 0.18, `top_4gram` ≤ 0.16, `dup_5gram` to `dup_10gram`
/// ≤ 0.15 to 0.10 (shares of characters).
///
/// *c4* (Raffel et al. 2020, JMLR 21/140, section 2.2): `sentences` ≥ 3 in the lines that are kept, which end in a mark
/// (`.`, `!`, `?`, `"` and their like in other scripts), have 5 words or more and do not say `javascript`; `kept_lines`
/// is their share and has no rule; `curly_brackets` and `lorem_ipsum` = 0. Its list of bad words is left out: posts to
/// be moderated are full of them.
///
/// *fineweb* (Penedo et al. 2024, arXiv 2406.17557, section 3.6): `punctuated_lines` > 0.12; `dup_line_chars` < 0.1;
/// `short_lines` (under 30 characters) < 0.67.
///
/// Words are the pieces of UAX #29 that are not white space, so that punctuation marks count as in the implementation
/// `datatrove`; a word of marks only counts for ratios, not for `words` and `mean_word_length`. These rules were made
/// for web pages: most posts are shorter than what `gopher` and `c4` let pass, so choose signals rather than verdicts.
#[must_use]
pub fn quality_signals(texts: &StringArray, rules: &QualityRules) -> StructArray {
    let sets: Vec<_> = rules.sets().collect();
    let signals = 2 + sets.iter().map(|s| s.signals.len()).sum::<usize>();
    let mut numbers: Vec<_> = (0..signals)
        .map(|_| Float64Builder::with_capacity(texts.len()))
        .collect();
    let mut verdicts: Vec<_> = sets
        .iter()
        .map(|_| (BooleanBuilder::new(), StringBuilder::new()))
        .collect();
    let mut values = Vec::new();
    for text in texts {
        let document = Document::read(text.unwrap_or_default());
        numbers[0].append_value(document.chars as f64);
        numbers[1].append_value(document.words() as f64);
        let mut column = 2;
        for (set, (pass, failed)) in sets.iter().zip(&mut verdicts) {
            values.clear();
            (set.measure)(&document, &mut values);
            let broken: Vec<_> = set.broken(&values).collect();
            pass.append_value(broken.is_empty());
            failed.append_value(broken.join(","));
            for value in &values {
                numbers[column].append_value(*value);
                column += 1;
            }
        }
    }
    let mut numbers = numbers.iter_mut().map(|b| Arc::new(b.finish()) as ArrayRef);
    let mut columns: Vec<ArrayRef> = numbers.by_ref().take(2).collect();
    for (set, (pass, failed)) in sets.iter().zip(&mut verdicts) {
        columns.extend(numbers.by_ref().take(set.signals.len()));
        columns.push(Arc::new(pass.finish()));
        columns.push(Arc::new(failed.finish()));
    }
    StructArray::new(rules.fields(), columns, texts.nulls().cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::Float64Type;
    use proptest::prelude::*;

    fn measure(text: &str) -> StructArray {
        quality_signals(&StringArray::from(vec![text]), &"gopher,c4,fineweb".parse().unwrap())
    }

    fn number(s: &StructArray, name: &str) -> f64 {
        s.column_by_name(name).unwrap().as_primitive::<Float64Type>().value(0)
    }

    fn failed(s: &StructArray, set: &str) -> String {
        let failed = s
            .column_by_name(&format!("{set}_failed"))
            .unwrap()
            .as_string::<i32>()
            .value(0)
            .to_string();
        let pass = s.column_by_name(&format!("{set}_pass")).unwrap().as_boolean().value(0);
        assert_eq!(pass, failed.is_empty());
        failed
    }

    const GOOD: &str = "The committee met on Tuesday to discuss the new rules that were proposed by the council.\n\
        Many of the members have argued with one another about how strict these rules ought to be.\n\
        In the end, a majority agreed to try the stricter version for six months and to look at results.\n\
        Whether that will satisfy everyone who complained last year remains an open question for now.";

    #[test]
    fn a_plain_article_passes_everything() {
        let s = measure(GOOD);
        for set in QualityRules::names() {
            assert_eq!(failed(&s, set), "", "{set}");
        }
        assert_eq!(number(&s, "c4_sentences"), 4.0);
        assert_eq!(number(&s, "fineweb_punctuated_lines"), 1.0);
        assert_eq!(number(&s, "chars"), GOOD.chars().count() as f64);
    }

    #[test]
    fn each_rule_notices_its_own_fault() {
        let numbers = "4711 0815 ".repeat(60);
        let cases: Vec<(String, &str, &str)> = vec![
            ("short post".into(), "gopher", "words"),
            (GOOD.replace("the", "#tag #tag #tag"), "gopher", "hash_ratio"),
            (GOOD.replace(" ", "… "), "gopher", "ellipsis_ratio"),
            (GOOD.replace(".\n", "...\n"), "gopher", "ellipsis_lines"),
            (
                GOOD.lines().map(|l| format!("- {l}\n")).collect(),
                "gopher",
                "bullet_lines",
            ),
            (numbers, "gopher", "alpha_words"),
            (
                "Katze Hund Maus Pferd Esel Kuh Schaf Ziege Huhn Ente ".repeat(6),
                "gopher",
                "stop_words",
            ),
            (format!("{GOOD}\n{GOOD}"), "gopher", "dup_lines"),
            (format!("{GOOD}\n\n{GOOD}"), "gopher", "dup_paragraphs"),
            ("buy this now ".repeat(40), "gopher", "top_3gram"),
            (format!("{GOOD} {GOOD}"), "gopher", "dup_10gram"),
            ("a b c d ".repeat(40), "gopher", "mean_word_length"),
            ("No mark at the end of this line".into(), "c4", "sentences"),
            (format!("{GOOD} {{}}"), "c4", "curly_brackets"),
            (format!("{GOOD} Lorem ipsum dolor."), "c4", "lorem_ipsum"),
            (GOOD.replace(['.', ','], ""), "fineweb", "punctuated_lines"),
            (format!("{GOOD}\n{GOOD}"), "fineweb", "dup_line_chars"),
            ("Short line.\n".repeat(3), "fineweb", "short_lines"),
        ];
        for (text, set, signal) in cases {
            let broken = failed(&measure(&text), set);
            assert!(
                broken.split(',').any(|b| b == signal),
                "{signal} is not in '{broken}' for {text}"
            );
        }
    }

    #[test]
    fn lines_that_c4_throws_away_do_not_count() {
        let s = measure(
            "One two three four five. Six seven. \nPlease enable javascript in your browser now.\nToo short.\nno mark at the end of it\n",
        );
        assert_eq!((number(&s, "c4_sentences"), number(&s, "c4_kept_lines")), (2.0, 0.25));
    }

    #[test]
    fn null_and_empty_are_defined() {
        let rules: QualityRules = "fineweb".parse().unwrap();
        let got = quality_signals(&StringArray::from(vec![None, Some("")]), &rules);
        assert!(got.is_null(0) && got.is_valid(1));
        assert_eq!(got.data_type(), &DataType::Struct(rules.fields()));
        assert_eq!(
            got.column_by_name("words")
                .unwrap()
                .as_primitive::<Float64Type>()
                .value(1),
            0.0
        );
    }

    #[test]
    fn names_of_rule_sets_are_checked() {
        let error = |s: &str| s.parse::<QualityRules>().unwrap_err().to_string();
        assert!(error("gofer").ends_with("did you mean 'gopher'?"), "{}", error("gofer"));
        assert!(error(",").contains("names no rule set"));
        let names: Vec<_> = "C4, gopher,c4"
            .parse::<QualityRules>()
            .unwrap()
            .sets()
            .map(|s| s.name)
            .collect();
        assert_eq!(names, ["c4", "gopher"]);
    }

    proptest! {
        #[test]
        fn shares_are_shares_whatever_the_text(s in "([a-c]{1,3}[ .\n]|\\PC|\n\n|[#…•{-]){0,80}") {
            let got = measure(&s);
            for (field, column) in got.fields().iter().zip(got.columns()) {
                if let Some(column) = column.as_primitive_opt::<Float64Type>() {
                    let value = column.value(0);
                    prop_assert!(value.is_finite() && value >= 0.0, "{}", field.name());
                    let share = ["dup_", "top_", "_lines", "alpha_words"].iter().any(|p| field.name().contains(p));
                    prop_assert!(!share || value <= 1.0, "{} {}", field.name(), value);
                }
            }
        }
    }
}
