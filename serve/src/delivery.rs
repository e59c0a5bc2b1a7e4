//! What a worker says beside each body.

use corpusmill_batches::{BatchError, ErrorKind};
use corpusmill_proto::stream::delivery::What;
use corpusmill_proto::stream::{Delivery, End, Failed, TooLarge};
use prost::Message as _;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// The metadata of a body that says `what` about a step, with a checksum behind it: the transport has one for bodies.
pub(crate) fn metadata(step: u64, what: What) -> Bytes {
    let mut bytes = Delivery { step, what: Some(what) }.encode_to_vec();
    let checksum = xxh3_64(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes.into()
}

/// The message of metadata; `None` when it is not as it was sent.
pub(crate) fn sent(metadata: &[u8]) -> Option<&[u8]> {
    let (message, checksum) = metadata.split_last_chunk::<8>()?;
    (xxh3_64(message).to_le_bytes() == *checksum).then_some(message)
}

/// Says that the plan ended.
pub(crate) fn end() -> What {
    What::End(End {})
}

/// Says that a batch has too many bytes for a slot.
pub(crate) fn too_large(bytes: usize) -> What {
    What::TooLarge(TooLarge { bytes: bytes as u64 })
}

/// Says why a batch could not be made.
pub(crate) fn failed(error: &BatchError) -> What {
    What::Failed(Failed {
        kind: serde_json::to_string(&error.kind()).expect("a kind is a word"),
        message: error.with_causes(),
        retry: error.retry(),
    })
}

/// The kind that a failure names; one of a later release is none of ours.
pub(crate) fn kind(failed: &Failed) -> ErrorKind {
    serde_json::from_str(&failed.kind).unwrap_or(ErrorKind::Other)
}
