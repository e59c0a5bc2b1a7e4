//! The coordinators of a cluster, of which one leads, and which of them to ask next.

use std::sync::Arc;

use corpusmill_access::Credentials;
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::caller::Caller;

/// The metadata of a refusal that carries the address of the coordinator that leads.
pub const LEADER_KEY: &str = "corpusmill-leader";

/// The refusal of a coordinator that does not lead; `leader` is the address of the one that does.
#[must_use]
pub fn not_leading(leader: Option<&str>) -> Status {
    let Some(leader) = leader else {
        return Status::unavailable("this coordinator does not lead, and nobody does at the moment");
    };
    let mut status = Status::unavailable(format!("this coordinator does not lead: ask {leader}"));
    if let Ok(value) = MetadataValue::try_from(leader) {
        status.metadata_mut().insert(LEADER_KEY, value);
    }
    status
}

/// The coordinators that a caller knows, and the one that it asks now.
#[derive(Debug, Clone)]
pub struct Coordinators {
    known: Vec<Caller>,
    at: usize,
    /// One that another named, and the list lacks.
    named: Option<Caller>,
    credentials: Option<Arc<Credentials>>,
}

impl Coordinators {
    /// Reads a list of addresses with commas between them; the first is asked first, and its scheme is that of others
    /// that have none. They are called as [`Caller`] calls.
    ///
    /// # Errors
    /// Why one is no address.
    pub fn new(list: &str, credentials: Option<&Arc<Credentials>>) -> Result<Self, String> {
        let mut urls = list.split(',').map(str::trim).filter(|url| !url.is_empty());
        // An empty list is told as the address that it is not.
        let first = urls.next().unwrap_or(list);
        let scheme = first.split_once("://").map_or("http", |(scheme, _)| scheme);
        let mut known = vec![Caller::new(first, credentials)?];
        for url in urls {
            let whole = match url.contains("://") {
                true => url.to_owned(),
                false => format!("{scheme}://{url}"),
            };
            known.push(Caller::new(&whole, credentials).map_err(|reason| format!("{url}: {reason}"))?);
        }
        Ok(Self {
            known,
            at: 0,
            named: None,
            credentials: credentials.cloned(),
        })
    }

    /// All coordinators of the list.
    #[must_use]
    pub fn all(&self) -> &[Caller] {
        &self.known
    }

    /// The coordinator to ask now.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        self.named.as_ref().unwrap_or(&self.known[self.at])
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        self.caller().url()
    }

    /// Goes on to the next one: this one does not answer.
    pub fn turn(&mut self) {
        if self.named.take().is_none() {
            self.at = (self.at + 1) % self.known.len();
        }
    }

    /// Goes on to the one at `url`; to the next when that is no address.
    pub fn turn_to(&mut self, url: &str) {
        match self.known.iter().position(|known| place(known.url()) == place(url)) {
            Some(at) => (self.at, self.named) = (at, None),
            None => match Caller::new(url, self.credentials.as_ref()) {
                Ok(caller) => self.named = Some(caller),
                Err(_) => self.turn(),
            },
        }
    }

    /// Goes on after a refusal: to the coordinator that it names, and then says so, or to the next one.
    pub fn turn_after(&mut self, refusal: &Status) -> bool {
        let leader = refusal.metadata().get(LEADER_KEY).and_then(|value| value.to_str().ok());
        match leader {
            Some(leader) if place(leader) != place(self.url()) => {
                self.turn_to(leader);
                true
            }
            _ => {
                self.turn();
                false
            }
        }
    }
}

/// Host and port of a URL: who has credentials calls another scheme than the coordinator names.
fn place(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, place)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_named_is_asked_and_then_the_next() {
        let mut asked = Coordinators::new("http://a:1, http://b:2,c:3,", None).unwrap();
        assert_eq!((asked.all().len(), asked.url()), (3, "http://a:1"));
        asked.turn();
        assert_eq!(asked.url(), "http://b:2");
        assert!(asked.turn_after(&not_leading(Some("http://a:1"))));
        assert_eq!(asked.url(), "http://a:1");
        assert!(asked.turn_after(&not_leading(Some("http://else:9"))));
        assert_eq!(asked.url(), "http://else:9");
        asked.turn();
        assert_eq!(asked.url(), "http://a:1", "back to the list");
        assert!(!asked.turn_after(&not_leading(None)));
        assert_eq!(asked.url(), "http://b:2");
        assert!(!asked.turn_after(&not_leading(Some("http://b:2"))), "it names itself");
        assert_eq!(
            Coordinators::new("corpusmill://a:1,b:2", None).unwrap().all()[1].url(),
            "http://b:2"
        );
        for wrong in ["", "a:1", "http://a:1,b"] {
            Coordinators::new(wrong, None).unwrap_err();
        }
    }
}
