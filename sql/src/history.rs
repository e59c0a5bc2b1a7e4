//! The history of a corpus: the texts that earlier builds have compared, and where each of them belongs.
//!
//! ```text
//! near_duplicates(…, against => 'history:c') ── planned ──▶ texts that are new: their clusters ──┐ HistoryCall
//!        ▲                                                                                       ▼
//!        └── History: generations ◀── manifest of c ◀── commit ◀── a step of the build writes texts and bands
//! ```
//! A generation is what one build has added: a table of texts (each once, with its cluster and its place in it), and a
//! table of the bands that they are found by. Nothing of a generation is ever changed, so a representative stays one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::Query;
use serde::{Deserialize, Serialize};

use crate::bind::named_arguments;
use crate::error::{Fault, Result, SqlError};
use crate::plan_errors::find_word;
use crate::session::Session;
use crate::source_text::SqlText;
use crate::sources::FileTable;
use crate::statement::ObjectKind;
use crate::table_functions::near_duplicates::{AGAINST, NAME};
use crate::table_functions::near_history;

/// What the name of a corpus stands behind in `against`.
const PREFIX: &str = "history:";

tokio::task_local! {
    /// The histories that the statement names, as it names them, while it is planned.
    static NAMED: BTreeMap<String, Arc<History>>;
    /// The calls that were planned so far.
    static CALLS: Arc<Mutex<Vec<HistoryCall>>>;
}

/// How texts are cut into the bands that they are found by: bands of other options never meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BandOptions {
    /// Unit of the shingles: `auto`, `word` or `char`.
    pub unit: String,
    /// Units in a shingle, where it is not what is usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ngram: Option<i64>,
    /// Bands of a signature.
    pub bands: i64,
    /// Values in a band.
    pub rows: i64,
    /// Only the texts of representatives are found, as stars need it.
    pub representatives_only: bool,
}

/// What one build has added to a history.
#[derive(Debug, Clone)]
pub struct Generation {
    /// How its texts were cut.
    pub options: BandOptions,
    /// Its texts; `docs/ARCHITECTURE.md` lists the columns.
    pub texts: FileTable,
    /// `band` and `content`, both `Int64`, ordered by band in each file.
    pub bands: FileTable,
}

/// What the builds of a corpus have seen.
#[derive(Debug, Clone)]
pub struct History {
    /// Name of the corpus.
    pub corpus: String,
    /// What each build has added, the oldest first.
    pub generations: Vec<Generation>,
    /// The texts of the statement in hand are all in it: they need only be looked up.
    pub complete: bool,
}

impl History {
    /// All its texts as one relation; `None` for an empty history.
    pub(crate) fn texts(&self) -> Option<FileTable> {
        let mut all = self.generations.first()?.texts.clone();
        for generation in &self.generations[1..] {
            all.files.extend(generation.texts.files.iter().cloned());
        }
        Some(all)
    }
}

/// A call that compares with the history of a corpus, as a build needs it to add to the history.
#[derive(Debug, Clone)]
pub struct HistoryCall {
    /// Name of the corpus.
    pub corpus: String,
    /// How texts are cut.
    pub options: BandOptions,
    /// Plan of the texts that are not in the history yet: the columns of [`Generation::texts`].
    pub texts: LogicalPlan,
    /// Graphs that were asked for before, those that the texts need among them.
    pub graphs_before: usize,
}

impl HistoryCall {
    /// Plans the bands of a table of texts, once that is written: the columns of [`Generation::bands`].
    ///
    /// # Errors
    /// [`SqlError::Engine`] when the table has not the columns of texts.
    pub fn bands(&self, texts: &FileTable) -> Result<LogicalPlan> {
        Ok(near_history::index(texts, &self.options)?)
    }

    pub(crate) fn record(self) {
        // Outside of a build nobody asks.
        let _ = CALLS.try_with(|calls| calls.lock().unwrap_or_else(PoisonError::into_inner).push(self));
    }
}

/// Plans, and gives the calls that compared with a history.
pub(crate) async fn recorded<F: Future>(plan: F) -> (F::Output, Vec<HistoryCall>) {
    let calls: Arc<Mutex<Vec<HistoryCall>>> = Arc::default();
    let planned = CALLS.scope(Arc::clone(&calls), plan).await;
    let calls = std::mem::take(&mut *calls.lock().unwrap_or_else(PoisonError::into_inner));
    (planned, calls)
}

/// Plans with the histories that `query` names at hand.
pub(crate) async fn with_named<F: Future>(
    session: &Session,
    query: Option<&Query>,
    text: &SqlText,
    plan: F,
) -> Result<F::Output> {
    let named = query.map(|query| named_arguments(query, NAME, AGAINST));
    let mut histories = BTreeMap::new();
    for argument in named.unwrap_or_default() {
        let Some(corpus) = argument.strip_prefix(PREFIX) else {
            let message = format!("near_duplicates compares with the history of a corpus, found '{argument}'");
            let fault = Fault::at(text, find_word(text, &argument), message);
            return Err(SqlError::Plan(fault.with_help("write against => 'history:corpus'")));
        };
        let Some(history) = session.objects().history(corpus).await? else {
            return Err(session.unknown(ObjectKind::Corpus, corpus, text).await?);
        };
        histories.insert(argument, history);
    }
    Ok(NAMED.scope(histories, plan).await)
}

/// A history as the statement names it, `history:corpus`.
pub(crate) fn named(argument: &str) -> Option<Arc<History>> {
    NAMED
        .try_with(|histories| histories.get(argument).cloned())
        .ok()
        .flatten()
}
