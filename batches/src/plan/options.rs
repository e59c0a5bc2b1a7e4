//! The arguments of a plan as Python hands them over, and the checks that need no corpus.

use std::collections::BTreeMap;

use arrow::array::{Array, Float64Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

use crate::error::{BatchError, Result};

/// Worker threads of a loader when nothing is said: more rarely help one rank.
const THREADS_MAX: usize = 4;

/// Longest name of a run, bytes.
const RUN_NAME_MAX: usize = 128;

/// The arguments of a plan; see `corpusmill.Plan` in Python for the meaning of each.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    pub(crate) corpora: Vec<String>,
    pub(crate) weights: Option<BTreeMap<String, f64>>,
    pub(crate) warehouse: String,
    pub(crate) seed: u64,
    pub(crate) global_batch: u32,
    pub(crate) pack: Option<u32>,
    pub(crate) long: String,
    pub(crate) max_length: Option<u32>,
    pub(crate) pad: String,
    pub(crate) pad_id: i32,
    pub(crate) tokens: Option<String>,
    pub(crate) ids: String,
    pub(crate) columns: Vec<String>,
    /// By corpus; the empty name stands for all.
    pub(crate) filter: BTreeMap<String, String>,
    /// One column with the weights of its classes; no weights: equal shares.
    pub(crate) balance: Option<BTreeMap<String, BTreeMap<String, f64>>>,
    pub(crate) weights_at: BTreeMap<u64, BTreeMap<String, f64>>,
    pub(crate) shuffle: bool,
    pub(crate) epochs: Option<u32>,
    pub(crate) until: String,
    pub(crate) last_batch: String,
    pub(crate) window_blocks: u32,
    pub(crate) on_corrupt: String,
    /// Makes the plan live: the run whose history it follows.
    pub(crate) run: Option<String>,
    pub(crate) fill: BTreeMap<String, f64>,
    pub(crate) cache_dir: Option<String>,
    pub(crate) cache_bytes: u64,
    pub(crate) memory_bytes: u64,
}

impl Default for Options {
    /// The defaults of `corpusmill.Plan`, over no corpus.
    fn default() -> Self {
        Self {
            corpora: Vec::new(),
            weights: None,
            warehouse: "./corpusmill-data/warehouse".into(),
            seed: 0,
            global_batch: 32,
            pack: None,
            long: "split".into(),
            max_length: None,
            pad: "longest".into(),
            pad_id: 0,
            tokens: Some("input_ids".into()),
            ids: "int32".into(),
            columns: Vec::new(),
            filter: BTreeMap::new(),
            balance: None,
            weights_at: BTreeMap::new(),
            shuffle: true,
            epochs: None,
            until: "all".into(),
            last_batch: "partial".into(),
            window_blocks: 8,
            on_corrupt: "raise".into(),
            run: None,
            fill: BTreeMap::new(),
            cache_dir: None,
            cache_bytes: 64 << 30,
            memory_bytes: 1 << 30,
        }
    }
}

/// Where a plan's corpora are, and what reading them may take on this machine.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Folder or URL that holds the corpora.
    pub warehouse: String,
    /// Folder for decoded blocks; none are kept without.
    pub cache_dir: Option<String>,
    /// Bound of that folder, bytes.
    pub cache_bytes: u64,
    /// Bound of the decoded blocks that are held open, bytes.
    pub memory_bytes: u64,
}

impl Options {
    /// Reads the JSON of a plan's arguments; what is left out has the default of `corpusmill.Plan`.
    ///
    /// # Errors
    /// Plan, naming the argument of the wrong type.
    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .map_err(|e| BatchError::Plan(format!("an argument of the plan has the wrong type: {e}")))
    }

    /// The same plan in other surroundings: none of them is in its hash.
    #[must_use]
    pub fn within(mut self, surroundings: Surroundings) -> Self {
        self.warehouse = surroundings.warehouse;
        self.cache_dir = surroundings.cache_dir;
        self.cache_bytes = surroundings.cache_bytes;
        self.memory_bytes = surroundings.memory_bytes;
        self
    }

    /// The same plan, as a run follows it.
    pub(crate) fn in_run(mut self, run: Option<String>) -> Self {
        self.run = run;
        self
    }

    /// The same plan, whoever opens it where: `corpora` have their versions, and no run or machine has a part in it.
    pub(crate) fn portable(&self, corpora: Vec<String>) -> Self {
        let usual = Self::default();
        Self {
            corpora,
            run: None,
            warehouse: usual.warehouse,
            cache_dir: None,
            cache_bytes: usual.cache_bytes,
            memory_bytes: usual.memory_bytes,
            ..self.clone()
        }
    }

    /// Checks what needs no corpus.
    ///
    /// # Errors
    /// Plan, naming the argument and what it takes.
    pub fn check(&self) -> Result<()> {
        one_of("long", &self.long, &["split", "truncate", "drop"])?;
        one_of("pad", &self.pad, &["longest", "max"])?;
        one_of("ids", &self.ids, &["int32", "int64"])?;
        one_of("until", &self.until, &["all", "first"])?;
        one_of("last_batch", &self.last_batch, &["partial", "drop"])?;
        one_of("on_corrupt", &self.on_corrupt, &["raise", "mask"])?;
        let refuse = |message: &str| Err(BatchError::Plan(message.to_owned()));
        if self.corpora.is_empty() {
            return refuse("corpus: name at least one, such as \"mod_text@41\"");
        }
        if self.pack.is_some() && self.tokens.is_none() {
            return refuse("pack: packs are made of tokens, and tokens is None: name the column, or leave pack out");
        }
        if self.pack.is_some() && self.max_length.is_some() {
            return refuse("max_length: a packed plan cuts documents at `pack` (see long); leave max_length out");
        }
        if self.pad == "max" && self.max_length.is_none() {
            return refuse("pad: \"max\" pads to max_length, which is missing");
        }
        if self.tokens.is_none() && self.columns.is_empty() {
            return refuse("columns: with tokens=None there is nothing to deliver: name columns");
        }
        if let Some(run) = &self.run {
            check_run(run)?;
        }
        if self.epochs == Some(0) {
            return refuse("epochs: at least 1, or None for an endless plan");
        }
        let mut seen = std::collections::BTreeSet::new();
        for name in &self.columns {
            if !seen.insert(name) || self.tokens.as_ref() == Some(name) {
                return Err(BatchError::Plan(format!(
                    "columns: `{name}` is there twice (tokens count)"
                )));
            }
        }
        Ok(())
    }

    /// Checks that every `fill` names a number column of the plan and fits its type.
    ///
    /// # Errors
    /// Plan, naming the column and its type.
    pub fn check_fill(&self, types: &[(String, DataType)]) -> Result<()> {
        for (name, value) in &self.fill {
            let Some((_, kind)) = types.iter().find(|(n, _)| n == name) else {
                let known: Vec<&str> = types.iter().map(|(n, _)| n.as_str()).collect();
                let hint = super::nearest(name, &known);
                return Err(BatchError::Plan(format!(
                    "fill: `{name}` is not among the columns{hint}"
                )));
            };
            let element = match kind {
                DataType::FixedSizeList(f, _) | DataType::List(f) => f.data_type(),
                other => other,
            };
            let one = Float64Array::from(vec![*value]);
            let cast = cast_with_options(
                &one,
                element,
                &CastOptions {
                    safe: true,
                    ..CastOptions::default()
                },
            );
            let exact = !element.is_integer() || value.fract() == 0.0;
            let fits = exact && (element.is_temporal() || cast.is_ok_and(|c| c.is_valid(0)));
            if !fits || crate::values::Dtype::of(element).is_none() {
                return Err(BatchError::Plan(format!(
                    "fill: {value} is not a value of column `{name}`, which is {kind}"
                )));
            }
        }
        Ok(())
    }

    /// Width that every row is padded to; `None`: the longest of the batch.
    pub fn padded_width(&self) -> Option<usize> {
        self.max_length.filter(|_| self.pad == "max").map(|n| n as usize)
    }

    /// Whether rows of damaged blocks arrive as mask.
    pub fn masks_corrupt(&self) -> bool {
        self.on_corrupt == "mask"
    }
}

/// Checks that a name can be that of a run's folder.
fn check_run(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !name.is_empty() && name.len() <= RUN_NAME_MAX && !name.starts_with('.') && name.chars().all(plain) {
        return Ok(());
    }
    Err(BatchError::Plan(format!(
        "run: {name:?} is not a name of 1 to {RUN_NAME_MAX} letters, digits, `_`, `-` and `.`, not beginning with `.`"
    )))
}

fn one_of(argument: &str, value: &str, allowed: &[&str]) -> Result<()> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let allowed: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
    Err(BatchError::Plan(format!(
        "{argument}: {value:?} is not one of {}",
        allowed.join(", ")
    )))
}

/// The number of worker threads: as asked for, else the machine's cores, at most 4.
pub fn worker_threads(asked: Option<usize>) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    asked.unwrap_or(cores.min(THREADS_MAX)).max(1)
}
