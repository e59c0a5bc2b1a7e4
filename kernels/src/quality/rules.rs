//! The rule sets as tables: signals, their bounds, and how they are measured.

use super::document::Document;

/// What a signal has to be.
pub(super) enum Rule {
    /// At least this.
    Min(f64),
    /// At most this.
    Max(f64),
    /// Between these, both included.
    Within(f64, f64),
    /// More than this.
    Above(f64),
    /// Less than this.
    Below(f64),
    /// It is shown, not judged.
    Free,
}

/// One number of a rule set.
pub(super) struct Signal {
    pub(super) name: &'static str,
    rule: Rule,
}

/// A rule set; `measure` pushes one value a signal, in order.
pub(super) struct RuleSet {
    pub(super) name: &'static str,
    pub(super) signals: &'static [Signal],
    pub(super) measure: fn(&Document<'_>, &mut Vec<f64>),
}

impl RuleSet {
    /// Names of the signals whose rules do not hold.
    pub(super) fn broken<'a>(&'a self, values: &'a [f64]) -> impl Iterator<Item = &'static str> + 'a {
        debug_assert_eq!(values.len(), self.signals.len());
        let broken = |(signal, value): &(&Signal, &f64)| match signal.rule {
            Rule::Min(least) => **value < least,
            Rule::Max(most) => **value > most,
            Rule::Within(least, most) => **value < least || **value > most,
            Rule::Above(bound) => **value <= bound,
            Rule::Below(bound) => **value >= bound,
            Rule::Free => false,
        };
        self.signals
            .iter()
            .zip(values)
            .filter(broken)
            .map(|(signal, _)| signal.name)
    }
}

/// All rule sets. To add one, write its table and its measure below and add it here.
pub(super) static SETS: [&RuleSet; 3] = [&GOPHER, &C4, &FINEWEB];

const fn signal(name: &'static str, rule: Rule) -> Signal {
    Signal { name, rule }
}

static GOPHER: RuleSet = RuleSet {
    name: "gopher",
    signals: &[
        signal("words", Rule::Within(50.0, 100_000.0)),
        signal("mean_word_length", Rule::Within(3.0, 10.0)),
        signal("hash_ratio", Rule::Max(0.1)),
        signal("ellipsis_ratio", Rule::Max(0.1)),
        signal("bullet_lines", Rule::Max(0.9)),
        signal("ellipsis_lines", Rule::Max(0.3)),
        signal("alpha_words", Rule::Min(0.8)),
        signal("stop_words", Rule::Min(2.0)),
        signal("dup_lines", Rule::Max(0.3)),
        signal("dup_line_chars", Rule::Max(0.2)),
        signal("dup_paragraphs", Rule::Max(0.3)),
        signal("dup_paragraph_chars", Rule::Max(0.2)),
        signal("top_2gram", Rule::Max(0.2)),
        signal("top_3gram", Rule::Max(0.18)),
        signal("top_4gram", Rule::Max(0.16)),
        signal("dup_5gram", Rule::Max(0.15)),
        signal("dup_6gram", Rule::Max(0.14)),
        signal("dup_7gram", Rule::Max(0.13)),
        signal("dup_8gram", Rule::Max(0.12)),
        signal("dup_9gram", Rule::Max(0.11)),
        signal("dup_10gram", Rule::Max(0.10)),
    ],
    measure: gopher,
};

const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];

fn gopher(document: &Document<'_>, out: &mut Vec<f64>) {
    let (pieces, lines) = (&document.pieces, &document.lines);
    let words = document.words();
    let word_chars: usize = pieces.iter().filter(|p| p.is_word).map(|p| p.chars).sum();
    let hashes = document.text.matches('#').count();
    let ellipses = document.text.matches("...").count() + document.text.matches('…').count();
    let bullets = lines
        .iter()
        .filter(|l| l.starts_with(['•', '-', '*', '‣', '▪', '●']))
        .count();
    let trailing = lines.iter().filter(|l| l.ends_with("...") || l.ends_with('…')).count();
    let alpha = pieces.iter().filter(|p| p.is_alpha).count();
    let stop_words = STOP_WORDS
        .iter()
        .filter(|s| pieces.iter().any(|p| p.text.eq_ignore_ascii_case(s)))
        .count();
    out.extend([
        words as f64,
        Document::share(word_chars, words),
        Document::share(hashes, pieces.len()),
        Document::share(ellipses, pieces.len()),
        Document::share(bullets, lines.len()),
        Document::share(trailing, lines.len()),
        Document::share(alpha, pieces.len()),
        stop_words as f64,
    ]);
    for parts in [&document.lines[..], &document.paragraphs()] {
        let (count, chars) = document.repeated(parts);
        out.extend([count, chars]);
    }
    out.extend((2..=4).map(|n| document.top_ngram(n)));
    out.extend((5..=10).map(|n| document.repeated_ngrams(n)));
}

static C4: RuleSet = RuleSet {
    name: "c4",
    signals: &[
        signal("sentences", Rule::Min(3.0)),
        signal("kept_lines", Rule::Free),
        signal("curly_brackets", Rule::Max(0.0)),
        signal("lorem_ipsum", Rule::Max(0.0)),
    ],
    measure: c4,
};

fn c4(document: &Document<'_>, out: &mut Vec<f64>) {
    let kept: Vec<_> = document
        .lines
        .iter()
        .filter(|l| ends_in_mark(l) && !contains_ignoring_case(l, "javascript") && word_count_is(l, 5))
        .collect();
    let sentences: usize = kept.iter().map(|l| sentences(l)).sum();
    let brackets = document.text.matches(['{', '}']).count();
    out.extend([
        sentences as f64,
        Document::share(kept.len(), document.lines.len()),
        brackets as f64,
        f64::from(u8::from(contains_ignoring_case(document.text, "lorem ipsum"))),
    ]);
}

static FINEWEB: RuleSet = RuleSet {
    name: "fineweb",
    signals: &[
        signal("punctuated_lines", Rule::Above(0.12)),
        signal("dup_line_chars", Rule::Below(0.1)),
        signal("short_lines", Rule::Below(0.67)),
    ],
    measure: fineweb,
};

fn fineweb(document: &Document<'_>, out: &mut Vec<f64>) {
    let lines = &document.lines;
    let punctuated = lines.iter().filter(|l| ends_in_mark(l)).count();
    let short = lines.iter().filter(|l| l.chars().count() < 30).count();
    out.extend([
        Document::share(punctuated, lines.len()),
        document.repeated(lines).1,
        Document::share(short, lines.len()),
    ]);
}

/// Marks that end sentences, in the scripts that have their own, and closing quotes.
fn ends_in_mark(line: &str) -> bool {
    line.ends_with([
        '.', '!', '?', '"', '”', '»', '…', '。', '！', '？', '؟', '۔', '।', '॥', '။', '։', '።', '」', '』',
    ])
}

fn sentences(line: &str) -> usize {
    use unicode_segmentation::UnicodeSegmentation;
    line.unicode_sentences().count()
}

fn word_count_is(line: &str, least: usize) -> bool {
    use unicode_segmentation::UnicodeSegmentation;
    line.unicode_words().take(least).count() == least
}

fn contains_ignoring_case(text: &str, ascii: &str) -> bool {
    text.as_bytes()
        .windows(ascii.len())
        .any(|w| w.eq_ignore_ascii_case(ascii.as_bytes()))
}
