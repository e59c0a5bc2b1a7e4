//! Functions of single values and of single rows.

use super::instruction_set::for_each_instruction_set;

/// Lanes of every sum over a row.
const LANES: usize = 16;

/// What follows a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    /// x·Φ(x) with the error function.
    Gelu,
    /// x·Φ(x), approximated with tanh.
    GeluTanh,
    /// x·σ(1.702·x), as CLIP has it.
    QuickGelu,
    Relu,
    Silu,
    Tanh,
}

impl Activation {
    /// The activation that a `config.json` names, if it is one of these.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "gelu" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Self::GeluTanh,
            "quick_gelu" => Self::QuickGelu,
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            "tanh" => Self::Tanh,
            "linear" | "identity" => Self::Identity,
            _ => return None,
        })
    }

    #[inline(always)]
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Gelu => values
                .iter_mut()
                .for_each(|x| *x *= 0.5 + 0.5 * erf(*x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => values.iter_mut().for_each(|x| {
                let inner = 0.797_884_6 * (0.044_715 * *x * *x).mul_add(*x, *x);
                *x *= sigmoid(2.0 * inner);
            }),
            Self::QuickGelu => values.iter_mut().for_each(|x| *x *= sigmoid(1.702 * *x)),
            Self::Relu => values.iter_mut().for_each(|x| *x = x.max(0.0)),
            Self::Silu => values.iter_mut().for_each(|x| *x *= sigmoid(*x)),
            Self::Tanh => values.iter_mut().for_each(|x| *x = 2.0 * sigmoid(2.0 * *x) - 1.0),
        }
    }
}

/// eˣ within 2 units in the last place, for -87 ≤ x ≤ 88; values outside are moved to these bounds.
///
/// The polynomial of the Cephes library, `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it leaves an integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let power = rounded - ROUND;
    let rest = power.mul_add(-0.693_359_4, x);
    let rest = power.mul_add(2.121_944_4e-4, rest);
    let mut sum = 1.987_569_1e-4f32;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
        sum = sum.mul_add(rest, coefficient);
    }
    let sum = (sum * rest).mul_add(rest, rest) + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    sum * f32::from_bits(exponent)
}

#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The error function within 5e-7: a rational approximation on [-4, 4], the one of Eigen.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut above = -2.726_142e-10f32;
    for coefficient in [
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_3e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ] {
        above = above.mul_add(square, coefficient);
    }
    let mut below = -1.456_607_2e-5f32;
    for coefficient in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329_4e-3, -1.426_473_9e-2] {
        below = below.mul_add(square, coefficient);
    }
    x * above / below
}

/// Sums in [`LANES`] lanes, folded by halves.
#[inline(always)]
fn lane_sum(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += of(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += of(*value);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn lane_max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(*value);
        }
    }
    let all = lanes.into_iter().chain(rest.iter().copied());
    all.fold(f32::NEG_INFINITY, f32::max)
}

for_each_instruction_set! {
    /// Makes each row of `width` values sum to one: exp(x) / Σ exp(x).
    pub(crate) fn softmax(rows: &mut [f32], width: usize) {
        for row in rows.chunks_exact_mut(width) {
            let max = lane_max(row);
            row.iter_mut().for_each(|x| *x = exp(*x - max));
            let scale = 1.0 / lane_sum(row, |x| x);
            row.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

for_each_instruction_set! {
    /// Replaces each value by 1 / (1 + exp(-x)).
    pub(crate) fn logistic(values: &mut [f32]) {
        values.iter_mut().for_each(|x| *x = sigmoid(*x));
    }
}

for_each_instruction_set! {
    /// Scales each row of `width` values to length one; a row of zeros stays.
    pub(crate) fn unit_length(rows: &mut [f32], width: usize) {
        for row in rows.chunks_exact_mut(width) {
            let length = lane_sum(row, |x| x * x).sqrt().max(1e-12);
            row.iter_mut().for_each(|x| *x /= length);
        }
    }
}

for_each_instruction_set! {
    /// `rows[i] = activation(rows[i])` for the first half of each row of `2 · width`, times the second half.
    ///
    /// The products go to `out`, rows of `width` values.
    pub(crate) fn gate(rows: &mut [f32], width: usize, activation: Activation, out: &mut [f32]) {
        for (row, out) in rows.chunks_exact_mut(2 * width).zip(out.chunks_exact_mut(width)) {
            let (input, gate) = row.split_at_mut(width);
            activation.apply(input);
            for ((out, input), gate) in out.iter_mut().zip(input).zip(gate) {
                *out = *input * *gate;
            }
        }
    }
}

/// A layer norm: what a row becomes when its mean is 0 and its variance 1, scaled and moved.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) scale: Vec<f32>,
    /// Empty where the model has none.
    pub(crate) bias: Vec<f32>,
    pub(crate) epsilon: f32,
}

impl Norm {
    /// Norms rows in place.
    pub(crate) fn apply(&self, rows: &mut [f32]) {
        layer_norm(rows, &self.scale, &self.bias, self.epsilon);
    }
}

for_each_instruction_set! {
    fn layer_norm(rows: &mut [f32], scale: &[f32], bias: &[f32], epsilon: f32) {
        let width = scale.len() as f32;
        for row in rows.chunks_exact_mut(scale.len()) {
            let mean = lane_sum(row, |x| x) / width;
            row.iter_mut().for_each(|x| *x -= mean);
            let variance = lane_sum(row, |x| x * x) / width;
            let factor = 1.0 / (variance + epsilon).sqrt();
            for (x, scale) in row.iter_mut().zip(scale) {
                *x *= factor * scale;
            }
            for (x, bias) in row.iter_mut().zip(bias) {
                *x += bias;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::instruction_set::InstructionSet;
    use super::*;

    /// erf by its Taylor series, in double precision; good to 1e-12 for |x| ≤ 4.
    fn erf_series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn functions_are_near_the_ones_of_double_precision() {
        for step in -4000..=4000 {
            let x = step as f32 / 1000.0;
            assert!((f64::from(erf(x)) - erf_series(f64::from(x))).abs() < 5e-7, "erf({x})");
            let wide = x * 20.0;
            let want = f64::from(wide).exp();
            assert!((f64::from(exp(wide)) / want - 1.0).abs() < 3e-7, "exp({wide})");
            let mut gelu = [x];
            Activation::Gelu.apply(&mut gelu);
            let want = f64::from(x) * 0.5 * (1.0 + erf_series(f64::from(x) / 2f64.sqrt()));
            assert!((f64::from(gelu[0]) - want).abs() < 2e-6, "gelu({x})");
            let mut tanh = [x];
            Activation::Tanh.apply(&mut tanh);
            assert!((f64::from(tanh[0]) - f64::from(x).tanh()).abs() < 3e-7, "tanh({x})");
        }
        assert!(exp(-1e9) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37 && exp(0.0) == 1.0);
    }

    #[test]
    fn rows_have_the_same_bits_on_every_instruction_set() {
        let width = 77;
        let values: Vec<f32> = (0..width * 5).map(|i| ((i * 31 % 211) as f32 - 100.0) / 23.0).collect();
        let norm = Norm {
            scale: (0..width).map(|i| i as f32 / 50.0).collect(),
            bias: (0..width).map(|i| 1.0 - i as f32 / 40.0).collect(),
            epsilon: 1e-12,
        };
        let run = || {
            let mut rows = values.clone();
            norm.apply(&mut rows);
            Activation::Gelu.apply(&mut rows);
            softmax(&mut rows, width);
            unit_length(&mut rows, width);
            rows.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let want = InstructionSet::Portable.limit(run);
        assert_eq!(InstructionSet::Avx2.limit(run), want);
        assert_eq!(InstructionSet::Avx512.limit(run), want);
    }

    #[test]
    fn norms_and_softmax_do_what_they_say() {
        let mut row = vec![1.0, 2.0, 3.0, 6.0];
        let norm = Norm {
            scale: vec![2.0; 4],
            bias: vec![1.0; 4],
            epsilon: 0.0,
        };
        norm.apply(&mut row);
        let deviation = 3.5f32.sqrt();
        for (got, x) in row.iter().zip([1.0f32, 2.0, 3.0, 6.0]) {
            assert!((got - (2.0 * (x - 3.0) / deviation + 1.0)).abs() < 1e-5);
        }
        let mut row = vec![0.0, f32::NEG_INFINITY, 2f32.ln()];
        softmax(&mut row, 3);
        assert!((row[0] - 1.0 / 3.0).abs() < 1e-6 && row[1] < 1e-30 && (row[2] - 2.0 / 3.0).abs() < 1e-6);
    }
}
