//! The one error type of this crate.

use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// Everything that a kernel can refuse.
///
/// Kernels are pure functions, so the same input fails the same way again: [`retry`](Self::retry) is always `false`.
/// Messages say what was found, what was expected and the fix; the caller adds the statement and the column.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A name out of a fixed list (a Unicode form, a PII kind, a rule set) is not in it.
    #[error("unknown {what} '{name}': expected one of {known}{}", nearest.as_ref().map(|n| format!("; did you mean '{n}'?")).unwrap_or_default())]
    UnknownName {
        /// What the name should have named, e.g. `Unicode form`.
        what: &'static str,
        /// The name as it was given.
        name: String,
        /// The known names, separated by commas.
        known: String,
        /// The known name that is most like it, if any is.
        nearest: Option<String>,
    },
    /// An option has a value that cannot be used.
    #[error("{option} = '{value}': {problem}; {fix}")]
    InvalidOption {
        /// The option as a person writes it, e.g. `ratios`.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
        /// What to write instead.
        fix: String,
    },
    /// The bytes are not a Hugging Face `tokenizer.json`.
    #[error("tokenizer '{name}': expected the bytes of a Hugging Face tokenizer.json, found {found}; {fix}")]
    NotATokenizer {
        /// Name of the tokenizer.
        name: String,
        /// What the bytes look like.
        found: String,
        /// What to do about it.
        fix: String,
        /// What the library said, where it was asked.
        #[source]
        source: Option<tokenizers::Error>,
    },
    /// A tokenizer failed on one row.
    #[error("tokenizer '{name}' failed on row {row} of the batch")]
    TokenizerRow {
        /// Name of the tokenizer.
        name: String,
        /// Row inside the array, from 0.
        row: usize,
        /// What the library said.
        #[source]
        source: tokenizers::Error,
    },
    /// A row holds an id that is no token id.
    #[error("tokenizer '{name}': row {row} of the batch holds the token id {id}; ids are from 0 to 2147483647")]
    NoTokenId {
        /// Name of the tokenizer.
        name: String,
        /// Row inside the array, from 0.
        row: usize,
        /// The id, or `NULL`.
        id: String,
    },
    /// A kernel does not take arrays of this type.
    #[error("{function} does not take a column of type {data_type}; {fix}")]
    UnsupportedType {
        /// SQL name of the function.
        function: &'static str,
        /// The type that it was given.
        data_type: DataType,
        /// What to give instead.
        fix: &'static str,
    },
    /// A result of one batch does not fit 32-bit offsets.
    #[error(
        "{function}: the result of one batch of {rows} rows is larger than 2 GiB; use smaller batches (SET datafusion.execution.batch_size = 1024)"
    )]
    TooLarge {
        /// SQL name of the function.
        function: &'static str,
        /// Rows of the batch.
        rows: usize,
    },
    /// A row of a file that a person gave is not what it should be.
    #[error("{file}, row {row}: {problem}")]
    FileRow {
        /// The file, as it was named.
        file: String,
        /// The row, from 1.
        row: usize,
        /// What is wrong with it, and what was expected.
        problem: String,
    },
    /// Bytes that should be a state of this crate are not.
    #[error("{what}: {problem}")]
    Corrupt {
        /// What the bytes should have been.
        what: &'static str,
        /// What is wrong with them.
        problem: String,
    },
    /// Arrow refused to build an array.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

impl KernelError {
    /// Says whether the same call may succeed when it is made again: never, kernels are pure.
    #[must_use]
    pub fn retry(&self) -> bool {
        false
    }

    /// Builds [`UnknownName`](Self::UnknownName) with the nearest of the known names.
    #[must_use]
    pub fn unknown_name(what: &'static str, name: &str, known: &[&str]) -> Self {
        let folded = name.to_lowercase();
        let nearest = known
            .iter()
            .map(|k| (strsim::jaro_winkler(&folded, &k.to_lowercase()), *k))
            .filter(|(score, _)| *score >= 0.7)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, k)| k.to_string());
        Self::UnknownName {
            what,
            name: name.to_string(),
            known: known.join(", "),
            nearest,
        }
    }
}

/// Result of a kernel.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_only_when_there_is_one() {
        let near = KernelError::unknown_name("PII kind", "emails", &["email", "phone"]).to_string();
        assert_eq!(
            near,
            "unknown PII kind 'emails': expected one of email, phone; did you mean 'email'?"
        );
        let far = KernelError::unknown_name("PII kind", "zzz", &["email", "phone"]).to_string();
        assert_eq!(far, "unknown PII kind 'zzz': expected one of email, phone");
    }
}
