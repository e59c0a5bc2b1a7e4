//! How a plan learns the lengths of documents.

/// Why lengths could not be had, in the words of whoever keeps them.
pub type LengthsError = Box<dyn std::error::Error + Send + Sync>;

/// The lengths of documents, in tokens, by source and row. A loader answers from a memory map or a vector.
pub trait Lengths: Send + Sync {
    /// Says how many tokens row `row` (a slot of the version) of source `source` (its position in the plan) has.
    fn length(&self, source: usize, row: u64) -> u32;

    /// Writes the lengths of `rows` to `out`, which has the same length. Plans call nothing else: override it where a
    /// whole run is cheaper, or where reading can fail.
    ///
    /// # Errors
    /// Whatever kept the lengths from being read; the plan then keeps nothing of the group that it was counting, and
    /// the same step can be asked for again.
    fn gather(&self, source: usize, rows: &[u64], out: &mut [u32]) -> Result<(), LengthsError> {
        for (out, &row) in out.iter_mut().zip(rows) {
            *out = self.length(source, row);
        }
        Ok(())
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

    fn gather(&self, source: usize, rows: &[u64], out: &mut [u32]) -> Result<(), LengthsError> {
        let lengths = self
            .get(source)
            .ok_or_else(|| format!("there are lengths of {} sources only", self.len()))?;
        for (out, &row) in out.iter_mut().zip(rows) {
            let length = usize::try_from(row).ok().and_then(|row| lengths.get(row));
            *out = *length.ok_or_else(|| format!("row {row} lies beyond the {} lengths", lengths.len()))?;
        }
        Ok(())
    }
}
