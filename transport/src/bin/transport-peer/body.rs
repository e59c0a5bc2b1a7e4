//! Bodies that say where each of their pages belongs.

/// Bytes of a page of a body.
const PAGE_BYTES: usize = 4096;

/// Makes and audits the bodies of one seed.
pub(crate) struct Bodies {
    page: Vec<u8>,
}

impl Bodies {
    /// Draws the page that all bodies of a seed are made of (SplitMix64, Steele et al. 2014).
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut page = Vec::with_capacity(PAGE_BYTES);
        while page.len() < PAGE_BYTES {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            page.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
        }
        Self { page }
    }

    /// Fills `into` with body `seq`: each page begins with the sequence number and the page's own.
    pub(crate) fn fill(&self, seq: u64, into: &mut [u8]) {
        for (index, chunk) in into.chunks_mut(PAGE_BYTES).enumerate() {
            chunk.copy_from_slice(&self.page[..chunk.len()]);
            let mark = [seq.to_le_bytes(), (index as u64).to_le_bytes()].concat();
            let length = chunk.len().min(mark.len());
            chunk[..length].copy_from_slice(&mark[..length]);
        }
    }

    /// Says whether `body` is body `seq` of `length` bytes.
    pub(crate) fn is(&self, seq: u64, length: usize, body: &[u8]) -> bool {
        let mut expected = vec![0; length];
        self.fill(seq, &mut expected);
        body == expected
    }
}
