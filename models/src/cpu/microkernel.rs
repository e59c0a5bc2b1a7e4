//! The innermost loop of a product: a tile of [`ROWS`] × [`COLUMNS`] sums, each one chain of fused multiply-adds.

use super::instruction_set::InstructionSet;

/// Rows of a tile.
pub(crate) const ROWS: usize = 12;
/// Columns of a tile.
pub(crate) const COLUMNS: usize = 32;

/// The sums of a tile, row by row.
pub(crate) type Tile = [[f32; COLUMNS]; ROWS];

/// Computes `sums[i][j] = Σ a[step][i] · b[step][j]`, the steps in order.
///
/// `a` holds a column of [`ROWS`] values for each step, `b` a row of [`COLUMNS`] values; the shorter one says how many
/// steps there are.
#[cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "calls the version for the instruction set that the machine has"
    )
)]
pub(crate) fn multiply(a: &[f32], b: &[f32], sums: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    match InstructionSet::of_this_machine() {
        // SAFETY: `InstructionSet` found that the processor has these features.
        InstructionSet::Avx512 => return unsafe { x86::avx512(a, b, sums) },
        // SAFETY: as above.
        InstructionSet::Avx2 => return unsafe { x86::avx2(a, b, sums) },
        InstructionSet::Portable => {}
    }
    portable(a, b, sums);
}

fn portable(a: &[f32], b: &[f32], sums: &mut Tile) {
    for (row, sums) in sums.iter_mut().enumerate() {
        let mut chain = [0f32; COLUMNS];
        for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(COLUMNS)) {
            for (sum, b) in chain.iter_mut().zip(b) {
                *sum = a[row].mul_add(*b, *sum);
            }
        }
        *sums = chain;
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector loads and stores take pointers")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{COLUMNS, ROWS, Tile};

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(a: &[f32], b: &[f32], sums: &mut Tile) {
        let mut chains = [[_mm512_setzero_ps(); 2]; ROWS];
        for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(COLUMNS)) {
            // SAFETY: the chunk has 32 values.
            let left = unsafe { _mm512_loadu_ps(b.as_ptr()) };
            // SAFETY: as above; this reads the second 16.
            let right = unsafe { _mm512_loadu_ps(b.as_ptr().add(16)) };
            for (chain, a) in chains.iter_mut().zip(a) {
                let a = _mm512_set1_ps(*a);
                chain[0] = _mm512_fmadd_ps(a, left, chain[0]);
                chain[1] = _mm512_fmadd_ps(a, right, chain[1]);
            }
        }
        for (sums, chain) in sums.iter_mut().zip(&chains) {
            // SAFETY: a row of a tile has 32 values.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), chain[0]) };
            // SAFETY: as above; this writes the second 16.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(16), chain[1]) };
        }
    }

    /// Sixteen registers hold 6 × 16 sums, so that a tile is done in four parts.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(a: &[f32], b: &[f32], sums: &mut Tile) {
        for row in [0, ROWS / 2] {
            for column in [0, COLUMNS / 2] {
                let mut chains = [[_mm256_setzero_ps(); 2]; ROWS / 2];
                for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(COLUMNS)) {
                    let b = &b[column..column + 16];
                    // SAFETY: the slice has 16 values.
                    let left = unsafe { _mm256_loadu_ps(b.as_ptr()) };
                    // SAFETY: as above; this reads the second 8.
                    let right = unsafe { _mm256_loadu_ps(b.as_ptr().add(8)) };
                    for (chain, a) in chains.iter_mut().zip(&a[row..row + ROWS / 2]) {
                        let a = _mm256_set1_ps(*a);
                        chain[0] = _mm256_fmadd_ps(a, left, chain[0]);
                        chain[1] = _mm256_fmadd_ps(a, right, chain[1]);
                    }
                }
                for (sums, chain) in sums[row..row + ROWS / 2].iter_mut().zip(&chains) {
                    let sums = &mut sums[column..column + 16];
                    // SAFETY: the slice has 16 values.
                    unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), chain[0]) };
                    // SAFETY: as above; this writes the second 8.
                    unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(8), chain[1]) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_portable_one() {
        for steps in [0, 1, 5, 64, 1537] {
            let a: Vec<f32> = (0..steps * ROWS).map(|i| ((i * 37 % 1013) as f32).sin()).collect();
            let b: Vec<f32> = (0..steps * COLUMNS).map(|i| ((i * 53 % 997) as f32).cos()).collect();
            let mut want = [[f32::NAN; COLUMNS]; ROWS];
            portable(&a, &b, &mut want);
            let near: f64 = (0..steps)
                .map(|s| f64::from(a[s * ROWS + 3]) * f64::from(b[s * COLUMNS + 7]))
                .sum();
            assert!((f64::from(want[3][7]) - near).abs() < 1e-3, "{steps}");
            for set in [InstructionSet::Portable, InstructionSet::Avx2, InstructionSet::Avx512] {
                let mut got = [[f32::NAN; COLUMNS]; ROWS];
                set.limit(|| multiply(&a, &b, &mut got));
                assert_eq!(
                    got.map(|r| r.map(f32::to_bits)),
                    want.map(|r| r.map(f32::to_bits)),
                    "{set:?}"
                );
            }
        }
    }
}
