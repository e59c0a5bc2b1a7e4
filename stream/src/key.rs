//! Keys of the bijections and phases, derived from the seed of a plan by XXH3-128.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// What a key is for, so that no two uses share one.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(crate) enum Purpose {
    /// The order of blocks in an epoch.
    Blocks = 1,
    /// The order of rows in a window.
    Window = 2,
    /// The phases of the strata in a period of the mix.
    Phase = 3,
    /// The order of packs in a group.
    Packs = 4,
}

/// Derives the 128-bit key of (`seed`, `purpose`, `name`, `a`, `b`); `name` is a hash from [`name`].
pub(crate) fn derive(seed: u64, purpose: Purpose, name: u64, a: u64, b: u64) -> [u64; 2] {
    let mut bytes = [0u8; 40];
    for (to, from) in bytes.chunks_exact_mut(8).zip([seed, purpose as u64, name, a, b]) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    let hash = xxh3_128(&bytes);
    [hash as u64, (hash >> 64) as u64]
}

/// Hashes the name of a stratum. Keys hang on names, not on positions: adding a source moves no other one.
pub(crate) fn name(source: &str, class: Option<&str>) -> u64 {
    let mut bytes = Vec::with_capacity(source.len() + class.map_or(0, str::len) + 9);
    bytes.extend_from_slice(&(source.len() as u64).to_le_bytes());
    bytes.extend_from_slice(source.as_bytes());
    if let Some(class) = class {
        bytes.push(1);
        bytes.extend_from_slice(class.as_bytes());
    }
    xxh3_64(&bytes)
}
