//! Which bodies of a session were pulled: each sequence number once, each slot's generations in order.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Descriptor, Refusal, Result};

/// How far ahead of the oldest body that was not pulled a sequence number may be.
const WINDOW: u64 = 1 << 16;
/// Which sequence numbers and generations were taken.
#[derive(Debug)]
pub(crate) struct Claims {
    /// All sequence numbers below were taken.
    low: u64,
    /// Those from `low` on that were, and whether their bodies have arrived.
    taken: BTreeMap<u64, bool>,
    /// Last generation pulled from each slot.
    generations: Vec<u64>,
}

impl Claims {
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            low: 0,
            taken: BTreeMap::new(),
            generations: vec![0; slots as usize],
        }
    }

    fn take(&mut self, descriptor: &Descriptor) -> Result<()> {
        let seq = descriptor.seq;
        if seq < self.low || self.taken.contains_key(&seq) {
            let detail = format!("sequence {seq} is taken, {} is the first that is not", self.low);
            return Err(descriptor.refused(Refusal::Replayed, detail));
        }
        if seq - self.low >= WINDOW {
            let detail = format!("sequence {} was not pulled yet, the window is {WINDOW}", self.low);
            return Err(descriptor.refused(Refusal::OutOfWindow, detail));
        }
        let last = self.generations[descriptor.slot as usize];
        if descriptor.generation <= last {
            let detail = format!("generation {} after {last} was pulled", descriptor.generation);
            return Err(descriptor.refused(Refusal::StaleGeneration, detail));
        }
        self.taken.insert(seq, false);
        Ok(())
    }

    fn keep(&mut self, seq: u64, (slot, generation): (u32, u64)) {
        let last = &mut self.generations[slot as usize];
        *last = generation.max(*last);
        self.taken.insert(seq, true);
        while self.taken.get(&self.low) == Some(&true) {
            self.taken.remove(&self.low);
            self.low += 1;
        }
    }
}

/// A sequence number while its body is being read; given back unless it is kept.
pub(crate) struct Claim<'a> {
    claims: &'a Mutex<Claims>,
    seq: u64,
    place: (u32, u64),
    kept: bool,
}

impl<'a> Claim<'a> {
    pub(crate) fn take(claims: &'a Mutex<Claims>, descriptor: &Descriptor) -> Result<Self> {
        lock(claims).take(descriptor)?;
        let place = (descriptor.slot, descriptor.generation);
        Ok(Self {
            claims,
            seq: descriptor.seq,
            place,
            kept: false,
        })
    }

    pub(crate) fn keep(mut self) {
        self.kept = true;
        lock(self.claims).keep(self.seq, self.place);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.kept {
            lock(self.claims).taken.remove(&self.seq);
        }
    }
}

fn lock(claims: &Mutex<Claims>) -> MutexGuard<'_, Claims> {
    claims.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checksum, Error};
    use bytes::Bytes;

    fn descriptor(seq: u64, slot: u32, generation: u64) -> Descriptor {
        Descriptor {
            session: 1,
            seq,
            generation,
            slot,
            offset: 0,
            length: 1,
            checksum: Checksum::Full,
            xxh3: 0,
            metadata: Bytes::new(),
        }
    }

    fn refusal(result: Result<Claim<'_>>) -> Refusal {
        match result.map(drop) {
            Err(Error::Refused { refusal, .. }) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_sequence_number_is_taken_once_in_any_order() {
        let claims = Mutex::new(Claims::new(4));
        let first = Claim::take(&claims, &descriptor(0, 0, 1)).unwrap();
        Claim::take(&claims, &descriptor(1, 1, 1)).unwrap().keep();
        assert_eq!(
            refusal(Claim::take(&claims, &descriptor(0, 0, 1))),
            Refusal::Replayed,
            "it is under way"
        );
        drop(first);
        Claim::take(&claims, &descriptor(0, 0, 1)).unwrap().keep();
        for seq in [0, 1] {
            assert_eq!(refusal(Claim::take(&claims, &descriptor(seq, 2, 1))), Refusal::Replayed);
        }
        assert_eq!(lock(&claims).low, 2);
        assert!(lock(&claims).taken.is_empty(), "what is below `low` is not kept");
    }

    #[test]
    fn an_old_generation_and_a_far_sequence_are_refused() {
        let claims = Mutex::new(Claims::new(1));
        Claim::take(&claims, &descriptor(0, 0, 3)).unwrap().keep();
        for generation in [0, 2, 3] {
            assert_eq!(
                refusal(Claim::take(&claims, &descriptor(1, 0, generation))),
                Refusal::StaleGeneration
            );
        }
        assert_eq!(
            refusal(Claim::take(&claims, &descriptor(1 + WINDOW, 0, 4))),
            Refusal::OutOfWindow
        );
        Claim::take(&claims, &descriptor(WINDOW, 0, 4)).unwrap();
    }
}
