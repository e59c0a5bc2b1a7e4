//! Mapped memory: the rings that workers fill and the slots that trainers read into.
//!
//! A ring is a memfd, so that it has no name to leave behind and goes away with the last process that maps it. It
//! is sealed: nobody can shrink it (a reader of truncated memory would be killed by SIGBUS), and nobody but its
//! maker can map it for writing (`fcntl(2)`, "File Sealing"). All memory is taken when it is mapped: a lack of it is
//! an error when a session opens, and no page fault falls into a transfer. That takes some milliseconds: not for a
//! thread that others wait for.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use crate::{Error, Result};

/// Seals of every ring.
const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL;
const FIX: &str = "ask for fewer or smaller slots, or give the process more memory";

/// A mapping, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    length: usize,
    writable: bool,
}

// SAFETY: a Region is an address range without thread affinity; its accessors are unsafe and state who may call them.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Makes a sealed memfd of `length` bytes (a multiple of the page size) with all its pages allocated, and maps it
    /// for writing. The descriptor can be handed to a reader.
    ///
    /// # Errors
    /// `Memory` when the system has not that much, or no memfd.
    pub(crate) fn shared(length: usize) -> Result<(Self, OwnedFd)> {
        let failed = |what: &str| Error::Memory {
            what: what_failed(what, length),
            fix: FIX,
            source: io::Error::last_os_error(),
        };
        // SAFETY: the name is a C string; the call has no other precondition.
        let fd =
            unsafe { libc::memfd_create(c"corpusmill-ring".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return Err(failed("making a memfd"));
        }
        // SAFETY: `fd` was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // allocates now, so that running out of memory is an error here and not a signal while a batch is assembled
        // SAFETY: a plain system call on a descriptor that is open.
        let code = unsafe { libc::posix_fallocate(fd.as_raw_fd(), 0, length as libc::off_t) };
        if code != 0 {
            let source = io::Error::from_raw_os_error(code);
            return Err(Error::Memory {
                what: what_failed("allocating a ring", length),
                fix: FIX,
                source,
            });
        }
        let region = Self::map(length, true, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd())?;
        // SAFETY: a plain system call on a descriptor that is open.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } < 0 {
            return Err(failed("sealing a ring"));
        }
        Ok((region, fd))
    }

    /// Maps a ring that a peer handed over, after checking its size and seals. What this process writes to it stays
    /// its own (copy on write), until [`Region::forget_writes`]; only bodies are lent for writing, never headers.
    ///
    /// # Errors
    /// `Memory` when it is smaller than `length`, not sealed, or cannot be mapped.
    pub(crate) fn received(fd: OwnedFd, length: usize) -> Result<Self> {
        let refused = |what: String| Error::Memory {
            what,
            fix: "the peer is not a corpusmill worker of this release",
            source: io::Error::from(io::ErrorKind::InvalidData),
        };
        // SAFETY: a plain system call on a descriptor that is open; it fails on anything but a memfd.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & SEALS != SEALS {
            return Err(refused(format!(
                "a received ring has seals {seals:#x}, {SEALS:#x} are needed"
            )));
        }
        let file = File::from(fd);
        let size = file
            .metadata()
            .map_err(|e| Error::io("reading the size of a received ring", e))?
            .len();
        if size < length as u64 {
            return Err(refused(format!(
                "a received ring has {size} bytes, its slots need {length}"
            )));
        }
        // Not populated here: for a private mapping that would copy every page.
        let mut region = Self::map(length, true, libc::MAP_PRIVATE, file.as_raw_fd())?;
        region.writable = false;
        region.fault_in(0, length);
        Ok(region)
    }

    /// Gives up what this process wrote to `[offset, offset + length)` of a received ring, whole pages: the peer's
    /// bytes are seen again.
    ///
    /// # Safety
    /// Nothing may read or write the range meanwhile.
    pub(crate) unsafe fn forget_writes(&self, offset: usize, length: usize) {
        assert!(
            offset.checked_add(length).is_some_and(|end| end <= self.length),
            "a range outside a region"
        );
        // SAFETY: the range lies in the mapping, and the caller has it alone. The mapping is a private one of a file,
        // so dropped pages come back with the file's bytes.
        let code = unsafe { libc::madvise(self.start.as_ptr().add(offset).cast(), length, libc::MADV_DONTNEED) };
        assert_eq!(code, 0, "whole pages of a mapping can be given up");
        self.fault_in(offset, length);
    }

    /// Maps the pages now, so that no fault falls into a read. Kernels before 5.14 do it at the first read.
    fn fault_in(&self, offset: usize, length: usize) {
        // SAFETY: the range lies in the mapping; the call changes no byte.
        unsafe { libc::madvise(self.start.as_ptr().add(offset).cast(), length, libc::MADV_POPULATE_READ) };
    }

    /// Maps `length` bytes of private memory, zeroed.
    ///
    /// # Errors
    /// `Memory` when the system has not that much.
    pub(crate) fn private(length: usize) -> Result<Self> {
        Self::map(
            length,
            true,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
            -1,
        )
    }

    fn map(length: usize, writable: bool, flags: i32, fd: i32) -> Result<Self> {
        let protection = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: no address is asked for, so no other mapping is replaced; the result is checked below.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, fd, 0) };
        let failed = || Error::Memory {
            what: what_failed("mapping memory", length),
            fix: FIX,
            source: io::Error::last_os_error(),
        };
        if start == libc::MAP_FAILED {
            return Err(failed());
        }
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or_else(failed)?,
            length,
            writable,
        })
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Address of the first byte, for registration with a device.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Bytes `[offset, offset + length)`.
    ///
    /// # Safety
    /// While the slice lives nobody in this process writes to the range. A peer process may have it mapped for
    /// writing: it is part of the same job, holds the token, and by the protocol leaves a published slot alone.
    ///
    /// # Panics
    /// When the range is outside the region.
    pub(crate) unsafe fn bytes(&self, offset: usize, length: usize) -> &[u8] {
        self.check(offset, length);
        // SAFETY: the range was checked and stays mapped as long as `self`; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset), length) }
    }

    /// Bytes `[offset, offset + length)`, for writing.
    ///
    /// # Safety
    /// While the slice lives nobody else reads or writes the range.
    ///
    /// # Panics
    /// When the range is outside the region, or the region is mapped for reading.
    #[expect(
        clippy::mut_from_ref,
        reason = "slots of one region are lent one by one; the caller keeps them apart"
    )]
    pub(crate) unsafe fn bytes_mut(&self, offset: usize, length: usize) -> &mut [u8] {
        self.check(offset, length);
        assert!(self.writable, "a received ring is never written to");
        // SAFETY: the range was checked and stays mapped as long as `self`; the caller is its only user.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(offset), length) }
    }

    /// The word at `offset`, which both processes use as an atomic only.
    ///
    /// # Panics
    /// When the word is outside the region or not aligned.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        self.check(offset, 8);
        assert!(offset.is_multiple_of(8), "words are aligned");
        // SAFETY: the word was checked, is aligned (a mapping starts at a page), stays mapped as long as `self`, and
        // lies in the header table, which is never lent as a slice. Atomic loads are allowed on read-only memory.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }

    fn check(&self, offset: usize, length: usize) {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.length);
        assert!(
            inside,
            "{offset} + {length} lies outside a region of {} bytes",
            self.length
        );
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, whole, and nothing borrowed from `self` outlives it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

fn what_failed(what: &str, length: usize) -> String {
    format!("{what} of {length} bytes")
}

/// Rounds up to whole pages.
pub(crate) fn whole_pages(length: usize) -> usize {
    // SAFETY: sysconf reads a constant of the system.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    length.next_multiple_of(page)
}

/// Bytes of the file system at `path`: all, and free for this process.
pub(crate) fn space(path: &str) -> Option<(u64, u64)> {
    let path = std::ffi::CString::new(path).ok()?;
    // SAFETY: all fields are integers, for which zero is a value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and the struct is the system's.
    let code = unsafe { libc::statvfs(path.as_ptr(), &raw mut found) };
    (code == 0).then(|| (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_received_ring_shows_what_its_maker_writes_and_cannot_be_written() {
        let (ours, fd) = Region::shared(8192).unwrap();
        let file = File::from(fd.try_clone().unwrap());
        let theirs = Region::received(fd.try_clone().unwrap(), 8192).unwrap();
        // SAFETY: nothing else uses the region in this test.
        unsafe { ours.bytes_mut(4096, 4) }.copy_from_slice(b"body");
        ours.word(8).store(77, Ordering::Release);
        // SAFETY: the writer above is done.
        assert_eq!(unsafe { theirs.bytes(4096, 4) }, b"body");
        assert_eq!(theirs.word(8).load(Ordering::Acquire), 77);
        assert!(file.set_len(0).is_err(), "the seals let the ring shrink");
        assert!(
            Region::map(8192, true, libc::MAP_SHARED, fd.as_raw_fd()).is_err(),
            "a writable mapping was allowed"
        );
    }

    #[test]
    fn an_unsealed_or_short_file_is_refused() {
        let fd = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(Region::received(fd, 4096).unwrap_err().to_string().contains("seals"));
        let (_ours, fd) = Region::shared(4096).unwrap();
        assert!(Region::received(fd, 8192).unwrap_err().to_string().contains("8192"));
    }

    #[test]
    #[should_panic(expected = "outside a region")]
    fn a_range_past_the_end_is_never_lent() {
        let region = Region::private(4096).unwrap();
        // SAFETY: nothing else uses the region; the call must panic.
        unsafe { region.bytes(4090, 7) };
    }

    #[test]
    fn too_much_memory_is_an_error_with_a_fix() {
        let error = Region::private(1 << 60).unwrap_err();
        assert!(error.to_string().contains("fewer or smaller slots"), "{error}");
    }
}
