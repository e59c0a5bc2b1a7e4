//! Networks of a cluster.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;

use crate::credentials::Credentials;
use crate::error::{AccessError, Result};
use crate::front::Front;

/// Networks that are nobody's on the internet: private (RFC 1918), shared (RFC 6598), link-local (RFC 3927), of
/// benchmarks (RFC 2544), and this machine.
const PRIVATE: [(Ipv4Addr, u8); 7] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
];

/// A private IPv4 network in CIDR notation (RFC 4632): `10.1.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: Ipv4Addr,
    bits: u8,
}

impl Network {
    /// Whether an address lies in it; one of IPv4 that is written as IPv6 is looked at as what it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => address.to_bits() & mask(self.bits) == self.first.to_bits(),
            IpAddr::V6(_) => false,
        }
    }

    /// This machine's address in the network.
    ///
    /// # Errors
    /// Network when the machine has none.
    fn own_address(&self) -> Result<IpAddr> {
        let wrong = |reason: String| self.wrong(reason);
        // No packet is sent: the system only says from which address it would send one.
        let asked = SocketAddr::from((Ipv4Addr::from_bits(self.first.to_bits() | u32::from(self.bits < 32)), 9));
        let own = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
            .and_then(|socket| socket.connect(asked).and_then(|()| socket.local_addr()))
            .map_err(|e| wrong(format!("this machine has no way into it: {e}")))?
            .ip();
        if !self.contains(own) {
            return Err(wrong(format!(
                "this machine has no address in it (it would go there from {own}); give the network of one of its \
                 interfaces, as `ip -4 address` shows them"
            )));
        }
        Ok(own)
    }

    fn wrong(&self, reason: String) -> AccessError {
        AccessError::Network {
            network: self.to_string(),
            reason,
        }
    }
}

fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

impl FromStr for Network {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |reason: &str| AccessError::Network {
            network: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (first, bits) = text.split_once('/').ok_or_else(|| wrong("there is no `/` in it"))?;
        let first: Ipv4Addr = first
            .parse()
            .map_err(|_| wrong("it does not begin with an IPv4 address"))?;
        let bits: u8 = bits
            .parse()
            .ok()
            .filter(|bits| *bits <= 32)
            .ok_or_else(|| wrong("it does not end in 0 to 32 bits"))?;
        if first.to_bits() & !mask(bits) != 0 {
            return Err(wrong("its address has bits set behind the network's"));
        }
        let private = |(of, least): &(Ipv4Addr, u8)| bits >= *least && first.to_bits() & mask(*least) == of.to_bits();
        if !PRIVATE.iter().any(private) {
            return Err(wrong(
                "machines of the internet are in it, and the ports behind it run code: give a private network",
            ));
        }
        Ok(Self { first, bits })
    }
}

/// The network in which the parts of a cluster reach each other's ports of Ballista, this machine's address there, and
/// what is shown.
#[derive(Debug, Clone)]
pub struct ClusterNetwork {
    network: Network,
    address: IpAddr,
    credentials: Arc<Credentials>,
}

impl ClusterNetwork {
    /// Takes `address`, or else the address that this machine has in the network.
    ///
    /// # Errors
    /// Network when that is none of the network's, Missing when the credentials are not those of a member.
    pub fn new(network: Network, address: Option<IpAddr>, credentials: Arc<Credentials>) -> Result<Self> {
        credentials.server()?;
        credentials.client()?;
        let address = match address {
            None => network.own_address()?,
            Some(address) if network.contains(address) => address,
            Some(address) => return Err(network.wrong(format!("{address} is not in it"))),
        };
        Ok(Self {
            network,
            address,
            credentials,
        })
    }

    /// This machine's address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> Network {
        self.network
    }

    /// What members show each other.
    #[must_use]
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// Stands before the port `port` of 127.0.0.1, at the same port of this machine's address.
    ///
    /// # Errors
    /// Port when the system does not give it.
    pub async fn front(&self, port: u16) -> Result<Front> {
        let (outside, inside) = (
            SocketAddr::new(self.address, port),
            SocketAddr::from(([127, 0, 0, 1], port)),
        );
        Front::open(outside, inside, self.network, self.credentials.clone()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        for inside in ["10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3"] {
            assert!(network.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.2.0.1", "127.0.0.1", "::1", "11.1.0.1"] {
            assert!(!network.contains(outside.parse().unwrap()), "{outside}");
        }
        let one: Network = "192.168.7.7/32".parse().unwrap();
        assert!(one.contains("192.168.7.7".parse().unwrap()) && !one.contains("192.168.7.6".parse().unwrap()));
        assert_eq!(one.to_string(), "192.168.7.7/32");
    }

    #[test]
    fn public_and_broken_networks_are_refused_with_an_example() {
        for (text, why) in [
            ("0.0.0.0/0", "internet"),
            ("8.8.8.0/24", "internet"),
            ("10.0.0.0/7", "internet"),
            ("8.0.0.0/6", "internet"),
            ("172.32.0.0/16", "internet"),
            ("10.1.2.3/16", "bits set"),
            ("10.0.0.0/33", "0 to 32"),
            ("10.0.0.0", "no `/`"),
            ("fd00::/8", "IPv4"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains("10.1.0.0/16") && error.contains(text),
                "{error}"
            );
        }
    }

    #[test]
    fn the_machine_finds_its_own_address() {
        let loopback: Network = "127.0.0.0/8".parse().unwrap();
        assert_eq!(loopback.own_address().unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
}
