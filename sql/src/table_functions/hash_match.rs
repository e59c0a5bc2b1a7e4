//! `hash_match(TABLE t, HASHLIST h, hash => 'pdq' [, key => 'id'] [, quality => 'q'] [, max_distance => n])`
//!
//! Adds `match_id` (`Utf8`: the id of the entry that the row's hash matches, NULL where none does) and `match_distance`
//! (`Int32`: bits in which they differ, 0 for signals that match exactly). Of several entries it is the nearest, then
//! the one whose id sorts first.
//!
//! `hash_match(…, key => 'video', bank_key => 'video' [, query_match_pct => 80] [, bank_match_pct => 0])` compares videos by
//! their frames: see [`videos`].
//!
//! Exact signals are a join on the hash, which spills and needs no memory of its own. PDQ hashes are looked up row by row
//! in an index that each process makes of the list ([`crate::functions::nearest_hash`]): no exchange of rows.

use std::sync::Arc;

use corpusmill_kernels::hamming::DISTANCE_MAX;
use corpusmill_kernels::hash_list::Signal;
use datafusion::common::{JoinType, Result};
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::expr_fn::min;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit, when};

use super::arguments::Arguments;
use super::fault;
use super::relation::{kept_columns, on};
use crate::functions::hash_list::hash_text;
use crate::functions::nearest_hash::{ListedHashes, NearestHash};
use crate::hash_lists::{self, HASH, HashList, ID};

mod videos;

use videos::Videos;

/// Its name in SQL.
pub(crate) const NAME: &str = "hash_match";
/// The argument that `HASHLIST h` becomes.
pub(crate) const LIST: &str = "hashlist";

const ROW_HASH: &str = "__match_hash";
const LISTED: &str = "__match_listed";
const LISTED_ID: &str = "__match_id";
const FOUND: &str = "__match_found";
const ADDED: [&str; 2] = ["match_id", "match_distance"];

pub(super) fn plan(mut arguments: Arguments) -> Result<LogicalPlan> {
    let input = arguments.input()?;
    let usage = "hash_match takes TABLE t, HASHLIST h, hash => 'column'";
    let name = arguments.text(LIST)?.ok_or_else(|| fault(usage, arguments.span()))?;
    let key = arguments.column("key", &input)?;
    let hash = arguments.required_column("hash", &input)?;
    let quality = arguments.column("quality", &input)?;
    let distance_max = arguments.integer("max_distance")?;
    let list = hash_lists::named(&name);
    let list = list.ok_or_else(|| fault(format!("unknown hash list '{name}'"), arguments.span()))?;
    let videos = videos(&mut arguments, key, &list)?;
    let known = [
        LIST,
        "key",
        "hash",
        "quality",
        "max_distance",
        "bank_key",
        "query_match_pct",
        "bank_match_pct",
    ];
    arguments.finish(&known)?;

    if list.signal != Signal::Pdq {
        if quality.is_some() || distance_max.is_some() || videos.is_some() {
            let message = format!(
                "hash list '{name}' is of signal {}, which matches exactly: quality, max_distance and frames of videos are for pdq",
                list.signal.name()
            );
            return Err(fault(message, arguments.span()));
        }
        return exact(input, hash, &list);
    }
    let distance_max = distance_max.unwrap_or_else(|| list.max_distance.into());
    let Ok(distance_max @ 0..=DISTANCE_MAX) = u32::try_from(distance_max) else {
        let message = format!("max_distance of hash_match is from 0 to {DISTANCE_MAX} bits, found {distance_max}");
        return Err(fault(message, arguments.span()));
    };
    let hash = match quality {
        Some(quality) => when(quality.gt_eq(lit(i64::from(list.min_quality))), hash).end()?,
        None => hash,
    };
    let hash = hash_text().call(vec![lit(list.signal.name()), hash]);
    let listed = |every: bool| ListedHashes {
        name: list.name.clone(),
        root: list.table.root.clone(),
        files: list.table.files.iter().map(|file| file.path.clone()).collect(),
        hashes: list.hashes(),
        distance_max,
        every,
    };
    match videos {
        Some(videos) => videos::plan(input, hash, &list, NearestHash::new(Arc::new(listed(true))), videos),
        None => near(input, hash, NearestHash::new(Arc::new(listed(false)))),
    }
}

/// The arguments for frames of videos, where there is one of them.
fn videos(arguments: &mut Arguments, key: Option<Expr>, list: &HashList) -> Result<Option<Videos>> {
    let span = arguments.span();
    let bank_key = arguments.text("bank_key")?;
    let shares = ["query_match_pct", "bank_match_pct"].map(|name| arguments.number(name));
    let [query_match_pct, bank_match_pct] = shares;
    let (query_match_pct, bank_match_pct) = (query_match_pct?, bank_match_pct?);
    if bank_key.is_none() && query_match_pct.is_none() && bank_match_pct.is_none() {
        return Ok(None);
    }
    let (Some(key), Some(bank_key)) = (key, bank_key) else {
        let message = "hash_match compares videos by key => 'column', which says the video of a row's frame, and bank_key => 'column', which says that of an entry of the list";
        return Err(fault(message, span));
    };
    if list.table.schema.field_with_name(&bank_key).is_err() {
        let columns: Vec<&str> = list
            .table
            .schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        let message = format!(
            "hash list '{}' has no column '{bank_key}'; it has {}",
            list.name,
            columns.join(", ")
        );
        return Err(fault(message, span));
    }
    let (query_match_pct, bank_match_pct) = (query_match_pct.unwrap_or(80.0), bank_match_pct.unwrap_or(0.0));
    if let Some(wrong) = [query_match_pct, bank_match_pct]
        .into_iter()
        .find(|pct| !(0.0..=100.0).contains(pct))
    {
        let message = format!("query_match_pct and bank_match_pct of hash_match are from 0 to 100, found {wrong}");
        return Err(fault(message, span));
    }
    Ok(Some(Videos {
        key,
        bank_key,
        query_match_pct,
        bank_match_pct,
    }))
}

fn exact(input: LogicalPlan, hash: Expr, list: &HashList) -> Result<LogicalPlan> {
    let source = provider_as_source(Arc::new(list.table.clone()));
    let entries = LogicalPlanBuilder::scan(list.name.as_str(), source, None)?
        .aggregate(vec![ident(HASH).alias(LISTED)], vec![min(ident(ID)).alias(LISTED_ID)])?
        .build()?;
    let mut rows: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    rows.push(hash_text().call(vec![lit(list.signal.name()), hash]).alias(ROW_HASH));
    let mut output = kept_columns(&input, &ADDED);
    output.push(ident(LISTED_ID).alias(ADDED[0]));
    output.push(when(ident(LISTED_ID).is_not_null(), lit(0i32)).end()?.alias(ADDED[1]));
    LogicalPlanBuilder::from(input)
        .project(rows)?
        .join(entries, JoinType::Left, on(ROW_HASH, LISTED), None)?
        .project(output)?
        .build()
}

fn near(input: LogicalPlan, hash: Expr, nearest: NearestHash) -> Result<LogicalPlan> {
    let mut rows: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    rows.push(nearest.into_udf().call(vec![hash]).alias(FOUND));
    let field = |name: &str| datafusion::functions::core::get_field().call(vec![ident(FOUND), lit(name)]);
    let mut output = kept_columns(&input, &ADDED);
    output.push(field("id").alias(ADDED[0]));
    output.push(field("distance").alias(ADDED[1]));
    LogicalPlanBuilder::from(input).project(rows)?.project(output)?.build()
}
