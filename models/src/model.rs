//! A text model: its tokenizer, its transformer and its head.

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::Int32Type;
use corpusmill_kernels::Tokenizer;
use serde_json::Value;

use crate::config::{self, Config};
use crate::error::{ModelError, Result};
use crate::files::{CONFIG, ModelFiles, TOKENIZER};
use crate::head::{Head, Pooling};
use crate::layers::Scratch;
use crate::text::{Sequences, TextTransformer};
use crate::weights::Weights;

/// What a model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// A vector for each text.
    Embedding,
    /// The probability of each label for each text.
    Classification,
}

/// How a model is used, where that is not as its files say.
#[derive(Debug, Clone, Default)]
pub struct ModelOptions {
    /// Longest sequence in tokens, special ones among them.
    pub max_length: Option<usize>,
    /// `cls`, `mean`, `max`, `mean_sqrt_len_tokens`, `weightedmean` or `lasttoken`.
    pub pooling: Option<String>,
}

/// A text model, read and checked.
#[derive(Debug)]
pub struct TextModel {
    name: String,
    task: Task,
    tokenizer: Tokenizer,
    transformer: TextTransformer,
    head: Head,
    labels: Vec<String>,
}

/// Memory of a thread that runs a model, used again from batch to batch.
#[derive(Debug, Default)]
pub struct ModelScratch(Scratch);

impl TextModel {
    /// Builds the model called `name` out of its files.
    ///
    /// # Errors
    /// [`ModelError::Unfit`] naming the file, what it lacks and the fix; [`ModelError::Option`] for an option that does
    /// not fit the model; [`ModelError::Tokenizer`] for a tokenizer that cannot be read.
    pub fn new(name: &str, files: &ModelFiles, task: Task, options: &ModelOptions) -> Result<Self> {
        let config = config::transformer(files)?;
        let (transformer, weights) = TextTransformer::read(&config, Weights::of(files)?)?;
        let pooling = options.pooling.as_deref().map(named_pooling).transpose()?;
        let head = match task {
            Task::Embedding => Head::embedding(files, transformer.width, pooling)?,
            Task::Classification => classification(&config, &weights, transformer.width)?,
        };
        let labels = match task {
            Task::Embedding => Vec::new(),
            Task::Classification => config.labels(),
        };
        let length = length(files, &transformer, options)?;
        let file = files.get(TOKENIZER).ok_or_else(|| {
            let fix =
                "save it with AutoTokenizer.from_pretrained(…).save_pretrained(…), which writes the fast tokenizer";
            ModelError::unfit(TOKENIZER, "is not in the folder of the model", fix)
        })?;
        Ok(Self {
            name: name.to_owned(),
            task,
            tokenizer: Tokenizer::from_bytes(name, file, Some(length))?,
            transformer,
            head,
            labels,
        })
    }

    /// The name that it was created with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is asked for.
    #[must_use]
    pub fn task(&self) -> Task {
        self.task
    }

    /// Values of a row of its results: the length of an embedding, or the number of labels.
    #[must_use]
    pub fn width(&self) -> usize {
        self.head.width()
    }

    /// Names of the labels, in the order of the results; empty for an embedding.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Longest sequence in tokens; longer texts are cut.
    #[must_use]
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length().unwrap_or(self.transformer.tokens_max)
    }

    /// Bytes of its weights in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.transformer.bytes()
    }

    /// Bytes of memory that each token of a batch needs while it is computed.
    #[must_use]
    pub fn bytes_per_token(&self) -> usize {
        self.transformer.bytes_per_token()
    }

    /// Turns texts into sequences of ids; `NULL` gives an empty one.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the tokenizer fails, [`ModelError::Unfit`] when it gives an id that the model
    /// has no embedding for.
    pub fn tokenize(&self, texts: &StringArray) -> Result<Sequences> {
        let lists = self.tokenizer.encode(texts)?;
        let offsets = lists.value_offsets();
        let first = offsets[0] as usize;
        let ids = lists.values().as_primitive::<Int32Type>().values();
        let ids = &ids[first..offsets[texts.len()] as usize];
        let known = self.transformer.vocabulary();
        if let Some(id) = ids.iter().find(|id| **id < 0 || **id as usize >= known) {
            let problem = format!("gives the id {id}, but the model has {known} embeddings");
            return Err(ModelError::unfit(TOKENIZER, problem, "use the tokenizer of this model"));
        }
        Ok(Sequences {
            ids: ids.iter().map(|id| *id as u32).collect(),
            offsets: offsets.iter().map(|offset| *offset as usize - first).collect(),
        })
    }

    /// Computes the results of a batch: [`width`](Self::width) values for each sequence.
    ///
    /// Runs on the calling thread. A sequence gives the same bits alone and in any batch, on every machine.
    #[must_use]
    pub fn run(&self, sequences: &Sequences, scratch: &mut ModelScratch) -> Vec<f32> {
        let states = self.transformer.states(sequences, &mut scratch.0);
        self.head
            .apply(&states, self.transformer.width, &sequences.offsets, &mut scratch.0)
    }
}

fn named_pooling(name: &str) -> Result<Pooling> {
    Pooling::named(name).ok_or_else(|| ModelError::Option {
        option: "pooling",
        value: name.to_owned(),
        problem: "expected cls, mean, max, mean_sqrt_len_tokens, weightedmean or lasttoken".into(),
    })
}

fn classification(config: &Config, weights: &Weights<'_>, width: usize) -> Result<Head> {
    let architecture = config
        .get("architectures")
        .and_then(|a| a.get(0))
        .and_then(Value::as_str);
    match architecture {
        Some(name) if !name.ends_with("ForSequenceClassification") => Err(config.unfit(
            "architectures",
            "a model ending in ForSequenceClassification for task = 'classification'",
        )),
        _ => Head::classification(config, weights, width),
    }
}

/// The longest sequence: as the statement says, or sentence-transformers, or the tokenizer, or the positions.
fn length(files: &ModelFiles, transformer: &TextTransformer, options: &ModelOptions) -> Result<usize> {
    let most = transformer.tokens_max;
    if let Some(length) = options.max_length {
        if length > most {
            return Err(ModelError::Option {
                option: "max_length",
                value: length.to_string(),
                problem: format!("{CONFIG} of the model has {most} positions, give at most {most}"),
            });
        }
        return Ok(length);
    }
    let of_file = |file: &str, key: &str| -> Result<Option<usize>> {
        let values = files.json(file)?;
        let value = values.as_ref().and_then(|v| v.get(key)).and_then(Value::as_f64);
        Ok(value.filter(|v| *v >= 1.0 && *v < 1e9).map(|v| v as usize))
    };
    let said = match of_file("sentence_bert_config.json", "max_seq_length")? {
        Some(length) => Some(length),
        None => of_file("tokenizer_config.json", "model_max_length")?,
    };
    Ok(said.unwrap_or(most).min(most))
}
