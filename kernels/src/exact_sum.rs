//! Sums of floats that do not depend on the order of their terms.

use arrow::array::{Array, Float64Array};

use crate::error::{KernelError, Result};

/// 32-bit digits of the accumulator. Bit 0 weighs 2⁻¹⁰⁷⁴ (the smallest `f64`), the largest `f64` ends below bit 2098,
/// and 2⁶⁴ terms carry 64 bits further: 2162 bits are 68 digits.
const DIGITS: usize = 68;
/// Each term adds less than 2³² to a digit, which is an `i64`: carries are due well before 2³¹ terms.
const TERMS_MAX: u32 = 1 << 30;
const FORMAT: u8 = 1;
const NAN: u8 = 1;
const POSITIVE_INFINITY: u8 = 2;
const NEGATIVE_INFINITY: u8 = 4;
const NEGATIVE: u8 = 8;

/// An exact sum of `f64`, rounded once at the end.
///
/// A superaccumulator as in Neal, "Fast exact summation using small and large superaccumulators" (2015): a
/// fixed-point number that is wide enough for every `f64`, in 32-bit digits kept in `i64` so that carries are rare.
/// The value is the correctly rounded (to nearest, ties to even) real sum, so terms may come in any order and partial
/// sums may be merged in any order: the bits of the result are the same.
///
/// NaN, or infinities of both signs, make the sum NaN; infinities of one sign make it infinite. An empty sum, and a
/// sum of zeros of any sign, is `0.0`. A sum beyond the largest `f64` is infinite, but a sum that only passes there
/// on its way is not.
#[derive(Debug, Clone)]
pub struct ExactSum {
    digits: [i64; DIGITS],
    /// Terms added since carries were last passed on.
    pending: u32,
    special: u8,
    count: u64,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self::new()
    }
}

impl ExactSum {
    /// Makes the empty sum.
    #[must_use]
    pub fn new() -> Self {
        Self {
            digits: [0; DIGITS],
            pending: 0,
            special: 0,
            count: 0,
        }
    }

    /// Adds one term.
    pub fn add(&mut self, x: f64) {
        self.count += 1;
        let bits = x.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as usize;
        let fraction = bits & ((1 << 52) - 1);
        if exponent == 0x7ff {
            self.special |= match (fraction, x > 0.0) {
                (0, true) => POSITIVE_INFINITY,
                (0, false) => NEGATIVE_INFINITY,
                _ => NAN,
            };
            return;
        }
        // Subnormals have the exponent of the smallest normal and no hidden bit.
        let (mantissa, position) = if exponent == 0 {
            (fraction, 0)
        } else {
            (fraction | 1 << 52, exponent - 1)
        };
        let (digit, shift) = (position / 32, position % 32);
        let wide = u128::from(mantissa) << shift;
        let sign = if bits >> 63 == 1 { -1 } else { 1 };
        for (i, slot) in self.digits[digit..digit + 3].iter_mut().enumerate() {
            *slot += sign * i64::from((wide >> (32 * i)) as u32);
        }
        self.pending += 1;
        if self.pending == TERMS_MAX {
            self.carry();
        }
    }

    /// Adds every value of an array; `NULL` is left out.
    pub fn add_array(&mut self, values: &Float64Array) {
        if values.null_count() == 0 {
            values.values().iter().for_each(|x| self.add(*x));
        } else {
            values.iter().flatten().for_each(|x| self.add(x));
        }
    }

    /// Adds another sum to this one.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        other.carry();
        self.carry();
        for (mine, theirs) in self.digits.iter_mut().zip(other.digits) {
            *mine += theirs;
        }
        // Two carried numbers add at most as much as one more term would.
        self.pending = 1;
        self.special |= other.special;
        self.count += other.count;
    }

    /// Number of terms added, NaN and infinities among them.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum, correctly rounded.
    #[must_use]
    pub fn value(&self) -> f64 {
        match self.special & (NAN | POSITIVE_INFINITY | NEGATIVE_INFINITY) {
            0 => {}
            POSITIVE_INFINITY => return f64::INFINITY,
            NEGATIVE_INFINITY => return f64::NEG_INFINITY,
            _ => return f64::NAN,
        }
        let (negative, magnitude) = self.magnitude();
        let value = round(&magnitude);
        if negative { -value } else { value }
    }

    /// Writes the sum: format, flags, count, then sign and magnitude of the accumulator without its zero digits.
    /// Equal sums of as many terms give equal bytes, however they came about.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (negative, magnitude) = self.magnitude();
        let first = magnitude.iter().position(|d| *d != 0).unwrap_or(0);
        let end = magnitude.iter().rposition(|d| *d != 0).map_or(0, |i| i + 1);
        let used = &magnitude[first.min(end)..end];
        let mut out = Vec::with_capacity(12 + 4 * used.len());
        out.extend([FORMAT, self.special | if negative { NEGATIVE } else { 0 }]);
        out.extend(self.count.to_le_bytes());
        out.extend([first as u8, used.len() as u8]);
        used.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// When the bytes are of another format, cut short or have digits out of range.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let corrupt = |problem: &str| KernelError::Corrupt {
            what: "state of an exact sum",
            problem: problem.into(),
        };
        let (header, rest) = bytes
            .split_at_checked(12)
            .ok_or_else(|| corrupt("it is shorter than 12 bytes"))?;
        if header[0] != FORMAT {
            return Err(corrupt(&format!("format {} is not {FORMAT}", header[0])));
        }
        let (first, used) = (usize::from(header[10]), usize::from(header[11]));
        if rest.len() != 4 * used || first + used > DIGITS || header[1] & !15 != 0 {
            return Err(corrupt("its digits do not fit"));
        }
        let mut sum = Self::new();
        sum.special = header[1] & !NEGATIVE;
        sum.count = header[2..10].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let sign = if header[1] & NEGATIVE != 0 { -1 } else { 1 };
        for (slot, digit) in sum.digits[first..].iter_mut().zip(rest.chunks_exact(4)) {
            *slot = sign * digit.iter().rev().fold(0, |n, b| n << 8 | i64::from(*b));
        }
        sum.pending = 1;
        Ok(sum)
    }

    /// Passes carries on, so that every digit but the highest is from 0 to 2³² - 1; the highest keeps the sign.
    fn carry(&mut self) {
        let mut carry = 0;
        for digit in &mut self.digits[..DIGITS - 1] {
            let sum = *digit + carry;
            carry = sum >> 32;
            *digit = sum & 0xffff_ffff;
        }
        self.digits[DIGITS - 1] += carry;
        self.pending = 0;
    }

    fn magnitude(&self) -> (bool, [u32; DIGITS]) {
        let mut sum = self.clone();
        sum.carry();
        let negative = sum.digits[DIGITS - 1] < 0;
        if negative {
            sum.digits.iter_mut().for_each(|d| *d = -*d);
            sum.carry();
        }
        // 2⁶⁴ terms fit into DIGITS, so the highest digit is a digit too.
        (negative, sum.digits.map(|d| d as u32))
    }
}

/// Rounds a magnitude in units of 2⁻¹⁰⁷⁴ to the nearest `f64`, ties to even.
fn round(magnitude: &[u32; DIGITS]) -> f64 {
    let Some(top) = magnitude.iter().rposition(|d| *d != 0) else {
        return 0.0;
    };
    let highest_bit = top * 32 + 31 - magnitude[top].leading_zeros() as usize;
    let bit = |i: usize| u64::from(magnitude[i / 32] >> (i % 32) & 1);
    if highest_bit < 53 {
        // Read as bits, a small integer is that many units of 2⁻¹⁰⁷⁴, the step to the normal numbers included.
        return f64::from_bits(u64::from(magnitude[1]) << 32 | u64::from(magnitude[0]));
    }
    let low = highest_bit - 52;
    let mantissa = (0..53).fold(0, |m, i| m | bit(low + i) << i);
    let half = bit(low - 1) == 1;
    let sticky = (0..low - 1).any(|i| bit(i) == 1);
    let exponent = low as u64 + 1;
    if exponent >= 0x7ff {
        return f64::INFINITY;
    }
    // A carry out of the mantissa runs into the exponent, and out of the largest exponent into infinity, as it must.
    let up = u64::from(half && (sticky || mantissa & 1 == 1));
    f64::from_bits((exponent << 52) + (mantissa - (1 << 52)) + up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(values: &[f64]) -> ExactSum {
        let mut s = ExactSum::new();
        s.add_array(&values.to_vec().into());
        s
    }

    /// Schoolbook arithmetic on whole numbers of units of 2⁻¹⁰⁷⁴, and the standard library's correctly rounded
    /// reading of decimal numbers: `n · 2⁻¹⁰⁷⁴ = n · 5¹⁰⁷⁴ · 10⁻¹⁰⁷⁴`.
    fn oracle(values: &[f64]) -> f64 {
        let (mut positive, mut negative) = (vec![0u32; 80], vec![0u32; 80]);
        for x in values {
            let bits = x.abs().to_bits();
            let (mantissa, shift) = match bits >> 52 {
                0 => (bits, 0),
                e => (bits & ((1 << 52) - 1) | 1 << 52, e as usize - 1),
            };
            let side = if *x < 0.0 { &mut negative } else { &mut positive };
            for bit in (0..53).filter(|b| mantissa >> b & 1 == 1) {
                let mut at = (shift + bit) / 32;
                let (sum, mut carry) = side[at].overflowing_add(1 << ((shift + bit) % 32));
                side[at] = sum;
                while carry {
                    at += 1;
                    (side[at], carry) = side[at].overflowing_add(1);
                }
            }
        }
        let below = positive.iter().rev().lt(negative.iter().rev());
        let (mut n, less) = if below {
            (negative, positive)
        } else {
            (positive, negative)
        };
        let mut borrow = 0i64;
        for (a, b) in n.iter_mut().zip(less) {
            let difference = i64::from(*a) - i64::from(b) - borrow;
            borrow = i64::from(difference < 0);
            *a = difference as u32;
        }
        for _ in 0..1074 {
            let mut carry = 0u64;
            for digit in &mut n {
                let product = u64::from(*digit) * 5 + carry;
                *digit = product as u32;
                carry = product >> 32;
            }
            n.extend((carry > 0).then_some(carry as u32));
        }
        let mut decimal = Vec::new();
        while n.iter().any(|d| *d != 0) {
            let mut rest = 0u64;
            for digit in n.iter_mut().rev() {
                let whole = rest << 32 | u64::from(*digit);
                *digit = (whole / 1_000_000_000) as u32;
                rest = whole % 1_000_000_000;
            }
            decimal.push(format!("{rest:09}"));
        }
        let digits: String = decimal.into_iter().rev().collect();
        let value: f64 = format!("0{digits}e-1074").parse().unwrap();
        if below { -value } else { value }
    }

    fn finite() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>()
                .prop_map(f64::from_bits)
                .prop_filter("finite", |x| x.is_finite()),
            -1e3..1e3f64,
            Just(f64::MAX),
            Just(f64::MIN),
            Just(5e-324),
            Just(f64::MIN_POSITIVE),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn equals_the_reference_in_any_order_and_any_grouping(values in prop::collection::vec(finite(), 0..60), cut: prop::sample::Index) {
            let whole = sum(&values);
            let want = oracle(&values);
            prop_assert!(whole.value() == want, "{} {}", whole.value(), want);
            let mut reversed = values.clone();
            reversed.reverse();
            prop_assert_eq!(sum(&reversed).to_bytes(), whole.to_bytes());
            let at = if values.is_empty() { 0 } else { cut.index(values.len()) };
            let mut right = sum(&values[at..]);
            right.merge(&ExactSum::from_bytes(&sum(&values[..at]).to_bytes()).unwrap());
            prop_assert_eq!(right.to_bytes(), whole.to_bytes());
            prop_assert_eq!(right.value().to_bits(), whole.value().to_bits());
        }

        #[test]
        fn foreign_bytes_are_refused_or_read_but_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(read) = ExactSum::from_bytes(&bytes) {
                prop_assert_eq!(read.value().is_nan(), ExactSum::from_bytes(&read.to_bytes()).unwrap().value().is_nan());
            }
        }
    }

    #[test]
    fn cancellation_and_ties_are_exact() {
        assert_eq!(sum(&[1e308, 1e308, -1e308, -1e308, 1.0]).value(), 1.0);
        assert_eq!(sum(&[1e16, 1.0, -1e16]).value(), 1.0);
        assert_eq!(sum(&[0.1; 10]).value(), 1.0);
        let half_ulp = 2f64.powi(-53);
        assert_eq!(sum(&[1.0, half_ulp]).value(), 1.0, "a tie goes to even");
        assert_eq!(sum(&[1.0, half_ulp, 5e-324]).value(), 1.0 + f64::EPSILON);
        assert_eq!(sum(&[f64::MAX, f64::MAX]).value(), f64::INFINITY);
        assert_eq!(sum(&[-0.0, -0.0]).value().to_bits(), 0);
    }

    #[test]
    fn specials_win_over_numbers() {
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).value().is_nan());
        assert!(sum(&[f64::NAN, 1.0]).value().is_nan());
        assert_eq!(sum(&[f64::NEG_INFINITY, 1e300]).value(), f64::NEG_INFINITY);
    }

    #[test]
    fn null_is_left_out_and_not_counted() {
        let mut s = ExactSum::new();
        s.add_array(&Float64Array::from(vec![Some(1.5), None, Some(2.0)]));
        assert_eq!((s.value(), s.count()), (3.5, 2));
    }

    #[test]
    fn cut_or_foreign_states_say_so() {
        let bytes = sum(&[1.0, 2.0]).to_bytes();
        for cut in 0..bytes.len() {
            assert!(ExactSum::from_bytes(&bytes[..cut]).is_err());
        }
        assert!(
            ExactSum::from_bytes(&[9; 12])
                .unwrap_err()
                .to_string()
                .contains("format 9")
        );
    }
}
