//! Machines of a cluster as network namespaces of this one.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::place::not_run_here;

/// Three machines: `inside` and `other` in the network 10.77.1.0/24 of a cluster, `outside` in another one, from where
/// every address of the first two is reached through `inside`. Gone when it is dropped.
///
/// ```text
///  other 10.77.1.2 ──── 10.77.1.1 inside 10.77.2.1 ──── 10.77.2.2 outside
/// ```
#[derive(Debug)]
pub struct Namespaces {
    /// Where the coordinator runs: 10.77.1.1.
    pub inside: String,
    /// Where another worker runs: 10.77.1.2.
    pub other: String,
    /// A machine that is not in the cluster's network: 10.77.2.2.
    pub outside: String,
}

impl Namespaces {
    /// The network of the cluster.
    pub const NETWORK: &str = "10.77.1.0/24";

    /// Makes them. `None`, after saying so, where this is not allowed.
    ///
    /// # Errors
    /// When the system makes some of it and not the rest.
    pub fn new(test: &str) -> Result<Option<Self>> {
        let name = |what: &str| format!("corpusmill-{}-{what}", std::process::id());
        let this = Self {
            inside: name("inside"),
            other: name("other"),
            outside: name("outside"),
        };
        if let Err(error) = ip(&["netns", "add", &this.inside]) {
            not_run_here(test, &format!("no network namespaces: {error:#}"));
            return Ok(None);
        }
        let (inside, other, outside) = (&this.inside, &this.other, &this.outside);
        for namespace in [other, outside] {
            ip(&["netns", "add", namespace])?;
        }
        for (near, far, namespace) in [("cluster", "uplink", other), ("beyond", "uplink", outside)] {
            let pair = [
                "link", "add", near, "netns", inside, "type", "veth", "peer", "name", far, "netns", namespace,
            ];
            ip(&pair)?;
        }
        for (namespace, link, address) in [
            (inside, "cluster", "10.77.1.1/24"),
            (inside, "beyond", "10.77.2.1/24"),
            (other, "uplink", "10.77.1.2/24"),
            (outside, "uplink", "10.77.2.2/24"),
        ] {
            ip(&["-n", namespace, "address", "add", address, "dev", link])?;
            ip(&["-n", namespace, "link", "set", link, "up"])?;
        }
        for namespace in [inside, other, outside] {
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        }
        ip(&["-n", other, "route", "add", "10.77.2.0/24", "via", "10.77.1.1"])?;
        ip(&["-n", outside, "route", "add", "10.77.1.0/24", "via", "10.77.2.1"])?;
        ip(&[
            "netns",
            "exec",
            inside,
            "sh",
            "-c",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
        ])?;
        Ok(Some(this))
    }

    /// Cuts `other` off from everything, or connects it again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn connect_other(&self, connected: bool) -> Result<()> {
        ip(&[
            "-n",
            &self.other,
            "link",
            "set",
            "uplink",
            if connected { "up" } else { "down" },
        ])?;
        if connected {
            // The route went with the link.
            ip(&[
                "-n",
                &self.other,
                "route",
                "replace",
                "10.77.2.0/24",
                "via",
                "10.77.1.1",
            ])?;
        }
        Ok(())
    }

    /// Ports that something listens on at `address` in a namespace.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn listening(&self, namespace: &str, address: &str) -> Result<Vec<u16>> {
        let table = ip(&["netns", "exec", namespace, "cat", "/proc/net/tcp"])?;
        let octets: Vec<u8> = address.split('.').filter_map(|part| part.parse().ok()).collect();
        let wanted = octets
            .iter()
            .rev()
            .map(|octet| format!("{octet:02X}"))
            .collect::<String>();
        let mut ports = Vec::new();
        for line in table.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (local, state) = (fields.get(1).context("no address")?, fields.get(3).context("no state")?);
            let (host, port) = local.split_once(':').context("no port")?;
            if *state == "0A" && (host == wanted || host == "00000000") {
                ports.push(u16::from_str_radix(port, 16)?);
            }
        }
        Ok(ports)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in [&self.inside, &self.other, &self.outside] {
            // Some may not have been made.
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("there is no `ip`")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
