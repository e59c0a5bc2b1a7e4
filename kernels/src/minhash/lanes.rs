//! The inner loop of MinHash for the widest vectors that the processor has.
#![allow(unsafe_code)]

/// Functions that are computed side by side; a family is a multiple of it.
pub(super) const LANES: usize = 32;

/// Lowers each `smallest[i]` to the smallest `multipliers[i] · h + addends[i]` (mod 2³²) over all hashes.
pub(super) fn lower(smallest: &mut [u32], multipliers: &[u32], addends: &[u32], hashes: &[u64]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F, it was asked just now.
            unsafe { lower_avx512(smallest, multipliers, addends, hashes) }
            return;
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, it was asked just now.
            unsafe { lower_avx2(smallest, multipliers, addends, hashes) }
            return;
        }
    }
    lower_lanes(smallest, multipliers, addends, hashes);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn lower_avx512(smallest: &mut [u32], multipliers: &[u32], addends: &[u32], hashes: &[u64]) {
    lower_lanes(smallest, multipliers, addends, hashes);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn lower_avx2(smallest: &mut [u32], multipliers: &[u32], addends: &[u32], hashes: &[u64]) {
    lower_lanes(smallest, multipliers, addends, hashes);
}

/// Keeps one block of functions in registers while all hashes pass; the compiler makes vectors of it.
#[inline(always)]
fn lower_lanes(smallest: &mut [u32], multipliers: &[u32], addends: &[u32], hashes: &[u64]) {
    let blocks = smallest
        .as_chunks_mut::<LANES>()
        .0
        .iter_mut()
        .zip(multipliers.as_chunks::<LANES>().0)
        .zip(addends.as_chunks::<LANES>().0);
    for ((block, multiplier), addend) in blocks {
        let mut least = *block;
        for hash in hashes {
            // The low half of xxh3 is as good as the high one.
            let hash = *hash as u32;
            for lane in 0..LANES {
                let value = multiplier[lane].wrapping_mul(hash).wrapping_add(addend[lane]);
                least[lane] = least[lane].min(value);
            }
        }
        *block = least;
    }
}
