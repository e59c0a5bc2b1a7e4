//! The group index: how many packs come before each group, so that a step finds its group.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};

const MAGIC: [u8; 4] = *b"CMGI";
const FORMAT: u32 = 1;
/// Magic, format, plan hash, digest of the weights, first group, number of groups, complete, number of changes.
const HEADER: usize = 4 + 4 + 32 + 8 + 8 + 8 + 8 + 8;

/// Cumulative packs of consecutive groups, from group `first` on; grows at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupIndex {
    first: u64,
    /// Packs before each group from `first` on; the last entry belongs to the first group that is not known yet.
    starts: Vec<u64>,
    complete: bool,
    /// The first group under each change of weights at a step, as far as they are known.
    changes: Vec<u64>,
}

impl GroupIndex {
    /// Starts an index at group 0.
    pub(crate) fn new() -> Self {
        Self::at(0, 0, Vec::new())
    }

    /// Starts an index at a group whose place is known from a state.
    pub(crate) fn at(first: u64, packs_before: u64, changes: Vec<u64>) -> Self {
        Self {
            first,
            starts: vec![packs_before],
            complete: false,
            changes,
        }
    }

    /// The first group whose packs are not counted yet.
    pub(crate) fn next_group(&self) -> u64 {
        self.first + self.starts.len() as u64 - 1
    }

    /// Packs before [`GroupIndex::next_group`].
    pub(crate) fn packs(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    pub(crate) fn first_group(&self) -> u64 {
        self.first
    }

    /// Packs before the first group of the index.
    pub(crate) fn packs_before(&self) -> u64 {
        self.starts[0]
    }

    pub(crate) fn push(&mut self, packs: u32) {
        self.starts.push(self.packs() + u64::from(packs));
    }

    pub(crate) fn changes(&self) -> &[u64] {
        &self.changes
    }

    pub(crate) fn push_change(&mut self, group: u64) {
        self.changes.push(group);
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn set_complete(&mut self) {
        self.complete = true;
    }

    /// Packs before group `number`, if it is known.
    pub(crate) fn start(&self, number: u64) -> Option<u64> {
        self.starts.get(number.checked_sub(self.first)? as usize).copied()
    }

    /// The group of pack `pack`, and the pack's place in it; of a group's first pack, the groups without a pack
    /// before it. `None` outside of what is known.
    pub(crate) fn locate(&self, pack: u64) -> Option<(u64, u32)> {
        if pack < self.starts[0] || pack >= self.packs() {
            return None;
        }
        let after = self.starts.partition_point(|&s| s <= pack);
        let mut at = after - 1;
        if self.starts[at] == pack {
            at = self.starts.partition_point(|&s| s < pack);
        }
        Some((self.first + at as u64, (pack - self.starts[at]) as u32))
    }

    /// Forgets what lies behind the start of `group`: its weights are new.
    pub(crate) fn truncate(&mut self, group: u64) {
        if group < self.first {
            *self = Self::new();
            return;
        }
        let known = (group - self.first) as usize + 1;
        if known < self.starts.len() || self.complete {
            self.complete = false;
            self.starts.truncate(known);
            self.changes.retain(|&g| g <= group);
        }
    }

    /// Writes the index: little-endian header, changes and pack counts (u32 a group), XXH3-64 of all at the end.
    pub(crate) fn to_bytes(&self, plan: &str, weights: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + 8 * (self.changes.len() + 2) + 4 * self.starts.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(plan.as_bytes());
        let groups = self.starts.len() as u64 - 1;
        let head = [
            weights,
            self.first,
            groups,
            u64::from(self.complete),
            self.changes.len() as u64,
            self.starts[0],
        ];
        for word in head.iter().chain(&self.changes) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for pair in self.starts.windows(2) {
            bytes.extend_from_slice(&((pair[1] - pair[0]) as u32).to_le_bytes());
        }
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    /// Reads what [`GroupIndex::to_bytes`] wrote; `None` if other weights held then.
    pub(crate) fn from_bytes(bytes: &[u8], plan: &str, weights: u64) -> Result<Option<Self>> {
        let bad = |message: &str| Error::Index {
            message: message.into(),
        };
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        if bytes.get(..4) != Some(&MAGIC) {
            return Err(bad("these bytes are no group index"));
        }
        let format = bytes.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
        match format {
            Some(FORMAT) => {}
            Some(found) => {
                return Err(Error::Format {
                    what: "a group index",
                    found,
                    supported: FORMAT,
                });
            }
            None => return Err(bad("it is cut short")),
        }
        let end = bytes.len().checked_sub(8).filter(|&end| end >= HEADER + 8);
        let end = end.ok_or_else(|| bad("it is cut short"))?;
        if word(end) != Some(xxh3_64(&bytes[..end])) {
            return Err(bad("its checksum does not match: it is damaged or cut short"));
        }
        if bytes.get(8..40) != Some(plan.as_bytes()) {
            return Err(bad("it belongs to another plan"));
        }
        let head: Vec<u64> = (0..6).filter_map(|i| word(40 + 8 * i)).collect();
        let &[found, first, groups, complete, changes, before] = head.as_slice() else {
            return Err(bad("it is cut short"));
        };
        if found != weights {
            return Ok(None);
        }
        let body = bytes.get(HEADER + 8..end).ok_or_else(|| bad("it is cut short"))?;
        let sizes = changes
            .checked_mul(8)
            .zip(groups.checked_mul(4))
            .and_then(|(c, g)| c.checked_add(g));
        if sizes != Some(body.len() as u64) {
            return Err(bad("its counts do not match its size"));
        }
        let (changes, counts) = body.split_at(8 * changes as usize);
        let changes = changes
            .chunks_exact(8)
            .filter_map(|b| b.try_into().ok())
            .map(u64::from_le_bytes)
            .collect();
        let mut index = Self::at(first, before, changes);
        for count in counts
            .chunks_exact(4)
            .filter_map(|b| b.try_into().ok())
            .map(u32::from_le_bytes)
        {
            index.push(count);
        }
        index.complete = complete == 1;
        Ok(Some(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(first: u64, before: u64, counts: &[u32]) -> GroupIndex {
        let mut index = GroupIndex::at(first, before, vec![3, 4]);
        counts.iter().for_each(|&c| index.push(c));
        index
    }

    #[test]
    fn finds_packs_and_counts_groups_without_any() {
        let index = index(10, 100, &[5, 0, 0, 3]);
        let found = [99, 100, 104, 105, 107, 108].map(|p| index.locate(p));
        assert_eq!(
            found,
            [None, Some((10, 0)), Some((10, 4)), Some((11, 0)), Some((13, 2)), None]
        );
        assert_eq!(
            (index.next_group(), index.packs(), index.start(13)),
            (14, 108, Some(105))
        );
    }

    #[test]
    fn truncates_behind_a_group() {
        let mut index = index(10, 100, &[5, 1, 1, 3]);
        index.truncate(12);
        assert_eq!((index.next_group(), index.packs()), (12, 106));
        index.truncate(9);
        assert_eq!(index, GroupIndex::new());
    }

    #[test]
    fn survives_the_disk_and_nothing_else() {
        let plan = "0123456789abcdef0123456789abcdef";
        let index = index(10, 100, &[5, 0, 7]);
        let bytes = index.to_bytes(plan, 77);
        assert_eq!(GroupIndex::from_bytes(&bytes, plan, 77).unwrap(), Some(index));
        assert_eq!(GroupIndex::from_bytes(&bytes, plan, 78).unwrap(), None);
        assert!(GroupIndex::from_bytes(&bytes, &plan.replace('0', "1"), 77).is_err());
        for cut in 0..bytes.len() {
            assert!(GroupIndex::from_bytes(&bytes[..cut], plan, 77).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(GroupIndex::from_bytes(&damaged, plan, 77).is_err(), "damaged at {at}");
        }
    }
}
