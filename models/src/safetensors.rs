//! The file format of weights: a length, a JSON header, bytes (<https://github.com/huggingface/safetensors>).

use std::collections::BTreeMap;

use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{ModelError, Result};

/// Largest header that is read.
const HEADER_BYTES_MAX: u64 = 100 << 20;
/// Key of the header that is no tensor.
const METADATA: &str = "__metadata__";

/// The tensors of one file, checked to lie inside of it.
pub(crate) struct Tensors<'a> {
    name: String,
    tensors: BTreeMap<String, Place>,
    data: &'a [u8],
}

/// Where a tensor lies.
#[derive(Debug, Deserialize)]
struct Place {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl<'a> Tensors<'a> {
    /// Reads the header of the file called `name`.
    ///
    /// # Errors
    /// [`ModelError::Unfit`] for bytes that are no safetensors file or end before their tensors do.
    pub(crate) fn parse(name: &str, bytes: &'a [u8]) -> Result<Self> {
        let broken = |problem: String| ModelError::unfit(name, problem, "copy the file again");
        let no_header = || broken("is not a safetensors file: it has no header".into());
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(no_header)?;
        let length = u64::from_le_bytes(*length);
        if length > HEADER_BYTES_MAX {
            return Err(no_header());
        }
        let (header, data) = rest.split_at_checked(length as usize).ok_or_else(no_header)?;
        let header: BTreeMap<String, Value> =
            serde_json::from_slice(header).map_err(|e| broken(format!("is not a safetensors file: {e}")))?;
        let mut tensors = BTreeMap::new();
        for (tensor, place) in header {
            if tensor == METADATA {
                continue;
            }
            let place = Place::deserialize(place).map_err(|e| broken(format!("describes {tensor} wrongly: {e}")))?;
            let (start, end) = place.data_offsets;
            if start > end || end > data.len() {
                return Err(broken(format!(
                    "ends before tensor {tensor} does: it has {} bytes of data, expected at least {end}",
                    data.len()
                )));
            }
            tensors.insert(tensor, place);
        }
        Ok(Self {
            name: name.to_owned(),
            tensors,
            data,
        })
    }

    /// Name of the file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Names of the tensors, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, if there is one of this name.
    pub(crate) fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensors.get(tensor).map(|place| place.shape.as_slice())
    }

    /// The values of a tensor that has F32, F16 or BF16 values.
    ///
    /// # Errors
    /// [`ModelError::Unfit`] for another type, a number of bytes that does not fit the shape, or no such tensor.
    pub(crate) fn values(&self, tensor: &str) -> Result<Vec<f32>> {
        let unfit = |problem: String, fix: &str| ModelError::unfit(&self.name, problem, fix);
        let Some(place) = self.tensors.get(tensor) else {
            return Err(unfit(format!("has no tensor {tensor}"), "copy the file again"));
        };
        let bytes = &self.data[place.data_offsets.0..place.data_offsets.1];
        let values: Vec<f32> = match place.dtype.as_str() {
            "F32" => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            "F16" => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f16::from_le_bytes(*b).to_f32())
                .collect(),
            "BF16" => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| bf16::from_le_bytes(*b).to_f32())
                .collect(),
            other => {
                return Err(unfit(
                    format!("tensor {tensor} has the type {other}, expected F32, F16 or BF16"),
                    "convert the weights, for example with model.float().save_pretrained()",
                ));
            }
        };
        let wanted = place
            .shape
            .iter()
            .try_fold(1usize, |product, side| product.checked_mul(*side));
        if wanted != Some(values.len()) {
            let problem = format!(
                "tensor {tensor} has {} values for the shape {:?}",
                values.len(),
                place.shape
            );
            return Err(unfit(problem, "copy the file again"));
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn halves_and_floats_are_read() {
        let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},
            "b":{"dtype":"F16","shape":[1],"data_offsets":[4,6]},"c":{"dtype":"F32","shape":[],"data_offsets":[6,10]}}"#;
        let data = [&[0x80, 0x3f, 0x00, 0xc0, 0x00, 0x3c][..], &0.25f32.to_le_bytes()].concat();
        let bytes = file(header, &data);
        let tensors = Tensors::parse("f", &bytes).unwrap();
        assert_eq!(tensors.values("a").unwrap(), [1.0, -2.0]);
        assert_eq!(tensors.values("b").unwrap(), [1.0]);
        assert_eq!(tensors.values("c").unwrap(), [0.25]);
        assert_eq!(tensors.shape("a"), Some(&[2, 1][..]));
        assert_eq!(tensors.names().count(), 3);
    }

    #[test]
    fn damaged_files_are_refused_with_what_is_wrong() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let whole = file(header, &[0; 8]);
        for length in 0..whole.len() {
            assert!(Tensors::parse("f", &whole[..length]).is_err(), "{length}");
        }
        let fault = |header: &str| {
            let bytes = file(header, &[0; 8]);
            let tensors = Tensors::parse("f", &bytes);
            tensors.and_then(|t| t.values("a")).unwrap_err().to_string()
        };
        assert!(fault(r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#).contains("type I64, expected F32"));
        assert!(
            fault(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#).contains("2 values for the shape [3]")
        );
        assert!(fault(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#).contains("ends before"));
        assert!(fault(r#"{"a":{"dtype":"F32"}}"#).contains("describes a wrongly"));
        assert!(fault("[]").contains("not a safetensors file"));
    }
}
