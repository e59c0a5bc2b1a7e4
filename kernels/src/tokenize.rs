//! Tokenizers: text to token ids and back, with the ids that Hugging Face `tokenizers` gives.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int32Array, ListArray, StringArray, StringBuilder};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type};
use tokenizers::{TruncationParams, TruncationStrategy};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{KernelError, Result};

mod ascii_wordpiece;
mod sniff;

use ascii_wordpiece::AsciiWordPiece;

/// A tokenizer as a Hugging Face `tokenizer.json` describes it. Cloning is cheap; it can be used from many threads.
///
/// One call works on one thread: whoever has several partitions calls it from several.
#[derive(Clone)]
pub struct Tokenizer {
    name: Arc<str>,
    digest: Arc<str>,
    max_length: Option<usize>,
    file: Arc<[u8]>,
    inner: Arc<Inner>,
}

struct Inner {
    library: tokenizers::Tokenizer,
    ascii: Option<AsciiWordPiece>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .field("max_length", &self.max_length)
            .field("fast_path", &self.inner.ascii.is_some())
            .finish()
    }
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// Special tokens are added as the file's post-processor says. Truncation is as the file says (many files that
    /// come with models cut at 128 or 512), unless `max_length` is given, which then holds instead; it counts the
    /// special tokens. Padding that the file asks for is left out: rows of a corpus are as long as their text.
    ///
    /// # Errors
    /// [`KernelError::NotATokenizer`], which says what the bytes are instead; [`KernelError::InvalidOption`] when
    /// `max_length` leaves no room for a token beside the special ones.
    pub fn from_bytes(name: &str, bytes: &[u8], max_length: Option<usize>) -> Result<Self> {
        let mut library = sniff::parse(name, bytes)?;
        library.with_padding(None);
        let special = library
            .get_post_processor()
            .map_or(0, |p| tokenizers::PostProcessor::added_tokens(p, false));
        let of_file = library.get_truncation().cloned();
        let limit = max_length.or(of_file.as_ref().map(|t| t.max_length));
        if let Some(limit) = limit {
            if limit <= special {
                return Err(KernelError::InvalidOption {
                    option: if max_length.is_some() {
                        "max_length"
                    } else {
                        "truncation.max_length of the tokenizer.json"
                    },
                    value: limit.to_string(),
                    problem: format!("tokenizer '{name}' adds {special} special tokens to every text"),
                    fix: format!("use at least {}", special + 1),
                });
            }
            let direction = of_file.map(|t| t.direction).unwrap_or_default();
            // Only the first window is kept, so a stride changes nothing; the strategies differ for pairs only.
            let truncation = TruncationParams {
                max_length: limit,
                stride: 0,
                direction,
                strategy: TruncationStrategy::LongestFirst,
            };
            library
                .with_truncation(Some(truncation))
                .map_err(|source| KernelError::NotATokenizer {
                    name: name.to_string(),
                    found: "truncation that the library refuses".into(),
                    fix: "give a larger max_length".into(),
                    source: Some(source),
                })?;
        }
        let ascii = AsciiWordPiece::admit(bytes, &library);
        Ok(Self {
            name: name.into(),
            digest: format!("{:032x}", xxh3_128(bytes)).into(),
            max_length: limit,
            file: bytes.into(),
            inner: Arc::new(Inner { library, ascii }),
        })
    }

    /// The name that it was created with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// xxh3-128 of the bytes of the file, as 32 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The bytes of the file that it was read from: what another process needs to make the same tokenizer.
    #[must_use]
    pub fn file(&self) -> &Arc<[u8]> {
        &self.file
    }

    /// The largest number of ids a row, special tokens among them, if there is a limit.
    #[must_use]
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// Number of different ids, added tokens among them.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.library.get_vocab_size(true)
    }

    /// Says whether ASCII rows take this crate's own WordPiece path (see `tokenize/ascii_wordpiece.rs`).
    #[must_use]
    pub fn has_fast_path(&self) -> bool {
        self.inner.ascii.is_some()
    }

    /// Type of the arrays that [`encode`](Self::encode) returns: `List<Int32>` whose items are never `NULL`.
    #[must_use]
    pub fn encoded_type() -> DataType {
        DataType::List(item_field())
    }

    /// Turns each text into its token ids. `NULL` stays `NULL`; the empty text gives the special tokens alone.
    ///
    /// # Errors
    /// [`KernelError::TokenizerRow`] when the library fails on a row, [`KernelError::TooLarge`] when the ids of the
    /// batch do not fit 32-bit offsets.
    pub fn encode(&self, texts: &StringArray) -> Result<ListArray> {
        let mut values: Vec<i32> = Vec::with_capacity(texts.value_data().len() / 4 + 4 * texts.len());
        let mut offsets = Vec::with_capacity(texts.len() + 1);
        offsets.push(0i32);
        for row in 0..texts.len() {
            if !texts.is_null(row) {
                self.encode_row(row, texts.value(row), &mut values)?;
            }
            let end = i32::try_from(values.len()).map_err(|_| KernelError::TooLarge {
                function: "tokenize",
                rows: texts.len(),
            })?;
            offsets.push(end);
        }
        let offsets = OffsetBuffer::new(offsets.into());
        Ok(ListArray::try_new(
            item_field(),
            offsets,
            Arc::new(Int32Array::from(values)),
            texts.nulls().cloned(),
        )?)
    }

    /// Counts the token ids of each text: the lengths of what [`encode`](Self::encode) returns, `Int32`.
    ///
    /// # Errors
    /// As `encode`.
    pub fn count(&self, texts: &StringArray) -> Result<Int32Array> {
        let mut counts = Vec::with_capacity(texts.len());
        let mut ids = Vec::new();
        for row in 0..texts.len() {
            ids.clear();
            if !texts.is_null(row) {
                self.encode_row(row, texts.value(row), &mut ids)?;
            }
            let count = i32::try_from(ids.len());
            counts.push(count.map_err(|_| KernelError::TooLarge {
                function: "token_count",
                rows: texts.len(),
            })?);
        }
        Ok(Int32Array::new(counts.into(), texts.nulls().cloned()))
    }

    /// Turns token ids back into text, special tokens left out, as `decode(ids, skip_special_tokens=True)` does in
    /// Python. `NULL` stays `NULL`. Ids that are not in the vocabulary are left out, as the library does.
    ///
    /// Takes a list of any integer type.
    ///
    /// # Errors
    /// [`KernelError::UnsupportedType`] for a list of anything else, [`KernelError::NoTokenId`] for a `NULL` or
    /// negative id, [`KernelError::TokenizerRow`] when the file's decoder fails.
    pub fn decode(&self, ids: &ListArray) -> Result<StringArray> {
        if !ids.value_type().is_integer() {
            return Err(KernelError::UnsupportedType {
                function: "detokenize",
                data_type: ids.data_type().clone(),
                fix: "give a list of integers, as tokenize() returns",
            });
        }
        let items = cast(ids.values(), &DataType::Int64)?;
        let items = items.as_primitive::<Int64Type>();
        let offsets = ids.value_offsets();
        let mut texts = StringBuilder::with_capacity(ids.len(), items.len() * 4);
        let mut row_ids = Vec::new();
        for row in 0..ids.len() {
            if ids.is_null(row) {
                texts.append_null();
                continue;
            }
            row_ids.clear();
            for i in offsets[row] as usize..offsets[row + 1] as usize {
                let id = (!items.is_null(i)).then(|| items.value(i));
                let valid = id
                    .and_then(|id| u32::try_from(id).ok())
                    .filter(|id| *id <= i32::MAX as u32);
                let written = || id.map_or_else(|| "NULL".to_string(), |id| id.to_string());
                row_ids.push(valid.ok_or_else(|| KernelError::NoTokenId {
                    name: self.name.to_string(),
                    row,
                    id: written(),
                })?);
            }
            let text = self
                .inner
                .library
                .decode(&row_ids, true)
                .map_err(|e| self.row_error(row, e))?;
            texts.append_value(text);
        }
        Ok(texts.finish())
    }

    fn encode_row(&self, row: usize, text: &str, ids: &mut Vec<i32>) -> Result<()> {
        if let Some(ascii) = &self.inner.ascii
            && ascii.encode(text, ids)
        {
            return Ok(());
        }
        let encoding = self
            .inner
            .library
            .encode_fast(text, true)
            .map_err(|e| self.row_error(row, e))?;
        ids.extend(encoding.get_ids().iter().map(|id| *id as i32));
        Ok(())
    }

    fn row_error(&self, row: usize, source: tokenizers::Error) -> KernelError {
        KernelError::TokenizerRow {
            name: self.name.to_string(),
            row,
            source,
        }
    }
}

fn item_field() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Int32, false))
}

#[cfg(test)]
mod tests;
