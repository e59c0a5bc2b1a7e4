//! Encoders against `transformers` and `sentence-transformers`.
#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
#![expect(clippy::print_stderr, reason = "a test that cannot run says so by name")]

mod minilm;
mod python;
mod reference;
