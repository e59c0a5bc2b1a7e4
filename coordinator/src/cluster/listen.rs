//! Where a coordinator or a worker may listen.

use std::net::IpAddr;

use crate::error::{CoordinatorError, Result};

/// Refuses an address that other machines can reach: nothing on these ports is encrypted or asks who calls.
///
/// # Errors
/// [`CoordinatorError::Invalid`], with the reason and what to do instead.
pub fn loopback_only(what: &str, address: IpAddr) -> Result<()> {
    if address.is_loopback() {
        return Ok(());
    }
    Err(CoordinatorError::Invalid(format!(
        "{what} may not listen on {address}: beyond loopback a caller has to show a certificate and a token, which this \
         version cannot ask for yet, and whoever reaches the port could run code here; listen on 127.0.0.1, and reach it \
         from another machine through a tunnel (ssh -L)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_may_call() {
        for address in ["127.0.0.1", "127.8.8.8", "::1"] {
            loopback_only("the coordinator", address.parse().unwrap()).unwrap();
        }
        for address in ["0.0.0.0", "10.0.0.1", "::", "192.0.2.7"] {
            let error = loopback_only("the coordinator", address.parse().unwrap())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(address) && error.contains("127.0.0.1") && error.contains("certificate"),
                "{error}"
            );
        }
    }
}
