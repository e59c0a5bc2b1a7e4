//! What a plan knows of a model, and the trait that the crate with the models fills.
//!
//! ```text
//!   CREATE MODEL ── describe ──► ModelSpec (digest, width, labels): what a plan carries
//!                                    │
//!   Predict, or the function alone ── open ──► Encoder ── encode(texts) ──► a row of values for each text
//! ```
//! A process that only plans needs no more than the description; one that runs plans installs [`Encoders`] once.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::arrow::array::StringArray;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::OperatorError;

/// What a model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelTask {
    /// A vector for each text.
    Embedding,
    /// The probability of each label for each text.
    Classification,
}

/// Where a model is, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelSource {
    /// Its name in the catalogue.
    pub name: String,
    /// The folder of its files: a path or the URL of an object store.
    pub uri: String,
    /// What it is asked for.
    pub task: ModelTask,
    /// Longest sequence in tokens, where it is not as the model's files say.
    pub max_length: Option<usize>,
    /// How the tokens of a text become one vector, where it is not as the model's files say.
    pub pooling: Option<String>,
}

/// A model as plans carry it: with its digest, so that every process computes the same or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Where it is.
    pub source: ModelSource,
    /// Digest of its files.
    pub digest: String,
    /// Values of a row of its results.
    pub width: usize,
    /// Names of the labels in the order of the values; empty for embeddings.
    pub labels: Vec<String>,
}

impl ModelSpec {
    /// What a build notes of it: everything on which its results depend.
    #[must_use]
    pub fn identity(&self) -> String {
        let source = &self.source;
        let length = source
            .max_length
            .map_or_else(String::new, |n| format!(" max_length {n}"));
        let pooling = source
            .pooling
            .as_ref()
            .map_or_else(String::new, |p| format!(" pooling {p}"));
        format!("{}{length}{pooling}", self.digest)
    }
}

/// The results of some texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    /// A row of [`ModelSpec::width`] values for each text; zeros for `NULL`.
    pub values: Vec<f32>,
    /// Tokens that were computed.
    pub tokens: usize,
    /// Texts that were computed; the others were equal to one of them, or `NULL`.
    pub texts: usize,
}

/// Why a model cannot be read or run.
pub type EncoderError = Box<dyn std::error::Error + Send + Sync>;

/// A model that is ready to run.
pub trait Encoder: Debug + Send + Sync {
    /// Turns texts into ids on the calling thread and computes them on the threads of the process.
    ///
    /// A text gives the same bits alone and in any company. Dropping the future stops the work.
    fn encode(&self, texts: StringArray) -> BoxFuture<'static, Result<Encoded, EncoderError>>;

    /// Bytes of memory that a text of the batch needs at most while it is computed.
    fn bytes_per_text(&self) -> usize;
}

/// Reads models.
#[async_trait]
pub trait Encoders: Debug + Send + Sync {
    /// Reads and checks a model.
    async fn describe(&self, source: &ModelSource) -> Result<ModelSpec, EncoderError>;

    /// The model of a plan, read once in a process; an error if its files are others than those described.
    async fn open(&self, spec: &ModelSpec) -> Result<Arc<dyn Encoder>, EncoderError>;
}

static INSTALLED: OnceLock<Arc<dyn Encoders>> = OnceLock::new();

/// Makes models known to this process; what was installed first stays.
pub fn install_encoders(encoders: Arc<dyn Encoders>) {
    let _ = INSTALLED.set(encoders);
}

/// The models that this process can run.
///
/// # Errors
/// [`OperatorError::Plan`] when the program was built without them.
pub fn encoders() -> Result<&'static Arc<dyn Encoders>, OperatorError> {
    INSTALLED.get().ok_or_else(|| OperatorError::Plan {
        operator: "Predict",
        detail: "this program was built without models; use the corpusmill command".into(),
    })
}
