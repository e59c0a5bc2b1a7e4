//! The nearest name to one that was mistyped.

/// `; did you mean x?` for the candidate nearest to `name`, the list of candidates when none is near, nothing when
/// there are none.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let candidates: Vec<&str> = candidates.collect();
    let near = candidates
        .iter()
        .map(|candidate| {
            (
                strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase()),
                *candidate,
            )
        })
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, candidate)) => format!("; did you mean {candidate}?"),
        None if candidates.is_empty() => String::new(),
        None if candidates.len() <= 12 => format!("; there is {}", candidates.join(", ")),
        None => format!("; there is {}, …", candidates[..12].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far() {
        assert_eq!(
            nearest("shrads", ["shards", "retention"].into_iter()),
            "; did you mean shards?"
        );
        assert_eq!(
            nearest("zzz", ["shards", "retention"].into_iter()),
            "; there is shards, retention"
        );
        assert_eq!(nearest("zzz", std::iter::empty()), "");
    }
}
