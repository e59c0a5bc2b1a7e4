//! The trainer's own slots, and the bodies that live in them.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::link::Release;
use crate::region::{Region, whole_pages};
use crate::ring::Layout;
use crate::{Error, Kind, Result};

/// Memory that bodies are read into.
#[derive(Debug, Default)]
pub enum TrainerMemory {
    /// Memory of this process, which the crate maps itself.
    #[default]
    Host,
    /// Memory of a device (a GPU), exported as a dmabuf (`cuMemGetHandleForAddressRange`); RDMA only.
    ///
    /// Bodies are read straight into it and arrive unverified: the CPU cannot hash them, so the session has to be
    /// opened with `checksum_least` at `Checksum::None`. Untried on hardware: the build machines have neither.
    Dmabuf {
        /// The dmabuf.
        fd: OwnedFd,
        /// Start of the usable memory within the dmabuf, in bytes, a multiple of the page size.
        offset: u64,
        /// Usable bytes; slots × slot bytes have to fit.
        length: u64,
        /// Address of the usable memory on the device.
        address: u64,
    },
}

#[derive(Debug)]
pub(crate) enum Memory {
    Host(Region),
    Device { fd: OwnedFd, offset: u64, address: u64 },
}

/// A bounded set of slots of equal size.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) memory: Memory,
    pub(crate) layout: Layout,
    free: Mutex<Vec<u32>>,
    available: Semaphore,
}

impl Pool {
    pub(crate) fn new(memory: TrainerMemory, layout: Layout) -> Result<Arc<Self>> {
        let length = layout.slots as usize * layout.slot_bytes as usize;
        let memory = match memory {
            TrainerMemory::Host => Memory::Host(Region::private(length)?),
            TrainerMemory::Dmabuf { length: usable, .. } if (length as u64) > usable => {
                let what = "bytes of the trainer's slots in its dmabuf";
                return Err(Error::OverLimit {
                    what,
                    wanted: length as u64,
                    limit: usable,
                });
            }
            TrainerMemory::Dmabuf {
                fd, offset, address, ..
            } => Memory::Device { fd, offset, address },
        };
        let free = Mutex::new((0..layout.slots).rev().collect());
        Ok(Arc::new(Self {
            memory,
            layout,
            free,
            available: Semaphore::new(layout.slots as usize),
        }))
    }

    /// Says whether the CPU can read the slots; the transports that copy need it.
    pub(crate) fn host_only(&self, kind: Kind) -> Result<()> {
        match self.memory {
            Memory::Host(_) => Ok(()),
            Memory::Device { .. } => {
                let reason = "device memory (dmabuf) is filled by rdma only; use host memory and copy".to_owned();
                Err(Error::Unavailable { kind, reason })
            }
        }
    }

    /// Waits for a free slot: until the last tensor over one of them is dropped. Cancel safe.
    pub(crate) async fn acquire(self: &Arc<Self>) -> PoolSlot {
        self.available
            .acquire()
            .await
            .expect("the semaphore is never closed")
            .forget();
        let slot = self
            .lock()
            .pop()
            .expect("a permit was taken for each slot that left the list");
        PoolSlot {
            pool: Arc::clone(self),
            slot,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One slot, its owner's alone; goes back to the pool when dropped.
#[derive(Debug)]
pub(crate) struct PoolSlot {
    pool: Arc<Pool>,
    pub(crate) slot: u32,
}

impl PoolSlot {
    /// Start of the slot in the pool's memory.
    pub(crate) fn start(&self) -> usize {
        self.slot as usize * self.pool.layout.slot_bytes as usize
    }

    /// The first `length` bytes, where the CPU can read them.
    pub(crate) fn bytes(&self, length: usize) -> Option<&[u8]> {
        match &self.pool.memory {
            // SAFETY: the slot is lent to this value alone, and what writes to it (a socket read, a device) is over
            // before the slot becomes a body or is shown here.
            Memory::Host(region) => Some(unsafe { region.bytes(self.start(), length) }),
            Memory::Device { .. } => None,
        }
    }

    /// The first `length` bytes, for writing.
    pub(crate) fn bytes_mut(&mut self, length: usize) -> Option<&mut [u8]> {
        match &self.pool.memory {
            // SAFETY: the slot is lent to this value alone, which is borrowed exclusively.
            Memory::Host(region) => Some(unsafe { region.bytes_mut(self.start(), length) }),
            Memory::Device { .. } => None,
        }
    }
}

impl Drop for PoolSlot {
    fn drop(&mut self) {
        self.pool.lock().push(self.slot);
        self.pool.available.add_permits(1);
    }
}

/// Memory of a device that holds a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRange {
    /// Address on the device.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
}

#[derive(Debug)]
enum Place {
    /// A slot of the trainer's pool.
    Own(PoolSlot),
    /// The worker's slot itself, mapped copy on write; freed when this is dropped.
    Mapped {
        region: Arc<Region>,
        start: usize,
        release: Release,
    },
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Place::Mapped { region, start, .. } = &self.place {
            // SAFETY: the last clone of the body is being dropped, so nothing refers to its bytes. Bodies start at a
            // page; the rest of the last page belongs to the same slot.
            unsafe { region.forget_writes(*start, whole_pages(self.length)) };
        }
    }
}

#[derive(Debug)]
struct Inner {
    place: Place,
    seq: u64,
    length: usize,
    metadata: Bytes,
}

/// A body that was pulled and verified. Clones share it; its slot is free again when the last one is dropped.
///
/// The consumer may write to it: what it writes is seen by nobody else and gone with the body.
/// Bodies start at a page, so buffers at 64-byte offsets keep Arrow's alignment. A body stays valid when its session
/// or its worker is gone.
#[derive(Debug, Clone)]
pub struct Body(Arc<Inner>);

impl Body {
    pub(crate) fn own(slot: PoolSlot, seq: u64, length: usize, metadata: Bytes) -> Self {
        Self(Arc::new(Inner {
            place: Place::Own(slot),
            seq,
            length,
            metadata,
        }))
    }

    pub(crate) fn mapped(
        region: Arc<Region>,
        start: usize,
        release: Release,
        seq: u64,
        length: usize,
        metadata: Bytes,
    ) -> Self {
        Self(Arc::new(Inner {
            place: Place::Mapped { region, start, release },
            seq,
            length,
            metadata,
        }))
    }

    /// The body was verified: from here on, dropping it frees the worker's slot where that is what it lies in.
    pub(crate) fn accept(&self) {
        if let Place::Mapped { release, .. } = &self.0.place {
            release.arm();
        }
    }

    /// Number of the body in its session.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.0.seq
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.length
    }

    /// Says whether the body has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.length == 0
    }

    /// The worker's description of the body.
    #[must_use]
    pub fn metadata(&self) -> &Bytes {
        &self.0.metadata
    }

    /// The bytes, where the CPU can read them; `None` for a body in device memory.
    #[must_use]
    pub fn host(&self) -> Option<&[u8]> {
        match &self.0.place {
            Place::Own(slot) => slot.bytes(self.0.length),
            // SAFETY: the worker writes to the slot again only after `release` has freed it, which is when the last
            // clone is dropped; a received ring is never written to here.
            Place::Mapped { region, start, .. } => Some(unsafe { region.bytes(*start, self.0.length) }),
        }
    }

    /// Where the body lies on a device; `None` for a body in host memory.
    #[must_use]
    pub fn device(&self) -> Option<DeviceRange> {
        let Place::Own(slot) = &self.0.place else { return None };
        let Memory::Device { address, .. } = &slot.pool.memory else {
            return None;
        };
        Some(DeviceRange {
            address: address + slot.start() as u64,
            length: self.0.length as u64,
        })
    }

    /// The body as reference-counted bytes without a copy: what `arrow::buffer::Buffer::from` takes.
    #[must_use]
    pub fn into_bytes(self) -> Option<Bytes> {
        self.host()?;
        Some(Bytes::from_owner(HostBody(self)))
    }
}

/// A body that was seen to be in host memory.
struct HostBody(Body);

impl AsRef<[u8]> for HostBody {
    fn as_ref(&self) -> &[u8] {
        self.0.host().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_slot_comes_back_when_the_last_clone_of_its_body_is_dropped() {
        let pool = Pool::new(TrainerMemory::Host, Layout::new(1, 4096).unwrap()).unwrap();
        let mut slot = pool.acquire().await;
        slot.bytes_mut(4).unwrap().copy_from_slice(b"body");
        let body = Body::own(slot, 3, 4, Bytes::from_static(b"meta"));
        let bytes = body.clone().into_bytes().unwrap();
        drop(body);
        assert_eq!(&bytes[..], b"body");
        let slice = bytes.slice(1..3);
        drop(bytes);
        assert!(
            tokio::time::timeout(Duration::from_millis(20), pool.acquire())
                .await
                .is_err(),
            "still in use"
        );
        drop(slice);
        pool.acquire().await;
    }

    #[test]
    fn a_dmabuf_has_to_hold_all_slots_and_gives_device_ranges() {
        let fd = || OwnedFd::from(tempfile::tempfile().unwrap());
        let memory = |length| TrainerMemory::Dmabuf {
            fd: fd(),
            offset: 0,
            length,
            address: 1 << 20,
        };
        let layout = Layout::new(2, 4096).unwrap();
        let error = Pool::new(memory(8191), layout).unwrap_err();
        assert!(matches!(
            error,
            Error::OverLimit {
                wanted: 8192,
                limit: 8191,
                ..
            }
        ));
        let pool = Pool::new(memory(8192), layout).unwrap();
        assert!(matches!(
            pool.host_only(Kind::Tcp),
            Err(Error::Unavailable { kind: Kind::Tcp, .. })
        ));
        let slot = PoolSlot {
            pool: Arc::clone(&pool),
            slot: 1,
        };
        let body = Body::own(slot, 0, 10, Bytes::new());
        assert_eq!(
            body.device(),
            Some(DeviceRange {
                address: (1 << 20) + 4096,
                length: 10
            })
        );
        assert!(body.host().is_none() && body.into_bytes().is_none());
    }
}
