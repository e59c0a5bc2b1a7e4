//! The models of a process: each read once, and read again when its files change.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, StringArray};
use async_trait::async_trait;
use corpusmill_operators::{Encoded, Encoder, EncoderError, Encoders, ModelSource, ModelSpec, ModelTask};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::error::{ModelError, Result};
use crate::files::{FilesState, ModelFiles};
use crate::model::{ModelOptions, Task, TextModel};
use crate::service::{JOB_TOKENS, Service};

/// Models that are kept; one more takes the place of the one that was used longest ago.
const MODELS_MAX: usize = 8;

/// Reads models for the operators, and keeps them.
#[derive(Debug, Default)]
pub struct ModelLibrary {
    shelf: Mutex<Vec<Loaded>>,
    /// Held while a model is read, so that two partitions do not read the same one.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct Loaded {
    spec: ModelSpec,
    state: FilesState,
    model: Arc<TextModel>,
}

impl ModelLibrary {
    /// Makes the models known to the operators of this process.
    pub fn install() {
        corpusmill_operators::install_encoders(Arc::new(Self::default()));
    }

    async fn loaded(&self, source: &ModelSource) -> Result<Loaded> {
        let _reading = self.reading.lock().await;
        let state = ModelFiles::state(&source.uri).await?;
        if let Some(loaded) = self.find(|loaded| loaded.spec.source == *source && loaded.state == state) {
            return Ok(loaded);
        }
        let files = ModelFiles::read(&source.uri).await?;
        let wanted = source.clone();
        // Hashing and packing weights takes seconds for a large model.
        let read = tokio::task::spawn_blocking(move || load(files, wanted, state));
        let loaded = read.await.map_err(|_| ModelError::Stopped(source.name.clone()))??;
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.retain(|other| other.spec.source != *source);
        if shelf.len() >= MODELS_MAX {
            shelf.remove(0);
        }
        shelf.push(loaded.clone());
        Ok(loaded)
    }

    /// The first model that fits, moved to the end of the shelf.
    fn find(&self, fits: impl Fn(&Loaded) -> bool) -> Option<Loaded> {
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let at = shelf.iter().position(fits)?;
        let loaded = shelf.remove(at);
        shelf.push(loaded.clone());
        Some(loaded)
    }
}

fn load(files: ModelFiles, source: ModelSource, state: FilesState) -> Result<Loaded> {
    let task = match source.task {
        ModelTask::Embedding => Task::Embedding,
        ModelTask::Classification => Task::Classification,
    };
    let options = ModelOptions {
        max_length: source.max_length,
        pooling: source.pooling.clone(),
    };
    let model = TextModel::new(&source.name, &files, task, &options)?;
    let spec = ModelSpec {
        digest: files.digest(),
        width: model.width(),
        labels: model.labels().to_vec(),
        source,
    };
    Ok(Loaded {
        spec,
        state,
        model: Arc::new(model),
    })
}

#[async_trait]
impl Encoders for ModelLibrary {
    async fn describe(&self, source: &ModelSource) -> Result<ModelSpec, EncoderError> {
        Ok(self.loaded(source).await?.spec)
    }

    async fn open(&self, spec: &ModelSpec) -> Result<Arc<dyn Encoder>, EncoderError> {
        let loaded = match self.find(|loaded| loaded.spec == *spec) {
            Some(loaded) => loaded,
            None => self.loaded(&spec.source).await?,
        };
        if loaded.spec.digest != spec.digest {
            return Err(format!(
                "the files in {} are others here (digest {}) than where the statement was planned (digest {}): \
                 give every machine the same files",
                spec.source.uri, loaded.spec.digest, spec.digest
            )
            .into());
        }
        Ok(Arc::new(ServedModel(loaded.model)))
    }
}

/// A model behind the threads of the process.
#[derive(Debug)]
struct ServedModel(Arc<TextModel>);

impl Encoder for ServedModel {
    fn encode(&self, texts: StringArray) -> BoxFuture<'static, Result<Encoded, EncoderError>> {
        let model = Arc::clone(&self.0);
        async move {
            let sequences = model.tokenize(&texts)?;
            let results = Service::of_process().run(&model, &sequences).await?;
            let mut encoded = Encoded {
                values: results.values,
                tokens: results.tokens,
                texts: results.sequences,
            };
            if texts.null_count() > 0 {
                let rows = encoded.values.chunks_exact_mut(model.width()).enumerate();
                rows.filter(|(row, _)| texts.is_null(*row))
                    .for_each(|(_, values)| values.fill(0.0));
            }
            Ok(encoded)
        }
        .boxed()
    }

    fn bytes_per_text(&self) -> usize {
        self.0.bytes_per_token() * JOB_TOKENS.max(self.0.max_length())
    }
}
