//! Settings out of JSON files, with errors that name the file and the key.

use serde_json::Value;

use crate::cpu::elementwise::Activation;
use crate::error::{ModelError, Result};
use crate::files::{CONFIG, ModelFiles};

/// The settings of one JSON file.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    file: String,
    values: Value,
}

impl Config {
    /// The settings of a file that must be there.
    pub(crate) fn of(files: &ModelFiles, file: &str) -> Result<Self> {
        match files.json(file)? {
            Some(values) => Ok(Self {
                file: file.to_owned(),
                values,
            }),
            None => Err(ModelError::unfit(
                file,
                "is not in the folder of the model",
                "save the model again with save_pretrained()",
            )),
        }
    }

    /// The setting, where it is given and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// A count, above zero.
    pub(crate) fn count(&self, key: &str) -> Result<usize> {
        let value = self.get(key).and_then(Value::as_u64).filter(|count| *count > 0);
        let value = value.and_then(|count| usize::try_from(count).ok());
        value.ok_or_else(|| self.unfit(key, "a whole number above 0"))
    }

    /// A number; the default of the family where the file does not give it.
    pub(crate) fn number(&self, key: &str, default: f32) -> Result<f32> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => {
                let number = value.as_f64();
                number.map(|n| n as f32).ok_or_else(|| self.unfit(key, "a number"))
            }
        }
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// An activation by name.
    pub(crate) fn activation(&self, key: &str, default: &str) -> Result<Activation> {
        let name = self.text(key).unwrap_or(default);
        Activation::named(name)
            .ok_or_else(|| self.unfit(key, "gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu or tanh"))
    }

    /// Names of the labels in the order of their numbers; `LABEL_0` … where the file has none.
    pub(crate) fn labels(&self) -> Vec<String> {
        let named = self.get("id2label").and_then(Value::as_object);
        let count = named.map(serde_json::Map::len);
        let count = count.or(self.get("num_labels").and_then(Value::as_u64).map(|n| n as usize));
        let name = |number: usize| {
            let given = named
                .and_then(|map| map.get(&number.to_string()))
                .and_then(Value::as_str);
            given.map_or_else(|| format!("LABEL_{number}"), str::to_owned)
        };
        (0..count.unwrap_or(2)).map(name).collect()
    }

    pub(crate) fn unfit(&self, key: &str, expected: &str) -> ModelError {
        let found = self
            .get(key)
            .map_or_else(|| "is missing".to_owned(), |value| format!("is {value}"));
        ModelError::unfit(
            &self.file,
            format!("{key} {found}, expected {expected}"),
            "use a model of one of the families of docs/SQL.md, saved with save_pretrained()",
        )
    }

    /// Refuses a setting that changes the computation in a way that is not written here.
    pub(crate) fn refuse(&self, key: &str, fits: impl Fn(&Value) -> bool, expected: &str) -> Result<()> {
        match self.get(key) {
            Some(value) if !fits(value) => Err(self.unfit(key, expected)),
            _ => Ok(()),
        }
    }

    /// The kind of model that `config.json` names.
    pub(crate) fn model_type(&self) -> Result<&str> {
        self.text("model_type")
            .ok_or_else(|| self.unfit("model_type", "the name of a family, such as bert"))
    }
}

/// `config.json` of a model.
pub(crate) fn transformer(files: &ModelFiles) -> Result<Config> {
    Config::of(files, CONFIG)
}
