//! How a plan learns the lengths of documents.

/// The lengths of documents, in tokens, by source and row. A loader answers from a memory map or a vector.
pub trait Lengths: Send + Sync {
    /// Says how many tokens row `row` (a slot of the version) of source `source` (its position in the plan) has.
    fn length(&self, source: usize, row: u64) -> u32;

    /// Writes the lengths of `rows` to `out`, which has the same length. Override it where a whole run is cheaper.
    fn gather(&self, source: usize, rows: &[u64], out: &mut [u32]) {
        for (out, &row) in out.iter_mut().zip(rows) {
            *out = self.length(source, row);
        }
    }
}

/// Lengths for plans over samples that are no sequences: every row counts as one token.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unmeasured;

impl Lengths for Unmeasured {
    fn length(&self, _source: usize, _row: u64) -> u32 {
        1
    }
}

/// One vector of lengths per source.
impl Lengths for Vec<Vec<u32>> {
    /// # Panics
    /// If the vectors are shorter than the sources of the plan.
    fn length(&self, source: usize, row: u64) -> u32 {
        self[source][row as usize]
    }

    fn gather(&self, source: usize, rows: &[u64], out: &mut [u32]) {
        let lengths = &self[source];
        for (out, &row) in out.iter_mut().zip(rows) {
            *out = lengths[row as usize];
        }
    }
}
