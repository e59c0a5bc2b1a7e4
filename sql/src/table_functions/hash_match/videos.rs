//! Frames of videos against a list whose entries say which video they are of (vPDQ).
//!
//! ```text
//! rows ─▶ frames of each video, each once ─▶ near_hash: all entries within the distance ─▶ their videos
//!                 │ counted                                                                  │ counted, of each pair
//!                 └──────▶ shares of the frames of both that have met ◀── entries, counted ◀─┘
//! rows ─▶ left join ◀──────── the best listed video of each ◀── both shares reached
//! ```
//! Dalins, Wilson & Boudry, "PDQ & TMK + PDQF" (2019), and vPDQ of ThreatExchange, which compares videos frame by frame.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, JoinType, Result};
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::expr_fn::{count, count_distinct, min};
use datafusion::functions_window::row_number::row_number;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, cast, ident, lit};

use super::super::relation::{kept_columns, on};
use crate::functions::nearest_hash::NearestHash;
use crate::hash_lists::{HASH, HashList, ID};

const ROW_VIDEO: &str = "__video_of_row";
const VIDEO: &str = "__video";
const FRAME: &str = "__video_frame";
const FOUND: &str = "__video_found";
const FOUND_ID: &str = "__video_found_id";
const DISTANCE: &str = "__video_distance";
const ENTRY: &str = "__video_entry";
const LISTED: &str = "__video_listed";
const LISTED_FRAME: &str = "__video_listed_frame";
const MET: &str = "__video_met";
const LISTED_MET: &str = "__video_listed_met";
const COUNTED: &str = "__video_counted";
const FRAMES: &str = "__video_frames";
const LISTED_COUNTED: &str = "__video_listed_counted";
const LISTED_FRAMES: &str = "__video_listed_frames";
const SHARE: &str = "__video_share";
const LISTED_SHARE: &str = "__video_listed_share";
const PLACE: &str = "__video_place";
const ADDED: [&str; 4] = ["match_id", "match_distance", "match_query_pct", "match_bank_pct"];

/// When two videos match.
pub(super) struct Videos {
    /// Column of the rows that says which video a frame is of.
    pub(super) key: Expr,
    /// Column of the list that does.
    pub(super) bank_key: String,
    /// Least share of the frames of the rows' video that have met one of the listed video, in percent.
    pub(super) query_match_pct: f64,
    /// Least share of the listed video's frames.
    pub(super) bank_match_pct: f64,
}

/// Adds the best listed video to all rows of each video. `hash` is NULL for frames that do not count, `near` gives all
/// entries of the list that are near a hash.
pub(super) fn plan(
    input: LogicalPlan,
    hash: Expr,
    list: &HashList,
    near: NearestHash,
    videos: Videos,
) -> Result<LogicalPlan> {
    let frames = LogicalPlanBuilder::from(input.clone())
        .project(vec![videos.key.clone().alias(VIDEO), hash.alias(FRAME)])?
        .filter(ident(VIDEO).is_not_null().and(ident(FRAME).is_not_null()))?
        .distinct()?
        .build()?;
    let entries = entries(list, &videos.bank_key)?;
    let best = best(frames, entries, near, &videos)?;

    let mut rows: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    rows.push(videos.key.alias(ROW_VIDEO));
    let mut output = kept_columns(&input, &ADDED);
    let found = [LISTED, DISTANCE, SHARE, LISTED_SHARE];
    output.extend(found.iter().zip(ADDED).map(|(name, to)| ident(*name).alias(to)));
    LogicalPlanBuilder::from(input)
        .project(rows)?
        .join(best, JoinType::Left, on(ROW_VIDEO, VIDEO), None)?
        .project(output)?
        .build()
}

/// [`ENTRY`], [`LISTED`] and [`LISTED_FRAME`] of the entries that are of a video.
fn entries(list: &HashList, bank_key: &str) -> Result<LogicalPlan> {
    let source = provider_as_source(Arc::new(list.table.clone()));
    LogicalPlanBuilder::scan(list.name.as_str(), source, None)?
        .project(vec![
            ident(ID).alias(ENTRY),
            cast(ident(bank_key), DataType::Utf8).alias(LISTED),
            ident(HASH).alias(LISTED_FRAME),
        ])?
        .filter(ident(LISTED).is_not_null())?
        .build()
}

/// The listed video of each that has one: [`VIDEO`], [`LISTED`], [`DISTANCE`], and both shares.
fn best(frames: LogicalPlan, entries: LogicalPlan, near: NearestHash, videos: &Videos) -> Result<LogicalPlan> {
    let field = |name: &str| datafusion::functions::core::get_field().call(vec![ident(FOUND), lit(name)]);
    let met = LogicalPlanBuilder::from(frames.clone())
        .project(vec![
            ident(VIDEO),
            ident(FRAME),
            near.into_udf().call(vec![ident(FRAME)]).alias(FOUND),
        ])?
        .unnest_column(Column::new_unqualified(FOUND))?
        .project(vec![
            ident(VIDEO),
            ident(FRAME),
            field("id").alias(FOUND_ID),
            field("distance").alias(DISTANCE),
        ])?
        .join(entries.clone(), JoinType::Inner, on(FOUND_ID, ENTRY), None)?
        .aggregate(
            vec![ident(VIDEO), ident(LISTED)],
            vec![
                count_distinct(ident(FRAME)).alias(MET),
                count_distinct(ident(LISTED_FRAME)).alias(LISTED_MET),
                min(ident(DISTANCE)).alias(DISTANCE),
            ],
        )?;
    let all = LogicalPlanBuilder::from(frames)
        .aggregate(vec![ident(VIDEO).alias(COUNTED)], vec![count(lit(1i64)).alias(FRAMES)])?
        .build()?;
    let all_listed = LogicalPlanBuilder::from(entries)
        .aggregate(
            vec![ident(LISTED).alias(LISTED_COUNTED)],
            vec![count_distinct(ident(LISTED_FRAME)).alias(LISTED_FRAMES)],
        )?
        .build()?;
    let percent = |part: &str, of: &str| {
        cast(ident(part), DataType::Float64) * lit(100.0f64) / cast(ident(of), DataType::Float64)
    };
    let place = row_number()
        .partition_by(vec![ident(VIDEO)])
        .order_by(vec![
            ident(SHARE).sort(false, false),
            ident(LISTED_SHARE).sort(false, false),
            ident(LISTED).sort(true, false),
        ])
        .build()?;
    let columns = [VIDEO, LISTED, DISTANCE, SHARE, LISTED_SHARE].map(ident);
    met.join(all, JoinType::Inner, on(VIDEO, COUNTED), None)?
        .join(all_listed, JoinType::Inner, on(LISTED, LISTED_COUNTED), None)?
        .project(vec![
            ident(VIDEO),
            ident(LISTED),
            ident(DISTANCE),
            percent(MET, FRAMES).alias(SHARE),
            percent(LISTED_MET, LISTED_FRAMES).alias(LISTED_SHARE),
        ])?
        .filter(
            ident(SHARE)
                .gt_eq(lit(videos.query_match_pct))
                .and(ident(LISTED_SHARE).gt_eq(lit(videos.bank_match_pct))),
        )?
        .window(vec![place.alias(PLACE)])?
        .filter(ident(PLACE).eq(lit(1u64)))?
        .project(columns)?
        .build()
}
