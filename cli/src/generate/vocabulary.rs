//! Trains a WordPiece vocabulary on generated posts and writes it as a Hugging Face `tokenizer.json`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use serde_json::{Value, json};

use super::world::{Kind, World};

/// Tokens with a meaning of their own, at ids 0 to 4.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Originals that the vocabulary is trained on.
const SAMPLE: u64 = 4_000;
/// Number of tokens aimed at.
const TOKENS: usize = 8_000;
const MARK: &str = "##";

/// Builds the tokenizer of a data set: lower-casing, BERT's splitting into words, WordPiece (Schuster and Nakajima,
/// "Japanese and Korean voice search", ICASSP 2012) with a vocabulary learnt by merging frequent pairs, as Hugging
/// Face's trainer does. Same posts, same bytes.
pub(crate) fn tokenizer_json(world: &World) -> Value {
    let vocabulary = train(&count_words(world), TOKENS);
    let ids: serde_json::Map<String, Value> = vocabulary
        .into_iter()
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect();
    let special = |id: usize| {
        json!({ "id": id, "content": SPECIAL[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let token = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    let entry = |id: usize| json!({ "id": SPECIAL[id], "ids": [id], "tokens": [SPECIAL[id]] });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": (0..SPECIAL.len()).map(special).collect::<Vec<_>>(),
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                        "strip_accents": false, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, token("[SEP]")],
            "pair": [token("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, token("[SEP]"),
                     { "Sequence": { "id": "B", "type_id": 1 } }, { "SpecialToken": { "id": "[SEP]", "type_id": 1 } }],
            "special_tokens": { "[CLS]": entry(2), "[SEP]": entry(3) },
        },
        "decoder": { "type": "WordPiece", "prefix": MARK, "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": MARK,
                   "max_input_chars_per_word": 200, "vocab": ids },
    })
}

/// Words and how often they stand in the sample.
fn count_words(world: &World) -> BTreeMap<String, u64> {
    let mut words = BTreeMap::new();
    let originals = (0..world.posts)
        .filter(|i| world.kind(*i) == Kind::Original)
        .take(SAMPLE as usize);
    for index in originals {
        split(&world.post(index).body.text, |word| {
            *words.entry(word.to_owned()).or_insert(0) += 1
        });
    }
    // Every character that can be typed in ASCII is known, so that foreign input degrades to letters, not to [UNK].
    for c in '!'..='~' {
        words.entry(c.to_lowercase().to_string()).or_insert(1);
    }
    words
}

/// Splits much as BERT does: lower case, control characters out, punctuation and ideographs on their own.
fn split(text: &str, mut each: impl FnMut(&str)) {
    let mut word = String::new();
    let mut flush = |word: &mut String| {
        if !word.is_empty() {
            each(word);
            word.clear();
        }
    };
    for c in text.chars().flat_map(char::to_lowercase) {
        if c.is_whitespace() {
            flush(&mut word);
        } else if stands_alone(c) {
            flush(&mut word);
            word.push(c);
            flush(&mut word);
        } else if !(c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{feff}' | '\u{ad}' | '\u{fffd}')) {
            word.push(c);
        }
    }
    flush(&mut word);
}

fn stands_alone(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{2010}'..='\u{2027}'
                     | '\u{3000}'..='\u{303f}' | '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}'
                     | '،' | '؟' | '٪' | '¿' | '¡' | ';' | '।')
}

/// Returns the tokens in the order of their ids.
fn train(words: &BTreeMap<String, u64>, tokens: usize) -> Vec<String> {
    let mut table = Table::default();
    SPECIAL.iter().for_each(|s| {
        table.id(s);
    });
    let alphabet: BTreeSet<char> = words.keys().flat_map(|w| w.chars()).collect();
    for c in alphabet {
        table.id(&c.to_string());
        table.id(&format!("{MARK}{c}"));
    }
    let mut corpus: Vec<(Vec<u32>, i64)> = words
        .iter()
        .map(|(word, count)| {
            let ids = word.chars().enumerate().map(|(i, c)| match i {
                0 => table.id(&c.to_string()),
                _ => table.id(&format!("{MARK}{c}")),
            });
            (ids.collect(), *count as i64)
        })
        .collect();
    merge_pairs(&mut corpus, &mut table, tokens);
    table.tokens
}

/// Tokens, by id and by text.
#[derive(Default)]
struct Table {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Table {
    fn id(&mut self, token: &str) -> u32 {
        if let Some(id) = self.ids.get(token) {
            return *id;
        }
        let id = self.tokens.len() as u32;
        self.tokens.push(token.to_owned());
        self.ids.insert(token.to_owned(), id);
        id
    }
}

type Pair = (u32, u32);

/// Merges the most frequent pair until there are enough tokens (Sennrich et al., ACL 2016). Ties go to the lower ids,
/// so the result does not depend on the order of a hash map.
fn merge_pairs(corpus: &mut [(Vec<u32>, i64)], table: &mut Table, tokens: usize) {
    let mut counts: HashMap<Pair, i64> = HashMap::new();
    let mut places: HashMap<Pair, Vec<usize>> = HashMap::new();
    for (at, (word, count)) in corpus.iter().enumerate() {
        for pair in word.windows(2) {
            *counts.entry((pair[0], pair[1])).or_insert(0) += count;
            places.entry((pair[0], pair[1])).or_default().push(at);
        }
    }
    let mut queue: BinaryHeap<(i64, Reverse<Pair>)> = counts.iter().map(|(p, c)| (*c, Reverse(*p))).collect();
    while table.tokens.len() < tokens {
        let Some((count, Reverse(pair))) = queue.pop() else {
            break;
        };
        let now = counts.get(&pair).copied().unwrap_or(0);
        if now != count {
            // The entry is stale: put the pair back under what it counts now.
            if now > 0 {
                queue.push((now, Reverse(pair)));
            }
            continue;
        }
        if count < 2 {
            break;
        }
        let right = table.tokens[pair.1 as usize].trim_start_matches(MARK).to_owned();
        let joined = format!("{}{right}", table.tokens[pair.0 as usize]);
        let merged = table.id(&joined);
        let mut touched = BTreeSet::new();
        for at in places.remove(&pair).unwrap_or_default() {
            let (word, times) = &mut corpus[at];
            let times = *times;
            for old in word.windows(2) {
                *counts.entry((old[0], old[1])).or_insert(0) -= times;
            }
            replace(word, pair, merged);
            for new in word.windows(2) {
                let new = (new[0], new[1]);
                *counts.entry(new).or_insert(0) += times;
                if new.0 == merged || new.1 == merged {
                    places.entry(new).or_default().push(at);
                    touched.insert(new);
                }
            }
        }
        counts.remove(&pair);
        queue.extend(touched.into_iter().map(|p| (counts[&p], Reverse(p))));
    }
}

fn replace(word: &mut Vec<u32>, pair: Pair, merged: u32) {
    let mut out = Vec::with_capacity(word.len());
    let mut i = 0;
    while i < word.len() {
        if i + 1 < word.len() && (word[i], word[i + 1]) == pair {
            out.push(merged);
            i += 2;
        } else {
            out.push(word[i]);
            i += 1;
        }
    }
    *word = out;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_become_one_token() {
        let words = BTreeMap::from([("hello".into(), 50), ("help".into(), 40), ("zoo".into(), 1)]);
        let tokens = train(&words, 200);
        assert!(
            tokens.contains(&"hello".to_owned()) && tokens.contains(&"help".to_owned()),
            "{tokens:?}"
        );
        assert!(!tokens.contains(&"zoo".to_owned()), "a word seen once is spelt out");
        assert_eq!(&tokens[..2], ["[PAD]", "[UNK]"]);
    }

    #[test]
    fn training_twice_gives_the_same_tokens() {
        let world = World::new(4, 600, 0).unwrap();
        assert_eq!(train(&count_words(&world), 2_000), train(&count_words(&world), 2_000));
    }

    #[test]
    fn splitting_follows_bert() {
        let mut words = Vec::new();
        split("It's\u{200b} 今日 FINE!", |w| words.push(w.to_owned()));
        assert_eq!(words, ["it", "'", "s", "今", "日", "fine", "!"]);
    }
}
