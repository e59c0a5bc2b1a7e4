//! Pure compute over Arrow arrays: what corpusmill's SQL functions do, without SQL, threads or IO.
//!
//! ```text
//!            text ──► text::normalize ──► pii_redact ──► Tokenizer ──► List<Int32>
//!             │                              │
//!             ├──► lang_id                   └── pii_spans
//!             ├──► quality_signals
//!             └──► shingles ──► minhash: bands, sketches ──► near_pairs ──► similarity ──► duplicate_links
//!  pictures    ──► pixels: resized, blurred
//!             └──► pdq ──► hamming, videos ──► duplicate_links
//!  sound       ──► audio: fingerprints, bit errors
//!  embeddings  ──► vectors: k-means, cosines ──► duplicate_links
//!  hash files  ──► hash_list ──► hamming                               (lists that others keep)
//!  pairs       ──► union_find::components ──► split::assign          (no group straddles a split)
//!  floats      ──► ExactSum              counts ──► psi
//! ```
//!
//! Every kernel takes whole arrays and is a pure function of them: the same values give the same bits on every machine,
//! in any batch, in any order of batches. `NULL` in gives `NULL` out unless a kernel says otherwise. Kernels that can
//! fail return [`KernelError`].
//!
//! # To add a kernel
//! 1. Write `src/NAME.rs`: one public function over arrays, its doc (types in and out, errors, source), its tests
//!    against a naive oracle or the reference implementation.
//! 2. Add its `mod` line and its name to the lists below.
//! 3. Give it a SQL name in the `sql` crate.

mod agreement;
pub mod audio;
pub mod contamination;
pub mod duplicate_links;
mod error;
mod exact_sum;
pub mod hamming;
pub mod hash_list;
mod lang;
pub mod minhash;
pub mod near_pairs;
pub mod pdq;
pub mod pictures;
pub mod pii;
mod psi;
pub mod quality;
pub mod shingles;
pub mod split;
pub mod text;
mod tokenize;
pub mod union_find;
pub mod vectors;
pub mod videos;
pub mod windows;

pub use agreement::Agreement;
pub use error::{KernelError, Result};
pub use exact_sum::ExactSum;
pub use lang::{UNDETERMINED, lang_fields, lang_id};
pub use pii::{PiiKinds, pii_redact, pii_spans, pii_spans_type};
pub use psi::psi;
pub use quality::{QualityRules, quality_signals};
pub use tokenize::Tokenizer;
