//! `hash_match(TABLE t, HASHLIST h, hash => 'pdq' [, key => 'id'] [, quality => 'q'] [, max_distance => n])`
//!
//! Adds `match_id` (`Utf8`: the id of the entry that the row's hash matches, NULL where none does) and `match_distance`
//! (`Int32`: bits in which they differ, 0 for signals that match exactly). Of several entries it is the nearest, then
//! the one whose id sorts first.
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
    arguments.column("key", &input)?;
    let hash = arguments.required_column("hash", &input)?;
    let quality = arguments.column("quality", &input)?;
    let distance_max = arguments.integer("max_distance")?;
    arguments.finish(&[LIST, "key", "hash", "quality", "max_distance"])?;
    let list = hash_lists::named(&name);
    let list = list.ok_or_else(|| fault(format!("unknown hash list '{name}'"), arguments.span()))?;

    if list.signal != Signal::Pdq {
        if quality.is_some() || distance_max.is_some() {
            let message = format!(
                "hash list '{name}' is of signal {}, which matches exactly: quality and max_distance are for pdq",
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
    near(input, hash, &list, distance_max)
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

fn near(input: LogicalPlan, hash: Expr, list: &HashList, distance_max: u32) -> Result<LogicalPlan> {
    let files = list.table.files.iter().map(|file| file.path.clone());
    let listed = ListedHashes {
        name: list.name.clone(),
        root: list.table.root.clone(),
        files: files.collect(),
        hashes: list.hashes(),
        distance_max,
    };
    let mut rows: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let hash = hash_text().call(vec![lit(list.signal.name()), hash]);
    rows.push(NearestHash::udf(Arc::new(listed)).call(vec![hash]).alias(FOUND));
    let field = |name: &str| datafusion::functions::core::get_field().call(vec![ident(FOUND), lit(name)]);
    let mut output = kept_columns(&input, &ADDED);
    output.push(field("id").alias(ADDED[0]));
    output.push(field("distance").alias(ADDED[1]));
    LogicalPlanBuilder::from(input).project(rows)?.project(output)?.build()
}
