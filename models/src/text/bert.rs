//! BERT (Devlin et al., 2018), RoBERTa and XLM-R, which number positions otherwise, and DistilBERT, which has no types.

use super::{Positions, TextTransformer};
use crate::config::Config;
use crate::cpu::attention::AttentionShape;
use crate::error::Result;
use crate::layers::{Layer, Norms};
use crate::weights::Weights;

/// How the tensors of a layer are called.
struct Names {
    word_norm: &'static str,
    layer: &'static str,
    query_key_value: [&'static str; 3],
    attention_out: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    feed_norm: &'static str,
}

const BERT: Names = Names {
    word_norm: "embeddings.LayerNorm",
    layer: "encoder.layer",
    query_key_value: ["attention.self.query", "attention.self.key", "attention.self.value"],
    attention_out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    feed_norm: "output.LayerNorm",
};

const DISTILBERT: Names = Names {
    word_norm: "embeddings.LayerNorm",
    layer: "transformer.layer",
    query_key_value: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    attention_out: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    feed_norm: "output_layer_norm",
};

/// Names of the keys of `config.json`.
struct Keys {
    width: &'static str,
    layers: &'static str,
    heads: &'static str,
    wide: &'static str,
    activation: &'static str,
}

pub(super) fn read<'a>(
    config: &Config,
    weights: Weights<'a>,
    numbering: Positions,
) -> Result<(TextTransformer, Weights<'a>)> {
    config.refuse("position_embedding_type", |v| v == "absolute", "absolute")?;
    let keys = Keys {
        width: "hidden_size",
        layers: "num_hidden_layers",
        heads: "num_attention_heads",
        wide: "intermediate_size",
        activation: "hidden_act",
    };
    build(config, weights, numbering, &keys, &BERT)
}

pub(super) fn read_distilled<'a>(config: &Config, weights: Weights<'a>) -> Result<(TextTransformer, Weights<'a>)> {
    let keys = Keys {
        width: "dim",
        layers: "n_layers",
        heads: "n_heads",
        wide: "hidden_dim",
        activation: "activation",
    };
    build(config, weights, Positions::FromZero, &keys, &DISTILBERT)
}

fn build<'a>(
    config: &Config,
    weights: Weights<'a>,
    numbering: Positions,
    keys: &Keys,
    names: &Names,
) -> Result<(TextTransformer, Weights<'a>)> {
    let prefixes = ["", "bert.", "roberta.", "distilbert."];
    let weights = weights.below(&prefixes, "embeddings.word_embeddings.weight")?;
    let width = config.count(keys.width)?;
    let heads = config.count(keys.heads)?;
    if !width.is_multiple_of(heads) {
        return Err(config.unfit(keys.heads, &format!("a divisor of {} = {width}", keys.width)));
    }
    let wide = config.count(keys.wide)?;
    let activation = config.activation(keys.activation, "gelu")?;
    let epsilon = config.number("layer_norm_eps", 1e-12)?;
    let shape = AttentionShape {
        heads,
        head_width: width / heads,
        reach: None,
        causal: false,
    };
    let layer = |number: usize| -> Result<Layer> {
        let name = |part: &str| format!("{}.{number}.{part}", names.layer);
        Ok(Layer {
            norms: Norms::After {
                attention: weights.norm(&name(names.attention_norm), width, epsilon, true)?,
                feed: weights.norm(&name(names.feed_norm), width, epsilon, true)?,
            },
            qkv: weights.side_by_side(&names.query_key_value.map(name), width, width)?,
            rotation: None,
            shape,
            attention_out: weights.linear(&name(names.attention_out), width, width, true)?,
            up: weights.linear(&name(names.up), wide, width, true)?,
            gated: false,
            activation,
            down: weights.linear(&name(names.down), width, wide, true)?,
        })
    };
    let positions = weights.table("embeddings.position_embeddings.weight", width)?;
    let token_type = match config.get("type_vocab_size").is_some() {
        true => {
            let mut types = weights.table("embeddings.token_type_embeddings.weight", width)?;
            types.truncate(width);
            types
        }
        false => Vec::new(),
    };
    let first = match numbering {
        Positions::AfterPadding(padding) => padding as usize + 1,
        _ => 0,
    };
    let transformer = TextTransformer {
        width,
        tokens_max: (positions.len() / width).saturating_sub(first),
        words: weights.table("embeddings.word_embeddings.weight", width)?,
        positions,
        numbering,
        token_type,
        norm: weights.norm(names.word_norm, width, epsilon, true)?,
        layers: (0..config.count(keys.layers)?).map(layer).collect::<Result<_>>()?,
        last_norm: None,
    };
    Ok((transformer, weights))
}
