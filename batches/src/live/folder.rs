//! What is kept beside a plan, as JSON: its arguments, the entries of its log, and its runs.
//!
//! ```text
//!  _plans/HASH/plan.json         the arguments, by which another process opens the plan
//!  _plans/HASH/log/N.json        entry N of the log
//!  _plans/HASH/runs/RUN/N.json   how many entries held for the groups that the run has entered; the last one counts
//! ```

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use corpusmill_corpus::{CorpusError, Warehouse};
use corpusmill_stream::{Change, Entry};
use object_store::ObjectStore;
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::chain::{Chain, failed, put_once, read};
use crate::error::{BatchError, Result};
use crate::plan::Options;

/// The format that this release reads and writes.
const FORMAT: u32 = 1;
/// The folder of all plans in a warehouse; no corpus has such a name.
const PLANS: &str = "_plans";

/// The folder of a plan.
#[derive(Clone, Debug)]
pub(crate) struct PlanFolder {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// The log.
    pub(crate) log: Chain,
}

#[derive(Serialize, Deserialize)]
struct PlanRecord {
    format: u32,
    arguments: Options,
}

/// An entry of a log, and how it came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogRecord {
    format: u32,
    /// When it was appended, milliseconds since 1970-01-01 UTC.
    pub(crate) at_ms: u64,
    /// Why, in a person's words.
    pub(crate) note: String,
    /// What it changes.
    pub(crate) entry: Entry,
}

/// How far a run came while a number of entries held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Entries of the plan's log that held.
    pub entries: u64,
    /// The last group that was entered with them.
    pub group: u64,
    /// Steps that these and all groups before them make.
    pub steps: u64,
}

/// What a run has entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    format: u32,
    /// When the last group was entered, milliseconds since 1970-01-01 UTC.
    pub(crate) at_ms: u64,
    /// In order: more entries, further groups.
    pub(crate) entered: Vec<Span>,
}

impl RunRecord {
    /// The next record of a run.
    pub(crate) fn new(entered: Vec<Span>) -> Self {
        Self {
            format: FORMAT,
            at_ms: now_ms(),
            entered,
        }
    }
}

impl PlanFolder {
    /// The folder of the plan with hash `plan`; nothing is read or written yet.
    pub(crate) fn of(warehouse: &Warehouse, plan: &str) -> Self {
        Self::over(warehouse.store().clone(), &warehouse.root().clone().join(PLANS), plan)
    }

    fn over(store: Arc<dyn ObjectStore>, plans: &Path, plan: &str) -> Self {
        let root = plans.clone().join(plan);
        let log = Chain::new(store.clone(), root.clone().join("log"));
        Self { store, root, log }
    }

    /// The folders of all plans in a warehouse, with their hashes.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn all(warehouse: &Warehouse) -> Result<Vec<(String, Self)>> {
        let plans = warehouse.root().clone().join(PLANS);
        let names = folders(&**warehouse.store(), &plans).await?;
        let folder = |name: String| {
            let folder = Self::over(warehouse.store().clone(), &plans, &name);
            (name, folder)
        };
        Ok(names.into_iter().map(folder).collect())
    }

    /// The records of a run.
    pub(crate) fn run(&self, name: &str) -> Chain {
        Chain::new(self.store.clone(), self.root.clone().join("runs").join(name))
    }

    /// Names of the runs.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn runs(&self) -> Result<Vec<String>> {
        folders(&*self.store, &self.root.clone().join("runs")).await
    }

    /// The plan's arguments; `None` where nothing was kept.
    ///
    /// # Errors
    /// Those of the store; Format for a file that is not one.
    pub(crate) async fn arguments(&self) -> Result<Option<Options>> {
        let path = self.root.clone().join("plan.json");
        let Some(bytes) = read(&*self.store, &path).await? else {
            return Ok(None);
        };
        Ok(Some(parse::<PlanRecord>(&path, &bytes)?.arguments))
    }

    /// Keeps the plan's arguments, once.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn describe(&self, arguments: Options) -> Result<()> {
        let record = PlanRecord {
            format: FORMAT,
            arguments,
        };
        put_once(&*self.store, &self.root.clone().join("plan.json"), text(&record)).await?;
        Ok(())
    }

    /// Appends to the log. Returns the number of the entry.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn append(&self, change: Change, note: &str) -> Result<u64> {
        let record = LogRecord {
            format: FORMAT,
            at_ms: now_ms(),
            note: note.to_owned(),
            entry: Entry { group: 0, change },
        };
        let bytes = text(&record);
        let mut number = self.log.len(0).await?;
        while !self.log.put(number, bytes.clone()).await? {
            number += 1;
        }
        Ok(number)
    }
}

/// Names of the folders in a folder, sorted.
async fn folders(store: &dyn ObjectStore, of: &Path) -> Result<Vec<String>> {
    let listing = store.list_with_delimiter(Some(of)).await;
    let listing = listing.map_err(|source| failed("list", of, source))?;
    let names = listing.common_prefixes.iter().filter_map(Path::filename);
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

/// Reads a record.
///
/// # Errors
/// Format, if it is not one or a newer release wrote it.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let wrong = |detail: String| {
        let path = path.to_string();
        BatchError::from(CorpusError::Format { path, detail })
    };
    let head: Head = serde_json::from_slice(bytes).map_err(|e| wrong(format!("is no record of a plan: {e}")))?;
    if head.format != FORMAT {
        return Err(wrong(format!(
            "has format {}, this release reads format {FORMAT}: use the release that wrote it",
            head.format
        )));
    }
    serde_json::from_slice(bytes).map_err(|e| wrong(format!("is no record of a plan of format {FORMAT}: {e}")))
}

/// Writes a record.
pub(crate) fn text(record: &impl Serialize) -> Bytes {
    let text = serde_json::to_vec(record);
    Bytes::from(text.expect("a record has string keys and no foreign types"))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
