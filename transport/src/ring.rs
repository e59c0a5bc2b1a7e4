//! The worker's ring of slots.
//!
//! ```text
//!  Free ──acquire: generation + 1──▶ Assembling ──seal──▶ Published ──release(generation)──▶ Free
//!   ▲                                    │ dropped            │ a transfer still reads it: waits for that
//!   └────────────────────────────────────┘                    └──────────────────────────────────────▶ Free
//!
//!  region:  header 0 │ header 1 │ … (64 bytes each, up to a whole page) │ slot 0 │ slot 1 │ …
//!  header:  session · generation · seq · length · xxh3 · 3 words reserved, all u64 LE
//! ```
//! The header's generation changes before the first byte of a new body is written, so that a one-sided reader, who
//! asks nobody, sees that it is late.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::descriptor::METADATA_BYTES_MAX;
use crate::region::{Region, whole_pages};
use crate::wire::Denial;
use crate::{Checksum, Descriptor, Error, Result};

/// Bytes of a slot's header.
pub(crate) const HEADER_BYTES: usize = 64;
/// Most slots a ring can have: their numbers and the trainer's bookkeeping stay small.
pub(crate) const SLOTS_MAX: u32 = 4096;
/// Largest slot: one RDMA READ on every device.
pub(crate) const SLOT_BYTES_MAX: u64 = 1 << 30;

/// Where things lie in a ring; both sides compute it from the two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) slots: u32,
    pub(crate) slot_bytes: u64,
}

impl Layout {
    /// Checks the numbers, rounds slots up to whole pages.
    pub(crate) fn new(slots: u32, slot_bytes: u64) -> Result<Self> {
        if slots == 0 || slots > SLOTS_MAX {
            return Err(Error::OverLimit {
                what: "slots",
                wanted: slots.into(),
                limit: SLOTS_MAX.into(),
            });
        }
        if slot_bytes == 0 || slot_bytes > SLOT_BYTES_MAX {
            return Err(Error::OverLimit {
                what: "bytes a slot",
                wanted: slot_bytes,
                limit: SLOT_BYTES_MAX,
            });
        }
        Ok(Self {
            slots,
            slot_bytes: whole_pages(slot_bytes as usize) as u64,
        })
    }

    pub(crate) fn header(self, slot: u32) -> usize {
        slot as usize * HEADER_BYTES
    }

    pub(crate) fn body(self, slot: u32) -> usize {
        whole_pages(self.slots as usize * HEADER_BYTES) + slot as usize * self.slot_bytes as usize
    }

    pub(crate) fn length(self) -> usize {
        self.body(self.slots)
    }

    /// Says whether `length` bytes at `offset` lie in a slot.
    pub(crate) fn contains(self, slot: u32, offset: u64, length: u64) -> bool {
        slot < self.slots && offset.checked_add(length).is_some_and(|end| end <= self.slot_bytes)
    }
}

/// Words of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) session: u64,
    pub(crate) generation: u64,
    pub(crate) seq: u64,
}

impl Header {
    /// Reads the header of `slot` from mapped memory.
    pub(crate) fn load(region: &Region, at: usize) -> Self {
        let word = |index: usize| u64::from_le(region.word(at + index * 8).load(Ordering::Acquire));
        Self {
            generation: word(1),
            session: word(0),
            seq: word(2),
        }
    }

    fn store(region: &Region, at: usize, words: [u64; 5]) {
        for (index, word) in words.into_iter().enumerate() {
            region.word(at + index * 8).store(word.to_le(), Ordering::Release);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    Assembling,
    Published { seq: u64, freed: bool },
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    phase: Phase,
    generation: u64,
    /// Transfers that read it now.
    readers: u32,
}

#[derive(Debug)]
struct State {
    slots: Vec<Slot>,
    /// Last freed on top: its pages are the likeliest to be in the cache.
    free: Vec<u32>,
    next_seq: u64,
}

/// A session's slots and the memory under them.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) layout: Layout,
    pub(crate) session: u64,
    region: Region,
    fd: OwnedFd,
    state: Mutex<State>,
    available: Semaphore,
    /// Given back to the server's memory limit when the ring goes.
    _memory: Option<OwnedSemaphorePermit>,
}

impl Ring {
    pub(crate) fn new(session: u64, layout: Layout, memory: Option<OwnedSemaphorePermit>) -> Result<Arc<Self>> {
        let (region, fd) = Region::shared(layout.length())?;
        let slot = Slot {
            phase: Phase::Free,
            generation: 0,
            readers: 0,
        };
        let state = State {
            slots: vec![slot; layout.slots as usize],
            free: (0..layout.slots).rev().collect(),
            next_seq: 0,
        };
        let available = Semaphore::new(layout.slots as usize);
        Ok(Arc::new(Self {
            layout,
            session,
            region,
            fd,
            state: Mutex::new(state),
            available,
            _memory: memory,
        }))
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Waits for a free slot; `None` once the ring is closed. Cancel safe.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Option<Assembly> {
        let permit = self.available.acquire().await.ok()?;
        permit.forget();
        Some(self.take_free())
    }

    /// A free slot if there is one now.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Assembly> {
        self.available.try_acquire().ok()?.forget();
        Some(self.take_free())
    }

    fn take_free(self: &Arc<Self>) -> Assembly {
        let mut state = self.lock();
        let slot = state
            .free
            .pop()
            .expect("a permit was taken for each slot that left the free list");
        let entry = &mut state.slots[slot as usize];
        entry.phase = Phase::Assembling;
        entry.generation += 1;
        Header::store(
            &self.region,
            self.layout.header(slot),
            [self.session, entry.generation, u64::MAX, 0, 0],
        );
        Assembly {
            ring: Arc::clone(self),
            slot,
            sealed: false,
        }
    }

    /// Lends a published range to a transfer.
    pub(crate) fn read(
        self: &Arc<Self>,
        slot: u32,
        generation: u64,
        offset: u64,
        length: u64,
    ) -> std::result::Result<Reading, Denial> {
        if !self.layout.contains(slot, offset, length) {
            return Err(Denial::OutOfBounds);
        }
        let mut state = self.lock();
        let entry = &mut state.slots[slot as usize];
        match entry.phase {
            Phase::Published { freed: false, .. } if entry.generation == generation => entry.readers += 1,
            _ => return Err(Denial::StaleGeneration),
        }
        let start = self.layout.body(slot) + offset as usize;
        Ok(Reading {
            ring: Arc::clone(self),
            slot,
            start,
            length: length as usize,
        })
    }

    /// Takes a slot back from the trainer; `false` when it does not hold that body (freed twice, or made up).
    pub(crate) fn release(&self, slot: u32, generation: u64, seq: u64) -> bool {
        let mut state = self.lock();
        let Some(entry) = state.slots.get_mut(slot as usize) else {
            return false;
        };
        if entry.phase != (Phase::Published { seq, freed: false }) || entry.generation != generation {
            return false;
        }
        entry.phase = Phase::Published { seq, freed: true };
        self.give_back_if_idle(&mut state, slot);
        true
    }

    /// Published slots that the trainer has not freed.
    pub(crate) fn held(&self) -> usize {
        let published = |slot: &&Slot| matches!(slot.phase, Phase::Published { freed: false, .. });
        self.lock().slots.iter().filter(published).count()
    }

    /// Wakes those who wait for a slot, with nothing.
    pub(crate) fn close(&self) {
        self.available.close();
    }

    fn give_back_if_idle(&self, state: &mut State, slot: u32) {
        let entry = &mut state.slots[slot as usize];
        let over = matches!(entry.phase, Phase::Published { freed: true, .. } | Phase::Assembling);
        if over && entry.readers == 0 {
            entry.phase = Phase::Free;
            state.free.push(slot);
            self.available.add_permits(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // every change to the state is complete before anything can panic
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot that is being filled: its owner's alone. Dropped unsealed, it goes back to the ring.
#[derive(Debug)]
pub struct Assembly {
    ring: Arc<Ring>,
    slot: u32,
    sealed: bool,
}

impl Assembly {
    pub(crate) fn belongs_to(&self, ring: &Arc<Ring>) -> bool {
        Arc::ptr_eq(&self.ring, ring)
    }

    /// Publishes the first `length` bytes as the session's next body.
    ///
    /// Hashes them as `checksum` says: up to some milliseconds of CPU time for a large body.
    ///
    /// # Errors
    /// `OverLimit` when `length` exceeds the slot or the metadata 1 MiB.
    pub(crate) fn seal(mut self, length: usize, checksum: Checksum, metadata: Bytes) -> Result<Descriptor> {
        let limits = [
            (
                "bytes of a body in its slot",
                length as u64,
                self.ring.layout.slot_bytes,
            ),
            (
                "bytes of a descriptor's metadata",
                metadata.len() as u64,
                METADATA_BYTES_MAX as u64,
            ),
        ];
        for (what, wanted, limit) in limits {
            if wanted > limit {
                return Err(Error::OverLimit { what, wanted, limit });
            }
        }
        let xxh3 = checksum.of(&self[..length]);
        let ring = &self.ring;
        let mut state = ring.lock();
        let seq = state.next_seq;
        state.next_seq += 1;
        let entry = &mut state.slots[self.slot as usize];
        let generation = entry.generation;
        entry.phase = Phase::Published { seq, freed: false };
        let words = [ring.session, generation, seq, length as u64, xxh3];
        Header::store(&ring.region, ring.layout.header(self.slot), words);
        drop(state);
        self.sealed = true;
        let (session, slot) = (self.ring.session, self.slot);
        Ok(Descriptor {
            session,
            seq,
            generation,
            slot,
            offset: 0,
            length: length as u64,
            checksum,
            xxh3,
            metadata,
        })
    }
}

impl std::ops::Deref for Assembly {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let layout = self.ring.layout;
        // SAFETY: while the slot is Assembling, the ring lends it to nobody but this value, which is borrowed.
        unsafe {
            self.ring
                .region
                .bytes(layout.body(self.slot), layout.slot_bytes as usize)
        }
    }
}

impl std::ops::DerefMut for Assembly {
    fn deref_mut(&mut self) -> &mut [u8] {
        let layout = self.ring.layout;
        // SAFETY: as above, and this value is borrowed exclusively.
        unsafe {
            self.ring
                .region
                .bytes_mut(layout.body(self.slot), layout.slot_bytes as usize)
        }
    }
}

impl Drop for Assembly {
    fn drop(&mut self) {
        if !self.sealed {
            let mut state = self.ring.lock();
            self.ring.give_back_if_idle(&mut state, self.slot);
        }
    }
}

/// A published range while a transfer reads it; the slot is not reused before it is dropped.
#[derive(Debug)]
pub(crate) struct Reading {
    ring: Arc<Ring>,
    slot: u32,
    start: usize,
    length: usize,
}

impl std::ops::Deref for Reading {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the slot is Published and counted as read, so the ring hands it to no assembly.
        unsafe { self.ring.region.bytes(self.start, self.length) }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.ring.lock();
        state.slots[self.slot as usize].readers -= 1;
        if matches!(
            state.slots[self.slot as usize].phase,
            Phase::Published { freed: true, .. }
        ) {
            self.ring.give_back_if_idle(&mut state, self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(slots: u32) -> Arc<Ring> {
        Ring::new(7, Layout::new(slots, 4096).unwrap(), None).unwrap()
    }

    fn publish(ring: &Arc<Ring>, text: &[u8]) -> Descriptor {
        let mut assembly = ring.try_acquire().unwrap();
        assembly[..text.len()].copy_from_slice(text);
        assembly.seal(text.len(), Checksum::Full, Bytes::new()).unwrap()
    }

    #[test]
    fn a_slot_is_reused_only_after_its_release_with_the_next_generation() {
        let ring = ring(1);
        let first = publish(&ring, b"one");
        assert!(ring.try_acquire().is_none());
        assert_eq!(&*ring.read(0, first.generation, 0, 3).unwrap(), b"one");
        assert!(
            !ring.release(0, first.generation + 1, first.seq),
            "a wrong generation freed the slot"
        );
        assert!(
            !ring.release(0, first.generation, first.seq + 1),
            "a wrong sequence freed the slot"
        );
        assert!(
            !ring.release(9, first.generation, first.seq),
            "a slot that is not there was freed"
        );
        assert!(ring.release(0, first.generation, first.seq));
        assert!(!ring.release(0, first.generation, first.seq), "freed twice");
        let second = publish(&ring, b"two");
        assert_eq!((second.seq, second.generation), (1, first.generation + 1));
        assert_eq!(
            ring.read(0, first.generation, 0, 3).unwrap_err(),
            Denial::StaleGeneration
        );
        let header = Header::load(ring.region(), ring.layout.header(0));
        assert_eq!(
            header,
            Header {
                session: 7,
                generation: second.generation,
                seq: 1
            }
        );
    }

    #[test]
    fn a_release_during_a_transfer_waits_for_it() {
        let ring = ring(1);
        let descriptor = publish(&ring, b"body");
        let reading = ring.read(0, descriptor.generation, 0, 4).unwrap();
        assert!(ring.release(0, descriptor.generation, descriptor.seq));
        assert!(ring.try_acquire().is_none(), "the slot was reused while it was read");
        assert_eq!(ring.held(), 0, "the trainer has freed it");
        assert_eq!(
            ring.read(0, descriptor.generation, 0, 4).unwrap_err(),
            Denial::StaleGeneration
        );
        assert_eq!(&*reading, b"body");
        drop(reading);
        assert!(ring.try_acquire().is_some());
    }

    #[test]
    fn the_header_is_stale_as_soon_as_assembly_begins() {
        let ring = ring(1);
        let descriptor = publish(&ring, b"old");
        ring.release(0, descriptor.generation, descriptor.seq);
        let _assembly = ring.try_acquire().unwrap();
        let header = Header::load(ring.region(), ring.layout.header(0));
        assert_eq!((header.generation, header.seq), (descriptor.generation + 1, u64::MAX));
    }

    #[test]
    fn an_abandoned_assembly_gives_its_slot_back_and_uses_no_sequence_number() {
        let ring = ring(1);
        drop(ring.try_acquire().unwrap());
        assert_eq!(publish(&ring, b"x").seq, 0);
    }

    #[test]
    fn bounds_and_limits() {
        let ring = ring(2);
        let d = publish(&ring, b"x");
        for (offset, length) in [(4096, 1), (0, 4097), (u64::MAX, 2), (1, u64::MAX)] {
            assert_eq!(
                ring.read(d.slot, d.generation, offset, length).unwrap_err(),
                Denial::OutOfBounds
            );
        }
        assert_eq!(ring.read(2, d.generation, 0, 1).unwrap_err(), Denial::OutOfBounds);
        let assembly = ring.try_acquire().unwrap();
        let error = assembly.seal(4097, Checksum::None, Bytes::new()).unwrap_err();
        assert!(matches!(
            error,
            Error::OverLimit {
                wanted: 4097,
                limit: 4096,
                ..
            }
        ));
        assert!(ring.try_acquire().is_some(), "a refused seal lost its slot");
        assert!(Layout::new(0, 1).is_err() && Layout::new(SLOTS_MAX + 1, 1).is_err());
        assert!(Layout::new(1, 0).is_err() && Layout::new(1, SLOT_BYTES_MAX + 1).is_err());
    }

    #[tokio::test]
    async fn a_closed_ring_wakes_those_who_wait() {
        let ring = ring(1);
        let _held = ring.try_acquire().unwrap();
        let waiting = tokio::spawn({
            let ring = Arc::clone(&ring);
            async move { ring.acquire().await.is_none() }
        });
        tokio::task::yield_now().await;
        ring.close();
        assert!(waiting.await.unwrap());
    }
}
