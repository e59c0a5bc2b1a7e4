//! How much of a text of an evaluation set stands in a text of a corpus.

use std::collections::HashSet;

use crate::shingles::{ShingleOptions, ShingleUnit, Shingler};

/// What two texts share.
#[derive(Debug, Clone, PartialEq)]
pub struct Overlap {
    /// Share of the evaluation text's different n-grams that stand in the other text, from 0 to 1.
    pub share: f64,
    /// The longest runs of words of the other text that consist of shared n-grams, in its order, each once.
    pub spans: Vec<String>,
}

/// Options under which texts are cut into n-grams of words.
#[must_use]
pub fn word_grams(n: usize) -> ShingleOptions {
    ShingleOptions {
        unit: ShingleUnit::Word,
        words: n.max(1),
        ..ShingleOptions::default()
    }
}

/// Compares two texts by their n-grams of words, as strings: no hash can claim what is not there.
///
/// Words are those of [`ShingleUnit::Word`]: case, punctuation and spelling of white space do not count. A text of fewer
/// than `n` words is one n-gram, and so is shared only with a text that is the same.
#[must_use]
pub fn overlap(text: &str, evaluation: &str, n: usize) -> Overlap {
    let (mut own, mut theirs) = (Shingler::new(word_grams(n)), Shingler::new(word_grams(n)));
    own.read(text);
    theirs.read(evaluation);
    let wanted: HashSet<&str> = theirs.word_shingles().collect();
    let mut shared: HashSet<&str> = HashSet::new();
    let mut spans: Vec<String> = Vec::new();
    let mut open = false;
    for gram in own.word_shingles() {
        let Some(gram) = wanted.get(gram) else {
            open = false;
            continue;
        };
        shared.insert(*gram);
        match spans.last_mut().filter(|_| open) {
            // The next n-gram adds its last word.
            Some(span) => {
                span.push(' ');
                span.push_str(gram.rsplit(' ').next().unwrap_or_default());
            }
            None => spans.push((*gram).to_owned()),
        }
        open = true;
    }
    let mut seen = HashSet::new();
    spans.retain(|span| seen.insert(span.clone()));
    Overlap {
        share: shared.len() as f64 / wanted.len().max(1) as f64,
        spans,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_share_is_that_of_sets_of_word_lists(a in "[abc ]{0,40}", b in "[abc ]{0,20}", n in 1usize..4) {
            let grams = |text: &str| -> BTreeSet<Vec<String>> {
                let words: Vec<String> = text.split_whitespace().map(String::from).collect();
                match words.len() {
                    0 => BTreeSet::new(),
                    len => words.windows(n.min(len)).map(<[String]>::to_vec).collect(),
                }
            };
            let (x, y) = (grams(&a), grams(&b));
            let got = overlap(&a, &b, n);
            let both = x.intersection(&y).count();
            prop_assert_eq!(got.share, both as f64 / y.len().max(1) as f64);
            prop_assert_eq!(got.spans.is_empty(), both == 0);
            let padded = format!(" {} ", a.split_whitespace().collect::<Vec<_>>().join(" "));
            for span in &got.spans {
                let found = padded.contains(&format!(" {span} "));
                prop_assert!(found, "'{}' is not in '{}'", span, padded);
            }
        }
    }

    #[test]
    fn spans_are_the_runs_that_are_shared() {
        let evaluation = "What is the capital of France, and since when?";
        let text = "I asked: what is the CAPITAL of France and then left. The capital of France and since when";
        let got = overlap(text, evaluation, 4);
        assert_eq!(
            got.spans,
            [
                "what is the capital of france and",
                "the capital of france and since when"
            ]
        );
        assert_eq!(got.share, 1.0);
        assert_eq!(overlap("what is", evaluation, 4).share, 0.0);
        assert_eq!(
            overlap("", "", 3),
            Overlap {
                share: 0.0,
                spans: Vec::new()
            }
        );
    }
}
