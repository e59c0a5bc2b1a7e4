//! Names the machine, so that both sides can tell whether they share memory.

use std::fs;

use corpusmill_access::random;

/// Names the running kernel and the network namespace: two processes with equal names can exchange file
/// descriptors over an abstract Unix socket. Falls back to a name that equals no other where `/proc` is not there.
#[must_use]
pub fn identity() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let network = fs::read_link("/proc/self/ns/net");
    match (boot, network) {
        (Ok(boot), Ok(network)) => format!("{} {}", boot.trim(), network.display()),
        // a name of its own: no shared memory then, the other transports work
        _ => random::<16>().map_or_else(|_| "unknown".to_owned(), |bytes| format!("unknown {bytes:02x?}")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_same_process_has_one_identity_with_a_boot_id_and_a_namespace() {
        let identity = super::identity();
        assert_eq!(identity, super::identity());
        assert!(identity.contains("net:["), "{identity}");
    }
}
