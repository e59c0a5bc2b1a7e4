//! Where a job stands: a few numbers, the same on every rank.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::{PlanSpec, check_format};

/// How many changes of weights at a step a state carries; with more, a resumed plan counts its groups again.
pub(crate) const CHANGES_MAX: usize = 8;

/// The state of a job between two steps: below 300 bytes of JSON, the same on every rank and world size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`State::FORMAT`].
    pub format: u32,
    /// The hash of the plan.
    pub plan: String,
    /// Six hexadecimal digits for each part of the plan, to say what differs.
    pub parts: String,
    /// The next step to deliver.
    pub step: u64,
    /// The group of that step's first pack.
    pub group: u64,
    /// The place of that pack in its group.
    pub pack: u32,
    /// Entries of the plan's log that this step may depend on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log: u64,
    /// The first groups under the changes of weights at a step that lie behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl State {
    /// The format that this release reads and writes.
    pub const FORMAT: u32 = 1;

    /// Writes the state as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a state has string keys and no foreign types")
    }

    /// Reads what [`State::to_json`] wrote.
    ///
    /// # Errors
    /// [`Error::Json`] if the text is no state; [`Error::Format`] if a newer release wrote it.
    pub fn from_json(text: &str) -> Result<Self> {
        let state: Self = serde_json::from_str(text).map_err(|source| Error::Json {
            what: "a loader state",
            source,
        })?;
        check_format("a loader state", state.format, Self::FORMAT)?;
        Ok(state)
    }

    /// Checks that the state was saved under `spec`.
    pub(crate) fn check(&self, spec: &PlanSpec, hash: &str) -> Result<()> {
        check_format("a loader state", self.format, Self::FORMAT)?;
        if self.plan == hash {
            return Ok(());
        }
        let theirs = self.parts.as_bytes().chunks(6).map(Some).chain(std::iter::repeat(None));
        let differ: Vec<&str> = spec
            .parts()
            .iter()
            .zip(theirs)
            .filter(|((_, ours), theirs)| *theirs != Some(digits(*ours).as_bytes()))
            .map(|((name, _), _)| *name)
            .collect();
        let parts = if differ.is_empty() {
            "the format".to_owned()
        } else {
            differ.join(", ")
        };
        Err(Error::OtherPlan {
            found: self.plan.clone(),
            expected: hash.to_owned(),
            parts,
        })
    }
}

/// The parts of a specification, as a state carries them.
pub(crate) fn parts(spec: &PlanSpec) -> String {
    spec.parts().iter().map(|(_, hash)| digits(*hash)).collect()
}

fn digits(hash: u32) -> String {
    format!("{:06x}", hash & 0xFF_FFFF)
}
