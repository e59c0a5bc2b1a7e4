//! Lists of hashes as organisations exchange them: what a hash of each signal looks like, and the files that hold them.

use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{KernelError, Result};

/// What the hashes of a list are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Perceptual hash of a picture, compared by the bits in which two differ.
    Pdq,
    /// MD5 of a file.
    Md5,
    /// SHA-1 of a file.
    Sha1,
    /// SHA-256 of a file.
    Sha256,
    /// `content_hash` of corpusmill: 128 bits of any values.
    ContentHash,
}

impl Signal {
    /// All signals.
    pub const ALL: [Self; 5] = [Self::Pdq, Self::Md5, Self::Sha1, Self::Sha256, Self::ContentHash];

    /// Its name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pdq => "pdq",
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::ContentHash => "content_hash",
        }
    }

    /// Hexadecimal digits of a hash.
    #[must_use]
    pub fn digits(self) -> usize {
        match self {
            Self::Pdq | Self::Sha256 => 64,
            Self::Md5 | Self::ContentHash => 32,
            Self::Sha1 => 40,
        }
    }

    /// Reads a hash as it is written; gives it in lower case without white space around it.
    ///
    /// # Errors
    /// What is wrong with it: its length, or a character that is no hexadecimal digit.
    pub fn read(self, text: &str) -> Result<String, String> {
        let hash = text.trim();
        let shown: String = hash.chars().take(80).collect();
        let is_wrong = |why: String| {
            let (name, digits) = (self.name(), self.digits());
            format!("'{shown}' is not a hash of signal {name}: expected {digits} hexadecimal digits, found {why}")
        };
        if let Some(other) = hash.chars().find(|c| !c.is_ascii_hexdigit()) {
            return Err(is_wrong(format!("the character '{}'", other.escape_default())));
        }
        if hash.len() != self.digits() {
            return Err(is_wrong(hash.len().to_string()));
        }
        Ok(hash.to_ascii_lowercase())
    }

    /// The signal of a type of ThreatExchange, such as `HASH_PDQ`.
    fn of_exchange(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "HASH_PDQ" | "PDQ" => Some(Self::Pdq),
            "HASH_MD5" | "HASH_VIDEO_MD5" | "MD5" | "VIDEO_MD5" => Some(Self::Md5),
            "HASH_SHA1" | "SHA1" => Some(Self::Sha1),
            "HASH_SHA256" | "SHA256" => Some(Self::Sha256),
            _ => None,
        }
    }
}

impl FromStr for Signal {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|signal| signal.name() == name);
        found.ok_or_else(|| KernelError::unknown_name("signal", name, &Self::ALL.map(Self::name)))
    }
}

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashEntry {
    /// The hash, as [`Signal::read`] gives it.
    pub hash: String,
    /// What the entry is known by, where the file says.
    pub id: Option<String>,
    /// Its tags, joined by commas.
    pub tags: Option<String>,
    /// Line of a text or CSV file, number of an entry of a JSON file; from 1.
    pub row: usize,
}

/// Reads a file of hashes, by the end of its name:
///
/// - `.csv`: with a header; the column `hash` (or `indicator`, `raw_indicator`), and `id` and `tags` if they are there;
/// - `.json`, `.jsonl`, `.ndjson`: what ThreatExchange exchanges, indicators or descriptors: objects with `indicator` or
///   `raw_indicator`, `id`, `type` and `tags`, one a line, in an array, or as `{"data": […]}`. Entries of other types and
///   those with `should_delete` are passed over;
/// - anything else: one hash a line; empty lines and those that begin with `#` are passed over.
///
/// # Errors
/// [`KernelError::FileRow`] with the file, the row, and what is wrong with it.
pub fn read_hash_file(file: &str, bytes: &[u8], signal: Signal) -> Result<Vec<HashEntry>> {
    let reader = Reader { file, signal };
    let end = file.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match end.as_str() {
        "csv" => reader.csv(bytes),
        "json" | "jsonl" | "ndjson" => reader.exchange(bytes),
        _ => reader.lines(bytes),
    }
}

struct Reader<'a> {
    file: &'a str,
    signal: Signal,
}

/// An indicator or a descriptor of ThreatExchange, as its API gives them.
#[derive(Debug, Deserialize)]
struct Indicator {
    #[serde(default)]
    id: Value,
    indicator: Option<String>,
    raw_indicator: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    should_delete: Option<bool>,
    #[serde(default)]
    tags: Value,
}

impl Reader<'_> {
    fn wrong(&self, row: usize, problem: impl Into<String>) -> KernelError {
        KernelError::FileRow {
            file: self.file.to_owned(),
            row,
            problem: problem.into(),
        }
    }

    fn hash(&self, row: usize, text: &str) -> Result<String> {
        self.signal.read(text).map_err(|problem| self.wrong(row, problem))
    }

    fn lines(&self, bytes: &[u8]) -> Result<Vec<HashEntry>> {
        let mut entries = Vec::new();
        for (row, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let line = std::str::from_utf8(line).map_err(|_| self.wrong(row, "the line is not UTF-8"))?;
            // The mark that some editors put in front of a file.
            let line = line.trim_start_matches('\u{feff}').trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            entries.push(HashEntry {
                hash: self.hash(row, line)?,
                id: None,
                tags: None,
                row,
            });
        }
        Ok(entries)
    }

    fn csv(&self, bytes: &[u8]) -> Result<Vec<HashEntry>> {
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new().from_reader(bytes);
        let header = reader
            .headers()
            .map_err(|error| self.wrong(1, error.to_string()))?
            .clone();
        let column = |names: &[&str]| {
            let is_one = |name: &str| names.iter().any(|known| known.eq_ignore_ascii_case(name.trim()));
            header.iter().position(is_one)
        };
        let Some(hash) = column(&["hash", "indicator", "raw_indicator"]) else {
            let found: Vec<&str> = header.iter().take(8).collect();
            let problem = format!(
                "the header has no column 'hash', only {}; a file of bare hashes ends with .txt",
                found.join(", ")
            );
            return Err(self.wrong(1, problem));
        };
        let (id, tags) = (column(&["id"]), column(&["tags"]));
        let mut entries = Vec::new();
        let mut record = csv::StringRecord::new();
        loop {
            let row = reader.position().line() as usize;
            match reader.read_record(&mut record) {
                Ok(true) => {}
                Ok(false) => return Ok(entries),
                Err(error) => {
                    let row = error.position().map_or(row, |place| place.line() as usize);
                    return Err(self.wrong(row, csv_problem(&error)));
                }
            }
            let row = record.position().map_or(row, |place| place.line() as usize);
            let cell = |column: Option<usize>| {
                let text = record.get(column?)?.trim();
                (!text.is_empty()).then(|| text.to_owned())
            };
            entries.push(HashEntry {
                hash: self.hash(row, record.get(hash).unwrap_or_default())?,
                id: cell(id),
                tags: cell(tags),
                row,
            });
        }
    }

    fn exchange(&self, bytes: &[u8]) -> Result<Vec<HashEntry>> {
        let mut entries = Vec::new();
        let mut row = 0;
        for value in serde_json::Deserializer::from_slice(bytes).into_iter::<Value>() {
            let value = value.map_err(|error| self.wrong(row + 1, format!("it is not JSON: {error}")))?;
            for item in items(value) {
                row += 1;
                entries.extend(self.indicator(row, item)?);
            }
        }
        Ok(entries)
    }

    fn indicator(&self, row: usize, item: Value) -> Result<Option<HashEntry>> {
        let found: Indicator =
            serde_json::from_value(item).map_err(|error| self.wrong(row, format!("it is no indicator: {error}")))?;
        let is_other = |kind: &str| Signal::of_exchange(kind) != Some(self.signal);
        if found.should_delete == Some(true) || found.kind.as_deref().is_some_and(is_other) {
            return Ok(None);
        }
        let text = found.indicator.or(found.raw_indicator);
        let text = text.ok_or_else(|| self.wrong(row, "it has neither 'indicator' nor 'raw_indicator'"))?;
        Ok(Some(HashEntry {
            hash: self.hash(row, &text)?,
            id: word(&found.id),
            tags: tags(&found.tags),
            row,
        }))
    }
}

/// What the parser says without the place, which it counts in records.
fn csv_problem(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} fields, the header {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8".to_owned(),
        _ => error.to_string(),
    }
}

/// The entries in one JSON value of a file.
fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        Value::Object(mut object) => match object.remove("data") {
            Some(Value::Array(items)) => items,
            Some(data) => {
                object.insert("data".into(), data);
                vec![Value::Object(object)]
            }
            None => vec![Value::Object(object)],
        },
        other => vec![other],
    }
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Tags are words, or objects with a `text`, in an array or in `{"data": […]}`.
fn tags(value: &Value) -> Option<String> {
    let list = value.get("data").unwrap_or(value).as_array()?;
    let words = list.iter().filter_map(|tag| word(tag.get("text").unwrap_or(tag)));
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| words.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "f162eb9daab170c0567fe3632d9a5548c5612982dd5e374a7424ebbc8a835c95";

    /// Row, first digits, id and tags.
    type Shown = (usize, String, Option<String>, Option<String>);

    fn read(file: &str, text: &str) -> Result<Vec<Shown>> {
        let entries = read_hash_file(file, text.as_bytes(), Signal::Pdq)?;
        Ok(entries
            .into_iter()
            .map(|e| (e.row, e.hash[..4].to_owned(), e.id, e.tags))
            .collect())
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn files_of_every_kind_are_read() {
        let upper = HASH.to_uppercase();
        let lines = read("list.txt", &format!("\u{feff}# ours\n{upper}\r\n\n  {HASH}\n"));
        assert_eq!(
            lines.unwrap(),
            [(2, "f162".into(), None, None), (4, "f162".into(), None, None)]
        );
        let csv = read(
            "list.CSV",
            &format!("ID,Hash,note,tags\n7,{upper},\"two\nlines\",\"a,b\"\n,{HASH},x,\n"),
        );
        assert_eq!(
            csv.unwrap(),
            [
                (2, "f162".into(), some("7"), some("a,b")),
                (4, "f162".into(), None, None)
            ]
        );
        let indicators = format!(
            r#"{{"data": [{{"id": "1", "indicator": "{HASH}", "type": "HASH_PDQ", "tags": ["x", "y"]}},
                          {{"id": "2", "indicator": "no", "type": "HASH_MD5"}},
                          {{"id": "3", "indicator": "{HASH}", "type": "HASH_PDQ", "should_delete": true}}],
                "paging": {{}}}}
               {{"id": 4, "raw_indicator": "{HASH}", "type": "HASH_PDQ", "tags": {{"data": [{{"id": "9", "text": "z"}}]}}}}"#
        );
        let exchange = read("page.json", &indicators);
        assert_eq!(
            exchange.unwrap(),
            [
                (1, "f162".into(), some("1"), some("x,y")),
                (4, "f162".into(), some("4"), some("z"))
            ]
        );
        assert_eq!(
            read("page.json", &format!(r#"[{{"indicator": "{HASH}"}}]"#))
                .unwrap()
                .len(),
            1
        );
        for file in ["a.txt", "a.json"] {
            assert_eq!(read(file, "").unwrap(), []);
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_row() {
        let said = |file: &str, text: &str| read(file, text).unwrap_err().to_string();
        assert_eq!(
            said("a.txt", &format!("{HASH}\nabc\n")),
            "a.txt, row 2: 'abc' is not a hash of signal pdq: expected 64 hexadecimal digits, found 3"
        );
        assert_eq!(
            said("a.csv", "hash\nxyz\n"),
            "a.csv, row 2: 'xyz' is not a hash of signal pdq: expected 64 hexadecimal digits, found the character 'x'"
        );
        assert_eq!(
            said("a.csv", &format!("hash,id\n{HASH}\n")),
            "a.csv, row 2: it has 1 fields, the header 2"
        );
        assert!(said("a.csv", &format!("{HASH}\n{HASH}\n")).contains("the header has no column 'hash'"));
        assert!(said("a.csv", "").contains("the header has no column 'hash'"));
        assert!(said("a.json", r#"[{"id": 1}]"#).contains("row 1: it has neither 'indicator' nor 'raw_indicator'"));
        assert!(said("a.json", r#"{"indicator": "#).contains("row 1: it is not JSON"));
        assert!(said("a.json", "[3]").contains("row 1: it is no indicator"));
    }

    #[test]
    fn signals_have_names_and_lengths() {
        for signal in Signal::ALL {
            assert_eq!(signal.name().parse::<Signal>().unwrap(), signal);
            assert!(signal.read(&"A".repeat(signal.digits())).is_ok());
            assert!(signal.read(&"A".repeat(signal.digits() - 1)).is_err());
        }
        let told = "sha265".parse::<Signal>().unwrap_err().to_string();
        assert!(told.contains("did you mean 'sha256'?"), "{told}");
    }
}
