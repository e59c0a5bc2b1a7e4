//! Encoders: text to embeddings and to the probabilities of labels, on the processor.
//!
//! ```text
//!   folder: config.json, tokenizer.json, *.safetensors, modules.json      (local or in an object store)
//!        │  ModelFiles
//!   TextModel ── tokenize ──► Sequences (ids without padding)
//!        │                         │
//!   text/: embeddings         layers.rs: attention, feed-forward          cpu/: products, attention, norms
//!        │                         │
//!        └───────────── head.rs: pooling, dense, unit length; classifier ──► rows of f32
//! ```
//! `ModelLibrary` fills the trait that the operators declare: it keeps the models of a process, and its one pool of
//! threads computes jobs of a few hundred tokens for all partitions (`service.rs`).
//!
//! A row has the same bits alone and in any batch, on any number of threads and any x86-64 or Arm machine:
//! see [`cpu`](self) for the two rules that give it.
//!
//! To add a family of text models: one file in `src/text/`, one arm in `TextTransformer::read`, and a tiny random model
//! of it in `tests/it/reference.py`.

mod config;
mod cpu;
mod error;
mod files;
mod head;
mod layers;
mod library;
mod model;
mod safetensors;
mod service;
mod text;
mod weights;

pub use error::{ModelError, Result};
pub use files::{FilesState, ModelFiles};
pub use library::ModelLibrary;
pub use model::{ModelOptions, ModelScratch, Task, TextModel};
pub use service::Results;
pub use text::Sequences;
