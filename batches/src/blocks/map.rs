//! Memory maps of cached files: the one module with `unsafe`.
#![expect(unsafe_code, reason = "mmap has no safe form")]

use std::fs::File;

use arrow::buffer::Buffer;
use bytes::Bytes;

/// Maps a whole file for reading, and asks the kernel to fetch it at once.
///
/// # Errors
/// The system's error when the file cannot be mapped.
pub(crate) fn map_file(file: &File) -> std::io::Result<Buffer> {
    // SAFETY: files of the block cache are written under another name, renamed into place and never changed or
    // shortened afterwards (eviction unlinks them, which leaves mappings alone): the mapped bytes are constant.
    let map = unsafe { memmap2::MmapOptions::new().populate().map(file)? };
    Ok(Buffer::from(Bytes::from_owner(map)))
}
