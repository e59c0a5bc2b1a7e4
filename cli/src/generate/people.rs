//! The tables beside the posts: users, strikes, erasure requests, policies, evaluation sets.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{BooleanArray, Int32Array, Int64Array};

use super::body::handle;
use super::edit::edit;
use super::label::{Label, NEW_POLICY, OLD_POLICY};
use super::rng::Domain;
use super::table::{Tables, batch, ids, moments, texts};
use super::world::{DAY_US, Kind, SPAN_US, START_US, World};

const COUNTRIES: &[&str] = &[
    "US", "IN", "BR", "JP", "MX", "DE", "FR", "RU", "EG", "SA", "TR", "KR", "VN", "TH", "CN", "ES", "GB", "IL", "GR",
    "SG",
];
/// How many evaluation texts there are for so many posts.
const POSTS_PER_EVAL: u64 = 200;

/// Makes the rows of the users in `range`, with their strikes and erasure requests.
///
/// # Errors
/// When Arrow refuses a batch, which would be a mistake here.
pub(crate) fn of_users(world: &World, range: std::ops::Range<u64>) -> Result<Tables> {
    let (mut joined, mut names, mut countries, mut followers, mut verified) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut struck, mut since, mut strikes) = (vec![], vec![], vec![]);
    let (mut leavers, mut requested) = (vec![], vec![]);
    for user in range.clone() {
        let mut rng = world.rng(Domain::User, user ^ (2 << 40));
        joined.push(START_US - (DAY_US * (1 + rng.below(1_100)) + rng.below(DAY_US)) as i64);
        let mut name = String::new();
        handle(user, &mut name);
        names.push(name);
        countries.push(rng.pick_skewed(COUNTRIES));
        followers.push((rng.skewed(3_000) * rng.skewed(300)) as i32);
        verified.push(rng.chance(20));

        // A strike counts for 90 days, so the number goes up and down; each row holds from `valid_from` on.
        let mut rng = world.rng(Domain::Strike, user);
        let mut at = START_US;
        let mut count = 0;
        for _ in 0..=rng.skewed(4 * world.trouble(user)) {
            struck.push(World::user_id(user));
            since.push(at);
            strikes.push(count);
            at += (DAY_US + rng.below(40 * DAY_US)) as i64;
            count = if rng.chance(700) { count + 1 } else { (count - 1).max(0) };
        }
        let mut rng = world.rng(Domain::Erasure, user);
        if rng.chance(5) {
            leavers.push(user);
            requested.push(START_US + rng.below(SPAN_US) as i64);
        }
    }
    let due = requested.iter().map(|at| at + 30 * DAY_US as i64).collect();
    Ok(vec![
        (
            "users",
            batch(vec![
                ("user_id", ids(range.map(World::user_id).collect())),
                ("handle", texts(names)),
                ("joined_at", moments(joined)),
                ("country", texts(countries)),
                ("followers", Arc::new(Int32Array::from(followers))),
                ("verified", Arc::new(BooleanArray::from(verified))),
            ])?,
        ),
        (
            "user_strikes",
            batch(vec![
                ("user_id", ids(struck)),
                ("valid_from", moments(since)),
                ("strikes_90d", Arc::new(Int32Array::from(strikes))),
            ])?,
        ),
        (
            "erasure_requests",
            batch(vec![
                (
                    "request_id",
                    texts(leavers.iter().map(|u| format!("r-{}", World::user_id(*u))).collect()),
                ),
                ("user_id", ids(leavers.iter().map(|u| World::user_id(*u)).collect())),
                ("requested_at", moments(requested)),
                ("due_at", moments(due)),
            ])?,
        ),
    ])
}

/// The policies, and how a decision under one reads under another.
///
/// # Errors
/// As [`of_users`].
pub(crate) fn policies() -> Result<Tables> {
    let change = START_US + (SPAN_US / 5 * 3) as i64;
    let pairs: Vec<(&str, &str, &str)> = [OLD_POLICY, NEW_POLICY]
        .into_iter()
        .flat_map(|policy| {
            Label::ALL
                .into_iter()
                .map(move |label| (policy, label.name_under(policy), label.name()))
        })
        // Under the old policy a scam was called spam: what was called spam is taken to be spam.
        .filter(|(policy, from, to)| !(*policy == OLD_POLICY && *from == "spam" && *to == "scam"))
        .collect();
    Ok(vec![
        (
            "policies",
            batch(vec![
                ("policy_version", texts(vec![OLD_POLICY, NEW_POLICY])),
                ("valid_from", moments(vec![START_US, change])),
                (
                    "summary",
                    texts(vec![
                        "scams count as spam, harassment is called abuse",
                        "scam and harassment stand apart",
                    ]),
                ),
            ])?,
        ),
        (
            "policy_map",
            batch(vec![
                ("from_policy", texts(pairs.iter().map(|p| p.0).collect())),
                ("from_decision", texts(pairs.iter().map(|p| p.1).collect())),
                ("to_policy", texts(vec![NEW_POLICY; pairs.len()])),
                ("to_decision", texts(pairs.iter().map(|p| p.2).collect())),
            ])?,
        ),
    ])
}

/// Texts of evaluation sets; three in ten repeat a post, as it is or edited, and the truth says which.
///
/// # Errors
/// As [`of_users`].
pub(crate) fn evals(world: &World) -> Result<Tables> {
    let count = (world.posts / POSTS_PER_EVAL).clamp(20, 20_000);
    let (mut bodies, mut labels, mut sources) = (vec![], vec![], vec![]);
    for index in 0..count {
        let mut rng = world.rng(Domain::Eval, index);
        let from = rng.below(world.posts.max(1));
        if rng.chance(300) && world.posts > 0 && world.kind(from) == Kind::Original {
            let post = world.post(from);
            bodies.push(if rng.chance(500) {
                post.body.text
            } else {
                edit(&post.body.text, &mut rng).0
            });
            labels.push(post.label.name());
            sources.push(Some(World::post_id(from)));
        } else {
            let label = Label::ALL[rng.below(Label::COUNT as u64) as usize];
            let language = rng.weighted(&world.lexicon.shares());
            bodies.push(world.write(language, label, &mut rng).text);
            labels.push(label.name());
            sources.push(None);
        }
    }
    let copied: Vec<(i64, i64)> = (1..).zip(&sources).filter_map(|(i, s)| s.map(|s| (i, s))).collect();
    Ok(vec![
        (
            "eval_sets",
            batch(vec![
                ("eval_id", ids((1..=count as i64).collect())),
                (
                    "suite",
                    texts(
                        (0..count)
                            .map(|i| ["hate-check", "spam-bench", "multilingual"][(i % 3) as usize])
                            .collect(),
                    ),
                ),
                ("body", texts(bodies)),
                ("label", texts(labels)),
            ])?,
        ),
        (
            "truth/contamination",
            batch(vec![
                ("eval_id", ids(copied.iter().map(|c| c.0).collect())),
                (
                    "post_id",
                    Arc::new(Int64Array::from_iter_values(copied.iter().map(|c| c.1))),
                ),
            ])?,
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decision_of_each_policy_maps_to_one_of_the_new() {
        let tables = policies().unwrap();
        let map = &tables[1].1;
        assert_eq!(map.num_rows(), 9);
        let from = map
            .column(1)
            .as_any()
            .downcast_ref::<arrow::array::StringArray>()
            .unwrap();
        let mut old: Vec<_> = (0..4).map(|i| from.value(i)).collect();
        old.sort_unstable();
        old.dedup();
        assert_eq!(old, ["abuse", "hate", "ok", "spam"]);
    }

    #[test]
    fn strikes_of_a_user_are_in_order_and_start_with_the_period() {
        let world = World::new(1, 1_000, 0).unwrap();
        let tables = of_users(&world, 0..world.users).unwrap();
        let strikes = &tables[1].1;
        assert!(strikes.num_rows() as u64 > world.users);
        assert_eq!(tables[0].1.num_rows() as u64, world.users);
    }
}
