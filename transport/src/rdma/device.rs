//! Devices and their ports.

use std::ffi::{CStr, c_int};
use std::io;
use std::mem;
use std::ptr::NonNull;
use std::sync::Arc;

use serde::Serialize;

use super::ffi::{self, Library, library};
use crate::{Error, Kind, Result};

pub(super) const DEVICE_FIX: &str = "see `corpusmill doctor` for the device's state and limits";

fn loaded() -> Result<&'static Library> {
    library().map_err(|reason| Error::Unavailable {
        kind: Kind::Rdma,
        reason: format!("libibverbs cannot be loaded ({reason}); install libibverbs1 and ibverbs-providers"),
    })
}

pub(super) fn failed(what: impl Into<String>, fix: &'static str) -> Error {
    Error::Memory {
        what: what.into(),
        fix,
        source: io::Error::last_os_error(),
    }
}

pub(super) fn failed_with(what: impl Into<String>, fix: &'static str, code: c_int) -> Error {
    Error::Memory {
        what: what.into(),
        fix,
        source: io::Error::from_raw_os_error(code.abs()),
    }
}

/// A device that was opened.
pub(crate) struct Context {
    pub(super) library: &'static Library,
    pub(super) raw: NonNull<ffi::ibv_context>,
    pub(crate) name: String,
}

// SAFETY: verbs may be called from any thread (rdma-core's own statement); what it forbids is use after destruction,
// which ownership rules out.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// A port's state as the doctor and the transport see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortState {
    /// Number of the port, from 1.
    pub port: u8,
    /// Whether the link is up (IBV_PORT_ACTIVE).
    pub active: bool,
    /// `Ethernet` (RoCE), or `InfiniBand`.
    pub ethernet: bool,
    /// Local identifier on InfiniBand.
    pub lid: u16,
    /// Active MTU in bytes.
    pub mtu_bytes: u32,
    /// Longest message, in bytes.
    pub message_bytes_max: u32,
    /// Entries of the GID table that are set.
    pub gids: Vec<GidState>,
}

/// An entry of a port's GID table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GidState {
    /// Place in the table.
    pub index: u8,
    /// The address, as an IPv6 address.
    pub gid: std::net::Ipv6Addr,
    /// `RoCE v2`, `IB/RoCE v1`, or what the kernel says.
    pub kind: String,
}

/// Limits of a device that sessions depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) requests: u32,
    pub(crate) completions: u32,
    pub(crate) reads_served: u8,
    pub(crate) reads_made: u8,
    pub(crate) ports: u8,
}

/// Names of the devices that libibverbs sees.
pub(crate) fn device_names() -> Result<Vec<String>> {
    with_devices(|library, devices| Ok(devices.iter().map(|device| name_of(library, *device)).collect()))
}

/// Opens a device by name.
pub(crate) fn open(name: &str) -> Result<Arc<Context>> {
    with_devices(|library, devices| {
        let missing = || Error::Unavailable {
            kind: Kind::Rdma,
            reason: format!("there is no device {name:?}"),
        };
        let device = devices
            .iter()
            .find(|device| name_of(library, **device) == name)
            .ok_or_else(missing)?;
        // SAFETY: the device is of the list that is freed only after this call.
        let raw = unsafe { (library.ibv_open_device)(*device) };
        let raw = NonNull::new(raw).ok_or_else(|| failed(format!("opening {name}"), DEVICE_FIX))?;
        Ok(Arc::new(Context {
            library,
            raw,
            name: name.to_owned(),
        }))
    })
}

fn with_devices<T>(work: impl FnOnce(&'static Library, &[*mut ffi::ibv_device]) -> Result<T>) -> Result<T> {
    let library = loaded()?;
    let mut count = 0;
    // SAFETY: writes the count; the list is checked below.
    let list = unsafe { (library.ibv_get_device_list)(&raw mut count) };
    if list.is_null() {
        let reason = format!(
            "no device list ({}); load the kernel module ib_uverbs",
            io::Error::last_os_error()
        );
        return Err(Error::Unavailable {
            kind: Kind::Rdma,
            reason,
        });
    }
    // SAFETY: the list has `count` devices and lives until it is freed below.
    let devices = unsafe { std::slice::from_raw_parts(list, usize::try_from(count).unwrap_or(0)) };
    let result = work(library, devices);
    // SAFETY: the list is the one from above, freed once.
    unsafe { (library.ibv_free_device_list)(list) };
    result
}

fn name_of(library: &Library, device: *mut ffi::ibv_device) -> String {
    // SAFETY: the device is of a list that was not freed; its name is a C string within it.
    unsafe { CStr::from_ptr((library.ibv_get_device_name)(device)) }
        .to_string_lossy()
        .into_owned()
}

impl Context {
    pub(crate) fn limits(&self) -> Result<Limits> {
        // SAFETY: zero is a value of every field.
        let mut attr: ffi::ibv_device_attr = unsafe { mem::zeroed() };
        // SAFETY: the context is open and the struct has the library's layout.
        let code = unsafe { (self.library.ibv_query_device)(self.raw.as_ptr(), &raw mut attr) };
        if code != 0 {
            return Err(failed_with(format!("querying {}", self.name), DEVICE_FIX, code));
        }
        let small = |value: c_int| u8::try_from(value.clamp(1, 255)).unwrap_or(1);
        let large = |value: c_int| u32::try_from(value.max(1)).unwrap_or(1);
        Ok(Limits {
            requests: large(attr.max_qp_wr),
            completions: large(attr.max_cqe),
            reads_served: small(attr.max_qp_rd_atom),
            reads_made: small(attr.max_qp_init_rd_atom),
            ports: attr.phys_port_cnt,
        })
    }

    pub(crate) fn port(&self, port: u8) -> Result<PortState> {
        // SAFETY: zero is a value of every field.
        let mut attr: ffi::ibv_port_attr = unsafe { mem::zeroed() };
        // SAFETY: the context is open and the struct begins with the library's layout.
        let code = unsafe { (self.library.ibv_query_port)(self.raw.as_ptr(), port, &raw mut attr) };
        if code != 0 {
            return Err(failed_with(
                format!("querying port {port} of {}", self.name),
                DEVICE_FIX,
                code,
            ));
        }
        let entries = u8::try_from(attr.gid_tbl_len.clamp(0, 255)).unwrap_or(0);
        Ok(PortState {
            port,
            active: attr.state == ffi::IBV_PORT_ACTIVE,
            ethernet: attr.link_layer == ffi::IBV_LINK_LAYER_ETHERNET,
            lid: attr.lid,
            mtu_bytes: 128 << attr.active_mtu.clamp(1, 5),
            message_bytes_max: attr.max_msg_sz,
            gids: (0..entries).filter_map(|index| self.gid(port, index)).collect(),
        })
    }

    fn gid(&self, port: u8, index: u8) -> Option<GidState> {
        let mut gid = ffi::ibv_gid { raw: [0; 16] };
        // SAFETY: the context is open; the library writes 16 bytes.
        let code = unsafe { (self.library.ibv_query_gid)(self.raw.as_ptr(), port, index.into(), &raw mut gid) };
        if code != 0 || gid.raw == [0; 16] {
            return None;
        }
        let path = format!(
            "/sys/class/infiniband/{}/ports/{port}/gid_attrs/types/{index}",
            self.name
        );
        let kind = std::fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |kind| kind.trim().to_owned());
        Some(GidState {
            index,
            gid: gid.raw.into(),
            kind,
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: everything made from the context holds it, so nothing is left.
        unsafe { (self.library.ibv_close_device)(self.raw.as_ptr()) };
    }
}
