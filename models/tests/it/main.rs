//! Encoders against `transformers` and `sentence-transformers`.

mod minilm;
mod python;
mod reference;
