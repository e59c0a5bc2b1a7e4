//! Frames of the control and data connections.
//!
//! ```text
//! u32 LE payload length · u8 version · u8 kind · u16 reserved (0) · payload
//! ```
//! Numbers are little-endian; a byte string is its u32 length and its bytes. Decoding ignores what follows the fields
//! it knows, so a later release may append fields without a new version.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::descriptor::METADATA_BYTES_MAX;
use crate::{Descriptor, Error, Result};
use corpusmill_access::SECRET_BYTES;

/// Version of the frames that this release writes and reads.
pub(crate) const VERSION: u8 = 1;
/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: usize = 8;
/// Largest payload: a descriptor with full metadata and room for its fields.
const PAYLOAD_BYTES_MAX: usize = METADATA_BYTES_MAX + 4096;
/// Largest payload before the peer has shown that it holds the token.
pub(crate) const GREETING_BYTES_MAX: usize = 4096;

/// Why a peer refuses a connection or a read, on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Denial {
    Unauthorized = 1,
    OverLimit = 2,
    Unavailable = 3,
    Protocol = 4,
    StaleGeneration = 5,
    OutOfBounds = 6,
}

impl Denial {
    const ALL: [Self; 6] = [
        Self::Unauthorized,
        Self::OverLimit,
        Self::Unavailable,
        Self::Protocol,
        Self::StaleGeneration,
        Self::OutOfBounds,
    ];
}

/// One message. The direction is worker → trainer (W) or trainer → worker (T).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// T: opens a connection; `session` is 0 for a new session's control connection.
    Hello { session: u64, nonce: [u8; SECRET_BYTES] },
    /// W: its nonce, and a proof that it holds the token; `host` names the machine and its network.
    Challenge {
        nonce: [u8; SECRET_BYTES],
        proof: [u8; SECRET_BYTES],
        host: Bytes,
    },
    /// T: the proof that it holds the token.
    Proof { proof: [u8; SECRET_BYTES] },
    /// W: the proof was right.
    Welcome,
    /// Either side: no, and why; the connection ends.
    Denied {
        denial: u8,
        wanted: u64,
        limit: u64,
        message: Bytes,
    },
    /// T: what it wants: transports it can use (codes, in order of preference), slots, bytes a slot.
    Open {
        host: Bytes,
        kinds: Bytes,
        slots: u32,
        slot_bytes: u64,
        application: Bytes,
    },
    /// W: what it gets; `offer` is the transport's own.
    Accept {
        session: u64,
        kind: u8,
        checksum: u8,
        slots: u32,
        slot_bytes: u64,
        why: Bytes,
        offer: Bytes,
    },
    /// T: the transport's answer to the offer.
    Attach { reply: Bytes },
    /// W: bodies may flow.
    Ready,
    /// W: a body is ready.
    Descriptor(Descriptor),
    /// T: the slot may be used again.
    Free { slot: u32, generation: u64, seq: u64 },
    /// Either side: still here.
    Ping,
    /// W: `sent` descriptors were all.
    End { sent: u64 },
    /// Either side: leaves, and why.
    Close { message: Bytes },
    /// T, data connection: asks for bytes of a slot.
    Read {
        request: u64,
        slot: u32,
        generation: u64,
        offset: u64,
        length: u64,
    },
    /// W, data connection: `length` raw bytes follow the frame, or none where `denial` is not 0.
    Data { request: u64, denial: u8, length: u64 },
}

impl Frame {
    fn code(&self) -> u8 {
        match self {
            Self::Hello { .. } => 1,
            Self::Challenge { .. } => 2,
            Self::Proof { .. } => 3,
            Self::Welcome => 4,
            Self::Denied { .. } => 5,
            Self::Open { .. } => 6,
            Self::Accept { .. } => 7,
            Self::Attach { .. } => 8,
            Self::Ready => 9,
            Self::Descriptor(_) => 10,
            Self::Free { .. } => 11,
            Self::Ping => 12,
            Self::End { .. } => 13,
            Self::Close { .. } => 14,
            Self::Read { .. } => 15,
            Self::Data { .. } => 16,
        }
    }

    /// Builds a refusal.
    pub(crate) fn denied(denial: Denial, message: &str) -> Self {
        Self::Denied {
            denial: denial as u8,
            wanted: 0,
            limit: 0,
            message: Bytes::copy_from_slice(message.as_bytes()),
        }
    }

    /// Appends the frame to `out`.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_bytes(0, HEADER_BYTES);
        self.put_payload(out);
        let length = (out.len() - start - HEADER_BYTES) as u32;
        let mut header = &mut out[start..start + HEADER_BYTES];
        header.put_u32_le(length);
        header.put_u8(VERSION);
        header.put_u8(self.code());
    }

    fn put_payload(&self, out: &mut BytesMut) {
        match self {
            Self::Hello { session, nonce } => {
                out.put_u64_le(*session);
                out.put_slice(nonce);
            }
            Self::Challenge { nonce, proof, host } => {
                out.put_slice(nonce);
                out.put_slice(proof);
                put_bytes(out, host);
            }
            Self::Proof { proof } => out.put_slice(proof),
            Self::Denied {
                denial,
                wanted,
                limit,
                message,
            } => {
                out.put_u8(*denial);
                out.put_u64_le(*wanted);
                out.put_u64_le(*limit);
                put_bytes(out, message);
            }
            session => session.put_session_payload(out),
        }
    }

    /// The payloads of a session's own frames; those of the greeting are in [`Frame::put_payload`].
    fn put_session_payload(&self, out: &mut BytesMut) {
        match self {
            Self::Open {
                host,
                kinds,
                slots,
                slot_bytes,
                application,
            } => {
                put_bytes(out, host);
                put_bytes(out, kinds);
                out.put_u32_le(*slots);
                out.put_u64_le(*slot_bytes);
                put_bytes(out, application);
            }
            Self::Accept {
                session,
                kind,
                checksum,
                slots,
                slot_bytes,
                why,
                offer,
            } => {
                out.put_u64_le(*session);
                out.put_u8(*kind);
                out.put_u8(*checksum);
                out.put_u32_le(*slots);
                out.put_u64_le(*slot_bytes);
                put_bytes(out, why);
                put_bytes(out, offer);
            }
            Self::Attach { reply } => put_bytes(out, reply),
            Self::Descriptor(descriptor) => out.put_slice(&descriptor.encode()),
            Self::Free { slot, generation, seq } => {
                out.put_u32_le(*slot);
                out.put_u64_le(*generation);
                out.put_u64_le(*seq);
            }
            Self::End { sent } => out.put_u64_le(*sent),
            Self::Close { message } => put_bytes(out, message),
            Self::Read {
                request,
                slot,
                generation,
                offset,
                length,
            } => {
                out.put_u64_le(*request);
                out.put_u32_le(*slot);
                out.put_u64_le(*generation);
                out.put_u64_le(*offset);
                out.put_u64_le(*length);
            }
            Self::Data {
                request,
                denial,
                length,
            } => {
                out.put_u64_le(*request);
                out.put_u8(*denial);
                out.put_u64_le(*length);
            }
            // nothing but their kind; the greeting's frames never come here
            _ => {}
        }
    }

    /// Decodes a payload; `None` where it is too short or its kind is unknown.
    fn decode(code: u8, payload: &[u8]) -> Option<Self> {
        let mut at = payload;
        let at = &mut at;
        Some(match code {
            1 => Self::Hello {
                session: word(at)?,
                nonce: secret(at)?,
            },
            2 => Self::Challenge {
                nonce: secret(at)?,
                proof: secret(at)?,
                host: bytes(at)?,
            },
            3 => Self::Proof { proof: secret(at)? },
            4 => Self::Welcome,
            5 => Self::Denied {
                denial: byte(at)?,
                wanted: word(at)?,
                limit: word(at)?,
                message: bytes(at)?,
            },
            6 => Self::Open {
                host: bytes(at)?,
                kinds: bytes(at)?,
                slots: half(at)?,
                slot_bytes: word(at)?,
                application: bytes(at)?,
            },
            7 => Self::Accept {
                session: word(at)?,
                kind: byte(at)?,
                checksum: byte(at)?,
                slots: half(at)?,
                slot_bytes: word(at)?,
                why: bytes(at)?,
                offer: bytes(at)?,
            },
            8 => Self::Attach { reply: bytes(at)? },
            9 => Self::Ready,
            10 => Self::Descriptor(Descriptor::decode(at).ok()?),
            11 => Self::Free {
                slot: half(at)?,
                generation: word(at)?,
                seq: word(at)?,
            },
            12 => Self::Ping,
            13 => Self::End { sent: word(at)? },
            14 => Self::Close { message: bytes(at)? },
            15 => Self::Read {
                request: word(at)?,
                slot: half(at)?,
                generation: word(at)?,
                offset: word(at)?,
                length: word(at)?,
            },
            16 => Self::Data {
                request: word(at)?,
                denial: byte(at)?,
                length: word(at)?,
            },
            _ => return None,
        })
    }
}

/// Reads the denial out of its wire form.
pub(crate) fn denial(code: u8) -> Option<Denial> {
    Denial::ALL.into_iter().find(|denial| *denial as u8 == code)
}

/// Reads one frame. Not cancel safe: a dropped read loses the connection's place.
///
/// # Errors
/// `PeerLost` at the end of the stream, `Version`, `Protocol` for a frame that is too long or cannot be decoded.
pub(crate) async fn read_frame(input: &mut (impl AsyncRead + Unpin), peer: &str, payload_max: usize) -> Result<Frame> {
    let mut header = [0u8; HEADER_BYTES];
    input.read_exact(&mut header).await.map_err(|e| lost(peer, &e))?;
    let mut at = &header[..];
    let (length, version, code) = (at.get_u32_le() as usize, at.get_u8(), at.get_u8());
    if version != VERSION {
        return Err(Error::Version {
            peer: peer.to_owned(),
            ours: VERSION,
            theirs: version,
        });
    }
    if length > payload_max {
        let what = format!("a frame of kind {code} with {length} bytes; at most {payload_max} are allowed here");
        return Err(Error::protocol(peer, what));
    }
    let mut payload = vec![0; length];
    input.read_exact(&mut payload).await.map_err(|e| lost(peer, &e))?;
    Frame::decode(code, &payload).ok_or_else(|| {
        Error::protocol(
            peer,
            format!("a frame of kind {code} and {length} bytes that cannot be read"),
        )
    })
}

/// Reads one frame of a connection whose peer has shown its token.
pub(crate) async fn read_trusted(input: &mut (impl AsyncRead + Unpin), peer: &str) -> Result<Frame> {
    read_frame(input, peer, PAYLOAD_BYTES_MAX).await
}

/// Writes bytes and sends them: inside TLS they may wait for more otherwise.
pub(crate) async fn write(output: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    output.write_all(bytes).await?;
    output.flush().await
}

pub(crate) fn lost(peer: &str, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::lost(peer, "it closed the connection"),
        _ => Error::lost(peer, format!("its connection failed: {error}")),
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn byte(at: &mut &[u8]) -> Option<u8> {
    at.try_get_u8().ok()
}

fn half(at: &mut &[u8]) -> Option<u32> {
    at.try_get_u32_le().ok()
}

fn word(at: &mut &[u8]) -> Option<u64> {
    at.try_get_u64_le().ok()
}

fn secret(at: &mut &[u8]) -> Option<[u8; SECRET_BYTES]> {
    let (head, rest) = at.split_first_chunk()?;
    *at = rest;
    Some(*head)
}

fn bytes(at: &mut &[u8]) -> Option<Bytes> {
    let length = half(at)? as usize;
    let (head, rest) = at.split_at_checked(length)?;
    *at = rest;
    Some(Bytes::copy_from_slice(head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Checksum;

    /// Version 1 as it was first released, one frame a line, in hexadecimal. Lines are only ever added.
    const GOLDEN: &str = include_str!("../tests/golden/frames-v1.txt");

    fn all() -> Vec<Frame> {
        let text = Bytes::from_static(b"why");
        let descriptor = Descriptor {
            session: 1,
            seq: 2,
            generation: 3,
            slot: 4,
            offset: 5,
            length: 6,
            checksum: Checksum::Sampled,
            xxh3: 7,
            metadata: text.clone(),
        };
        vec![
            Frame::Hello {
                session: 1,
                nonce: [2; SECRET_BYTES],
            },
            Frame::Challenge {
                nonce: [1; SECRET_BYTES],
                proof: [2; SECRET_BYTES],
                host: text.clone(),
            },
            Frame::Proof {
                proof: [3; SECRET_BYTES],
            },
            Frame::Welcome,
            Frame::Denied {
                denial: Denial::OverLimit as u8,
                wanted: 1,
                limit: 2,
                message: text.clone(),
            },
            Frame::Open {
                host: text.clone(),
                kinds: text.clone(),
                slots: 1,
                slot_bytes: 2,
                application: text.clone(),
            },
            Frame::Accept {
                session: 1,
                kind: 2,
                checksum: 0,
                slots: 3,
                slot_bytes: 4,
                why: text.clone(),
                offer: text.clone(),
            },
            Frame::Attach { reply: text.clone() },
            Frame::Ready,
            Frame::Descriptor(descriptor),
            Frame::Free {
                slot: 1,
                generation: 2,
                seq: 3,
            },
            Frame::Ping,
            Frame::End { sent: 9 },
            Frame::Close { message: text },
            Frame::Read {
                request: 1,
                slot: 2,
                generation: 3,
                offset: 4,
                length: 5,
            },
            Frame::Data {
                request: 1,
                denial: 0,
                length: 2,
            },
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[tokio::test]
    async fn frames_are_those_of_the_golden_file_and_round_trip() {
        let lines: Vec<_> = GOLDEN.lines().filter(|line| !line.starts_with('#')).collect();
        let ours: Vec<_> = all()
            .iter()
            .map(|frame| {
                let mut out = BytesMut::new();
                frame.encode(&mut out);
                out
            })
            .collect();
        let found = ours.iter().map(|bytes| hex(bytes)).collect::<Vec<_>>();
        assert_eq!(
            found,
            lines,
            "the wire format of version 1 changed:\n{}",
            found.join("\n")
        );
        for (frame, bytes) in all().into_iter().zip(&ours) {
            assert_eq!(read_trusted(&mut &bytes[..], "test").await.unwrap(), frame);
        }
    }

    #[tokio::test]
    async fn every_truncation_and_alien_header_is_an_error_never_a_panic() {
        for frame in all() {
            let mut out = BytesMut::new();
            frame.encode(&mut out);
            let payload = out.len() - HEADER_BYTES;
            for cut in 0..payload {
                assert!(
                    Frame::decode(frame.code(), &out[HEADER_BYTES..HEADER_BYTES + cut]).is_none(),
                    "{frame:?}"
                );
            }
            let mut other = out.clone();
            other[4] = VERSION + 1;
            assert!(matches!(
                read_trusted(&mut &other[..], "test").await,
                Err(Error::Version { theirs: 2, .. })
            ));
        }
        let long = [0xff, 0xff, 0xff, 0x7f, VERSION, 12, 0, 0];
        assert!(matches!(
            read_trusted(&mut &long[..], "test").await,
            Err(Error::Protocol { .. })
        ));
        let unknown = [0, 0, 0, 0, VERSION, 99, 0, 0];
        assert!(matches!(
            read_trusted(&mut &unknown[..], "test").await,
            Err(Error::Protocol { .. })
        ));
        assert!(matches!(
            read_trusted(&mut &unknown[..3], "test").await,
            Err(Error::PeerLost { .. })
        ));
    }
}
