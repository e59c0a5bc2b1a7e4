//! Attention of every token of a sequence to the tokens of the same sequence, without padding.

use super::elementwise::exp;
use super::gemm::{Rows, pack_left};
use super::instruction_set::for_each_instruction_set;
use super::microkernel::{COLUMNS, ROWS, multiply};

/// Memory that is used again from call to call.
#[derive(Debug, Default)]
pub(crate) struct AttentionScratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
    scores: Vec<f32>,
}

/// The shape of attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionShape {
    /// Heads.
    pub(crate) heads: usize,
    /// Values of a head.
    pub(crate) head_width: usize,
    /// A token sees those at most this far away; all where there is none.
    pub(crate) reach: Option<usize>,
    /// A token sees those before it only.
    pub(crate) causal: bool,
}

impl AttentionShape {
    fn width(self) -> usize {
        self.heads * self.head_width
    }
}

/// Computes `softmax(q · kᵀ / √head_width) · v` for each sequence and head.
///
/// `qkv` has for each token its query, key and value, each `heads · head_width` wide. `offsets` are the first tokens of
/// the sequences and the end of the last one. `out` gets `heads · head_width` values a token.
///
/// All is computed transposed, for [`COLUMNS`] queries at a time: a row of scores belongs to a key and has the queries
/// side by side, so that scores are written, summed and multiplied as they lie, and nothing is turned but the results.
pub(crate) fn attend(
    qkv: &[f32],
    offsets: &[usize],
    shape: AttentionShape,
    out: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let width = shape.width();
    let stride = 3 * width;
    for sequence in offsets.windows(2).filter(|sequence| sequence[0] < sequence[1]) {
        let tokens = &qkv[sequence[0] * stride..sequence[1] * stride];
        let out = &mut out[sequence[0] * width..sequence[1] * width];
        for head in 0..shape.heads {
            attend_head(tokens, head, shape, out, scratch);
        }
    }
}

for_each_instruction_set! {
    fn attend_head(
        tokens: &[f32],
        head: usize,
        shape: AttentionShape,
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let (width, inner) = (shape.width(), shape.head_width);
        let stride = 3 * width;
        let length = tokens.len() / stride;
        let column = head * inner;
        let keys = Rows { values: &tokens[width + column..], stride, rows: length };
        pack_left(keys, 0, length, inner, &mut scratch.keys);
        pack_values(&tokens[2 * width + column..], stride, length, inner, &mut scratch.values);
        let scale = 1.0 / (inner as f32).sqrt();
        let mut sums = [[0f32; COLUMNS]; ROWS];
        for first in (0..length).step_by(COLUMNS) {
            let queries = COLUMNS.min(length - first);
            scratch.queries.clear();
            scratch.queries.resize(inner * COLUMNS, 0.0);
            for query in 0..queries {
                let values = &tokens[(first + query) * stride + column..][..inner];
                for (row, value) in scratch.queries.chunks_exact_mut(COLUMNS).zip(values) {
                    row[query] = value * scale;
                }
            }
            scratch.scores.resize(length.div_ceil(ROWS) * ROWS * COLUMNS, 0.0);
            let tiles = scratch.keys.chunks_exact(inner * ROWS);
            for (tile, rows) in tiles.zip(scratch.scores.chunks_exact_mut(ROWS * COLUMNS)) {
                multiply(tile, &scratch.queries, &mut sums);
                rows.copy_from_slice(sums.as_flattened());
            }
            let scores = &mut scratch.scores[..length * COLUMNS];
            hide(scores, first, shape);
            let totals = exponentials(scores);
            for (tile, values) in scratch.values.chunks_exact(length * ROWS).enumerate() {
                multiply(values, scores, &mut sums);
                for query in 0..queries {
                    let place = (first + query) * width + column + tile * ROWS;
                    let values = ROWS.min(inner - tile * ROWS);
                    for (out, row) in out[place..place + values].iter_mut().zip(&sums) {
                        *out = row[query] / totals[query];
                    }
                }
            }
        }
    }
}

/// Lays the values of each token, [`ROWS`] columns at a time, one token after the other; columns that are missing are
/// zero.
#[inline(always)]
fn pack_values(values: &[f32], stride: usize, length: usize, inner: usize, packed: &mut Vec<f32>) {
    packed.clear();
    packed.resize(inner.div_ceil(ROWS) * ROWS * length, 0.0);
    for (tile, packed) in packed.chunks_exact_mut(length * ROWS).enumerate() {
        let columns = tile * ROWS..inner.min((tile + 1) * ROWS);
        for (token, packed) in packed.chunks_exact_mut(ROWS).enumerate() {
            let values = &values[token * stride..][columns.clone()];
            packed[..values.len()].copy_from_slice(values);
        }
    }
}

/// Replaces the scores of each query, a column, by exp(score − the largest); returns the sums, in the order of the keys.
#[inline(always)]
fn exponentials(scores: &mut [f32]) -> [f32; COLUMNS] {
    let mut largest = [f32::NEG_INFINITY; COLUMNS];
    for row in scores.chunks_exact(COLUMNS) {
        for (largest, score) in largest.iter_mut().zip(row) {
            *largest = if *score > *largest { *score } else { *largest };
        }
    }
    let mut totals = [0f32; COLUMNS];
    for row in scores.chunks_exact_mut(COLUMNS) {
        for ((score, largest), total) in row.iter_mut().zip(&largest).zip(&mut totals) {
            *score = exp(*score - largest);
            *total += *score;
        }
    }
    totals
}

/// Takes away the scores of keys that are out of reach of a query; the first query is token `first`.
#[inline(always)]
fn hide(scores: &mut [f32], first: usize, shape: AttentionShape) {
    if shape.reach.is_none() && !shape.causal {
        return;
    }
    let reach = shape.reach.unwrap_or(usize::MAX);
    for (key, row) in scores.chunks_exact_mut(COLUMNS).enumerate() {
        for (query, score) in row.iter_mut().enumerate() {
            let token = first + query;
            if key.abs_diff(token) > reach || shape.causal && key > token {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// Rotary position embedding (Su et al., 2021), halves rotated as in GPT-NeoX.
#[derive(Debug)]
pub(crate) struct Rotation {
    half: usize,
    /// Cosine and sine of each angle, by position.
    turns: Vec<(f32, f32)>,
}

impl Rotation {
    /// The angles `position · base^(-2i / head_width)` for positions below `positions`.
    pub(crate) fn new(head_width: usize, base: f32, positions: usize) -> Self {
        let half = head_width / 2;
        let turns = (0..positions).flat_map(|position| {
            (0..half).map(move |i| {
                let frequency = 1.0 / base.powf(2.0 * i as f32 / head_width as f32);
                let angle = position as f32 * frequency;
                (angle.cos(), angle.sin())
            })
        });
        Self {
            half,
            turns: turns.collect(),
        }
    }

    /// Turns the queries and keys of every sequence by their positions.
    pub(crate) fn apply(&self, qkv: &mut [f32], offsets: &[usize], shape: AttentionShape) {
        for sequence in offsets.windows(2) {
            let stride = 3 * shape.width();
            let tokens = &mut qkv[sequence[0] * stride..sequence[1] * stride];
            for (token, turns) in tokens.chunks_exact_mut(stride).zip(self.turns.chunks_exact(self.half)) {
                rotate(&mut token[..2 * shape.width()], turns);
            }
        }
    }
}

for_each_instruction_set! {
    fn rotate(heads: &mut [f32], turns: &[(f32, f32)]) {
        for head in heads.chunks_exact_mut(2 * turns.len()) {
            let (left, right) = head.split_at_mut(turns.len());
            for ((left, right), (cos, sin)) in left.iter_mut().zip(right).zip(turns) {
                let turned = (*left * cos - *right * sin, *right * cos + *left * sin);
                (*left, *right) = turned;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(qkv: &[f32], length: usize, shape: AttentionShape) -> Vec<f64> {
        let (width, stride) = (shape.width(), 3 * shape.width());
        let mut out = vec![0f64; length * width];
        for head in 0..shape.heads {
            let at = |token: usize, part: usize, i: usize| {
                f64::from(qkv[token * stride + part * width + head * shape.head_width + i])
            };
            for query in 0..length {
                let seen = |key: usize| {
                    (!shape.causal || key <= query) && shape.reach.is_none_or(|reach| key.abs_diff(query) <= reach)
                };
                let score = |key: usize| {
                    let dot: f64 = (0..shape.head_width).map(|i| at(query, 0, i) * at(key, 1, i)).sum();
                    if seen(key) {
                        (dot / (shape.head_width as f64).sqrt()).exp()
                    } else {
                        0.0
                    }
                };
                let total: f64 = (0..length).map(score).sum();
                for i in 0..shape.head_width {
                    let value = (0..length).map(|key| score(key) / total * at(key, 2, i)).sum();
                    out[query * width + head * shape.head_width + i] = value;
                }
            }
        }
        out
    }

    #[test]
    fn attention_is_near_the_naive_one_and_sees_its_own_sequence_only() {
        let lengths = [1, 7, 130, 33];
        for (reach, causal) in [(None, false), (Some(4), false), (None, true)] {
            let shape = AttentionShape {
                heads: 3,
                head_width: 20,
                reach,
                causal,
            };
            let stride = 3 * shape.width();
            let mut offsets = vec![0];
            lengths
                .iter()
                .for_each(|length| offsets.push(offsets[offsets.len() - 1] + length));
            let total = offsets[lengths.len()];
            let qkv: Vec<f32> = (0..total * stride)
                .map(|i| ((i * 7907 % 1999) as f32 - 999.0) / 700.0)
                .collect();
            let mut out = vec![0.0; total * shape.width()];
            let mut scratch = AttentionScratch::default();
            attend(&qkv, &offsets, shape, &mut out, &mut scratch);
            for (sequence, length) in offsets.windows(2).zip(lengths) {
                let tokens = &qkv[sequence[0] * stride..sequence[1] * stride];
                let got = &out[sequence[0] * shape.width()..sequence[1] * shape.width()];
                for (got, want) in got.iter().zip(naive(tokens, length, shape)) {
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
                }
                let mut alone = vec![0.0; length * shape.width()];
                attend(tokens, &[0, length], shape, &mut alone, &mut scratch);
                assert_eq!(got, alone);
            }
        }
    }
}
