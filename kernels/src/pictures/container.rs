//! Walks through files of pictures without decoding them: whether they are whole, and how many pictures they hold.

/// Finds the end of the JPEG that `bytes` begin with: its length, up to its end marker; `None` where there is no JPEG, or
/// its end is missing. (ITU-T T.81, annex B.)
#[must_use]
pub fn jpeg_length(bytes: &[u8]) -> Option<usize> {
    let mut at = bytes.starts_with(&[0xff, 0xd8]).then_some(2)?;
    loop {
        // To the next marker: 0xff, as often as one likes, and its number. Between markers lie entropy coded data.
        at += memchr::memchr(0xff, bytes.get(at..)?)?;
        at += bytes[at..].iter().position(|byte| *byte != 0xff)?;
        let marker = bytes[at];
        at += 1;
        match marker {
            0xd9 => return Some(at),
            // A 0xff of the data, and markers without a body.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => {
                let length = bytes.get(at..at + 2)?;
                at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
            }
        }
    }
}

/// Counts the pictures of a GIF; `None` where it ends inside of one. (GIF89a.)
pub(super) fn gif_frames(bytes: &[u8]) -> Option<u32> {
    let mut at = 13 + colour_table(*bytes.get(10)?);
    let mut frames = 0;
    loop {
        match bytes.get(at) {
            Some(b'!') => at = after_blocks(bytes, at + 2)?,
            Some(b',') => {
                let table = colour_table(*bytes.get(at + 9)?);
                at = after_blocks(bytes, at + 10 + table + 1)?;
                frames += 1;
            }
            // The trailer. Files without it, and with other bytes behind, are shown everywhere.
            _ => return (frames > 0).then_some(frames),
        }
    }
}

/// Bytes of the table of colours that some flags tell of.
fn colour_table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) }
}

/// The place behind a chain of blocks, of which the last one is empty.
fn after_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}

/// Reads how many pictures an animated PNG says to have; 1 for any other; `None` where the end chunk is missing.
pub(super) fn png_frames(bytes: &[u8]) -> Option<u32> {
    let mut at = 8;
    let mut frames = 1;
    loop {
        let header = bytes.get(at..at + 8)?;
        let length = u32::from_be_bytes(header[..4].try_into().ok()?) as usize;
        match &header[4..] {
            b"acTL" => frames = u32::from_be_bytes(bytes.get(at + 8..at + 12)?.try_into().ok()?),
            b"IEND" => return Some(frames.max(1)),
            _ => {}
        }
        at = at.checked_add(length)?.checked_add(12)?;
    }
}

/// Counts the pictures of a WebP; `None` where it is shorter than it says.
pub(super) fn webp_frames(bytes: &[u8]) -> Option<u32> {
    let size = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let end = size(4)?.checked_add(8)?;
    if end > bytes.len() {
        return None;
    }
    let mut at = 12;
    let mut animated = 0;
    while at + 8 <= end {
        if bytes[at..].starts_with(b"ANMF") {
            animated += 1;
        }
        // Chunks have an even length.
        at = at.checked_add(8)?.checked_add(size(at + 4)?.next_multiple_of(2))?;
    }
    Some(animated.max(1))
}
