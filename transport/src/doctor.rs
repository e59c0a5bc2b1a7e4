//! What this machine has for each transport, and what to do about what it lacks.

use std::path::Path;

use serde::Serialize;

use crate::rdma::device;
use crate::{Kind, transport};

pub use crate::rdma::device::{GidState, PortState};

/// Locked memory below this is too little for the rings and slots of one session, in bytes.
const LOCKED_BYTES_LEAST: u64 = 1 << 30;

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Fine.
    Good,
    /// Works, with less than it could.
    Limited,
    /// Not there; transports that need it are left out.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `libibverbs`, `memlock`, ….
    pub name: &'static str,
    /// How it is to be taken.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where nothing is wrong.
    pub fix: String,
}

/// An RDMA device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceState {
    /// Its name: `mlx5_0`, `rxe0`, ….
    pub name: String,
    /// Its ports.
    pub ports: Vec<PortState>,
}

/// A transport as `auto` sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransportState {
    /// The transport.
    pub kind: Kind,
    /// Whether this machine can use it.
    pub usable: bool,
    /// What it would use, or why it cannot.
    pub detail: String,
}

/// Everything the doctor found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The transports, in `auto`'s order.
    pub transports: Vec<TransportState>,
    /// RDMA devices.
    pub devices: Vec<DeviceState>,
    /// The rest, one by one.
    pub findings: Vec<Finding>,
}

/// Looks at this machine. Opens RDMA devices and makes a memfd of one page; changes nothing.
#[must_use]
pub fn examine() -> Report {
    let transports = Kind::ALL
        .into_iter()
        .map(|kind| match transport::of(kind).probe() {
            Ok(detail) => TransportState {
                kind,
                usable: true,
                detail,
            },
            Err(error) => TransportState {
                kind,
                usable: false,
                detail: error.to_string(),
            },
        })
        .collect();
    let (devices, verbs) = devices();
    let mut findings = vec![verbs];
    findings.extend(ports(&devices));
    findings.extend([memlock(), memfd(), shared_memory_folder(), module(), gpu()]);
    Report {
        transports,
        devices,
        findings,
    }
}

fn devices() -> (Vec<DeviceState>, Finding) {
    let names = match device::device_names() {
        Ok(names) => names,
        Err(error) => {
            let fix = "apt-get install libibverbs1 ibverbs-providers (or rdma-core); modprobe ib_uverbs";
            return (
                Vec::new(),
                finding("libibverbs", Verdict::Missing, error.to_string(), fix),
            );
        }
    };
    let state = |name: &String| {
        let ports = device::open(name).and_then(|context| {
            let limits = context.limits()?;
            (1..=limits.ports).map(|port| context.port(port)).collect()
        });
        DeviceState {
            name: name.clone(),
            ports: ports.unwrap_or_default(),
        }
    };
    let devices: Vec<_> = names.iter().map(state).collect();
    if devices.is_empty() {
        let fix = "needs an RDMA adapter, or soft-RoCE: modprobe rdma_rxe; rdma link add rxe0 type rxe netdev ETH";
        return (
            devices,
            finding("libibverbs", Verdict::Missing, "loaded, but there is no device", fix),
        );
    }
    let found = format!("loaded, {} device(s): {}", devices.len(), names.join(", "));
    (devices, finding("libibverbs", Verdict::Good, found, ""))
}

fn ports(devices: &[DeviceState]) -> Vec<Finding> {
    let of_device = |device: &DeviceState| -> Vec<Finding> {
        if device.ports.is_empty() {
            let found = format!("{} cannot be opened or has no port", device.name);
            let fix = "check the rights on /dev/infiniband/uverbs*; in a container pass the device through";
            return vec![finding("rdma port", Verdict::Missing, found, fix)];
        }
        device.ports.iter().map(|port| of_port(&device.name, port)).collect()
    };
    devices.iter().flat_map(of_device).collect()
}

fn of_port(device: &str, port: &PortState) -> Finding {
    let layer = if port.ethernet { "Ethernet" } else { "InfiniBand" };
    let found = format!(
        "{device} port {}: {}, {layer}, MTU {}, {} GID(s)",
        port.port,
        if port.active { "active" } else { "down" },
        port.mtu_bytes,
        port.gids.len()
    );
    if !port.active {
        return finding(
            "rdma port",
            Verdict::Missing,
            found,
            "bring the link up: ip link set ETH up; rdma link",
        );
    }
    if port.ethernet && !port.gids.iter().any(|gid| gid.kind.contains("v2")) {
        return finding(
            "rdma port",
            Verdict::Limited,
            found,
            "give its network interface an IP address for RoCE v2",
        );
    }
    finding("rdma port", Verdict::Good, found, "")
}

fn memlock() -> Finding {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = locked_memory(&limits);
    let fix = "ulimit -l unlimited, LimitMEMLOCK=infinity in the unit, or --ulimit memlock=-1 for the container; RDMA \
               registers rings and slots";
    match soft {
        Some(None) => finding("memlock", Verdict::Good, "unlimited", ""),
        Some(Some(bytes)) if bytes >= LOCKED_BYTES_LEAST => {
            finding("memlock", Verdict::Good, format!("{bytes} bytes"), "")
        }
        Some(Some(bytes)) => finding("memlock", Verdict::Limited, format!("{bytes} bytes"), fix),
        None => finding("memlock", Verdict::Limited, "/proc/self/limits does not say", fix),
    }
}

/// The soft limit in `/proc/self/limits`: `Some(None)` for unlimited, `None` where the line is not there.
fn locked_memory(limits: &str) -> Option<Option<u64>> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(None),
        bytes => bytes.parse().ok().map(Some),
    }
}

fn memfd() -> Finding {
    match transport::of(Kind::Shm).probe() {
        Ok(_) => finding("memfd", Verdict::Good, "sealed memfds work", ""),
        Err(error) => finding(
            "memfd",
            Verdict::Missing,
            error.to_string(),
            "needs Linux 5.1 or later (F_SEAL_FUTURE_WRITE)",
        ),
    }
}

fn shared_memory_folder() -> Finding {
    let name = "/dev/shm";
    match crate::region::space(name) {
        Some((total, free)) => {
            let found = format!("{total} bytes, {free} free; corpusmill itself uses memfds, which it does not bound");
            let tight = total < 1 << 30;
            let fix = if tight {
                "PyTorch's own workers need it: --shm-size=8g for the container"
            } else {
                ""
            };
            finding(name, if tight { Verdict::Limited } else { Verdict::Good }, found, fix)
        }
        None => finding(
            name,
            Verdict::Limited,
            "not mounted",
            "mount -t tmpfs tmpfs /dev/shm, for PyTorch's own workers",
        ),
    }
}

fn module() -> Finding {
    let folder = Path::new("/sys/class/infiniband_verbs");
    if folder.exists() {
        finding("ib_uverbs", Verdict::Good, "the kernel has user verbs", "")
    } else {
        let fix = "modprobe ib_uverbs, on a kernel built with CONFIG_INFINIBAND; without it there is no rdma";
        finding("ib_uverbs", Verdict::Missing, "the kernel has no user verbs", fix)
    }
}

fn gpu() -> Finding {
    let gpus = std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, Iterator::count);
    if gpus == 0 {
        let fix = "bodies go to host memory; install the NVIDIA driver where there is a GPU";
        return finding("gpu", Verdict::Missing, "no NVIDIA driver", fix);
    }
    let found = format!("{gpus} GPU(s); device memory is reached by dmabuf, which is untried on hardware");
    finding(
        "gpu",
        Verdict::Limited,
        found,
        "needs the open kernel modules and CUDA 11.7 or later for dmabuf",
    )
}

fn finding(name: &'static str, verdict: Verdict, found: impl Into<String>, fix: &str) -> Finding {
    Finding {
        name,
        verdict,
        found: found.into(),
        fix: fix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_that_is_not_good_says_what_to_do() {
        let report = examine();
        for finding in &report.findings {
            assert_eq!(finding.verdict == Verdict::Good, finding.fix.is_empty(), "{finding:?}");
        }
        let kinds: Vec<_> = report.transports.iter().map(|state| state.kind).collect();
        assert_eq!(kinds, Kind::ALL);
        assert!(
            report
                .transports
                .iter()
                .any(|state| state.kind == Kind::Tcp && state.usable)
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["transports"][0]["kind"], "shm");
    }

    #[test]
    fn the_locked_memory_limit_is_read_in_all_its_forms() {
        let line =
            |value| format!("Max processes 1 1 processes\nMax locked memory         {value}   8388608   bytes\n");
        assert_eq!(locked_memory(&line("unlimited")), Some(None));
        assert_eq!(locked_memory(&line("8388608")), Some(Some(8_388_608)));
        assert_eq!(locked_memory("Max processes 1"), None);
    }

    #[test]
    fn ports_are_judged_by_link_and_address() {
        let gid = GidState {
            index: 1,
            gid: "::ffff:10.0.0.1".parse().unwrap(),
            kind: "RoCE v2".to_owned(),
        };
        let port = PortState {
            port: 1,
            active: true,
            ethernet: true,
            lid: 0,
            mtu_bytes: 4096,
            message_bytes_max: 1 << 30,
            gids: vec![gid],
        };
        assert_eq!(of_port("d", &port).verdict, Verdict::Good);
        assert_eq!(
            of_port(
                "d",
                &PortState {
                    gids: Vec::new(),
                    ..port.clone()
                }
            )
            .verdict,
            Verdict::Limited
        );
        assert_eq!(
            of_port("d", &PortState { active: false, ..port }).verdict,
            Verdict::Missing
        );
        assert_eq!(
            ports(&[DeviceState {
                name: "d".to_owned(),
                ports: Vec::new()
            }])[0]
                .verdict,
            Verdict::Missing
        );
    }
}
