//! What a worker says about a body that is ready to be pulled.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::{Checksum, Error, Refusal};

/// Bytes of metadata that a descriptor may carry: an Arrow IPC message of a wide schema has some 100 KiB.
pub(crate) const METADATA_BYTES_MAX: usize = 1 << 20;

/// Where a body lies and what it must be; worth nothing without the session it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Session that the slot belongs to.
    pub session: u64,
    /// Number of the body within the session, from 0, each one once.
    pub seq: u64,
    /// How often the slot had been handed out when this body was assembled, from 1.
    pub generation: u64,
    /// Slot in the worker's ring.
    pub slot: u32,
    /// Start of the body within the slot, in bytes.
    pub offset: u64,
    /// Length of the body, in bytes.
    pub length: u64,
    /// What `xxh3` covers.
    pub checksum: Checksum,
    /// XXH3-64 with seed 0 of what `checksum` says, 0 for none.
    pub xxh3: u64,
    /// The caller's description of the body: the Arrow IPC message whose buffers it holds. At most 1 MiB.
    pub metadata: Bytes,
}

impl Descriptor {
    /// Encodes the descriptor for another control channel, as in the crate's own frames: little-endian fields in the
    /// order session, seq, generation, slot (u32), offset, length, checksum (u8), xxh3, metadata (u32 length, bytes).
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + self.metadata.len());
        out.put_u64_le(self.session);
        out.put_u64_le(self.seq);
        out.put_u64_le(self.generation);
        out.put_u32_le(self.slot);
        out.put_u64_le(self.offset);
        out.put_u64_le(self.length);
        out.put_u8(self.checksum.code());
        out.put_u64_le(self.xxh3);
        // the ring refuses longer metadata, so the cast keeps the value
        out.put_u32_le(self.metadata.len() as u32);
        out.put_slice(&self.metadata);
        out.freeze()
    }

    /// Decodes what [`Descriptor::encode`] wrote; bytes after the known fields are left for later versions.
    ///
    /// # Errors
    /// A sentence that says which field is missing or out of range.
    pub fn decode(bytes: &[u8]) -> std::result::Result<Self, String> {
        let mut at = bytes;
        let short = |field: &str| format!("a descriptor of {} bytes ends before its {field}", bytes.len());
        let mut word = |field: &str| at.try_get_u64_le().map_err(|_| short(field));
        let (session, seq, generation) = (word("session")?, word("sequence")?, word("generation")?);
        let slot = at.try_get_u32_le().map_err(|_| short("slot"))?;
        let offset = at.try_get_u64_le().map_err(|_| short("offset"))?;
        let length = at.try_get_u64_le().map_err(|_| short("length"))?;
        let code = at.try_get_u8().map_err(|_| short("checksum mode"))?;
        let checksum = Checksum::from_code(code).ok_or_else(|| format!("checksum mode {code} is unknown"))?;
        let xxh3 = at.try_get_u64_le().map_err(|_| short("checksum"))?;
        let size = at.try_get_u32_le().map_err(|_| short("metadata length"))? as usize;
        if size > METADATA_BYTES_MAX {
            return Err(format!(
                "metadata of {size} bytes, at most {METADATA_BYTES_MAX} are allowed"
            ));
        }
        let metadata = at.get(..size).ok_or_else(|| short("metadata"))?;
        let metadata = Bytes::copy_from_slice(metadata);
        Ok(Self {
            session,
            seq,
            generation,
            slot,
            offset,
            length,
            checksum,
            xxh3,
            metadata,
        })
    }

    /// The error for a descriptor that breaks a rule.
    pub(crate) fn refused(&self, refusal: Refusal, detail: String) -> Error {
        Error::Refused {
            session: self.session,
            seq: self.seq,
            slot: self.slot,
            refusal,
            detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Descriptor {
        Descriptor {
            session: 0x0102_0304_0506_0708,
            seq: 9,
            generation: 10,
            slot: 11,
            offset: 12,
            length: 13,
            checksum: Checksum::Full,
            xxh3: 14,
            metadata: Bytes::from_static(b"schema"),
        }
    }

    #[test]
    fn round_trips_and_refuses_every_shorter_form() {
        let (descriptor, bytes) = (sample(), sample().encode());
        assert_eq!(Descriptor::decode(&bytes).unwrap(), descriptor);
        for cut in 0..bytes.len() {
            assert!(
                Descriptor::decode(&bytes[..cut]).is_err(),
                "{cut} bytes were taken for a descriptor"
            );
        }
        let grown = [&bytes[..], b"later fields"].concat();
        assert_eq!(Descriptor::decode(&grown).unwrap(), descriptor);
    }

    #[test]
    fn refuses_an_unknown_checksum_and_a_length_beyond_the_limit() {
        let mut bytes = sample().encode().to_vec();
        bytes[44] = 9;
        assert!(Descriptor::decode(&bytes).unwrap_err().contains("checksum mode 9"));
        bytes[44] = 2;
        bytes[53..57].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Descriptor::decode(&bytes).unwrap_err().contains("at most"));
    }
}
