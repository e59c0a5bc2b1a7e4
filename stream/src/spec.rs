//! What a plan is: everything that decides the order of samples, and nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::error::{Error, Result};
use crate::selection::Selection;

mod validate;

pub(crate) use validate::check_weights;

/// The specification of a plan. Its canonical JSON ([`PlanSpec::to_json`]) is what the plan's hash is taken of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanSpec {
    /// The format of this specification and of the order it stands for: [`PlanSpec::FORMAT`].
    pub format: u32,
    /// What is drawn from; names are unique.
    pub sources: Vec<SourceSpec>,
    /// Weights by source name, from a turn or step on. Empty: in proportion to the eligible rows.
    #[serde(default)]
    pub weights: Vec<WeightChange>,
    /// The seed of every shuffle.
    pub seed: u64,
    /// Packs (or samples, for [`Shape::Fixed`]) in one step over all ranks, at least 1.
    pub global_batch: u32,
    /// How samples become batches.
    pub shape: Shape,
    /// How rows of a source are ordered.
    pub order: OrderSpec,
    /// When the plan ends.
    pub passes: Passes,
    /// What happens to the packs after the last full global batch of a finite plan.
    #[serde(default)]
    pub last_batch: LastBatch,
    /// Turns in a group: the unit of packing and of the log, 1 to 2^20. See [`crate::suggested_group_turns`].
    pub group_turns: u32,
}

/// One corpus version that is drawn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// The name that weights and the log use, unique in the plan.
    pub name: String,
    /// The corpus.
    pub corpus: String,
    /// Its version.
    pub version: u64,
    /// Rows of the version, eligible or not: slots are `0..slots`.
    pub slots: u64,
    /// Rows per shard in slot order, so that blocks of the order are the blocks on disk. Empty: one shard.
    #[serde(default)]
    pub shards: Vec<u64>,
    /// The rows that may be drawn; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Classes that are drawn from by weight; absent: every eligible row alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
}

/// The eligible rows of a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The predicate as the person wrote it.
    pub predicate: String,
    /// How many rows fulfil it.
    pub rows: u64,
    /// [`Selection::digest`] of these rows.
    pub digest: String,
}

/// Class-balanced sampling by a column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// The column that tells the classes apart.
    pub column: String,
    /// The classes, each a stratum of its own; rows of no class are not drawn.
    pub classes: Vec<Class>,
}

/// One class of a balanced source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// The value of the column, as text.
    pub value: String,
    /// The share of this class in its source, relative to the other classes.
    pub weight: f64,
    /// Eligible rows of this class.
    pub rows: u64,
    /// [`Selection::digest`] of these rows.
    pub digest: String,
}

/// Weights that hold from a place on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightChange {
    /// From where on.
    pub from: Start,
    /// Weights by source name, relative to each other; a source that is not named is not drawn.
    pub weights: BTreeMap<String, f64>,
}

/// A place in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// A turn: a place in the mixed sequence of draws.
    Turn(u64),
    /// A step. With [`Shape::Packed`] the change takes effect at the first group that starts at or after it.
    Step(u64),
}

/// How samples become batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Shape {
    /// Documents are packed into sequences of a fixed length.
    Packed {
        /// Tokens in a sequence, 1 to 2^22.
        sequence_length: u32,
        /// What happens to documents that are longer.
        long: LongDocuments,
    },
    /// One sample per row, padded by the loader.
    Fixed {
        /// Samples are cut to so many tokens; absent: never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_length: Option<u32>,
    },
}

/// What happens to a document that is longer than a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongDocuments {
    /// It is cut into pieces, none of which is lost.
    Split,
    /// Its first `sequence_length` tokens are used.
    Truncate,
    /// It is left out, and counted.
    Drop,
}

/// How the rows of a source are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OrderSpec {
    /// Blocks are permuted anew in each epoch; so are the rows of a window of consecutive permuted blocks.
    Shuffled {
        /// Rows in a block: the row group of the corpus.
        block_rows: u32,
        /// Blocks in a window: what a loader holds decoded to read each block once.
        window_blocks: u32,
    },
    /// Slot order, in every epoch.
    Sequential,
}

/// When a plan ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Passes {
    /// Never: each stratum starts its next epoch when it has been drawn through.
    Infinite,
    /// Each stratum is drawn through so many times.
    Epochs {
        /// How many times, at least 1.
        count: u32,
        /// Whether the plan goes on until the last stratum is through, or ends with the first.
        until: Until,
    },
    /// Every row once, source after source in slot order, for evaluation. Needs [`OrderSpec::Sequential`].
    Once,
}

/// Which stratum ends a plan of some epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// The last: the others drop out before, and every row is drawn the same number of times.
    All,
    /// The first: the weights hold to the end.
    First,
}

/// What happens to the packs after the last full global batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastBatch {
    /// They are a step of their own, smaller than the others; some ranks may get one pack more than others.
    #[default]
    Partial,
    /// They are not delivered.
    Drop,
}

impl SourceSpec {
    /// Describes all `slots` rows of `corpus` at `version`.
    #[must_use]
    pub fn new(name: impl Into<String>, corpus: impl Into<String>, version: u64, slots: u64) -> Self {
        let (name, corpus) = (name.into(), corpus.into());
        Self {
            name,
            corpus,
            version,
            slots,
            shards: Vec::new(),
            filter: None,
            balance: None,
        }
    }

    /// Restricts the source to the rows of `selection`, which `predicate` stands for.
    #[must_use]
    pub fn filtered(mut self, predicate: impl Into<String>, selection: &Selection) -> Self {
        let (rows, digest) = (selection.len(), selection.digest());
        self.filter = Some(Filter {
            predicate: predicate.into(),
            rows,
            digest,
        });
        self
    }

    /// Balances the source by `column`: (value, weight, eligible rows) for each class.
    #[must_use]
    pub fn balanced<'a>(
        mut self,
        column: impl Into<String>,
        classes: impl IntoIterator<Item = (String, f64, &'a Selection)>,
    ) -> Self {
        let classes = classes.into_iter().map(|(value, weight, rows)| Class {
            value,
            weight,
            rows: rows.len(),
            digest: rows.digest(),
        });
        self.balance = Some(Balance {
            column: column.into(),
            classes: classes.collect(),
        });
        self
    }

    /// Rows that can be drawn.
    #[must_use]
    pub fn rows(&self) -> u64 {
        match (&self.balance, &self.filter) {
            (Some(balance), _) => balance.classes.iter().fold(0, |sum, c| sum.saturating_add(c.rows)),
            (None, Some(filter)) => filter.rows,
            (None, None) => self.slots,
        }
    }
}

impl PlanSpec {
    /// The format that this release reads and writes.
    pub const FORMAT: u32 = 1;

    /// Describes an endless shuffled plan over `sources`, in blocks of 1,024 rows and windows of 16 blocks.
    #[must_use]
    pub fn new(sources: Vec<SourceSpec>, seed: u64, global_batch: u32, shape: Shape) -> Self {
        Self {
            format: Self::FORMAT,
            sources,
            weights: Vec::new(),
            seed,
            global_batch,
            shape,
            order: OrderSpec::Shuffled {
                block_rows: 1024,
                window_blocks: 16,
            },
            passes: Passes::Infinite,
            last_batch: LastBatch::Partial,
            group_turns: 2048,
        }
    }

    /// Writes the canonical JSON: fields in the order of the struct, names in maps sorted.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a specification has string keys and no foreign types")
    }

    /// Reads a specification that [`PlanSpec::to_json`] or a person wrote. It is checked when a plan is made of it.
    ///
    /// # Errors
    /// [`Error::Json`] if the text is not one; [`Error::Format`] if a newer release wrote it.
    pub fn from_json(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let json = |source| Error::Json { what: "a plan", source };
        let head: Head = serde_json::from_str(text).map_err(json)?;
        check_format("a plan", head.format, Self::FORMAT)?;
        serde_json::from_str(text).map_err(json)
    }

    /// The identity of the plan: XXH3-128 of the canonical JSON, as 32 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("{:032x}", xxh3_128(self.to_json().as_bytes()))
    }

    /// Hashes of the parts, by name: what a state carries so that it can say what differs.
    pub(crate) fn parts(&self) -> [(&'static str, u32); 8] {
        fn part(value: &impl Serialize) -> u32 {
            let bytes = serde_json::to_vec(value).expect("a specification has string keys and no foreign types");
            xxh3_64(&bytes) as u32
        }
        [
            ("sources", part(&self.sources)),
            ("weights", part(&self.weights)),
            ("seed", part(&self.seed)),
            ("global_batch", part(&self.global_batch)),
            ("shape", part(&self.shape)),
            ("order", part(&self.order)),
            ("passes", part(&(&self.passes, &self.last_batch))),
            ("group_turns", part(&self.group_turns)),
        ]
    }
}

pub(crate) fn check_format(what: &'static str, found: u32, supported: u32) -> Result<()> {
    if found == supported {
        Ok(())
    } else {
        Err(Error::Format { what, found, supported })
    }
}
