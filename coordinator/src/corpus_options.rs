//! The `WITH (…)` options of a corpus.

use corpusmill_sql::CreateCorpus;

use crate::error::{CoordinatorError, Result};
use crate::names::nearest;
use crate::schedules;

/// Options that a corpus understands. Those that only a coordinator of a cluster acts on are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CorpusOptions {
    /// Shards per partition value.
    pub(crate) shards: u32,
    /// Rows in a block of a shard.
    pub(crate) block_rows: usize,
}

const SHARDS_MAX: u64 = 65_536;
const BLOCK_ROWS_MAX: u64 = 1 << 20;

/// Options whose value is kept and shown; a coordinator of a cluster acts on them.
const KEPT: [&str; 9] = [
    "erase_key",
    "event_time",
    "freshness",
    "on_failure",
    "on_success",
    "owner",
    "preview",
    "retention",
    WORKER_LABEL,
];

/// Names the label of the workers that run the step.
const WORKER_LABEL: &str = "worker_label";

/// The label that `WITH (worker_label = '…')` asks for, of a corpus or a materialised view. It decides where a step
/// runs and nothing else.
pub(crate) fn worker_label(options: &[(String, String)]) -> Option<String> {
    let found = options.iter().find(|(key, _)| key == WORKER_LABEL);
    found.map(|(_, label)| label.clone()).filter(|label| !label.is_empty())
}

impl CorpusOptions {
    /// Reads the options of `corpus`.
    ///
    /// # Errors
    /// [`CoordinatorError::Invalid`] for an option that is unknown, with the nearest, or a value out of range.
    pub(crate) fn parse(corpus: &CreateCorpus) -> Result<Self> {
        let mut options = Self {
            shards: 16,
            block_rows: corpusmill_corpus::BLOCK_ROWS,
        };
        for (key, value) in &corpus.options {
            match key.as_str() {
                "shards" => options.shards = number(corpus, key, value, SHARDS_MAX)? as u32,
                "block_rows" => options.block_rows = number(corpus, key, value, BLOCK_ROWS_MAX)? as usize,
                kept if KEPT.contains(&kept) || schedules::OPTIONS.contains(&kept) => {}
                unknown => {
                    let known = ["shards", "block_rows"]
                        .into_iter()
                        .chain(KEPT)
                        .chain(schedules::OPTIONS);
                    return Err(CoordinatorError::Invalid(format!(
                        "corpus {}: unknown option {unknown} in WITH (…){}",
                        corpus.name,
                        nearest(unknown, known)
                    )));
                }
            }
        }
        schedules::Policy::parse(&corpus.name, &corpus.options)?;
        if let Some(schedule) = &corpus.schedule {
            schedules::Times::of(schedule)?;
        }
        Ok(options)
    }
}

fn number(corpus: &CreateCorpus, key: &str, value: &str, most: u64) -> Result<u64> {
    value
        .parse()
        .ok()
        .filter(|number| (1..=most).contains(number))
        .ok_or_else(|| {
            CoordinatorError::Invalid(format!(
                "corpus {}: option {key} = '{value}' must be a whole number from 1 to {most}",
                corpus.name
            ))
        })
}
