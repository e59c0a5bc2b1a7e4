//! Text transformers: from token ids to the states of the tokens.
//!
//! To add a family: one file in `text/` that builds a [`TextTransformer`], and one arm in [`TextTransformer::read`].

mod bert;
mod modern_bert;

use crate::config::Config;
use crate::cpu::elementwise::Norm;
use crate::error::Result;
use crate::layers::{Layer, Scratch};
use crate::weights::Weights;

/// Values of `model_type` that are read.
const FAMILIES: &str = "bert, roberta, xlm-roberta, camembert, distilbert or modernbert";

/// How the tokens of a sequence are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Positions {
    /// From 0.
    FromZero,
    /// From one above the padding's id; a token that is padding has that id itself (RoBERTa).
    AfterPadding(u32),
    /// By rotation, in the layers.
    Rotated,
}

/// Embeddings and layers of a text model.
#[derive(Debug)]
pub(crate) struct TextTransformer {
    pub(crate) width: usize,
    /// Longest sequence.
    pub(crate) tokens_max: usize,
    words: Vec<f32>,
    /// One row a position; empty where positions are rotated.
    positions: Vec<f32>,
    numbering: Positions,
    /// What every token gets: its type is the first one.
    token_type: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    last_norm: Option<Norm>,
}

/// Sequences of token ids without padding.
#[derive(Debug, Clone, Default)]
pub struct Sequences {
    /// All ids, one sequence after the other.
    pub ids: Vec<u32>,
    /// First id of each sequence, and the end of the last one.
    pub offsets: Vec<usize>,
}

impl Sequences {
    /// Number of sequences.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl TextTransformer {
    /// Reads a model of one of the families.
    pub(crate) fn read<'a>(config: &Config, weights: Weights<'a>) -> Result<(Self, Weights<'a>)> {
        config.refuse("is_decoder", |v| v == false, "false: an encoder")?;
        match config.model_type()? {
            "bert" => bert::read(config, weights, Positions::FromZero),
            "roberta" | "xlm-roberta" | "camembert" => {
                let padding = config
                    .get("pad_token_id")
                    .and_then(serde_json::Value::as_u64)
                    .unwrap_or(1);
                bert::read(config, weights, Positions::AfterPadding(padding as u32))
            }
            "distilbert" => bert::read_distilled(config, weights),
            "modernbert" => modern_bert::read(config, weights),
            _ => Err(config.unfit("model_type", FAMILIES)),
        }
    }

    /// Number of different ids.
    pub(crate) fn vocabulary(&self) -> usize {
        self.words.len() / self.width
    }

    /// Bytes of the weights.
    pub(crate) fn bytes(&self) -> usize {
        let tables = (self.words.len() + self.positions.len()) * size_of::<f32>();
        tables + self.layers.iter().map(Layer::bytes).sum::<usize>()
    }

    /// Bytes of memory that a token needs while it is computed.
    pub(crate) fn bytes_per_token(&self) -> usize {
        let values = self.layers.first().map_or(self.width, Layer::values_per_token);
        values * size_of::<f32>()
    }

    /// Computes the last states, `width` values for each token. Ids are below the vocabulary, lengths at most
    /// `tokens_max`.
    pub(crate) fn states(&self, sequences: &Sequences, scratch: &mut Scratch) -> Vec<f32> {
        let mut states = self.embed(sequences);
        for layer in &self.layers {
            layer.apply(&mut states, self.width, &sequences.offsets, scratch);
        }
        if let Some(norm) = &self.last_norm {
            norm.apply(&mut states);
        }
        states
    }

    fn embed(&self, sequences: &Sequences) -> Vec<f32> {
        let mut states = Vec::with_capacity(sequences.ids.len() * self.width);
        for sequence in sequences.offsets.windows(2) {
            let mut number = 0;
            for id in &sequences.ids[sequence[0]..sequence[1]] {
                let position = match self.numbering {
                    Positions::FromZero => Some(number),
                    Positions::AfterPadding(padding) if *id == padding => Some(padding as usize),
                    Positions::AfterPadding(padding) => Some(number + 1 + padding as usize),
                    Positions::Rotated => None,
                };
                if self.numbering != Positions::AfterPadding(*id) {
                    number += 1;
                }
                let word = row(&self.words, self.width, *id as usize);
                states.extend_from_slice(word);
                let start = states.len() - self.width;
                let state = &mut states[start..];
                if !self.token_type.is_empty() {
                    state
                        .iter_mut()
                        .zip(&self.token_type)
                        .for_each(|(state, t)| *state += t);
                }
                if let Some(position) = position {
                    let position = row(&self.positions, self.width, position);
                    state.iter_mut().zip(position).for_each(|(state, p)| *state += p);
                }
            }
        }
        self.norm.apply(&mut states);
        states
    }
}

fn row(table: &[f32], width: usize, number: usize) -> &[f32] {
    &table[number * width..(number + 1) * width]
}
