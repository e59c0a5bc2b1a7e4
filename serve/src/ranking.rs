//! Which worker a trainer prefers: rendezvous hashing (Thaler and Ravishankar, 1998).

use xxhash_rust::xxh3::xxh3_64;

/// Sorts workers by preference for the ranks of one machine that read one plan: those on the same machine first, and
/// among these by a hash of worker and reader. So all ranks of a machine share the decoded blocks of one worker, and
/// a worker that comes or goes changes nothing for those who do not prefer it.
pub(crate) fn preferred<W>(workers: &mut [W], plan_hash: &str, host: &str, named: impl Fn(&W) -> (&str, &str)) {
    let key = |worker: &W| {
        let (name, worker_host) = named(worker);
        let weight = xxh3_64(format!("{plan_hash}\n{host}\n{name}").as_bytes());
        (worker_host != host, std::cmp::Reverse(weight), name.to_owned())
    };
    workers.sort_by_cached_key(key);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order<'a>(workers: &[(&'a str, &'a str)], plan: &str, host: &str) -> Vec<&'a str> {
        let mut workers = workers.to_vec();
        preferred(&mut workers, plan, host, |w| *w);
        workers.into_iter().map(|w| w.0).collect()
    }

    const WORKERS: [(&str, &str); 5] = [("a", "h1"), ("b", "h1"), ("c", "h2"), ("d", "h3"), ("e", "h3")];

    #[test]
    fn workers_of_the_same_machine_come_first() {
        let first = order(&WORKERS, "plan", "h3");
        assert!(
            ["d", "e"].contains(&first[0]) && ["d", "e"].contains(&first[1]),
            "{first:?}"
        );
    }

    #[test]
    fn a_worker_that_goes_leaves_the_order_of_the_others() {
        for plan in 0..50 {
            let plan = format!("plan {plan}");
            let all = order(&WORKERS, &plan, "elsewhere");
            for (gone, _) in WORKERS {
                let left: Vec<_> = WORKERS.iter().copied().filter(|w| w.0 != gone).collect();
                let expected: Vec<_> = all.iter().copied().filter(|w| *w != gone).collect();
                assert_eq!(order(&left, &plan, "elsewhere"), expected);
            }
        }
    }

    #[test]
    fn machines_spread_over_workers() {
        let mut firsts = std::collections::BTreeMap::new();
        for host in 0..1000 {
            let first = order(&WORKERS, "plan", &format!("host {host}"))[0];
            *firsts.entry(first).or_insert(0) += 1;
        }
        assert!(
            firsts.len() == 5 && firsts.values().all(|n| (150..250).contains(n)),
            "{firsts:?}"
        );
    }
}
