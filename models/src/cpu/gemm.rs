//! Products of matrices, with what follows a product in a transformer done while the tile is still near.

use super::elementwise::Activation;
use super::instruction_set::for_each_instruction_set;
use super::microkernel::{COLUMNS, ROWS, multiply};

/// Values that are packed together: half of a second-level cache of 1 MiB, so that a panel fits beside them.
const BLOCK_VALUES: usize = 128 << 10;

/// The right-hand side of a product, `inner` × `columns`, in panels of [`COLUMNS`] columns, the last one padded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Packed {
    inner: usize,
    columns: usize,
    panels: Vec<f32>,
}

impl Packed {
    /// Packs the transpose of `columns` rows of `inner` values, `stride` apart: weights as PyTorch keeps them.
    pub(crate) fn pack_transposed(&mut self, rows: &[f32], stride: usize, columns: usize, inner: usize) {
        self.clear(inner, columns);
        for column in 0..columns {
            let row = &rows[column * stride..column * stride + inner];
            let panel = &mut self.panels[column / COLUMNS * inner * COLUMNS..];
            for (values, value) in panel.chunks_exact_mut(COLUMNS).zip(row) {
                values[column % COLUMNS] = *value;
            }
        }
    }

    fn clear(&mut self, inner: usize, columns: usize) {
        (self.inner, self.columns) = (inner, columns);
        self.panels.clear();
        self.panels.resize(columns.div_ceil(COLUMNS) * COLUMNS * inner, 0.0);
    }

    /// Number of columns of a product with it.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.panels.len() * size_of::<f32>()
    }
}

/// Some columns of the rows of a matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// From the first value of the first row on.
    pub(crate) values: &'a [f32],
    /// From a row to the next.
    pub(crate) stride: usize,
    /// How many rows.
    pub(crate) rows: usize,
}

/// What becomes of a sum before it is stored: `activation(sum + bias) + what was there`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Activation,
    pub(crate) accumulate: bool,
}

impl Finish<'_> {
    /// The sums as they are.
    pub(crate) const PLAIN: Finish<'static> = Finish {
        bias: &[],
        activation: Activation::Identity,
        accumulate: false,
    };
}

for_each_instruction_set! {
    /// Multiplies `left`, whose rows begin with as many values as `right` has inner ones, by `right`.
    ///
    /// `out` begins at the first value of the result; its rows are `out_stride` apart. `scratch` is only memory.
    pub(crate) fn gemm(
        left: Rows<'_>,
        right: &Packed,
        out: &mut [f32],
        out_stride: usize,
        finish: Finish<'_>,
        scratch: &mut Vec<f32>,
    ) {
        let inner = right.inner;
        let mut sums = [[0f32; COLUMNS]; ROWS];
        let block = (BLOCK_VALUES / inner.max(1) / ROWS).max(1) * ROWS;
        for start in (0..left.rows).step_by(block) {
            let rows = block.min(left.rows - start);
            pack_left(left, start, rows, inner, scratch);
            for (panel, column) in (0..right.columns).step_by(COLUMNS).enumerate() {
                let panel = &right.panels[panel * inner * COLUMNS..(panel + 1) * inner * COLUMNS];
                let columns = COLUMNS.min(right.columns - column);
                for row in (0..rows).step_by(ROWS) {
                    multiply(&scratch[row * inner..(row + ROWS) * inner], panel, &mut sums);
                    for (at, sums) in sums.iter_mut().enumerate().take(rows - row) {
                        let place = (start + row + at) * out_stride + column;
                        store(sums, &mut out[place..place + columns], column, finish);
                    }
                }
            }
        }
    }
}

/// Lays tiles of rows so that the values of one step are side by side; rows that are missing are zero.
#[inline(always)]
pub(super) fn pack_left(left: Rows<'_>, start: usize, rows: usize, inner: usize, scratch: &mut Vec<f32>) {
    scratch.clear();
    scratch.resize(rows.div_ceil(ROWS) * ROWS * inner, 0.0);
    for row in 0..rows {
        let first = (start + row) * left.stride;
        let values = &left.values[first..first + inner];
        let tile = &mut scratch[row / ROWS * ROWS * inner..];
        for (step, value) in tile.chunks_exact_mut(ROWS).zip(values) {
            step[row % ROWS] = *value;
        }
    }
}

#[inline(always)]
fn store(sums: &mut [f32; COLUMNS], out: &mut [f32], column: usize, finish: Finish<'_>) {
    if let Some(bias) = finish.bias.get(column..column + out.len()) {
        for (sum, bias) in sums.iter_mut().zip(bias) {
            *sum += bias;
        }
    }
    finish.activation.apply(sums);
    if finish.accumulate {
        for (out, sum) in out.iter_mut().zip(sums.iter()) {
            *out += sum;
        }
    } else {
        out.copy_from_slice(&sums[..out.len()]);
    }
}

/// A linear layer: weights `outputs` × `inputs`, and a bias.
#[derive(Debug)]
pub(crate) struct Linear {
    weights: Packed,
    bias: Vec<f32>,
}

impl Linear {
    /// A layer of weights as PyTorch keeps them, `outputs` rows of `inputs` values; no bias where it is empty.
    pub(crate) fn new(weights: &[f32], bias: Vec<f32>, outputs: usize, inputs: usize) -> Self {
        let mut packed = Packed::default();
        packed.pack_transposed(weights, inputs, outputs, inputs);
        Self { weights: packed, bias }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weights.columns()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// `out = activation(rows · weightsᵀ + bias)`; `out` is made as long as it must be.
    pub(crate) fn apply(&self, rows: Rows<'_>, activation: Activation, out: &mut Vec<f32>, scratch: &mut Vec<f32>) {
        out.resize(rows.rows * self.outputs(), 0.0);
        let finish = Finish {
            bias: &self.bias,
            activation,
            ..Finish::PLAIN
        };
        gemm(rows, &self.weights, out, self.outputs(), finish, scratch);
    }

    /// `out += rows · weightsᵀ + bias`.
    pub(crate) fn add(&self, rows: Rows<'_>, out: &mut [f32], scratch: &mut Vec<f32>) {
        let finish = Finish {
            bias: &self.bias,
            accumulate: true,
            ..Finish::PLAIN
        };
        gemm(rows, &self.weights, out, self.outputs(), finish, scratch);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|i| (((i * 7919 + seed * 104_729) % 2003) as f32 - 1001.0) / 1001.0)
            .collect()
    }

    proptest! {
        #[test]
        fn products_are_near_the_naive_ones_and_alone_the_same_bits(
            rows in 1usize..130, inner in 1usize..70, columns in 1usize..70, seed in 0usize..1000,
        ) {
            let left = values(rows * inner, seed);
            let weights = values(columns * inner, seed + 1);
            let bias = values(columns, seed + 2);
            let layer = Linear::new(&weights, bias.clone(), columns, inner);
            let (mut out, mut scratch) = (Vec::new(), Vec::new());
            let all = Rows { values: &left, stride: inner, rows };
            layer.apply(all, Activation::Identity, &mut out, &mut scratch);
            for row in 0..rows {
                for column in 0..columns {
                    let want: f64 = (0..inner)
                        .map(|i| f64::from(left[row * inner + i]) * f64::from(weights[column * inner + i]))
                        .sum::<f64>() + f64::from(bias[column]);
                    prop_assert!((f64::from(out[row * columns + column]) - want).abs() < 1e-4);
                }
            }
            let row = seed % rows;
            let one = Rows { values: &left[row * inner..], stride: inner, rows: 1 };
            let mut alone = Vec::new();
            layer.apply(one, Activation::Identity, &mut alone, &mut scratch);
            prop_assert_eq!(&alone[..], &out[row * columns..(row + 1) * columns]);
            let before = out.clone();
            layer.add(all, &mut out, &mut scratch);
            prop_assert!(out.iter().zip(&before).all(|(twice, once)| *twice == once + once));
        }
    }
}
