//! From a port of this machine to one of the peer's: which device and address, and the states of a queue pair.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, BytesMut};

use super::device::{self, Context, GidState, Limits, PortState};
use super::ffi;
use super::verbs::QueuePair;
use crate::{Error, Kind, Result};
use corpusmill_access::random;

/// RDMA READs that a queue pair has under way at once; devices allow 16, and more gains nothing at these sizes.
pub(super) const READS_AT_ONCE_MAX: u8 = 16;
/// 4.096 µs × 2^16 = 0.27 s without an answer before a packet is sent again…
const ACK_TIMEOUT: u8 = 16;
/// …up to seven times. A peer's death is known earlier from its control connection.
const RETRIES: u8 = 7;
/// 0.64 ms, for a responder that is not ready; reads need none.
const NOT_READY_TIMER: u8 = 12;
/// Hops of a routed packet.
const HOPS_MAX: u8 = 64;
/// Packet sequence numbers have 24 bits.
const SEQUENCE_MASK: u32 = 0xff_ffff;

/// A port that is up, with the address that peers reach it by.
pub(super) struct Path {
    context: Arc<Context>,
    port: PortState,
    gid: Option<GidState>,
    pub(super) limits: Limits,
}

impl Path {
    /// Takes the first port that is up and, on Ethernet, has a RoCE v2 address.
    ///
    /// # Errors
    /// `Unavailable` with what was looked at and what to do.
    pub(super) fn find() -> Result<Self> {
        let names = device::device_names()?;
        let mut seen = Vec::new();
        for name in &names {
            let context = match device::open(name) {
                Ok(context) => context,
                Err(error) => {
                    seen.push(error.to_string());
                    continue;
                }
            };
            let limits = context.limits()?;
            for number in 1..=limits.ports {
                let port = context.port(number)?;
                let gid = best_gid(&port.gids).cloned();
                match (port.active, port.ethernet, &gid) {
                    (false, ..) => seen.push(format!("port {number} of {name} is down")),
                    (true, true, None) => seen.push(format!("port {number} of {name} has no RoCE address (GID)")),
                    _ => {
                        return Ok(Self {
                            context,
                            port,
                            gid,
                            limits,
                        });
                    }
                }
            }
        }
        let seen = if seen.is_empty() {
            "there is no RDMA device".to_owned()
        } else {
            seen.join(", ")
        };
        let reason = format!("{seen}; bring a port up (`rdma link`, `ip link set … up`), or use tcp");
        Err(Error::Unavailable {
            kind: Kind::Rdma,
            reason,
        })
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Longest message of the port, in bytes.
    pub(super) fn message_bytes_max(&self) -> u32 {
        self.port.message_bytes_max
    }

    /// What the peer needs to reach `pair`.
    pub(super) fn endpoint(&self, pair: &QueuePair) -> Result<Endpoint> {
        Ok(Endpoint {
            number: pair.number(),
            sequence: u32::from_le_bytes(random()?) & SEQUENCE_MASK,
            lid: self.port.lid,
            gid: self.gid.as_ref().map_or([0; 16], |gid| gid.gid.octets()),
            mtu: mtu_code(self.port.mtu_bytes),
            ethernet: self.port.ethernet,
            reads: self.limits.reads_served.min(READS_AT_ONCE_MAX),
        })
    }

    /// RESET → INIT.
    pub(super) fn initialise(&self, pair: &QueuePair, access: i32) -> Result<()> {
        let mask = ffi::IBV_QP_STATE | ffi::IBV_QP_PKEY_INDEX | ffi::IBV_QP_PORT | ffi::IBV_QP_ACCESS_FLAGS;
        pair.modify("initialisation", mask, |attr| {
            attr.qp_state = ffi::IBV_QPS_INIT;
            attr.port_num = self.port.port;
            attr.qp_access_flags = access.cast_unsigned();
        })
    }

    /// INIT → RTR → RTS.
    pub(super) fn connect(&self, pair: &QueuePair, ours: &Endpoint, theirs: &Endpoint) -> Result<()> {
        if ours.ethernet != theirs.ethernet {
            let reason = "one side's port is InfiniBand and the other's Ethernet; force tcp".to_owned();
            return Err(Error::Unavailable {
                kind: Kind::Rdma,
                reason,
            });
        }
        let mask = ffi::IBV_QP_STATE
            | ffi::IBV_QP_AV
            | ffi::IBV_QP_PATH_MTU
            | ffi::IBV_QP_DEST_QPN
            | ffi::IBV_QP_RQ_PSN
            | ffi::IBV_QP_MAX_DEST_RD_ATOMIC
            | ffi::IBV_QP_MIN_RNR_TIMER;
        pair.modify("transition to ready-to-receive", mask, |attr| {
            attr.qp_state = ffi::IBV_QPS_RTR;
            attr.path_mtu = ours.mtu.min(theirs.mtu).into();
            attr.dest_qp_num = theirs.number;
            attr.rq_psn = theirs.sequence;
            attr.max_dest_rd_atomic = self.limits.reads_served.min(READS_AT_ONCE_MAX);
            attr.min_rnr_timer = NOT_READY_TIMER;
            attr.ah_attr.port_num = self.port.port;
            attr.ah_attr.dlid = theirs.lid;
            if let Some(gid) = self.gid.as_ref().filter(|_| theirs.gid != [0; 16]) {
                attr.ah_attr.is_global = 1;
                attr.ah_attr.grh.dgid.raw = theirs.gid;
                attr.ah_attr.grh.sgid_index = gid.index;
                attr.ah_attr.grh.hop_limit = HOPS_MAX;
            }
        })?;
        let mask = ffi::IBV_QP_STATE
            | ffi::IBV_QP_TIMEOUT
            | ffi::IBV_QP_RETRY_CNT
            | ffi::IBV_QP_RNR_RETRY
            | ffi::IBV_QP_SQ_PSN
            | ffi::IBV_QP_MAX_QP_RD_ATOMIC;
        pair.modify("transition to ready-to-send", mask, |attr| {
            attr.qp_state = ffi::IBV_QPS_RTS;
            attr.timeout = ACK_TIMEOUT;
            attr.retry_cnt = RETRIES;
            attr.rnr_retry = RETRIES;
            attr.sq_psn = ours.sequence;
            attr.max_rd_atomic = self.limits.reads_made.min(theirs.reads).min(READS_AT_ONCE_MAX);
        })
    }

    /// Any state → ERR: the device gives up what is under way.
    pub(super) fn give_up(pair: &QueuePair) -> Result<()> {
        pair.modify("transition to error", ffi::IBV_QP_STATE, |attr| {
            attr.qp_state = ffi::IBV_QPS_ERR
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.context.name, self.port.port)?;
        match &self.gid {
            Some(gid) => write!(f, ", {} ({})", gid.gid, gid.kind),
            None => write!(f, ", LID {}", self.port.lid),
        }
    }
}

/// Best address of a port: routable IPv4 over RoCE v2, then other RoCE v2, then what there is.
fn best_gid(gids: &[GidState]) -> Option<&GidState> {
    gids.iter().max_by_key(|gid| {
        let version_2 = gid.kind.contains("v2");
        let ipv4 = gid.gid.to_ipv4_mapped().is_some();
        let local = gid.gid.segments()[0] & 0xffc0 == 0xfe80;
        (version_2, ipv4, !local, std::cmp::Reverse(gid.index))
    })
}

/// The verbs' code of an MTU.
fn mtu_code(bytes: u32) -> u8 {
    // 256 has code 1, each doubling one more
    u8::try_from(bytes.clamp(256, 4096).ilog2()).unwrap_or(8) - 7
}

/// What the peer needs to reach a queue pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) number: u32,
    pub(super) sequence: u32,
    pub(super) lid: u16,
    pub(super) gid: [u8; 16],
    pub(super) mtu: u8,
    pub(super) ethernet: bool,
    /// Reads that this side serves at once.
    pub(super) reads: u8,
}

impl Endpoint {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.number);
        out.put_u32_le(self.sequence);
        out.put_u16_le(self.lid);
        out.put_slice(&self.gid);
        out.put_u8(self.mtu);
        out.put_u8(self.ethernet.into());
        out.put_u8(self.reads);
    }

    pub(super) fn decode(at: &mut &[u8]) -> Option<Self> {
        let number = at.try_get_u32_le().ok()?;
        let sequence = at.try_get_u32_le().ok()? & SEQUENCE_MASK;
        let lid = at.try_get_u16_le().ok()?;
        let (gid, rest) = at.split_first_chunk()?;
        *at = rest;
        let mtu = at.try_get_u8().ok()?.clamp(1, 5);
        let ethernet = at.try_get_u8().ok()? != 0;
        let reads = at.try_get_u8().ok()?.max(1);
        Some(Self {
            number,
            sequence,
            lid,
            gid: *gid,
            mtu,
            ethernet,
            reads,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routable_address_of_the_newer_protocol_is_taken() {
        let gid = |index, gid: &str, kind: &str| GidState {
            index,
            gid: gid.parse().unwrap(),
            kind: kind.to_owned(),
        };
        let gids = [
            gid(0, "fe80::1", "IB/RoCE v1"),
            gid(1, "fe80::1", "RoCE v2"),
            gid(2, "::ffff:10.0.0.1", "IB/RoCE v1"),
            gid(3, "::ffff:10.0.0.1", "RoCE v2"),
            gid(4, "2001:db8::1", "RoCE v2"),
        ];
        assert_eq!(best_gid(&gids).unwrap().index, 3);
        assert_eq!(
            best_gid(&[gids[0].clone(), gids[1].clone(), gids[4].clone()])
                .unwrap()
                .index,
            4
        );
        assert_eq!(best_gid(&gids[..1]).unwrap().index, 0);
        assert!(best_gid(&[]).is_none());
    }

    #[test]
    fn mtu_codes_are_those_of_the_verbs() {
        let codes: Vec<_> = [256, 512, 1024, 2048, 4096, 9000].into_iter().map(mtu_code).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 5]);
    }
}
