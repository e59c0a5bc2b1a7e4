//! Opens a session: who is there, which transport, where the ring is.

use std::net::SocketAddr;
use std::sync::Arc;

use corpusmill_access::Stream;

use super::PullOptions;
use crate::choose::{Wanted, wanted};
use crate::handshake::{self, send, unexpected};
use crate::link::{Ending, within};
use crate::pool::TrainerMemory;
use crate::ring::Layout;
use crate::transport::{self, Import, ImportContext};
use crate::wire::{Frame, read_trusted};
use crate::{Checksum, Error, Kind, Result, host, tcp};

/// A session as the worker granted it.
pub(super) struct Granted {
    pub(super) stream: Stream,
    pub(super) import: Box<dyn Import>,
    pub(super) ending: Arc<Ending>,
    pub(super) session: u64,
    pub(super) layout: Layout,
    pub(super) kind: Kind,
    pub(super) checksum: Checksum,
    pub(super) why: String,
}

/// Introduces itself, asks, and attaches to what is offered. `tried` tells which transport an error belongs to.
pub(super) async fn open(
    address: SocketAddr,
    options: &PullOptions,
    memory: TrainerMemory,
    except: &[Kind],
    tried: &mut Option<Kind>,
) -> Result<Granted> {
    let (peer, limit) = (address.to_string(), options.timeouts.handshake);
    let ours = host::identity();
    let device = matches!(memory, TrainerMemory::Dmabuf { .. });
    let connecting = tcp::connect(address, options.credentials.as_deref());
    let mut stream = within("connecting to a worker", limit, connecting).await?;
    let greeting = handshake::introduce(&mut stream, &peer, &options.token, 0);
    let introduction = within("a worker's handshake", limit, greeting).await?;
    let wanted = wanted(options.choice, introduction.host == ours.as_bytes(), device, except)?;
    let accept = within(
        "opening a session",
        limit * 2,
        ask(&mut stream, &peer, options, ours, &wanted),
    )
    .await?;
    let Frame::Accept {
        session,
        kind,
        checksum,
        slots,
        slot_bytes,
        why,
        offer,
    } = accept
    else {
        return Err(unexpected(&peer, "an offer", accept));
    };
    let strange = |what: String| Error::protocol(&peer, what);
    let kind = Kind::from_code(kind).filter(|kind| wanted.kinds.contains(kind));
    let kind = kind.ok_or_else(|| strange("an offer of a transport that was not asked for".to_owned()))?;
    *tried = Some(kind);
    let least = options.checksum_least.unwrap_or(kind.default_checksum());
    let checksum = strong_enough(checksum, least).map_err(strange)?;
    let layout = Layout::new(slots, slot_bytes)?;
    let ending = Ending::new(&peer);
    let context = ImportContext {
        address,
        credentials: options.credentials.clone(),
        session,
        secret: introduction.secret,
        layout,
        offer,
        outstanding: options.outstanding,
        slots: options.own_slots,
        memory,
        ending: Arc::clone(&ending),
        timeouts: options.timeouts,
    };
    let import = within("setting up a transport", limit * 2, transport::of(kind).import(context)).await?;
    let attaching = attach(&mut stream, &peer, &*import);
    within("attaching to a ring", limit * 2, attaching).await?;
    let (with, skipped) = (String::from_utf8_lossy(&why), wanted.why());
    tracing::info!(peer, session, %kind, choice = %options.choice, %with, skipped, "transport chosen");
    Ok(Granted {
        stream,
        import,
        ending,
        session,
        layout,
        kind,
        checksum,
        why: in_words(&with, &skipped),
    })
}

/// Why a transport was chosen: what the worker uses for it, and what was left out.
fn in_words(with: &str, skipped: &str) -> String {
    match skipped {
        "" => with.to_owned(),
        skipped => format!("{with}; not {skipped}"),
    }
}

/// The checksum mode of an offer, where it is no weaker than `least`.
fn strong_enough(code: u8, least: Checksum) -> std::result::Result<Checksum, String> {
    let checksum = Checksum::from_code(code).ok_or_else(|| format!("checksum mode {code}"))?;
    if checksum < least {
        return Err(format!(
            "checksums of mode {checksum:?} where {least:?} is the least this trainer takes"
        ));
    }
    Ok(checksum)
}

/// Answers the offer and waits until bodies may flow.
async fn attach(stream: &mut Stream, peer: &str, import: &dyn Import) -> Result<()> {
    send(stream, peer, &Frame::Attach { reply: import.reply() }).await?;
    match read_trusted(stream, peer).await? {
        Frame::Ready => Ok(()),
        other => Err(unexpected(peer, "that bodies may flow", other)),
    }
}

async fn ask(stream: &mut Stream, peer: &str, options: &PullOptions, host: String, wanted: &Wanted) -> Result<Frame> {
    let open = Frame::Open {
        host: host.into(),
        kinds: wanted.kinds.iter().map(|kind| kind.code()).collect(),
        slots: options.slots,
        slot_bytes: options.slot_bytes,
        application: options.application.clone(),
    };
    send(stream, peer, &open).await?;
    read_trusted(stream, peer).await
}
