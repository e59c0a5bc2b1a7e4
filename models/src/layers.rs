//! The layers of a transformer, the same code for every family.

use crate::cpu::attention::{AttentionScratch, AttentionShape, Rotation, attend};
use crate::cpu::elementwise::{Activation, Norm, gate};
use crate::cpu::gemm::{Linear, Rows};
use std::sync::Arc;

/// Where the layer norms of a layer stand.
#[derive(Debug)]
pub(crate) enum Norms {
    /// After the sum of attention and of the feed-forward part (BERT).
    After { attention: Norm, feed: Norm },
    /// Before attention, where there is one, and before the feed-forward part.
    Before { attention: Option<Norm>, feed: Norm },
}

/// Attention and a feed-forward part.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) norms: Norms,
    pub(crate) qkv: Linear,
    pub(crate) rotation: Option<Arc<Rotation>>,
    pub(crate) shape: AttentionShape,
    pub(crate) attention_out: Linear,
    /// Twice as wide as `down` takes where the part is gated.
    pub(crate) up: Linear,
    pub(crate) gated: bool,
    pub(crate) activation: Activation,
    pub(crate) down: Linear,
}

/// Memory that is used again from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    normed: Vec<f32>,
    qkv: Vec<f32>,
    context: Vec<f32>,
    wide: Vec<f32>,
    gated: Vec<f32>,
    left: Vec<f32>,
    attention: AttentionScratch,
}

impl Scratch {
    /// Memory for the left-hand sides of products.
    pub(crate) fn left(&mut self) -> &mut Vec<f32> {
        &mut self.left
    }
}

impl Layer {
    /// Puts the states of the tokens, `width` values each, through the layer.
    pub(crate) fn apply(&self, states: &mut [f32], width: usize, offsets: &[usize], scratch: &mut Scratch) {
        match &self.norms {
            Norms::After { attention, feed } => {
                let rows = rows_of(states, width);
                self.qkv
                    .apply(rows, Activation::Identity, &mut scratch.qkv, &mut scratch.left);
                self.attend(states, width, offsets, scratch);
                attention.apply(states);
                let rows = rows_of(states, width);
                let activation = self.first_activation();
                self.up.apply(rows, activation, &mut scratch.wide, &mut scratch.left);
                self.feed(states, scratch);
                feed.apply(states);
            }
            Norms::Before { attention, feed } => {
                scratch.normed.clear();
                scratch.normed.extend_from_slice(states);
                if let Some(norm) = attention {
                    norm.apply(&mut scratch.normed);
                }
                let rows = rows_of(&scratch.normed, width);
                self.qkv
                    .apply(rows, Activation::Identity, &mut scratch.qkv, &mut scratch.left);
                self.attend(states, width, offsets, scratch);
                scratch.normed.copy_from_slice(states);
                feed.apply(&mut scratch.normed);
                let rows = rows_of(&scratch.normed, width);
                let activation = self.first_activation();
                self.up.apply(rows, activation, &mut scratch.wide, &mut scratch.left);
                self.feed(states, scratch);
            }
        }
    }

    /// What follows `up` at once; a gate needs its two halves apart.
    fn first_activation(&self) -> Activation {
        match self.gated {
            true => Activation::Identity,
            false => self.activation,
        }
    }

    fn attend(&self, states: &mut [f32], width: usize, offsets: &[usize], scratch: &mut Scratch) {
        if let Some(rotation) = &self.rotation {
            rotation.apply(&mut scratch.qkv, offsets, self.shape);
        }
        scratch.context.resize(states.len(), 0.0);
        let context = &mut scratch.context;
        attend(&scratch.qkv, offsets, self.shape, context, &mut scratch.attention);
        self.attention_out
            .add(rows_of(context, width), states, &mut scratch.left);
    }

    fn feed(&self, states: &mut [f32], scratch: &mut Scratch) {
        if !self.gated {
            let rows = rows_of(&scratch.wide, self.up.outputs());
            self.down.add(rows, states, &mut scratch.left);
            return;
        }
        let width = self.up.outputs() / 2;
        scratch.gated.resize(scratch.wide.len() / 2, 0.0);
        gate(&mut scratch.wide, width, self.activation, &mut scratch.gated);
        self.down.add(rows_of(&scratch.gated, width), states, &mut scratch.left);
    }

    /// Bytes of its weights.
    pub(crate) fn bytes(&self) -> usize {
        [&self.qkv, &self.attention_out, &self.up, &self.down]
            .iter()
            .map(|linear| linear.bytes())
            .sum()
    }

    /// Values that a token needs while it passes through: states, query, key and value, context, the wide part.
    pub(crate) fn values_per_token(&self) -> usize {
        self.qkv.outputs() + self.up.outputs() * 3 / 2 + 4 * self.attention_out.outputs()
    }
}

/// All columns of a matrix of `width` columns.
pub(crate) fn rows_of(values: &[f32], width: usize) -> Rows<'_> {
    Rows {
        values,
        stride: width,
        rows: values.len() / width,
    }
}
