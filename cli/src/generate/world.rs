//! The pure functions from a row's number to the row: posts, their authors, and what was planted.

use anyhow::Result;

use super::body::{self, Body};
use super::edit::edit;
use super::label::{Label, NEW_POLICY, OLD_POLICY};
use super::lexicon::{Language, Lexicon};
use super::picture::Gallery;
use super::rng::{Domain, Rng};

/// 2026-01-01T00:00:00Z in microseconds since the epoch: the first moment of the period.
pub(crate) const START_US: i64 = 1_767_225_600_000_000;
/// The period that posts are spread over: 180 days, in microseconds.
pub(crate) const SPAN_US: u64 = 180 * DAY_US;
pub(crate) const DAY_US: u64 = 86_400_000_000;
/// A flood can start once in so many posts.
const FLOOD_WINDOW: u64 = 2_048;
/// Users in a circle.
const CIRCLE: u64 = 8;
/// How busy each hour of the day is (UTC), relative to the others.
const HOURS: [u64; 24] = [
    6, 5, 4, 4, 4, 5, 7, 9, 11, 12, 12, 12, 13, 13, 12, 12, 12, 13, 14, 15, 14, 12, 10, 8,
];

/// A data set that is not written yet: everything in it can be asked for by number.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    /// Number of posts.
    pub(crate) posts: u64,
    /// Number of users.
    pub(crate) users: u64,
    pub(crate) gallery: Gallery,
    pub(crate) lexicon: Lexicon,
    shares: Vec<u64>,
}

/// How a post came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Written by its author.
    Original,
    /// The text of an earlier original, unchanged.
    ExactCopy { of: u64 },
    /// The text of an earlier original, edited.
    NearCopy { of: u64 },
    /// One of many that bots send in a short time; `first` is the flood's first post.
    Flood { first: u64 },
}

impl Kind {
    /// The name that the ground truth uses.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::ExactCopy { .. } => "exact_copy",
            Self::NearCopy { .. } => "near_copy",
            Self::Flood { .. } => "flood",
        }
    }
}

/// One post, with the truth about it.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    pub(crate) user: u64,
    /// Microseconds since the epoch.
    pub(crate) created_us: i64,
    /// The language it is written in: an index into the lexicon.
    pub(crate) language: usize,
    /// What the client said the language is: missing or wrong now and then.
    pub(crate) claimed: Option<usize>,
    pub(crate) label: Label,
    pub(crate) body: Body,
    pub(crate) media: Option<String>,
    pub(crate) kind: Kind,
    /// Names of the edits that made a near copy, joined by `+`.
    pub(crate) edits: String,
}

impl World {
    /// Prepares a data set.
    ///
    /// # Errors
    /// When an embedded lexicon is malformed.
    pub(crate) fn new(seed: u64, posts: u64, images: u64) -> Result<Self> {
        let lexicon = Lexicon::load()?;
        let shares = lexicon.shares();
        Ok(Self {
            seed,
            posts,
            users: (posts / 8).max(40),
            gallery: Gallery::new(seed, images),
            lexicon,
            shares,
        })
    }

    pub(crate) fn rng(&self, domain: Domain, index: u64) -> Rng {
        Rng::new(self.seed, domain, index)
    }

    /// The identifier of the post with this number.
    pub(crate) fn post_id(index: u64) -> i64 {
        index as i64 + 1
    }

    /// The identifier of the user with this number.
    pub(crate) fn user_id(index: u64) -> i64 {
        index as i64 + 1
    }

    /// The language a user mostly writes in.
    pub(crate) fn home_language(&self, user: u64) -> usize {
        self.rng(Domain::User, user).weighted(&self.shares)
    }

    /// How much more often than others a user breaks the rules: 1 for most, 6 for one in twelve.
    pub(crate) fn trouble(&self, user: u64) -> u64 {
        let mut rng = self.rng(Domain::User, user ^ (1 << 40));
        if rng.chance(80) { 6 } else { 1 }
    }

    /// The moment of a post; it grows with the post's number and follows the hours of the day.
    fn created_us(&self, index: u64) -> i64 {
        let step = SPAN_US / self.posts.max(1);
        let even = (u128::from(SPAN_US) * u128::from(index) / u128::from(self.posts.max(1))) as u64;
        let even = even + self.rng(Domain::Time, index).below(step.max(1));
        let (day, within) = (even / DAY_US, even % DAY_US);
        let mut scaled = within * HOURS.iter().sum::<u64>();
        for (hour, weight) in HOURS.iter().enumerate() {
            if scaled < weight * DAY_US {
                let offset = hour as u64 * (DAY_US / 24) + scaled / weight / 24;
                return START_US + (day * DAY_US + offset) as i64;
            }
            scaled -= weight * DAY_US;
        }
        START_US + ((day + 1) * DAY_US - 1) as i64
    }

    /// The policy in force at a moment: it changes at three fifths of the period.
    pub(crate) fn policy_at(us: i64) -> &'static str {
        if us < START_US + (SPAN_US / 5 * 3) as i64 {
            OLD_POLICY
        } else {
            NEW_POLICY
        }
    }

    /// The flood that a post falls into: the number of its first post, where there is one.
    fn flood(&self, index: u64) -> Option<u64> {
        let window = index / FLOOD_WINDOW;
        let mut rng = self.rng(Domain::Flood, window);
        if !rng.chance(400) {
            return None;
        }
        let length = 48 + rng.below(200);
        let first = window * FLOOD_WINDOW + 1 + rng.below(FLOOD_WINDOW - length - 1);
        let inside = (first..first + length).contains(&index);
        let member = index == first || self.rng(Domain::Kind, index ^ (1 << 40)).chance(600);
        (inside && member).then_some(first)
    }

    /// How the post with this number came to be.
    pub(crate) fn kind(&self, index: u64) -> Kind {
        if let Some(first) = self.flood(index) {
            return Kind::Flood { first };
        }
        let mut rng = self.rng(Domain::Kind, index);
        let roll = rng.below(1000);
        if index == 0 || roll >= 80 {
            return Kind::Original;
        }
        let mut of = index - 1 - rng.skewed(index);
        // Walk back to something that is no copy itself, so that every cluster has one root. The first post is one.
        while of > 0 && (self.flood(of).is_some() || self.rng(Domain::Kind, of).below(1000) < 80) {
            of -= 1;
        }
        if roll < 30 {
            Kind::ExactCopy { of }
        } else {
            Kind::NearCopy { of }
        }
    }

    /// The author of a post; some write far more than others.
    fn author(&self, index: u64) -> u64 {
        let mut rng = self.rng(Domain::Author, index);
        if rng.chance(300) {
            rng.skewed(self.users)
        } else {
            rng.below(self.users)
        }
    }

    /// Somebody of the same circle. People copy within circles, so duplicates do not link all users to each other,
    /// and a split that keeps users and duplicates together has more than one group to divide.
    fn friend(&self, user: u64, rng: &mut Rng) -> u64 {
        (user / CIRCLE * CIRCLE + rng.below(CIRCLE)).min(self.users - 1)
    }

    /// An original post: language, label and text.
    fn original(&self, index: u64) -> (usize, Label, Body) {
        let user = self.author(index);
        let mut rng = self.rng(Domain::Body, index);
        let language = if rng.chance(850) {
            self.home_language(user)
        } else {
            rng.weighted(&self.shares)
        };
        let trouble = self.trouble(user);
        let mut shares = Label::SHARES;
        shares.iter_mut().skip(1).for_each(|s| *s *= trouble);
        let label = Label::ALL[rng.weighted(&shares)];
        (language, label, self.write(language, label, &mut rng))
    }

    /// A text of a label in a language.
    pub(crate) fn write(&self, language: usize, label: Label, rng: &mut Rng) -> Body {
        let mixed = rng.weighted(&self.shares);
        body::write(self.language(language), self.language(mixed), label, rng)
    }

    pub(crate) fn language(&self, index: usize) -> &Language {
        &self.lexicon.languages[index]
    }

    /// The post with this number.
    pub(crate) fn post(&self, index: u64) -> Post {
        let kind = self.kind(index);
        let mut user = self.author(index);
        let mut edits = String::new();
        let (language, label, body) = match kind {
            Kind::Original => self.original(index),
            Kind::ExactCopy { of } | Kind::NearCopy { of } => {
                let mut rng = self.rng(Domain::Edit, index);
                user = self.author(of);
                if rng.chance(700) {
                    user = self.friend(user, &mut rng);
                }
                let (language, label, mut body) = self.original(of);
                if let Kind::NearCopy { .. } = kind {
                    (body.text, edits) = edit(&body.text, &mut rng);
                    // An edit may have cut through a number or an address: then it is no longer there.
                    body.pii.retain(|(_, value)| body.text.contains(value.as_str()));
                }
                (language, label, body)
            }
            Kind::Flood { first } => {
                let (bot, language, label, body, how) = self.flooding(index, first);
                user = bot;
                edits = how;
                (language, label, body)
            }
        };
        let mut rng = self.rng(Domain::Media, index);
        let claimed = match rng.below(1000) {
            0..80 => None,
            80..110 => Some(rng.weighted(&self.shares)),
            _ => Some(language),
        };
        let media = if rng.chance(250) {
            self.gallery.any(&mut rng)
        } else {
            None
        };
        let created_us = self.created_us(index);
        Post {
            user,
            created_us,
            language,
            claimed,
            label,
            body,
            media,
            kind,
            edits,
        }
    }

    /// A post of a flood: the first one's text with a fresh tail, sent by one circle of bots.
    fn flooding(&self, index: u64, first: u64) -> (u64, usize, Label, Body, String) {
        let mut base = self.rng(Domain::Flood, first ^ (1 << 40));
        let language = base.weighted(&self.shares);
        let label = if base.chance(700) { Label::Spam } else { Label::Scam };
        let mut body = self.write(language, label, &mut base);
        let bots = base.below(self.users);
        let mut rng = self.rng(Domain::Edit, index);
        let bot = self.friend(bots, &mut rng);
        let mut how = String::new();
        if index != first {
            body.text.push_str(" [");
            body::token(&mut rng, 5, &mut body.text);
            body.text.push(']');
            how.push_str("tail");
        }
        (bot, language, label, body, how)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_repeat_an_earlier_original() {
        let world = World::new(1, 20_000, 0).unwrap();
        let (mut exact, mut near, mut flood) = (0, 0, 0);
        for i in 0..20_000 {
            match world.kind(i) {
                Kind::Original => {}
                Kind::ExactCopy { of } => {
                    exact += 1;
                    assert!(of < i && world.kind(of) == Kind::Original, "{i} copies {of}");
                    if exact < 50 {
                        assert_eq!(world.post(of).body, world.post(i).body);
                        assert_eq!(world.post(of).label, world.post(i).label);
                    }
                }
                Kind::NearCopy { of } => {
                    near += 1;
                    assert!(of < i && world.kind(of) == Kind::Original, "{i} copies {of}");
                    if near < 50 {
                        assert_ne!(world.post(of).body.text, world.post(i).body.text);
                    }
                }
                Kind::Flood { first } => {
                    flood += 1;
                    assert!(first <= i && world.kind(first) == Kind::Flood { first });
                }
            }
        }
        assert!((400..800).contains(&exact), "{exact}");
        assert!((700..1300).contains(&near), "{near}");
        assert!(flood > 100, "{flood}");
    }

    #[test]
    fn time_only_moves_forward_and_stays_in_the_period() {
        let world = World::new(9, 5_000, 0).unwrap();
        let mut last = START_US;
        for i in 0..5_000 {
            let at = world.created_us(i);
            assert!(
                at >= last && at < START_US + SPAN_US as i64,
                "post {i} at {at} after {last}"
            );
            last = at;
        }
    }

    #[test]
    fn labels_and_languages_are_skewed_but_all_there() {
        let world = World::new(2, 4_000, 0).unwrap();
        let (mut labels, mut languages) = ([0u32; Label::COUNT], vec![0u32; world.lexicon.languages.len()]);
        for i in 0..4_000 {
            let post = world.post(i);
            labels[post.label as usize] += 1;
            languages[post.language] += 1;
        }
        assert!(labels.iter().all(|n| *n > 80), "{labels:?}");
        assert!(labels[0] > 2_000 && labels[0] < 3_400, "{labels:?}");
        assert!(languages.iter().all(|n| *n > 5), "{languages:?}");
        assert!(languages[0] > 1_000, "{languages:?}");
    }
}
