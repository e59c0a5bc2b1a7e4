//! Layers by name out of the tensors of a model.

use crate::cpu::elementwise::Norm;
use crate::cpu::gemm::Linear;
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::safetensors::Tensors;

/// The tensors of one model; names are looked up below a prefix that its files may have, and beside it.
pub(crate) struct Weights<'a> {
    files: Vec<Tensors<'a>>,
    prefix: String,
}

impl<'a> Weights<'a> {
    /// The tensors of the transformer.
    pub(crate) fn of(files: &'a ModelFiles) -> Result<Self> {
        let parts = files.weights()?.into_iter();
        let files = parts.map(|(name, bytes)| Tensors::parse(&name, bytes));
        Ok(Self {
            files: files.collect::<Result<_>>()?,
            prefix: String::new(),
        })
    }

    /// The tensors of one file.
    pub(crate) fn of_file(name: &str, bytes: &'a [u8]) -> Result<Self> {
        Ok(Self {
            files: vec![Tensors::parse(name, bytes)?],
            prefix: String::new(),
        })
    }

    /// The same tensors, looked up below the first of `prefixes` under which there is one called `name`.
    ///
    /// # Errors
    /// [`ModelError::Unfit`] when there is none.
    pub(crate) fn below(mut self, prefixes: &[&str], name: &str) -> Result<Self> {
        let found = prefixes.iter().find(|prefix| {
            let full = format!("{prefix}{name}");
            self.files.iter().any(|file| file.shape(&full).is_some())
        });
        match found {
            Some(prefix) => {
                self.prefix = (*prefix).to_owned();
                Ok(self)
            }
            None => Err(self.missing(name)),
        }
    }

    /// The values of a tensor.
    ///
    /// # Errors
    /// [`ModelError::Unfit`] when it is missing, has another shape, or a type other than F32, F16 and BF16.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (file, full, found) = self.find(name)?;
        if found != shape {
            return Err(ModelError::unfit(
                file.name(),
                format!("tensor {full} has the shape {found:?}, config.json makes it {shape:?}"),
                "the weights are of another model than config.json",
            ));
        }
        file.values(&full)
    }

    /// Rows of a table of `width` columns, however many it has.
    pub(crate) fn table(&self, name: &str, width: usize) -> Result<Vec<f32>> {
        let rows = self.find(name)?.2.first().copied().unwrap_or(0);
        self.tensor(name, &[rows, width])
    }

    /// `NAME.weight` and `NAME.bias`, the bias only where `bias` says so.
    pub(crate) fn linear(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear> {
        let weights = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = match bias {
            true => self.tensor(&format!("{name}.bias"), &[outputs])?,
            false => Vec::new(),
        };
        Ok(Linear::new(&weights, bias, outputs, inputs))
    }

    /// Several layers of the same input, side by side as one.
    pub(crate) fn side_by_side(&self, names: &[String], outputs: usize, inputs: usize) -> Result<Linear> {
        let (mut weights, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weights.extend(self.tensor(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.extend(self.tensor(&format!("{name}.bias"), &[outputs])?);
        }
        Ok(Linear::new(&weights, bias, outputs * names.len(), inputs))
    }

    /// A layer norm; its bias only where `bias` says so.
    pub(crate) fn norm(&self, name: &str, width: usize, epsilon: f32, bias: bool) -> Result<Norm> {
        Ok(Norm {
            scale: self.tensor(&format!("{name}.weight"), &[width])?,
            bias: match bias {
                true => self.tensor(&format!("{name}.bias"), &[width])?,
                false => Vec::new(),
            },
            epsilon,
        })
    }

    fn find(&self, name: &str) -> Result<(&Tensors<'a>, String, &[usize])> {
        for full in [format!("{}{name}", self.prefix), name.to_owned()] {
            for file in &self.files {
                if let Some(shape) = file.shape(&full) {
                    return Ok((file, full, shape));
                }
            }
        }
        Err(self.missing(name))
    }

    fn missing(&self, name: &str) -> ModelError {
        let file = self.files.first().map_or("model.safetensors", Tensors::name);
        let some: Vec<_> = self.files.iter().flat_map(Tensors::names).take(3).collect();
        ModelError::unfit(
            file,
            format!(
                "has no tensor {}{name} (it begins with {})",
                self.prefix,
                some.join(", ")
            ),
            "the weights do not fit the family that config.json names",
        )
    }
}
