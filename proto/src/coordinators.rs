//! The coordinators of a cluster, of which one leads, and which of them to ask next.

use tonic::Status;
use tonic::metadata::MetadataValue;

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
    known: Vec<String>,
    at: usize,
    /// One that another named, and the list lacks.
    named: Option<String>,
}

impl Coordinators {
    /// Reads a list of addresses with commas between them; the first is asked first.
    #[must_use]
    pub fn new(list: &str) -> Self {
        let mut known: Vec<String> = list
            .split(',')
            .map(str::trim)
            .filter(|url| !url.is_empty())
            .map(str::to_owned)
            .collect();
        if known.is_empty() {
            // Told as the address that it is not.
            known.push(list.to_owned());
        }
        Self {
            known,
            at: 0,
            named: None,
        }
    }

    /// All addresses of the list.
    #[must_use]
    pub fn all(&self) -> &[String] {
        &self.known
    }

    /// The coordinator to ask now.
    #[must_use]
    pub fn url(&self) -> &str {
        self.named.as_deref().unwrap_or(&self.known[self.at])
    }

    /// Goes on to the next one: this one does not answer.
    pub fn turn(&mut self) {
        if self.named.take().is_none() {
            self.at = (self.at + 1) % self.known.len();
        }
    }

    /// Goes on to the one at `url`.
    pub fn turn_to(&mut self, url: &str) {
        match self.known.iter().position(|known| known == url) {
            Some(at) => (self.at, self.named) = (at, None),
            None => self.named = Some(url.to_owned()),
        }
    }

    /// Goes on after a refusal: to the coordinator that it names, and then says so, or to the next one.
    pub fn turn_after(&mut self, refusal: &Status) -> bool {
        let leader = refusal.metadata().get(LEADER_KEY).and_then(|value| value.to_str().ok());
        match leader {
            Some(leader) if leader != self.url() => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_named_is_asked_and_then_the_next() {
        let mut asked = Coordinators::new("http://a:1, http://b:2,http://c:3,");
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
        assert_eq!(Coordinators::new("").url(), "");
    }
}
