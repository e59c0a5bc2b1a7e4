//! The one rule of where a process may listen.

use std::net::IpAddr;

use crate::credentials::Credentials;
use crate::error::{AccessError, Result};

/// Refuses an address that other machines can reach, unless callers there have to show a certificate and the token.
///
/// # Errors
/// Exposed, with the command that mends it; Missing when the credentials are those of a caller only.
pub fn may_listen(what: &'static str, address: IpAddr, credentials: Option<&Credentials>) -> Result<()> {
    match credentials {
        Some(credentials) => credentials.server().map(|_| ()),
        None if address.is_loopback() => Ok(()),
        None => Err(AccessError::Exposed { what, address }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_credentials_only_this_machine_may_call() {
        for address in ["127.0.0.1", "127.8.8.8", "::1"] {
            may_listen("the coordinator", address.parse().unwrap(), None).unwrap();
        }
        for address in ["0.0.0.0", "10.0.0.1", "::", "192.0.2.7"] {
            let error = may_listen("the coordinator", address.parse().unwrap(), None).unwrap_err();
            let error = error.to_string();
            let mended = format!("corpusmill certs init certs --name {address}");
            assert!(
                error.contains(&mended) && error.contains("--certs") && error.contains("127.0.0.1"),
                "{error}"
            );
        }
    }
}
