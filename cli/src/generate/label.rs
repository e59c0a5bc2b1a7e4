//! What moderators decide about a post, under which policy.

/// A decision under the policy in force at the end of the period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub(crate) enum Label {
    Ok = 0,
    Spam,
    Scam,
    Harassment,
    Hate,
}

/// The policy in force in the first part of the period. It has no `scam` (that was `spam`) and calls harassment `abuse`.
pub(crate) const OLD_POLICY: &str = "2026.1";
/// The policy in force afterwards; its names are those of [`Label::name`].
pub(crate) const NEW_POLICY: &str = "2026.2";

impl Label {
    pub(crate) const COUNT: usize = 5;
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Ok, Self::Spam, Self::Scam, Self::Harassment, Self::Hate];
    /// How often an ordinary author writes a post of each label, per mille, in the order of [`Label::ALL`].
    pub(crate) const SHARES: [u64; Self::COUNT] = [800, 75, 30, 60, 35];

    /// The label's name under [`NEW_POLICY`].
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Spam => "spam",
            Self::Scam => "scam",
            Self::Harassment => "harassment",
            Self::Hate => "hate",
        }
    }

    /// The label's name under a policy.
    pub(crate) fn name_under(self, policy: &str) -> &'static str {
        match self {
            Self::Scam if policy == OLD_POLICY => "spam",
            Self::Harassment if policy == OLD_POLICY => "abuse",
            _ => self.name(),
        }
    }

    /// The label of a name under [`NEW_POLICY`].
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|l| l.name() == name)
    }

    /// What a moderator who errs most likely says instead.
    pub(crate) fn mistaken_for(self) -> [Self; 3] {
        match self {
            Self::Ok => [Self::Harassment, Self::Spam, Self::Hate],
            Self::Spam => [Self::Ok, Self::Scam, Self::Scam],
            Self::Scam => [Self::Spam, Self::Spam, Self::Ok],
            Self::Harassment => [Self::Ok, Self::Hate, Self::Ok],
            Self::Hate => [Self::Harassment, Self::Harassment, Self::Ok],
        }
    }
}
