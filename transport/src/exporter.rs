//! A session on the worker: slots to fill, descriptors to send.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::link::{Ending, Outbox, blocking, within};
use crate::ring::{Assembly, Ring};
use crate::server::Registered;
use crate::transport::Export;
use crate::wire::Frame;
use crate::{Checksum, Descriptor, Error, Kind, Result};

/// What a session has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExportStats {
    /// Descriptors sent.
    pub sent: u64,
    /// Bytes of the bodies they describe.
    pub bytes: u64,
    /// Slots that the trainer holds now.
    pub held: usize,
}

/// What the control connection's reader shares with the exporter.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    pub(crate) changed: Notify,
}

/// A trainer's session, the worker's half: a bounded ring of slots that the trainer reads from.
///
/// ```text
///  slot().await ─▶ Assembly: write the body ─▶ publish(assembly, length, metadata) ─▶ descriptor to the trainer
///       ▲                                                                                    │ pulls, frees
///       └────────────────────────────────────────────────────────────────────────────────────┘
/// ```
/// Back-pressure is the wait in [`Exporter::slot`]: a trainer that stops reading holds its slots and nothing more.
/// Drop the exporter when the session is over: only then are its registration and memory gone.
pub struct Exporter {
    // the order of the fields is the order of release: first the trainer is cut off, then the memory may go
    pub(crate) _export: Arc<dyn Export>,
    pub(crate) _registered: Registered,
    pub(crate) ring: Arc<Ring>,
    pub(crate) outbox: Outbox,
    pub(crate) ending: Arc<Ending>,
    pub(crate) freed: Arc<Freed>,
    pub(crate) kind: Kind,
    pub(crate) checksum: Checksum,
    pub(crate) application: Bytes,
    pub(crate) sent: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter")
            .field("session", &self.session())
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Exporter {
    /// Number of the session, as in its descriptors.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.ring.session
    }

    /// The transport that was chosen.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the session's checksums cover.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// The trainer's address.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.ending.peer
    }

    /// What the trainer sent along when it opened the session: its job, rank and step, say.
    #[must_use]
    pub fn application(&self) -> &Bytes {
        &self.application
    }

    /// Slots of the session.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.ring.layout.slots
    }

    /// Bytes of a slot, whole pages.
    #[must_use]
    pub fn slot_bytes(&self) -> u64 {
        self.ring.layout.slot_bytes
    }

    /// Waits for a slot that the trainer has freed. Cancel safe.
    ///
    /// # Errors
    /// The session's end: `PeerLost`, `Closed` or `Protocol`.
    pub async fn slot(&self) -> Result<Assembly> {
        if self.ending.is_over() {
            return Err(self.ending.error());
        }
        self.ending
            .unless(self.ring.acquire())
            .await?
            .ok_or_else(|| self.ending.error())
    }

    /// A slot if one is free now.
    ///
    /// # Errors
    /// As [`Exporter::slot`].
    pub fn try_slot(&self) -> Result<Option<Assembly>> {
        if self.ending.is_over() {
            Err(self.ending.error())
        } else {
            Ok(self.ring.try_acquire())
        }
    }

    /// Makes the first `length` bytes of a slot the session's next body, without telling the trainer.
    ///
    /// Hashes the body on the calling thread (about 0.1 ms a MB for whole bodies): call it from a compute thread, then
    /// [`Exporter::send`], or hand the descriptor over by another channel. `metadata` is at most 1 MiB.
    ///
    /// # Errors
    /// `OverLimit` for a length beyond the slot or too much metadata, `Protocol` for another session's slot.
    pub fn seal(&self, assembly: Assembly, length: usize, metadata: Bytes) -> Result<Descriptor> {
        if !assembly.belongs_to(&self.ring) {
            return Err(Error::protocol(
                self.peer(),
                "a slot of another session was sealed in this one",
            ));
        }
        assembly.seal(length, self.checksum, metadata)
    }

    /// Sends a descriptor to the trainer over the session's control connection. Descriptors arrive in this order.
    ///
    /// # Errors
    /// The session's end.
    pub async fn send(&self, descriptor: &Descriptor) -> Result<()> {
        self.outbox.send(Frame::Descriptor(descriptor.clone())).await?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(descriptor.length, Ordering::Relaxed);
        Ok(())
    }

    /// Seals on a blocking thread and sends.
    ///
    /// # Errors
    /// Those of [`Exporter::seal`] and [`Exporter::send`].
    pub async fn publish(&self, assembly: Assembly, length: usize, metadata: Bytes) -> Result<Descriptor> {
        let descriptor = if self.checksum == Checksum::Full && length > SEAL_INLINE_BYTES {
            if !assembly.belongs_to(&self.ring) {
                return self.seal(assembly, length, metadata);
            }
            let checksum = self.checksum;
            blocking("hashing a body", move || assembly.seal(length, checksum, metadata)).await?
        } else {
            self.seal(assembly, length, metadata)?
        };
        self.send(&descriptor).await?;
        Ok(descriptor)
    }

    /// Takes a slot back as if the trainer had freed it: for frees that come by another control channel.
    /// `false` when the slot does not hold that body.
    pub fn release(&self, descriptor: &Descriptor) -> bool {
        self.ring
            .release(descriptor.slot, descriptor.generation, descriptor.seq)
    }

    /// Tells the trainer that these were all, and waits until it has freed every slot or `limit` has passed.
    ///
    /// # Errors
    /// `Timeout`, or the session's end while slots were still held.
    pub async fn finish(&self, limit: Duration) -> Result<()> {
        self.outbox
            .send(Frame::End {
                sent: self.sent.load(Ordering::Relaxed),
            })
            .await?;
        let idle = async {
            loop {
                // registered before the count is read, so that no free falls between
                let changed = self.freed.changed.notified();
                if self.ring.held() == 0 {
                    return Ok(());
                }
                if let Err(error) = self.ending.unless(changed).await {
                    return if self.ring.held() == 0 { Ok(()) } else { Err(error) };
                }
            }
        };
        within("the trainer's last frees", limit, idle).await
    }

    /// Waits until the session is over and says how it ended. Cancel safe.
    pub async fn closed(&self) -> Error {
        self.ending.wait().await
    }

    /// What was sent, and what the trainer holds.
    #[must_use]
    pub fn stats(&self) -> ExportStats {
        ExportStats {
            sent: self.sent.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            held: self.ring.held(),
        }
    }
}

/// Bodies up to this size are hashed where they are: handing them to another thread costs more.
const SEAL_INLINE_BYTES: usize = 512 << 10;

impl Drop for Exporter {
    fn drop(&mut self) {
        self.ending.close("the worker dropped the session");
        self.ring.close();
    }
}
