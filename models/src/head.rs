//! What is made of the last states of the tokens: one row of values for each sequence.

use serde_json::Value;

use crate::config::Config;
use crate::cpu::elementwise::{Activation, Norm, logistic, softmax, unit_length};
use crate::cpu::gemm::Linear;
use crate::error::{ModelError, Result};
use crate::files::{MODULES, ModelFiles};
use crate::layers::{Scratch, rows_of};
use crate::weights::Weights;

/// Makes an embedding or the probabilities of labels out of states.
#[derive(Debug)]
pub(crate) struct Head {
    pooling: Vec<Pooling>,
    steps: Vec<Step>,
    width: usize,
}

/// How the states of a sequence become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The state of the first token.
    First,
    Max,
    Mean,
    /// The sum over the square root of the number of tokens.
    MeanSqrt,
    /// The mean with weights 1, 2, 3 …
    Weighted,
    Last,
}

/// What follows pooling, in order.
#[derive(Debug)]
enum Step {
    Dense(Linear, Activation),
    Norm(Norm),
    UnitLength,
    Softmax,
    Logistic,
}

impl Pooling {
    /// The settings of sentence-transformers in the order in which it puts them side by side.
    const ALL: [(&'static str, &'static str, Self); 6] = [
        ("pooling_mode_cls_token", "cls", Self::First),
        ("pooling_mode_max_tokens", "max", Self::Max),
        ("pooling_mode_mean_tokens", "mean", Self::Mean),
        (
            "pooling_mode_mean_sqrt_len_tokens",
            "mean_sqrt_len_tokens",
            Self::MeanSqrt,
        ),
        ("pooling_mode_weightedmean_tokens", "weightedmean", Self::Weighted),
        ("pooling_mode_lasttoken", "lasttoken", Self::Last),
    ];

    /// The pooling that a person or a file names.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, short, _)| *short == name)
            .map(|(.., pooling)| *pooling)
    }

    fn pool(self, states: &[f32], width: usize, out: &mut [f32]) {
        let length = states.len() / width;
        let total = match self {
            Self::Mean => length as f32,
            Self::MeanSqrt => (length as f32).sqrt(),
            Self::Weighted => (length * (length + 1) / 2) as f32,
            Self::Max | Self::First | Self::Last => 1.0,
        };
        for (number, state) in states.chunks_exact(width).enumerate() {
            let last = number + 1 == length;
            match self {
                Self::First if number > 0 => break,
                Self::Last if !last => {}
                Self::Max if number > 0 => out.iter_mut().zip(state).for_each(|(out, s)| *out = out.max(*s)),
                Self::First | Self::Last | Self::Max => out.copy_from_slice(state),
                Self::Mean | Self::MeanSqrt => out.iter_mut().zip(state).for_each(|(out, s)| *out += s),
                Self::Weighted => {
                    let weight = (number + 1) as f32;
                    out.iter_mut().zip(state).for_each(|(out, s)| *out += weight * s);
                }
            }
        }
        if length > 0 && total != 1.0 {
            out.iter_mut().for_each(|out| *out /= total);
        }
    }
}

impl Head {
    /// The head of an embedding: the modules of sentence-transformers, or the mean where the model has none.
    pub(crate) fn embedding(files: &ModelFiles, width: usize, pooling: Option<Pooling>) -> Result<Self> {
        let mut head = Self {
            pooling: vec![],
            steps: vec![],
            width,
        };
        let modules = files.json(MODULES)?;
        for module in modules
            .as_ref()
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
        {
            let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
            let kind = text("type").rsplit('.').next().unwrap_or_default();
            let file = format!("{}/config.json", text("path"));
            match kind {
                "Transformer" => {}
                "Pooling" => head.pooling = read_pooling(&Config::of(files, &file)?)?,
                "Normalize" => head.steps.push(Step::UnitLength),
                "Dense" => head.push_dense(files, text("path"), &Config::of(files, &file)?)?,
                other => {
                    return Err(ModelError::unfit(
                        MODULES,
                        format!("has a module {other}, expected Transformer, Pooling, Dense or Normalize"),
                        "use a model without this module",
                    ));
                }
            }
        }
        if let Some(pooling) = pooling {
            head.pooling = vec![pooling];
        }
        if head.pooling.is_empty() {
            head.pooling = vec![Pooling::Mean];
        }
        let dense = head.steps.iter().rev().find_map(|step| match step {
            Step::Dense(linear, _) => Some(linear.outputs()),
            _ => None,
        });
        head.width = dense.unwrap_or(width * head.pooling.len());
        Ok(head)
    }

    fn push_dense(&mut self, files: &ModelFiles, folder: &str, config: &Config) -> Result<()> {
        let (inputs, outputs) = (config.count("in_features")?, config.count("out_features")?);
        let file = format!("{folder}/model.safetensors");
        let bytes = files
            .get(&file)
            .ok_or_else(|| ModelError::unfit(&file, "is not there", "save the model with safe_serialization=True"))?;
        let weights = Weights::of_file(&file, bytes)?;
        let name = config.text("activation_function").unwrap_or("Tanh");
        let activation = Activation::named(&name.rsplit('.').next().unwrap_or_default().to_lowercase());
        let activation =
            activation.ok_or_else(|| config.unfit("activation_function", "Tanh, GELU, ReLU or Identity"))?;
        let linear = weights.linear("linear", outputs, inputs, config.flag("bias", true))?;
        self.steps.push(Step::Dense(linear, activation));
        Ok(())
    }

    /// The head of a classifier of sequences: probabilities in the order of the labels.
    pub(crate) fn classification(config: &Config, weights: &Weights<'_>, width: usize) -> Result<Self> {
        let labels = config.labels().len();
        let mut steps = Vec::new();
        let mut pooling = Pooling::First;
        match config.model_type()? {
            "bert" => {
                steps.push(Step::Dense(
                    weights.linear("pooler.dense", width, width, true)?,
                    Activation::Tanh,
                ));
                steps.push(Step::Dense(
                    weights.linear("classifier", labels, width, true)?,
                    Activation::Identity,
                ));
            }
            "distilbert" => {
                let first = weights.linear("pre_classifier", width, width, true)?;
                steps.push(Step::Dense(first, Activation::Relu));
                steps.push(Step::Dense(
                    weights.linear("classifier", labels, width, true)?,
                    Activation::Identity,
                ));
            }
            "modernbert" => {
                if config.text("classifier_pooling") == Some("mean") {
                    pooling = Pooling::Mean;
                }
                let bias = config.flag("classifier_bias", false);
                let activation = config.activation("classifier_activation", "gelu")?;
                steps.push(Step::Dense(
                    weights.linear("head.dense", width, width, bias)?,
                    activation,
                ));
                let epsilon = config.number("norm_eps", 1e-5)?;
                let norm_bias = config.flag("norm_bias", false);
                steps.push(Step::Norm(weights.norm("head.norm", width, epsilon, norm_bias)?));
                steps.push(Step::Dense(
                    weights.linear("classifier", labels, width, true)?,
                    Activation::Identity,
                ));
            }
            _ => {
                let first = weights.linear("classifier.dense", width, width, true)?;
                steps.push(Step::Dense(first, Activation::Tanh));
                let last = weights.linear("classifier.out_proj", labels, width, true)?;
                steps.push(Step::Dense(last, Activation::Identity));
            }
        }
        match config.text("problem_type") {
            Some("regression") => {}
            Some("multi_label_classification") => steps.push(Step::Logistic),
            _ if labels == 1 => steps.push(Step::Logistic),
            _ => steps.push(Step::Softmax),
        }
        Ok(Self {
            pooling: vec![pooling],
            steps,
            width: labels,
        })
    }

    /// Values of a row.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// One row for each sequence, out of the states of its tokens.
    pub(crate) fn apply(&self, states: &[f32], width: usize, offsets: &[usize], scratch: &mut Scratch) -> Vec<f32> {
        let mut wide = width * self.pooling.len();
        let mut rows = vec![0f32; offsets.len().saturating_sub(1) * wide];
        for (sequence, row) in offsets.windows(2).zip(rows.chunks_exact_mut(wide)) {
            let states = &states[sequence[0] * width..sequence[1] * width];
            for (pooling, out) in self.pooling.iter().zip(row.chunks_exact_mut(width)) {
                pooling.pool(states, width, out);
            }
        }
        for step in &self.steps {
            match step {
                Step::Dense(linear, activation) => {
                    let mut out = Vec::new();
                    linear.apply(rows_of(&rows, wide), *activation, &mut out, scratch.left());
                    (rows, wide) = (out, linear.outputs());
                }
                Step::Norm(norm) => norm.apply(&mut rows),
                Step::UnitLength => unit_length(&mut rows, wide),
                Step::Softmax => softmax(&mut rows, wide),
                Step::Logistic => logistic(&mut rows),
            }
        }
        rows
    }
}

/// The modes that a pooling module sets, as flags in older files and by name in newer ones.
fn read_pooling(config: &Config) -> Result<Vec<Pooling>> {
    let named = match config.get("pooling_mode") {
        Some(Value::String(name)) => vec![name.as_str()],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    if !named.is_empty() {
        let modes = named.into_iter().map(Pooling::named).collect::<Option<Vec<_>>>();
        return modes.ok_or_else(|| config.unfit("pooling_mode", "cls, max, mean, weightedmean or lasttoken"));
    }
    let set = Pooling::ALL.iter().filter(|(key, ..)| config.flag(key, false));
    Ok(set.map(|(.., pooling)| *pooling).collect())
}
