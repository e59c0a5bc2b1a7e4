//! Which transport a session takes: the trainer says what it can use, the worker picks and says why.

use crate::{Choice, Error, Kind, Result, transport};

/// What a trainer offers to use, best first, and what it cannot use and why (for its log).
pub(crate) fn wanted(choice: Choice, same_host: bool, device_memory: bool, except: &[Kind]) -> Result<Wanted> {
    let candidates = match choice {
        Choice::Only(kind) => vec![kind],
        Choice::Auto => Kind::ALL.to_vec(),
    };
    let mut wanted = Wanted {
        kinds: Vec::new(),
        skipped: Vec::new(),
    };
    for kind in candidates {
        let reason = match kind {
            _ if except.contains(&kind) => Some("it did not work just now".to_owned()),
            Kind::Shm if !same_host => Some("the worker is on another host or in another network namespace".to_owned()),
            Kind::Shm | Kind::Tcp if device_memory => Some("bodies go to device memory".to_owned()),
            _ => transport::of(kind).probe().err().map(|error| reason_of(&error)),
        };
        match (reason, choice) {
            (None, _) => wanted.kinds.push(kind),
            (Some(reason), Choice::Only(_)) => return Err(Error::Unavailable { kind, reason }),
            (Some(reason), Choice::Auto) => wanted.skipped.push((kind, reason)),
        }
    }
    if wanted.kinds.is_empty() {
        let reason = wanted.why();
        return Err(Error::Unavailable {
            kind: Kind::Tcp,
            reason: format!("auto found no transport ({reason})"),
        });
    }
    Ok(wanted)
}

/// A trainer's list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) skipped: Vec<(Kind, String)>,
}

impl Wanted {
    /// The skipped ones in words.
    pub(crate) fn why(&self) -> String {
        skipped_in_words(&self.skipped)
    }
}

/// Puts reasons in words: `rdma: no device; shm: …`.
pub(crate) fn skipped_in_words(skipped: &[(Kind, String)]) -> String {
    skipped
        .iter()
        .map(|(kind, reason)| format!("{kind}: {reason}"))
        .collect::<Vec<_>>()
        .join("; ")
}

/// The reason inside an `Unavailable`, without its frame.
pub(crate) fn reason_of(error: &Error) -> String {
    match error {
        Error::Unavailable { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_prefers_shared_memory_on_one_host_and_keeps_tcp() {
        let near = wanted(Choice::Auto, true, false, &[]).unwrap();
        assert_eq!(
            (near.kinds.first(), near.kinds.last()),
            (Some(&Kind::Shm), Some(&Kind::Tcp))
        );
        let far = wanted(Choice::Auto, false, false, &[]).unwrap();
        assert!(!far.kinds.contains(&Kind::Shm) && far.kinds.contains(&Kind::Tcp));
        assert!(far.why().contains("shm: the worker is on another host"));
        let failed = wanted(Choice::Auto, true, false, &[Kind::Shm]).unwrap();
        assert!(!failed.kinds.contains(&Kind::Shm));
    }

    #[test]
    fn a_forced_transport_is_that_one_or_an_error() {
        assert_eq!(
            wanted(Choice::Only(Kind::Tcp), true, false, &[]).unwrap().kinds,
            [Kind::Tcp]
        );
        let error = wanted(Choice::Only(Kind::Shm), false, false, &[]).unwrap_err();
        assert!(matches!(error, Error::Unavailable { kind: Kind::Shm, .. }), "{error}");
        let error = wanted(Choice::Only(Kind::Tcp), true, true, &[]).unwrap_err();
        assert!(error.to_string().contains("device memory"));
    }
}
