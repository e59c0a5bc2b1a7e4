//! Safe owners of verbs objects: each keeps alive what it was made from, and is destroyed before it.

use std::ffi::{CStr, c_int, c_void};
use std::mem;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::device::{Context, DEVICE_FIX, failed, failed_with};
use super::ffi;
use crate::{Error, Kind, Result};

const PIN_FIX: &str = "raise the locked-memory limit (ulimit -l unlimited, LimitMEMLOCK=infinity) or ask for less";
/// A protection domain: queue pairs reach only memory of their own.
pub(crate) struct Domain {
    raw: NonNull<ffi::ibv_pd>,
    pub(crate) context: Arc<Context>,
}

// SAFETY: as for Context.
unsafe impl Send for Domain {}
// SAFETY: as for Context.
unsafe impl Sync for Domain {}

impl Domain {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Arc<Self>> {
        // SAFETY: the context is open.
        let raw = unsafe { (context.library.ibv_alloc_pd)(context.raw.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| failed("allocating a protection domain", DEVICE_FIX))?;
        Ok(Arc::new(Self {
            raw,
            context: Arc::clone(context),
        }))
    }

    /// Registers `length` bytes at `address` of this process. `owner` keeps them mapped.
    pub(crate) fn register(
        self: &Arc<Self>,
        address: u64,
        length: usize,
        access: c_int,
        owner: Arc<dyn Send + Sync>,
    ) -> Result<Registration> {
        // SAFETY: the range belongs to `owner`, which the registration keeps.
        let raw =
            unsafe { (self.context.library.ibv_reg_mr)(self.raw.as_ptr(), address as *mut c_void, length, access) };
        let what = || format!("registering {length} bytes with {}", self.context.name);
        let raw = NonNull::new(raw).ok_or_else(|| failed(what(), PIN_FIX))?;
        Ok(Registration {
            raw,
            domain: Arc::clone(self),
            _owner: Some(owner),
            _fd: None,
        })
    }

    /// Registers `length` bytes of a dmabuf from `offset`, reached at `address` in work requests.
    pub(crate) fn register_dmabuf(
        self: &Arc<Self>,
        fd: OwnedFd,
        offset: u64,
        length: usize,
        address: u64,
    ) -> Result<Registration> {
        let Some(register) = self.context.library.ibv_reg_dmabuf_mr else {
            let reason = "this libibverbs has no ibv_reg_dmabuf_mr; device memory needs rdma-core 34 or later";
            return Err(Error::Unavailable {
                kind: Kind::Rdma,
                reason: reason.to_owned(),
            });
        };
        // SAFETY: the dmabuf's memory is the exporter's; the registration keeps the descriptor, and with it the memory.
        let raw = unsafe {
            register(
                self.raw.as_ptr(),
                offset,
                length,
                address,
                fd.as_raw_fd(),
                ffi::IBV_ACCESS_LOCAL_WRITE,
            )
        };
        let what = || format!("registering {length} bytes of a dmabuf with {}", self.context.name);
        let fix = "the driver must support dmabuf (mlx5 with Linux 5.12 or later) and the descriptor be a dmabuf";
        let raw = NonNull::new(raw).ok_or_else(|| failed(what(), fix))?;
        Ok(Registration {
            raw,
            domain: Arc::clone(self),
            _owner: None,
            _fd: Some(fd),
        })
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: registrations and queue pairs hold the domain, so none is left.
        unsafe { (self.context.library.ibv_dealloc_pd)(self.raw.as_ptr()) };
    }
}

/// Memory that a device may reach.
pub(crate) struct Registration {
    raw: NonNull<ffi::ibv_mr>,
    domain: Arc<Domain>,
    _owner: Option<Arc<dyn Send + Sync>>,
    _fd: Option<OwnedFd>,
}

// SAFETY: as for Context.
unsafe impl Send for Registration {}
// SAFETY: as for Context.
unsafe impl Sync for Registration {}

impl Registration {
    pub(crate) fn local_key(&self) -> u32 {
        // SAFETY: the registration is live and the field never changes.
        unsafe { (*self.raw.as_ptr()).lkey }
    }

    pub(crate) fn remote_key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.raw.as_ptr()).rkey }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: made by this library, destroyed once; afterwards the device reaches the memory no more.
        unsafe { (self.domain.context.library.ibv_dereg_mr)(self.raw.as_ptr()) };
    }
}

/// A completion queue and the channel that its events come by.
pub(crate) struct Completions {
    queue: NonNull<ffi::ibv_cq>,
    channel: NonNull<ffi::ibv_comp_channel>,
    context: Arc<Context>,
}

// SAFETY: as for Context.
unsafe impl Send for Completions {}
// SAFETY: as for Context.
unsafe impl Sync for Completions {}

/// One completed work request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) id: u64,
    /// The status in words and the vendor's code, where it failed.
    pub(crate) failure: Option<(String, u32)>,
}

impl Completions {
    pub(crate) fn new(context: &Arc<Context>, entries: u32) -> Result<Arc<Self>> {
        let library = context.library;
        // SAFETY: the context is open.
        let channel = unsafe { (library.ibv_create_comp_channel)(context.raw.as_ptr()) };
        let channel = NonNull::new(channel).ok_or_else(|| failed("making a completion channel", DEVICE_FIX))?;
        let entries = c_int::try_from(entries).unwrap_or(c_int::MAX);
        // SAFETY: context and channel are live.
        let queue =
            unsafe { (library.ibv_create_cq)(context.raw.as_ptr(), entries, ptr::null_mut(), channel.as_ptr(), 0) };
        let Some(queue) = NonNull::new(queue) else {
            let error = failed(format!("making a completion queue of {entries} entries"), DEVICE_FIX);
            // SAFETY: nothing was made from the channel.
            unsafe { (library.ibv_destroy_comp_channel)(channel.as_ptr()) };
            return Err(error);
        };
        let made = Arc::new(Self {
            queue,
            channel,
            context: Arc::clone(context),
        });
        let fd = made.fd();
        // SAFETY: plain system calls on the channel's descriptor, which is open.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        // SAFETY: as above.
        if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
            return Err(failed("making a completion channel non-blocking", DEVICE_FIX));
        }
        Ok(made)
    }

    /// The channel's descriptor: readable when an event came.
    pub(crate) fn fd(&self) -> RawFd {
        // SAFETY: the channel is live and the field never changes.
        unsafe { (*self.channel.as_ptr()).fd }
    }

    /// Takes the events that came; 0 when there was none.
    pub(crate) fn take_events(&self) -> u32 {
        let mut events = 0;
        let (mut queue, mut user) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the channel is live and non-blocking, both out-pointers are valid.
        while unsafe { (self.context.library.ibv_get_cq_event)(self.channel.as_ptr(), &raw mut queue, &raw mut user) }
            == 0
        {
            events += 1;
        }
        if events > 0 {
            // SAFETY: as many events as were taken, all of this queue, the channel's only one.
            unsafe { (self.context.library.ibv_ack_cq_events)(self.queue.as_ptr(), events) };
        }
        events
    }

    /// Asks for an event at the next completion.
    pub(crate) fn arm(&self) -> Result<()> {
        // SAFETY: the queue is live; its context's table was filled when the device was opened.
        let code = unsafe {
            let queue = self.queue.as_ptr();
            (*(*queue).context)
                .ops
                .req_notify_cq
                .map_or(libc::ENOSYS, |arm| arm(queue, 0))
        };
        if code == 0 {
            Ok(())
        } else {
            Err(failed_with("arming a completion queue", DEVICE_FIX, code))
        }
    }

    /// Takes up to 32 completions.
    pub(crate) fn poll(&self) -> Result<Vec<Completion>> {
        // SAFETY: zero is a value of every field.
        let mut entries: [ffi::ibv_wc; 32] = unsafe { mem::zeroed() };
        // SAFETY: the queue is live, the array has room for 32 entries of the library's layout.
        let count = unsafe {
            let queue = self.queue.as_ptr();
            (*(*queue).context)
                .ops
                .poll_cq
                .map_or(-libc::ENOSYS, |poll| poll(queue, 32, entries.as_mut_ptr()))
        };
        let Ok(count) = usize::try_from(count) else {
            return Err(failed_with("polling a completion queue", DEVICE_FIX, count));
        };
        Ok(entries[..count.min(32)]
            .iter()
            .map(|entry| self.completion(entry))
            .collect())
    }

    fn completion(&self, entry: &ffi::ibv_wc) -> Completion {
        let failure = (entry.status != ffi::IBV_WC_SUCCESS).then(|| {
            // SAFETY: returns a C string that lives as long as the library.
            let text = unsafe { CStr::from_ptr((self.context.library.ibv_wc_status_str)(entry.status)) };
            (text.to_string_lossy().into_owned(), entry.vendor_err)
        });
        Completion {
            id: entry.wr_id,
            failure,
        }
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        // SAFETY: queue pairs hold the queue, so none is left; every event taken was acknowledged.
        unsafe { (self.context.library.ibv_destroy_cq)(self.queue.as_ptr()) };
        // SAFETY: its only queue is gone.
        unsafe { (self.context.library.ibv_destroy_comp_channel)(self.channel.as_ptr()) };
    }
}

/// A place in registered memory of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local {
    pub(crate) address: u64,
    pub(crate) key: u32,
}

/// A range in registered memory of the peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) key: u32,
}

/// A reliable connection. Dropping it ends all access through it.
pub(crate) struct QueuePair {
    raw: NonNull<ffi::ibv_qp>,
    domain: Arc<Domain>,
    _completions: Arc<Completions>,
}

// SAFETY: as for Context.
unsafe impl Send for QueuePair {}
// SAFETY: as for Context.
unsafe impl Sync for QueuePair {}

impl QueuePair {
    pub(crate) fn new(domain: &Arc<Domain>, completions: &Arc<Completions>, requests: u32) -> Result<Self> {
        let mut init = ffi::ibv_qp_init_attr {
            qp_context: ptr::null_mut(),
            send_cq: completions.queue.as_ptr(),
            recv_cq: completions.queue.as_ptr(),
            srq: ptr::null_mut(),
            cap: ffi::ibv_qp_cap {
                max_send_wr: requests,
                max_recv_wr: 1,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: 0,
            },
            qp_type: ffi::IBV_QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: domain and queue are live, the struct has the library's layout.
        let raw = unsafe { (domain.context.library.ibv_create_qp)(domain.raw.as_ptr(), &raw mut init) };
        let what = || format!("making a queue pair for {requests} requests on {}", domain.context.name);
        let raw = NonNull::new(raw).ok_or_else(|| failed(what(), DEVICE_FIX))?;
        Ok(Self {
            raw,
            domain: Arc::clone(domain),
            _completions: Arc::clone(completions),
        })
    }

    pub(crate) fn number(&self) -> u32 {
        // SAFETY: the queue pair is live and the field never changes.
        unsafe { (*self.raw.as_ptr()).qp_num }
    }

    /// Changes the attributes in `mask`.
    pub(crate) fn modify(&self, what: &str, mask: c_int, set: impl FnOnce(&mut ffi::ibv_qp_attr)) -> Result<()> {
        // SAFETY: zero is a value of every field.
        let mut attr: ffi::ibv_qp_attr = unsafe { mem::zeroed() };
        set(&mut attr);
        // SAFETY: the queue pair is live, the struct has the library's layout.
        let code = unsafe { (self.domain.context.library.ibv_modify_qp)(self.raw.as_ptr(), &raw mut attr, mask) };
        if code == 0 {
            Ok(())
        } else {
            Err(failed_with(format!("{what} of a queue pair"), DEVICE_FIX, code))
        }
    }

    /// Posts reads as one chain; only the last gives a completion (and any that fails).
    ///
    /// # Safety
    /// The local ranges stay registered, and nobody uses their bytes, until the completion of `id` was taken or the
    /// queue pair is destroyed.
    pub(crate) unsafe fn post_reads(&self, id: u64, reads: &[(Local, Remote)]) -> Result<()> {
        let mut places: Vec<_> = reads
            .iter()
            .map(|(local, remote)| ffi::ibv_sge {
                addr: local.address,
                length: remote.length,
                lkey: local.key,
            })
            .collect();
        let mut requests: Vec<_> = reads
            .iter()
            .zip(&mut places)
            .map(|((_, remote), place)| ffi::ibv_send_wr {
                wr_id: id,
                next: ptr::null_mut(),
                sg_list: ptr::from_mut(place),
                num_sge: 1,
                opcode: ffi::IBV_WR_RDMA_READ,
                send_flags: 0,
                imm_data: 0,
                remote_addr: remote.address,
                rkey: remote.key,
                rest: [0; 9],
            })
            .collect();
        for index in (1..requests.len()).rev() {
            requests[index - 1].next = &raw mut requests[index];
        }
        let Some(last) = requests.last_mut() else { return Ok(()) };
        last.send_flags = ffi::IBV_SEND_SIGNALED;
        let mut bad = ptr::null_mut();
        // SAFETY: the chain and its places live through the call, which copies them; the caller vouches for the ranges.
        let code = unsafe {
            let pair = self.raw.as_ptr();
            let post = (*(*pair).context).ops.post_send;
            post.map_or(libc::ENOSYS, |post| post(pair, requests.as_mut_ptr(), &raw mut bad))
        };
        if code == 0 {
            Ok(())
        } else {
            Err(failed_with("posting RDMA reads", DEVICE_FIX, code))
        }
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: made by this library, destroyed once.
        unsafe { (self.domain.context.library.ibv_destroy_qp)(self.raw.as_ptr()) };
    }
}
