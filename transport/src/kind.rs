//! The transports by name, and the choice between them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Checksum;

/// A way for bodies to reach the trainer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A sealed memfd that both processes map; same host only; no copy.
    Shm,
    /// RDMA READ over a reliable connection (InfiniBand or RoCE).
    Rdma,
    /// The crate's own framing over TCP.
    Tcp,
}

impl Kind {
    /// All transports, in the order in which `auto` prefers them.
    pub const ALL: [Self; 3] = [Self::Shm, Self::Rdma, Self::Tcp];

    /// The name used on command lines and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Rdma => "rdma",
            Self::Tcp => "tcp",
        }
    }

    /// The checksum a session has unless its server asks for another: whole bodies where they cross a wire, samples
    /// where hashing would cost as much as the copy that is saved.
    #[must_use]
    pub fn default_checksum(self) -> Checksum {
        match self {
            Self::Shm => Checksum::Sampled,
            Self::Rdma | Self::Tcp => Checksum::Full,
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Shm => 1,
            Self::Rdma => 2,
            Self::Tcp => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a trainer asks for: the best that works, or one by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Shared memory on the same host, then RDMA where both sides have a device, then TCP.
    #[default]
    Auto,
    /// This one or an error.
    Only(Kind),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == "auto" {
            return Ok(Self::Auto);
        }
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .map(Self::Only)
            .ok_or_else(|| format!("no transport is called {name:?}; there are auto, shm, rdma, tcp"))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(kind) => kind.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_round_trip() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse::<Choice>(), Ok(Choice::Only(kind)));
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
        }
        assert_eq!("auto".parse::<Choice>(), Ok(Choice::Auto));
        assert!("ucx".parse::<Choice>().unwrap_err().contains("auto, shm, rdma, tcp"));
        assert_eq!(Kind::from_code(0), None);
    }
}
