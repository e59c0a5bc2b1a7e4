//! Bodies in shared memory: the trainer maps the worker's ring and reads it in place.
//!
//! ```text
//!  trainer                                        worker
//!   connects to the abstract Unix socket  ──────▶ one socket per session, gone with its process
//!   both prove the session's secret
//!                                         ◀────── SCM_RIGHTS: the sealed memfd
//!   maps it read-only
//!   pull: header's generation matches? then the body is the slot itself; freed when its last tensor is dropped
//! ```
//! Nothing here has a name in a file system, so that no kill leaves anything behind: the memory goes with the last
//! process that maps it, the socket with the worker's.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::link::{Ending, Outbox, Release, blocking, within};
use crate::pool::{Body, TrainerMemory};
use crate::region::Region;
use crate::ring::{Header, Layout};
use crate::transport::{Arrival, Export, ExportContext, Import, ImportContext, Transport};
use crate::{Checksum, Descriptor, Error, Kind, Refusal, Result, handshake};
use corpusmill_access::{Stream, random};

/// The transport.
pub(crate) struct Shm;

#[async_trait]
impl Transport for Shm {
    fn probe(&self) -> Result<String> {
        // a memfd of one page, sealed, says all there is to know
        match Region::shared(crate::region::whole_pages(1)) {
            Ok(_) => Ok("a sealed memfd".to_owned()),
            Err(error) => Err(Error::Unavailable {
                kind: Kind::Shm,
                reason: error.to_string(),
            }),
        }
    }

    async fn export(&self, context: ExportContext) -> Result<Arc<dyn Export>> {
        let name: String = random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("corpusmill-{name}");
        let failed = |e| Error::io("listening on an abstract Unix socket", e);
        let address = SocketAddr::from_abstract_name(&name).map_err(failed)?;
        let listener = std::os::unix::net::UnixListener::bind_addr(&address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        let (done, handed) = watch::channel(false);
        let timeouts = context.timeouts;
        let ending = Arc::clone(&context.ending);
        tokio::spawn(async move {
            let work = within(
                "handing over the ring",
                timeouts.handshake * 2,
                hand_over(&listener, &context),
            );
            match ending.unless(work).await {
                // the trainer sees the failure too and says in its answer whether it has the ring
                Ok(Err(error)) => tracing::warn!(peer = ending.peer, %error, "shared memory not handed over"),
                Ok(Ok(())) => _ = done.send(true),
                Err(_) => {}
            }
        });
        Ok(Arc::new(ShmExport {
            name: name.into(),
            handed,
        }))
    }

    async fn import(&self, context: ImportContext) -> Result<Box<dyn Import>> {
        if matches!(context.memory, TrainerMemory::Dmabuf { .. }) {
            let reason = "bodies stay in host memory; use rdma for device memory, or copy".to_owned();
            return Err(Error::Unavailable {
                kind: Kind::Shm,
                reason,
            });
        }
        let peer = context.address.to_string();
        let work = within("receiving the ring", context.timeouts.handshake, async {
            let failed = |e| Error::io("connecting to the worker's abstract Unix socket", e);
            let address = SocketAddr::from_abstract_name(&context.offer[..]).map_err(failed)?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&address).map_err(failed)?;
            stream.set_nonblocking(true).map_err(failed)?;
            let mut stream = UnixStream::from_std(stream).map_err(failed)?;
            handshake::introduce(&mut stream, &peer, &context.secret, context.session).await?;
            let fd = stream.async_io(Interest::READABLE, || receive_fd(&stream)).await;
            fd.map_err(|e| Error::io("receiving a memfd", e))
        });
        let (fd, length) = (work.await?, context.layout.length());
        let region = blocking("mapping a ring", move || Region::received(fd, length)).await?;
        let (layout, ending) = (context.layout, context.ending);
        Ok(Box::new(ShmImport {
            region: Arc::new(region),
            layout,
            ending,
        }))
    }
}

/// Gives the ring's descriptor to the first peer that holds the session's secret.
async fn hand_over(listener: &UnixListener, context: &ExportContext) -> Result<()> {
    let peer = &context.ending.peer;
    loop {
        let (mut stream, _) = listener
            .accept()
            .await
            .map_err(|e| Error::io("accepting on a Unix socket", e))?;
        let session = context.ring.session;
        let secret = |asked| match asked == session {
            true => Ok(context.secret.clone()),
            false => crate::Token::generate().map_err(Error::from),
        };
        if let Err(error) = handshake::receive(&mut stream, peer, secret).await {
            // anybody on this host can connect; the trainer may still come
            tracing::warn!(peer, %error, "connection for shared memory refused");
            continue;
        }
        let sent = stream
            .async_io(Interest::WRITABLE, || send_fd(&stream, context.ring.fd()))
            .await;
        return sent.map_err(|e| Error::io("handing over a memfd", e));
    }
}

/// The worker's half.
struct ShmExport {
    name: Bytes,
    handed: watch::Receiver<bool>,
}

#[async_trait]
impl Export for ShmExport {
    fn offer(&self) -> Bytes {
        self.name.clone()
    }

    async fn attach(&self, _reply: &[u8]) -> Result<()> {
        let mut handed = self.handed.clone();
        let result = handed.wait_for(|handed| *handed).await.map(drop);
        result.map_err(|_| Error::protocol("the trainer", "says it has the ring, which nobody took"))
    }

    fn connection(&self, _stream: Stream) -> Result<()> {
        Err(Error::protocol(
            "the trainer",
            "a data connection, which shared memory has not",
        ))
    }
}

/// The trainer's half.
struct ShmImport {
    region: Arc<Region>,
    layout: Layout,
    ending: Arc<Ending>,
}

#[async_trait]
impl Import for ShmImport {
    fn reply(&self) -> Bytes {
        Bytes::new()
    }

    async fn read(&self, descriptor: &Descriptor, _hash: Checksum, outbox: &Outbox) -> Result<Arrival> {
        if self.ending.is_over() {
            return Err(self.ending.error());
        }
        let Descriptor {
            session,
            seq,
            generation,
            slot,
            offset,
            length,
            ..
        } = *descriptor;
        let header = Header::load(&self.region, self.layout.header(slot));
        if header
            != (Header {
                session,
                generation,
                seq,
            })
        {
            let detail = format!(
                "the slot holds generation {}, sequence {}",
                header.generation, header.seq
            );
            return Err(descriptor.refused(Refusal::StaleGeneration, detail));
        }
        let start = self.layout.body(slot) + offset as usize;
        let release = Release::held(outbox.clone(), slot, generation, seq);
        let metadata = descriptor.metadata.clone();
        let body = Body::mapped(Arc::clone(&self.region), start, release, seq, length as usize, metadata);
        Ok(Arrival {
            body,
            xxh3: None,
            copied: false,
        })
    }
}

/// Room for one control message with one descriptor, aligned for its header.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends one byte with a descriptor beside it (`cmsg(3)`, SCM_RIGHTS).
fn send_fd(stream: &UnixStream, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut byte = [b'R'];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 64]);
    // SAFETY: all fields of a msghdr are integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: computes sizes only.
    let (space, length) = unsafe { (libc::CMSG_SPACE(4), libc::CMSG_LEN(4)) };
    message.msg_controllen = space as _;
    // SAFETY: the control buffer is aligned and has room for one header with four bytes of data (24 of its 64).
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = length as _;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(fd.as_raw_fd());
    }
    // SAFETY: the message points to live local buffers of the stated lengths.
    let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Receives what [`send_fd`] sent.
fn receive_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 64]);
    // SAFETY: as in `send_fd`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: computes a size only. One descriptor fits, so the kernel closes any others a peer may send.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as _;
    // SAFETY: the message points to live local buffers of the stated lengths.
    let count = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel filled the message in; a null header is handled.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let Some(header) = header else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the worker sent no descriptor",
        ));
    };
    // SAFETY: computes a size only.
    let length = unsafe { libc::CMSG_LEN(4) };
    if header.cmsg_level != libc::SOL_SOCKET
        || header.cmsg_type != libc::SCM_RIGHTS
        || header.cmsg_len as u64 != u64::from(length)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the worker sent something that is no descriptor",
        ));
    }
    // SAFETY: the header says that four bytes of a descriptor follow it in the control buffer.
    let fd = unsafe { libc::CMSG_DATA(header).cast::<i32>().read_unaligned() };
    // SAFETY: the kernel made this descriptor for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};

    #[tokio::test]
    async fn a_descriptor_crosses_the_socket_and_closes_on_exec() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"across").unwrap();
        let borrowed = std::os::fd::AsFd::as_fd(&file);
        a.async_io(Interest::WRITABLE, || send_fd(&a, borrowed)).await.unwrap();
        let fd = b.async_io(Interest::READABLE, || receive_fd(&b)).await.unwrap();
        // SAFETY: a plain system call on an open descriptor.
        assert_eq!(
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) } & libc::FD_CLOEXEC,
            libc::FD_CLOEXEC
        );
        let (mut received, mut text) = (std::fs::File::from(fd), String::new());
        received.rewind().unwrap();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "across");
    }

    #[tokio::test]
    async fn a_message_without_a_descriptor_is_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        a.writable().await.unwrap();
        a.try_write(b"R").unwrap();
        let error = b.async_io(Interest::READABLE, || receive_fd(&b)).await.unwrap_err();
        assert!(error.to_string().contains("no descriptor"));
        drop(a);
        assert!(
            b.async_io(Interest::READABLE, || receive_fd(&b)).await.is_err(),
            "the end of the stream"
        );
    }
}
