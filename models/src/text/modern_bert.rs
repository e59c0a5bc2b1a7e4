//! ModernBERT (Warner et al., 2024): rotated positions, gated feed-forward parts, most layers see near tokens only.

use std::sync::Arc;

use serde_json::Value;

use super::{Positions, TextTransformer};
use crate::config::Config;
use crate::cpu::attention::{AttentionShape, Rotation};
use crate::error::Result;
use crate::layers::{Layer, Norms};
use crate::weights::Weights;

pub(super) fn read<'a>(config: &Config, weights: Weights<'a>) -> Result<(TextTransformer, Weights<'a>)> {
    let weights = weights.below(&["", "model."], "embeddings.tok_embeddings.weight")?;
    let width = config.count("hidden_size")?;
    let heads = config.count("num_attention_heads")?;
    if !width.is_multiple_of(heads) {
        return Err(config.unfit("num_attention_heads", &format!("a divisor of hidden_size = {width}")));
    }
    let wide = config.count("intermediate_size")?;
    let epsilon = config.number("norm_eps", 1e-5)?;
    let norm_bias = config.flag("norm_bias", false);
    let attention_bias = config.flag("attention_bias", false);
    let mlp_bias = config.flag("mlp_bias", false);
    let activation = config.activation("hidden_activation", "gelu")?;
    let tokens_max = config.count("max_position_embeddings")?;
    let head_width = width / heads;
    let rotation = |kind: &str, default| -> Result<Arc<Rotation>> {
        Ok(Arc::new(Rotation::new(
            head_width,
            theta(config, kind, default)?,
            tokens_max,
        )))
    };
    let everywhere = rotation("full_attention", 160_000.0)?;
    let near = rotation("sliding_attention", 10_000.0)?;
    let reach = config.count("local_attention").unwrap_or(128) / 2;
    let layer = |number: usize| -> Result<Layer> {
        let name = |part: &str| format!("layers.{number}.{part}");
        let sees_all = sees_all(config, number);
        let norm = |part: &str| weights.norm(&name(part), width, epsilon, norm_bias);
        Ok(Layer {
            norms: Norms::Before {
                // The embeddings' own norm stands before the first layer.
                attention: (number > 0).then(|| norm("attn_norm")).transpose()?,
                feed: norm("mlp_norm")?,
            },
            qkv: weights.linear(&name("attn.Wqkv"), 3 * width, width, attention_bias)?,
            rotation: Some(Arc::clone(if sees_all { &everywhere } else { &near })),
            shape: AttentionShape {
                heads,
                head_width,
                reach: (!sees_all).then_some(reach),
                causal: false,
            },
            attention_out: weights.linear(&name("attn.Wo"), width, width, attention_bias)?,
            up: weights.linear(&name("mlp.Wi"), 2 * wide, width, mlp_bias)?,
            gated: true,
            activation,
            down: weights.linear(&name("mlp.Wo"), width, wide, mlp_bias)?,
        })
    };
    let transformer = TextTransformer {
        width,
        tokens_max,
        words: weights.table("embeddings.tok_embeddings.weight", width)?,
        positions: Vec::new(),
        numbering: Positions::Rotated,
        token_type: Vec::new(),
        norm: weights.norm("embeddings.norm", width, epsilon, norm_bias)?,
        layers: (0..config.count("num_hidden_layers")?)
            .map(layer)
            .collect::<Result<_>>()?,
        last_norm: Some(weights.norm("final_norm", width, epsilon, norm_bias)?),
    };
    Ok((transformer, weights))
}

/// Whether a layer sees all tokens: by its name in newer files, by its number in older ones.
fn sees_all(config: &Config, layer: usize) -> bool {
    let named = config.get("layer_types").and_then(|types| types.get(layer));
    match named.and_then(Value::as_str) {
        Some(kind) => kind == "full_attention",
        None => layer.is_multiple_of(config.count("global_attn_every_n_layers").unwrap_or(3)),
    }
}

/// The base of the rotation's angles.
fn theta(config: &Config, kind: &str, default: f32) -> Result<f32> {
    let named = config
        .get("rope_parameters")
        .and_then(|all| all.get(kind)?.get("rope_theta")?.as_f64());
    match named {
        Some(theta) => Ok(theta as f32),
        None if kind == "full_attention" => config.number("global_rope_theta", default),
        None => config.number("local_rope_theta", default),
    }
}
