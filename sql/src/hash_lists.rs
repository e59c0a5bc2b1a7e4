//! Hash lists: what one is made of, and which of them the statement that is being planned names.
//!
//! ```text
//! files ─▶ read_blob ─▶ hash_entries ─┐
//! SELECT hash [, id], … ──────────────┴─▶ listed_hash, listed_id: every row checked ─▶ rows of a version
//!                                                                                        │
//!            hash_match: a join on the hash, or nearest_hash over an index of PDQ hashes ◀┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use corpusmill_kernels::hamming::HammingIndex;
use corpusmill_kernels::hash_list::Signal;
use datafusion::arrow::datatypes::DataType;
use datafusion::functions_window::expr_fn::first_value;
use datafusion::functions_window::row_number::row_number;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, cast, ident, lit};
use datafusion::sql::sqlparser::ast::Query;

use crate::bind::named_arguments;
use crate::error::{Fault, Result, SqlError};
use crate::functions::hash_list::{ENTRY_FIELDS, listed_hash, listed_id};
use crate::plan_errors::find_word;
use crate::session::Session;
use crate::source_text::SqlText;
use crate::sources::FileTable;
use crate::statement::{CreateHashList, HashSource, ObjectKind};
use crate::table_functions::hash_match;

/// Column of a list with the hash, in lower case.
pub(crate) const HASH: &str = "hash";
/// Column of a list with what an entry is known by: text, each once.
pub(crate) const ID: &str = "id";

const PLACE: &str = "__list_place";
const FIRST_PLACE: &str = "__list_first_place";
const NUMBER: &str = "__list_number";

tokio::task_local! {
    /// The hash lists that the statement names, while it is planned.
    static NAMED: BTreeMap<String, Arc<HashList>>;
}

/// One version of a hash list.
#[derive(Debug, Clone)]
pub struct HashList {
    /// Its name.
    pub name: String,
    /// Its version, from 0.
    pub version: u64,
    /// What its hashes are made of.
    pub signal: Signal,
    /// Greatest distance of a match in bits; 0 for signals that match exactly.
    pub max_distance: u32,
    /// Least quality of a row's hash that is looked up.
    pub min_quality: u32,
    /// Its entries.
    pub table: FileTable,
}

impl HashList {
    /// Entries.
    #[must_use]
    pub fn hashes(&self) -> u64 {
        self.table.files.iter().filter_map(|file| file.rows).sum()
    }

    /// Bytes that the index of a list of so many entries takes in each process that looks hashes up, without ids;
    /// `None` for signals that are matched by a join.
    #[must_use]
    pub fn index_bytes(signal: Signal, hashes: u64) -> Option<u64> {
        match (signal, usize::try_from(hashes)) {
            (Signal::Pdq, Ok(hashes)) => Some(HammingIndex::bytes_of(hashes) as u64),
            _ => None,
        }
    }
}

/// Plans the entries of a list: `hash`, `id`, then the other columns of its query; an error in a row that is none.
pub(crate) async fn plan(session: &Session, list: &CreateHashList, text: &SqlText) -> Result<LogicalPlan> {
    let source = match &list.source {
        HashSource::Files(uri) => {
            let [hash, id, tags, place] = ENTRY_FIELDS.map(|name| format!("e['{name}']"));
            let sql = format!(
                "SELECT {hash} AS {HASH}, {id} AS {ID}, {tags} AS tags, {place} AS {PLACE} FROM (
                   SELECT unnest(hash_entries('{}', filename, content)) AS e FROM read_blob('{}'))",
                list.signal.name(),
                uri.replace('\'', "''")
            );
            session.plan_generated(&sql, text).await?
        }
        HashSource::Query(query) => session.plan_query(query).await?,
    };
    let columns = source.schema().columns();
    let column = |name: &str| {
        columns
            .iter()
            .find(|column| column.name() == name)
            .cloned()
            .map(Expr::Column)
    };
    let Some(hash) = column(HASH) else {
        let message = format!("the query of hash list {} has no column 'hash'", list.name);
        let fault = Fault::at(text, find_word(text, "SELECT"), message);
        return Err(SqlError::Plan(fault.with_help("write SELECT … AS hash")));
    };
    let text_of = |value: Expr| cast(value, DataType::Utf8);
    let place = match (column(PLACE), column(ID)) {
        (Some(place), _) => place,
        (None, Some(id)) => datafusion::functions::string::expr_fn::concat(vec![
            lit(format!("hash list {}, the row with id ", list.name)),
            text_of(id),
        ]),
        (None, None) => lit(format!("hash list {}", list.name)),
    };
    let hash = listed_hash().call(vec![lit(list.signal.name()), hash, place.clone()]);
    let mut rows = vec![hash.clone().alias(HASH), place.alias(PLACE)];
    let mut order = vec![ident(HASH).sort(true, false)];
    // Without ids the hash is one. No second column says the same, nor is there an order by a constant: on a worker the
    // engine does not know any more that they are equal, and asks for a sort that it left out.
    let key = match column(ID) {
        Some(id) => {
            let id = datafusion::functions::core::coalesce().call(vec![text_of(id), hash]);
            rows.push(id.alias(ID));
            order.insert(0, ident(PLACE).sort(true, false));
            ID
        }
        None => HASH,
    };
    let more = columns
        .iter()
        .filter(|column| ![HASH, ID, PLACE].contains(&column.name()));
    let more: Vec<Expr> = more.cloned().map(Expr::Column).collect();
    rows.extend(more.iter().cloned());
    let of_key = |function: Expr| function.partition_by(vec![ident(key)]).order_by(order.clone()).build();
    let windows = vec![
        of_key(row_number())?.alias(NUMBER),
        of_key(first_value(ident(PLACE)))?.alias(FIRST_PLACE),
    ];
    let checked = [key, NUMBER, PLACE, FIRST_PLACE].map(ident).to_vec();
    let mut output = vec![ident(HASH), listed_id().call(checked).alias(ID)];
    output.extend(more);
    Ok(LogicalPlanBuilder::from(source)
        .project(rows)?
        .window(windows)?
        .project(output)?
        .build()?)
}

/// Plans with the hash lists that `query` names at hand.
pub(crate) async fn with_named<F: Future>(
    session: &Session,
    query: Option<&Query>,
    text: &SqlText,
    plan: F,
) -> Result<F::Output> {
    let names = query.map(|query| named_arguments(query, hash_match::NAME, hash_match::LIST));
    let mut lists = BTreeMap::new();
    for name in names.unwrap_or_default() {
        let Some(list) = session.objects().hash_list(&name).await? else {
            return Err(session.unknown(ObjectKind::HashList, &name, text).await?);
        };
        lists.insert(name, list);
    }
    Ok(NAMED.scope(lists, plan).await)
}

/// A hash list that the statement names.
pub(crate) fn named(name: &str) -> Option<Arc<HashList>> {
    NAMED.try_with(|lists| lists.get(name).cloned()).ok().flatten()
}
