//! A fast path for the most common tokenizer on the most common text: BERT's WordPiece on ASCII.
//!
//! ```text
//!  row ─► ASCII, no controls, no added token? ─no─► the library
//!          │ yes
//!          └─► split at white space, isolate punctuation, lower case ─► longest match in a trie ─► ids
//! ```
//!
//! The library decides what is right. This path is used only if (1) the file asks for exactly the components that are
//! written again here, and (2) at load its ids equal the library's on several hundred texts made from the vocabulary.
//! A row that it does not understand is left to the library, whole.

use aho_corasick::AhoCorasick;
use serde::Deserialize;
use std::collections::HashMap;
use tokenizers::Tokenizer;
use tokenizers::utils::truncation::TruncationDirection;

const NONE: u32 = u32::MAX;
/// Texts of the test at load.
const PROBES: usize = 300;

/// The tokenizer as tables.
pub(super) struct AsciiWordPiece {
    pieces: Trie,
    lowercase: bool,
    unknown: i32,
    word_bytes_max: usize,
    before: Vec<i32>,
    after: Vec<i32>,
    /// Ids between `before` and `after` at most.
    room: usize,
    added: Option<AhoCorasick>,
}

/// The parts of a `tokenizer.json` that decide whether this path applies; any other component does not deserialise.
#[derive(Deserialize)]
struct File {
    normalizer: Normalizer,
    #[serde(rename = "pre_tokenizer")]
    _pre_tokenizer: PreTokenizer,
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Normalizer {
    BertNormalizer { lowercase: bool },
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    BertPreTokenizer,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Model {
    WordPiece {
        unk_token: String,
        continuing_subword_prefix: String,
        max_input_chars_per_word: usize,
        vocab: HashMap<String, u32>,
    },
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

impl AsciiWordPiece {
    /// Builds the path for a file that it can stand in for; `None` for any other. `library` is the same file, with
    /// truncation set and padding off.
    pub(super) fn admit(bytes: &[u8], library: &Tokenizer) -> Option<Self> {
        let file: File = serde_json::from_slice(bytes).ok()?;
        let Normalizer::BertNormalizer { lowercase } = file.normalizer;
        let Model::WordPiece {
            unk_token,
            continuing_subword_prefix,
            max_input_chars_per_word,
            vocab,
        } = file.model;
        // White space and letters beyond ASCII in an added token are normalised before they are looked for.
        let plain = |a: &Added| a.content.bytes().all(|b| b.is_ascii_graphic());
        if !file.added_tokens.iter().all(plain) {
            return None;
        }
        let patterns: Vec<_> = file
            .added_tokens
            .iter()
            .map(|a| &a.content)
            .filter(|c| !c.is_empty())
            .collect();
        let added = match patterns.is_empty() {
            true => None,
            false => Some(
                AhoCorasick::builder()
                    .ascii_case_insensitive(true)
                    .build(patterns)
                    .ok()?,
            ),
        };
        let (before, after) = special_ids(library)?;
        let room = match library.get_truncation() {
            None => usize::MAX,
            Some(t) if t.direction == TruncationDirection::Right => {
                t.max_length.checked_sub(before.len() + after.len())?
            }
            Some(_) => return None,
        };
        let path = Self {
            pieces: Trie::build(&vocab, &continuing_subword_prefix)?,
            lowercase,
            unknown: i32::try_from(*vocab.get(&unk_token)?).ok()?,
            word_bytes_max: max_input_chars_per_word,
            before,
            after,
            room,
            added,
        };
        path.agrees(library, &vocab).then_some(path)
    }

    /// Appends the ids of a row and returns `true`, or leaves everything as it is and returns `false`.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<i32>) -> bool {
        let bytes = text.as_bytes();
        let plain = |b: &u8| matches!(b, b' '..=b'~' | b'\t' | b'\n' | b'\r');
        if !bytes.iter().all(plain) || self.added.as_ref().is_some_and(|a| a.is_match(bytes)) {
            return false;
        }
        ids.extend_from_slice(&self.before);
        let end = ids.len().saturating_add(self.room);
        let mut at = 0;
        while at < bytes.len() && ids.len() < end {
            let start = at;
            at += 1;
            if bytes[start].is_ascii_whitespace() {
                continue;
            }
            if !bytes[start].is_ascii_punctuation() {
                at += bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
            }
            self.encode_word(&bytes[start..at], ids);
        }
        ids.truncate(end);
        ids.extend_from_slice(&self.after);
        true
    }

    fn encode_word(&self, word: &[u8], ids: &mut Vec<i32>) {
        let first = ids.len();
        if word.len() > self.word_bytes_max {
            ids.push(self.unknown);
            return;
        }
        let mut at = 0;
        while at < word.len() {
            let root = if at == 0 { Trie::WORD } else { Trie::CONTINUATION };
            match self.pieces.longest(root, &word[at..], self.lowercase) {
                Some((length, id)) => {
                    ids.push(id);
                    at += length;
                }
                None => {
                    ids.truncate(first);
                    ids.push(self.unknown);
                    return;
                }
            }
        }
    }

    /// Compares with the library on texts made of the vocabulary, cut and glued, in changing case.
    fn agrees(&self, library: &Tokenizer, vocab: &HashMap<String, u32>) -> bool {
        let mut tokens: Vec<(&str, u32)> = vocab
            .iter()
            .map(|(t, id)| (t.as_str(), *id))
            .filter(|(t, _)| t.is_ascii())
            .collect();
        tokens.sort_unstable_by_key(|(_, id)| *id);
        if tokens.is_empty() {
            return false;
        }
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % n
        };
        let mut probes = vec![String::new(), " \t\r\n".into(), (' '..='~').collect()];
        probes.extend([self.word_bytes_max, self.word_bytes_max + 1].map(|n| "a".repeat(n.min(10_000))));
        probes.extend((0..PROBES).map(|_| {
            let mut text = String::new();
            for _ in 0..next(24) {
                let token = tokens[next(tokens.len())].0;
                let token = &token[next(3).min(token.len())..];
                text.push_str(&if next(4) == 0 {
                    token.to_ascii_uppercase()
                } else {
                    token.to_string()
                });
                text.push_str(["", " ", " ", " ", "  ", "\n", "\t", ".", "'", "-", "##", "_x", "9"][next(13)]);
            }
            text
        }));
        let mut ids = Vec::new();
        probes.iter().all(|text| {
            ids.clear();
            !self.encode(text, &mut ids)
                || library
                    .encode_fast(text.as_str(), true)
                    .is_ok_and(|e| e.get_ids().iter().map(|id| *id as i32).eq(ids.iter().copied()))
        })
    }
}

/// The ids that the post-processor puts around a text.
fn special_ids(library: &Tokenizer) -> Option<(Vec<i32>, Vec<i32>)> {
    let mut library = library.clone();
    library.with_truncation(None).ok()?;
    let ids = |special| -> Option<Vec<i32>> {
        let encoding = library.encode_fast("a", special).ok()?;
        encoding.get_ids().iter().map(|id| i32::try_from(*id).ok()).collect()
    };
    let (bare, dressed) = (ids(false)?, ids(true)?);
    let at = (0..=dressed.len().checked_sub(bare.len())?).find(|at| dressed[*at..].starts_with(&bare))?;
    Some((dressed[..at].to_vec(), dressed[at + bare.len()..].to_vec()))
}

/// The ASCII tokens of a vocabulary, by bytes. Edges lie in one open-addressed table keyed by (node, byte), so that a
/// step costs about one cache miss, and the table of a vocabulary of 30,000 fits in 2 MB.
struct Trie {
    edges: Vec<(u32, u32)>,
    shift: u32,
    ids: Vec<i32>,
}

impl Trie {
    /// Root of the tokens that begin a word.
    const WORD: u32 = 0;
    /// Root of the tokens that continue one, without their prefix.
    const CONTINUATION: u32 = 1;

    fn build(vocab: &HashMap<String, u32>, prefix: &str) -> Option<Self> {
        let mut edges: HashMap<u32, u32> = HashMap::new();
        let mut ids = vec![-1; 2];
        let mut insert = |root: u32, token: &str, id: i32| -> Option<()> {
            let mut node = root;
            for byte in token.bytes() {
                let fresh = u32::try_from(ids.len()).ok().filter(|n| *n < 1 << 24)?;
                node = *edges.entry(node << 8 | u32::from(byte)).or_insert(fresh);
                if node == fresh {
                    ids.push(-1);
                }
            }
            ids[node as usize] = id;
            Some(())
        };
        for (token, id) in vocab.iter().filter(|(t, _)| t.is_ascii() && !t.is_empty()) {
            let id = i32::try_from(*id).ok()?;
            insert(Self::WORD, token, id)?;
            if let Some(rest) = token.strip_prefix(prefix).filter(|r| !r.is_empty()) {
                insert(Self::CONTINUATION, rest, id)?;
            }
        }
        let bits = (edges.len() * 2).next_power_of_two().trailing_zeros().max(4);
        let mut trie = Self {
            edges: vec![(NONE, 0); 1 << bits],
            shift: 32 - bits,
            ids,
        };
        for (key, node) in edges {
            let mut slot = trie.slot(key);
            while trie.edges[slot].0 != NONE {
                slot = (slot + 1) & (trie.edges.len() - 1);
            }
            trie.edges[slot] = (key, node);
        }
        Some(trie)
    }

    fn slot(&self, key: u32) -> usize {
        (key.wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }

    fn step(&self, node: u32, byte: u8) -> Option<u32> {
        let key = node << 8 | u32::from(byte);
        let mut slot = self.slot(key);
        loop {
            let (found, next) = self.edges[slot];
            if found == key {
                return Some(next);
            }
            if found == NONE {
                return None;
            }
            slot = (slot + 1) & (self.edges.len() - 1);
        }
    }

    /// Length and id of the longest token that `bytes` begin with.
    fn longest(&self, root: u32, bytes: &[u8], lowercase: bool) -> Option<(usize, i32)> {
        let (mut node, mut best) = (root, None);
        for (i, byte) in bytes.iter().enumerate() {
            let byte = if lowercase { byte.to_ascii_lowercase() } else { *byte };
            let Some(next) = self.step(node, byte) else { break };
            node = next;
            if self.ids[node as usize] >= 0 {
                best = Some((i + 1, self.ids[node as usize]));
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn load(name: &str, change: impl Fn(&mut serde_json::Value)) -> (Tokenizer, Option<AsciiWordPiece>) {
        let path = format!("{}/tests/data/{name}.tokenizer.json", env!("CARGO_MANIFEST_DIR"));
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        json["padding"] = serde_json::Value::Null;
        change(&mut json);
        let bytes = serde_json::to_vec(&json).unwrap();
        let library = Tokenizer::from_bytes(&bytes).unwrap();
        let path = AsciiWordPiece::admit(&bytes, &library);
        (library, path)
    }

    static BOTH: LazyLock<[(Tokenizer, Option<AsciiWordPiece>); 2]> =
        LazyLock::new(|| ["bert", "bert_cased_cut"].map(|name| load(name, |_| ())));

    #[test]
    fn wordpiece_is_admitted_and_others_are_not() {
        assert!(BOTH.iter().all(|(_, path)| path.is_some()));
        assert!(load("bpe", |_| ()).1.is_none() && load("unigram", |_| ()).1.is_none());
        assert!(
            load("bert", |j| j["normalizer"] = serde_json::json!({"type": "Lowercase"}))
                .1
                .is_none()
        );
        let left = |j: &mut serde_json::Value| {
            j["truncation"] =
                serde_json::json!({"direction": "Left", "max_length": 6, "strategy": "LongestFirst", "stride": 0});
        };
        assert!(load("bert", left).1.is_none());
        let accented = |j: &mut serde_json::Value| {
            let mut token = j["added_tokens"][0].clone();
            (token["content"], token["id"]) = ("café".into(), 999.into());
            j["added_tokens"].as_array_mut().unwrap().push(token);
        };
        assert!(load("bert", accented).1.is_none());
    }

    #[test]
    fn a_path_that_disagrees_is_not_admitted() {
        let (library, path) = load("bert", |_| ());
        let mut path = path.unwrap();
        path.lowercase = false;
        let vocab = library.get_vocab(false);
        assert!(!path.agrees(&library, &vocab));
    }

    #[test]
    fn rows_that_it_does_not_understand_are_left_alone() {
        let path = BOTH[0].1.as_ref().unwrap();
        let mut ids = vec![7];
        for text in ["é", "a\u{7f}", "a\0b", "see [mask] here", "[CLS]", "\u{b}"] {
            assert!(!path.encode(text, &mut ids) && ids == [7], "{text:?}");
        }
        assert!(path.encode("[not mask]", &mut ids));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn ids_are_those_of_the_library(text in "([a-z]{1,6}|report|remove|[A-Z]|[ -~]| |\t|\n|co-operate|[a]{98,102}){0,20}") {
            for (library, path) in BOTH.iter() {
                let mut ids = Vec::new();
                if path.as_ref().unwrap().encode(&text, &mut ids) {
                    let want = library.encode_fast(text.as_str(), true).unwrap();
                    prop_assert_eq!(ids, want.get_ids().iter().map(|id| *id as i32).collect::<Vec<_>>());
                }
            }
        }
    }
}
