//! The tables that follow from posts, a chunk of rows at a time: posts, votes, appeals, golden labels, and the truth.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, Date32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};

use super::label::{Label, NEW_POLICY};
use super::rng::{Domain, Rng};
use super::world::{DAY_US, Kind, Post, World};

const MINUTE_US: u64 = 60_000_000;

/// The rows that belong to a range of posts, by table, with the table's name.
pub(crate) type Tables = Vec<(&'static str, RecordBatch)>;

/// Builds a batch from named columns; the schema follows from the arrays. A name that ends in `?` is nullable.
pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| {
            Field::new(
                name.trim_end_matches('?'),
                array.data_type().clone(),
                name.ends_with('?'),
            )
        })
        .collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

pub(crate) fn moments(us: Vec<i64>) -> ArrayRef {
    // With a zone, because Delta's plain `timestamp` is UTC and one without a zone is a table feature of its own.
    Arc::new(TimestampMicrosecondArray::from(us).with_timezone("UTC"))
}

pub(crate) fn ids(values: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(values))
}

pub(crate) fn texts<S: AsRef<str>>(values: Vec<S>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Makes the rows of the posts in `range`.
///
/// # Errors
/// When Arrow refuses a batch, which would be a mistake here.
pub(crate) fn of_posts(world: &World, range: std::ops::Range<u64>) -> Result<Tables> {
    let posts: Vec<(u64, Post)> = range.map(|i| (i, world.post(i))).collect();
    let votes: Vec<Vote> = posts.iter().flat_map(|(i, post)| votes(world, *i, post)).collect();
    Ok(vec![
        ("posts", posts_table(world, &posts)?),
        ("votes", votes_table(&votes)?),
        ("appeals", appeals_table(world, &posts, &votes)?),
        ("golden", golden_table(world, &posts)?),
        ("truth/posts", truth_table(world, &posts)?),
        ("truth/pii", pii_table(&posts)?),
    ])
}

fn posts_table(world: &World, posts: &[(u64, Post)]) -> Result<RecordBatch> {
    let code = |l: usize| world.language(l).code;
    batch(vec![
        ("post_id", ids(posts.iter().map(|(i, _)| World::post_id(*i)).collect())),
        (
            "user_id",
            ids(posts.iter().map(|(_, p)| World::user_id(p.user)).collect()),
        ),
        ("created_at", moments(posts.iter().map(|(_, p)| p.created_us).collect())),
        ("dt", days(posts)),
        (
            "lang?",
            Arc::new(posts.iter().map(|(_, p)| p.claimed.map(code)).collect::<StringArray>()),
        ),
        ("body", texts(posts.iter().map(|(_, p)| p.body.text.as_str()).collect())),
        (
            "media?",
            Arc::new(posts.iter().map(|(_, p)| p.media.as_deref()).collect::<StringArray>()),
        ),
    ])
}

fn days(posts: &[(u64, Post)]) -> ArrayRef {
    Arc::new(Date32Array::from_iter_values(
        posts.iter().map(|(_, p)| (p.created_us / DAY_US as i64) as i32),
    ))
}

/// What really holds for a post, for tests of labels, languages and duplicates.
fn truth_table(world: &World, posts: &[(u64, Post)]) -> Result<RecordBatch> {
    let origin = |kind: Kind| match kind {
        Kind::Original => None,
        Kind::ExactCopy { of } | Kind::NearCopy { of } => Some(World::post_id(of)),
        Kind::Flood { first } => Some(World::post_id(first)),
    };
    batch(vec![
        ("post_id", ids(posts.iter().map(|(i, _)| World::post_id(*i)).collect())),
        ("label", texts(posts.iter().map(|(_, p)| p.label.name()).collect())),
        (
            "lang",
            texts(posts.iter().map(|(_, p)| world.language(p.language).code).collect()),
        ),
        ("kind", texts(posts.iter().map(|(_, p)| p.kind.name()).collect())),
        (
            "duplicate_of?",
            Arc::new(posts.iter().map(|(_, p)| origin(p.kind)).collect::<Int64Array>()),
        ),
        ("edits", texts(posts.iter().map(|(_, p)| p.edits.as_str()).collect())),
    ])
}

fn pii_table(posts: &[(u64, Post)]) -> Result<RecordBatch> {
    let rows: Vec<_> = posts
        .iter()
        .flat_map(|(i, p)| p.body.pii.iter().map(|(k, v)| (*i, *k, v.as_str())))
        .collect();
    batch(vec![
        ("post_id", ids(rows.iter().map(|(i, ..)| World::post_id(*i)).collect())),
        ("kind", texts(rows.iter().map(|(_, kind, _)| *kind).collect())),
        ("value", texts(rows.iter().map(|(.., value)| *value).collect())),
    ])
}

/// One moderator's decision about one post.
struct Vote {
    post: u64,
    moderator: u64,
    decision: Label,
    at_us: i64,
}

/// Number of moderators.
pub(crate) fn moderators(world: &World) -> u64 {
    (12 + world.users / 500).min(200)
}

/// How often a moderator is right about a clear case, per mille: most around 900, a few no better than a coin.
fn skill(world: &World, moderator: u64) -> u64 {
    let mut rng = world.rng(Domain::Moderator, moderator);
    if rng.chance(60) { 450 } else { 990 - rng.skewed(240) }
}

/// The votes on a post. One post in four was never looked at; most others by three moderators.
fn votes(world: &World, index: u64, post: &Post) -> Vec<Vote> {
    const PANELS: [u64; 6] = [0, 1, 2, 3, 5, 7];
    let mut rng = world.rng(Domain::Vote, index);
    let panel = PANELS[rng.weighted(&[250, 50, 80, 500, 100, 20])];
    let count = moderators(world);
    let first = rng.below(count);
    // A hard case makes everybody err more often; that is where disagreement comes from.
    let hard = rng.chance(100);
    (0..panel)
        .map(|k| {
            let moderator = (first + k) % count;
            let right = skill(world, moderator).saturating_sub(if hard { 350 } else { 0 });
            let decision = if rng.chance(right) {
                post.label
            } else {
                rng.pick(&post.label.mistaken_for())
            };
            let delay = 2 + rng.skewed(5 * 24 * 60);
            Vote {
                post: index,
                moderator,
                decision,
                at_us: post.created_us + (delay * MINUTE_US) as i64,
            }
        })
        .collect()
}

fn votes_table(votes: &[Vote]) -> Result<RecordBatch> {
    let mut vote_ids = Vec::with_capacity(votes.len());
    for (at, vote) in votes.iter().enumerate() {
        let same = votes[..at].iter().rev().take_while(|v| v.post == vote.post).count() as i64;
        vote_ids.push(World::post_id(vote.post) * 8 + same);
    }
    batch(vec![
        ("vote_id", ids(vote_ids)),
        ("post_id", ids(votes.iter().map(|v| World::post_id(v.post)).collect())),
        (
            "moderator_id",
            ids(votes.iter().map(|v| v.moderator as i64 + 1).collect()),
        ),
        (
            "decision",
            texts(
                votes
                    .iter()
                    .map(|v| v.decision.name_under(World::policy_at(v.at_us)))
                    .collect(),
            ),
        ),
        (
            "policy_version",
            texts(votes.iter().map(|v| World::policy_at(v.at_us)).collect()),
        ),
        ("voted_at", moments(votes.iter().map(|v| v.at_us).collect())),
    ])
}

/// Authors appeal some decisions against them; a senior moderator then decides, and is nearly always right.
fn appeals_table(world: &World, posts: &[(u64, Post)], votes: &[Vote]) -> Result<RecordBatch> {
    let mut rows = Vec::new();
    let mut rest = votes;
    for (index, post) in posts {
        let here = rest.iter().take_while(|v| v.post == *index).count();
        let (panel, later) = rest.split_at(here);
        rest = later;
        let against = panel.iter().filter(|v| v.decision != Label::Ok).count();
        let mut rng = world.rng(Domain::Appeal, *index);
        let angry = if post.label == Label::Ok { 300 } else { 40 };
        let Some(last) = panel.iter().map(|v| v.at_us).max() else {
            continue;
        };
        if against * 2 > panel.len() && rng.chance(angry) {
            let filed = last + ((10 + rng.skewed(2_000)) * MINUTE_US) as i64;
            let decided = filed + ((30 + rng.skewed(10_000)) * MINUTE_US) as i64;
            let decision = if rng.chance(970) {
                post.label
            } else {
                rng.pick(&post.label.mistaken_for())
            };
            rows.push((*index, post.user, filed, decided, decision));
        }
    }
    let outcome = |decision: Label| if decision == Label::Ok { "overturned" } else { "upheld" };
    batch(vec![
        ("appeal_id", ids(rows.iter().map(|r| World::post_id(r.0)).collect())),
        ("post_id", ids(rows.iter().map(|r| World::post_id(r.0)).collect())),
        ("user_id", ids(rows.iter().map(|r| World::user_id(r.1)).collect())),
        ("filed_at", moments(rows.iter().map(|r| r.2).collect())),
        ("decided_at", moments(rows.iter().map(|r| r.3).collect())),
        ("outcome", texts(rows.iter().map(|r| outcome(r.4)).collect())),
        (
            "decision",
            texts(rows.iter().map(|r| r.4.name_under(World::policy_at(r.3))).collect()),
        ),
        (
            "policy_version",
            texts(rows.iter().map(|r| World::policy_at(r.3)).collect()),
        ),
    ])
}

/// One post in a hundred has a label that experts agreed on, under the newest policy.
fn golden_table(world: &World, posts: &[(u64, Post)]) -> Result<RecordBatch> {
    let chosen = |i: u64| -> bool {
        let mut rng: Rng = world.rng(Domain::Golden, i);
        rng.chance(10)
    };
    let rows: Vec<_> = posts.iter().filter(|(i, _)| chosen(*i)).collect();
    batch(vec![
        ("post_id", ids(rows.iter().map(|(i, _)| World::post_id(*i)).collect())),
        ("label", texts(rows.iter().map(|(_, p)| p.label.name()).collect())),
        ("policy_version", texts(rows.iter().map(|_| NEW_POLICY).collect())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moderators_disagree_but_the_majority_is_mostly_right() {
        let world = World::new(1, 4_000, 0).unwrap();
        let (mut right, mut split, mut judged) = (0, 0, 0);
        for i in 0..4_000 {
            let post = world.post(i);
            let panel = votes(&world, i, &post);
            let agree = panel.iter().filter(|v| v.decision == post.label).count();
            if panel.len() >= 3 {
                judged += 1;
                right += usize::from(agree * 2 > panel.len());
                split += usize::from(agree < panel.len());
            }
            let mut who: Vec<u64> = panel.iter().map(|v| v.moderator).collect();
            who.dedup();
            assert_eq!(who.len(), panel.len(), "nobody votes twice on a post");
        }
        assert!(right * 100 > judged * 85, "{right} of {judged}");
        assert!(split * 100 > judged * 15, "{split} of {judged}");
    }

    #[test]
    fn chunks_join_into_the_same_rows() {
        let world = World::new(6, 300, 3).unwrap();
        let whole = of_posts(&world, 0..300).unwrap();
        let (first, second) = (of_posts(&world, 0..123).unwrap(), of_posts(&world, 123..300).unwrap());
        for ((name, whole), ((_, a), (_, b))) in whole.iter().zip(first.iter().zip(second.iter())) {
            let joined = arrow::compute::concat_batches(&whole.schema(), [a, b]).unwrap();
            assert_eq!(whole, &joined, "{name}");
        }
    }
}
