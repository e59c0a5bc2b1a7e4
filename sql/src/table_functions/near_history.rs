//! `near_duplicates(…, against => 'history:corpus')`: texts that are new are compared with those of earlier builds.
//!
//! ```text
//! texts of the input that no build has seen ─▶ bands ─▶ met: old texts that share a band (index of the history)
//!        │                                                │ settled: nodes whose clusters stay as they are
//!        └──────────────── near_pairs ◀───────────────────┘
//!                              │ verified, duplicate_links
//!                              ▼
//!        new texts: cluster, representative, similarity ──(a step of the build adds them to the history)──┐
//!                                                                                                         ▼
//! rows ─▶ text ─────────────────────────────── look-up ◀──────────────────────────── all texts of the history
//! ```
//! A row is looked up by its text, whether that is new or not: so a row that is there again gets what it got before, and
//! does not match itself. Old texts are read only where they share a band with a new one, or stand for their cluster.

use std::sync::Arc;

use corpusmill_kernels::duplicate_links::ClusterShape;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{JoinType, Result, ScalarValue, Span};
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::min_max::min_udaf;
use datafusion::functions_window::row_number::row_number;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast, ident, lit, when,
};

use super::clusters::{CLUSTER, DUPLICATES, LINK_NODE, LINKED, NODE, RANK, Rows, SETTLED, SETTLED_A, VALUE, links};
use super::fault;
use super::near_duplicates::{BAND, Options, bands, field, pairs};
use super::relation::{kept_columns, on, over_all};
use crate::functions::{content_hash, content_id, order_key};
use crate::graphs;
use crate::history::{BandOptions, History, HistoryCall};
use crate::sources::FileTable;

/// Old texts with one band that one build keeps in the index: a flood costs no more than this.
const INDEXED_MAX: u64 = 256;

/// Columns of the texts of a history, as they lie in the files.
const COLUMNS: [&str; 9] = [
    "node",
    "content",
    "text",
    "cluster",
    "representative",
    "representative_key",
    "first_key",
    "linked_key",
    "similarity",
];
/// The same in a plan, of texts that were there before.
const OLD_NODE: &str = "__old_node";
const OLD_CONTENT: &str = "__old_content";
const OLD_TEXT: &str = "__old_text";
const OLD_CLUSTER: &str = "__old_cluster";
const OLD_REPRESENTATIVE: &str = "__old_representative";
const OLD_REPRESENTATIVE_KEY: &str = "__old_representative_key";
const OLD_FIRST_KEY: &str = "__old_first_key";
const OLD_LINKED_KEY: &str = "__old_linked_key";
const OLD_SIMILARITY: &str = "__old_similarity";
const OLD: [&str; 9] = [
    OLD_NODE,
    OLD_CONTENT,
    OLD_TEXT,
    OLD_CLUSTER,
    OLD_REPRESENTATIVE,
    OLD_REPRESENTATIVE_KEY,
    OLD_FIRST_KEY,
    OLD_LINKED_KEY,
    OLD_SIMILARITY,
];
/// Columns of the index.
const INDEX: [&str; 2] = ["band", "content"];
const OLD_BAND: &str = "__old_band";
const NEW_BAND: &str = "__new_band";
const MET: &str = "__old_met";
const PLACE: &str = "__old_place";
const ROOT: &str = "__new_root";
const CONTENT: &str = "__new_content";
const SMALLEST: &str = "__new_smallest";
const NEW_CLUSTER: &str = "__new_cluster";
const NEW_REPRESENTATIVE: &str = "__new_representative";
const FIRST_KEY: &str = "__new_first_key";
const LINKED_KEY: &str = "__new_linked_key";
const STANDING_NODE: &str = "__standing_node";
const STANDING_TEXT: &str = "__standing_text";
const STANDING_KEY: &str = "__standing_key";

/// Rows, and what is known of the texts of earlier builds.
struct Compared<'a> {
    rows: Rows,
    key_type: DataType,
    /// The order of the rows with NULL in place of its columns: for plans of texts, which have none of them.
    nulls: Vec<Sort>,
    old: Option<LogicalPlan>,
    history: &'a History,
    options: &'a Options,
}

pub(super) fn plan(
    input: LogicalPlan,
    key: Expr,
    text: Expr,
    keep: Vec<Sort>,
    history: &History,
    options: &Options,
    span: Option<Span>,
) -> Result<LogicalPlan> {
    let key_type = stored(key.get_type(input.schema())?);
    let rows = Rows::new(input, key, cast(text, DataType::Utf8), keep);
    let texts = history.texts();
    if let Some(texts) = &texts {
        let there = texts.schema.field_with_name(COLUMNS[5])?.data_type();
        if *there != key_type {
            let message = format!(
                "the keys in the history of corpus {} are of type {there}, key => is of type {key_type}; cast it, or DROP CORPUS {} to begin a new history",
                history.corpus, history.corpus
            );
            return Err(fault(message, span));
        }
    }
    let nulls = rows.order.iter().map(|term| -> Result<Sort> {
        let null = ScalarValue::try_from(&term.expr.get_type(rows.input.schema())?)?;
        Ok(lit(null).sort(term.asc, term.nulls_first))
    });
    let compared = Compared {
        nulls: nulls.collect::<Result<_>>()?,
        key_type,
        old: texts.as_ref().map(scan_texts).transpose()?,
        rows,
        history,
        options,
    };
    compared.plan()
}

/// The type of a key as it lies in a file.
fn stored(key: DataType) -> DataType {
    match key {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, value) => stored(*value),
        other => other,
    }
}

fn scan(table: &FileTable, columns: &[&str], to: &[&str]) -> Result<LogicalPlan> {
    let source = provider_as_source(Arc::new(table.clone()));
    let columns = columns.iter().zip(to).map(|(name, to)| ident(*name).alias(*to));
    LogicalPlanBuilder::scan("history", source, None)?
        .project(columns.collect::<Vec<_>>())?
        .build()
}

fn scan_texts(table: &FileTable) -> Result<LogicalPlan> {
    scan(table, &COLUMNS, &OLD)
}

fn coalesce(a: Expr, b: Expr) -> Expr {
    datafusion::functions::core::coalesce().call(vec![a, b])
}

/// `content` and [`BAND`] of texts, a row for each band.
fn bands_of(texts: LogicalPlan, content: &str, text: &str, options: &BandOptions) -> Result<LogicalPlan> {
    let bands = bands(texts, vec![ident(content)], ident(text), options)?;
    LogicalPlanBuilder::from(bands)
        .project(vec![field(BAND, "band").alias(OLD_BAND), ident(content).alias(MET)])?
        .build()
}

/// Plans the index over a table of texts: see [`crate::history::Generation::bands`].
pub(crate) fn index(texts: &FileTable, options: &BandOptions) -> Result<LogicalPlan> {
    let mut texts = LogicalPlanBuilder::from(scan_texts(texts)?);
    if options.representatives_only {
        texts = texts.filter(ident(OLD_NODE).eq(ident(OLD_REPRESENTATIVE)))?;
    }
    let place = row_number()
        .partition_by(vec![ident(OLD_BAND)])
        .order_by(vec![ident(MET).sort(true, false)])
        .build()?;
    LogicalPlanBuilder::from(bands_of(texts.build()?, OLD_CONTENT, OLD_TEXT, options)?)
        .window(vec![place.alias(PLACE)])?
        .filter(ident(PLACE).lt_eq(lit(INDEXED_MAX)))?
        .project(vec![ident(OLD_BAND).alias(INDEX[0]), ident(MET).alias(INDEX[1])])?
        .build()
}

impl Compared<'_> {
    fn plan(self) -> Result<LogicalPlan> {
        if self.history.complete
            && let Some(old) = self.old.clone()
        {
            // Its clusters are made.
            graphs::pass_over();
            return self.look_up(old);
        }
        let new = self.new_texts()?;
        if !self.history.complete {
            HistoryCall {
                corpus: self.history.corpus.clone(),
                options: self.options.bands.clone(),
                texts: new.clone(),
                graphs_before: graphs::asked(),
            }
            .record();
        }
        let renamed = COLUMNS.iter().zip(OLD).map(|(name, to)| ident(*name).alias(to));
        let mut all = LogicalPlanBuilder::from(new).project(renamed.collect::<Vec<_>>())?;
        if let Some(old) = self.old.clone() {
            all = all.union(old)?;
        }
        self.look_up(all.build()?)
    }

    /// Texts of the input that no build has seen, as [`Rows::nodes`] gives them.
    fn unseen(&self) -> Result<LogicalPlan> {
        let nodes = LogicalPlanBuilder::from(self.rows.nodes()?);
        match &self.old {
            None => nodes.build(),
            Some(old) => {
                let seen = LogicalPlanBuilder::from(old.clone())
                    .project(vec![ident(OLD_NODE)])?
                    .build()?;
                nodes.join(seen, JoinType::LeftAnti, on(NODE, OLD_NODE), None)?.build()
            }
        }
    }

    /// Old texts that share a band with one of `unseen`, as settled nodes; `None` where there are no old texts.
    fn met(&self, unseen: &LogicalPlan) -> Result<Option<LogicalPlan>> {
        let (Some(old), Some(index)) = (&self.old, self.index()?) else {
            return Ok(None);
        };
        let columns = vec![ident(NODE)];
        let wanted = bands(unseen.clone(), columns, ident(VALUE), &self.options.bands)?;
        let wanted = LogicalPlanBuilder::from(wanted)
            .project(vec![field(BAND, "band").alias(NEW_BAND)])?
            .distinct()?
            .build()?;
        let met = LogicalPlanBuilder::from(index)
            .join(wanted, JoinType::LeftSemi, on(OLD_BAND, NEW_BAND), None)?
            .project(vec![ident(MET)])?
            .distinct()?
            .build()?;
        let mut old = LogicalPlanBuilder::from(old.clone());
        if self.options.shape == ClusterShape::Star {
            old = old.filter(ident(OLD_NODE).eq(ident(OLD_REPRESENTATIVE)))?;
        }
        let mut rank = self.nulls.clone();
        if let (Some(last), Some(key)) = (rank.last_mut(), self.rows.order.last()) {
            last.expr = cast(ident(OLD_FIRST_KEY), key.expr.get_type(self.rows.input.schema())?);
        }
        let met = old
            .join(met, JoinType::LeftSemi, on(OLD_CONTENT, MET), None)?
            .project(vec![
                ident(OLD_NODE).alias(NODE),
                ident(OLD_TEXT).alias(VALUE),
                order_key::of(&rank).alias(RANK),
                lit(true).alias(SETTLED),
            ])?;
        met.build().map(Some)
    }

    /// The bands of all old texts: [`OLD_BAND`], [`MET`].
    fn index(&self) -> Result<Option<LogicalPlan>> {
        let options = &self.options.bands;
        let mut all: Option<LogicalPlan> = None;
        for generation in &self.history.generations {
            let of_one = if generation.options == *options {
                scan(&generation.bands, &INDEX, &[OLD_BAND, MET])?
            } else {
                // Bands of other options never meet these: they are computed again.
                bands_of(scan_texts(&generation.texts)?, OLD_CONTENT, OLD_TEXT, options)?
            };
            all = Some(match all {
                None => of_one,
                Some(before) => LogicalPlanBuilder::from(before).union(of_one)?.build()?,
            });
        }
        Ok(all)
    }

    /// The texts that this build adds: [`COLUMNS`].
    fn new_texts(&self) -> Result<LogicalPlan> {
        let unseen = self.unseen()?;
        let nodes = match self.met(&unseen)? {
            None => unseen.clone(),
            Some(met) => LogicalPlanBuilder::from(unseen.clone()).union(met)?.build()?,
        };
        let pairs = pairs(nodes.clone(), self.options)?;
        let alike = |a: Expr, b: Expr| self.options.alike(a, b);
        let verified = self.rows.verify(pairs, &nodes, alike, self.options.threshold)?;
        let links = links(verified, ident(SETTLED_A), self.options.shape)?;
        let placed = LogicalPlanBuilder::from(unseen.clone())
            .join(links, JoinType::Left, on(NODE, LINK_NODE), None)?
            .project(vec![
                ident(NODE),
                ident(VALUE),
                self.key_in(RANK).alias(FIRST_KEY),
                self.key_in(LINKED).alias(LINKED_KEY),
                coalesce(ident(CLUSTER), ident(NODE)).alias(ROOT),
                content_id().call(vec![ident(VALUE)]).alias(CONTENT),
            ])?
            .build()?;
        let smallest = over_all(min_udaf(), ident(CONTENT), ident(ROOT), SMALLEST)?;
        let clustered = LogicalPlanBuilder::from(self.below_old(placed)?)
            .window(vec![smallest])?
            .project(vec![
                ident(NODE),
                ident(CONTENT),
                ident(VALUE),
                ident(FIRST_KEY),
                ident(LINKED_KEY),
                ident(OLD_LINKED_KEY),
                coalesce(ident(OLD_CLUSTER), ident(SMALLEST)).alias(NEW_CLUSTER),
                coalesce(ident(OLD_REPRESENTATIVE), ident(ROOT)).alias(NEW_REPRESENTATIVE),
            ])?
            .build()?;
        // A row whose text has changed hangs below its own old text: it is linked to what that was linked to.
        let linked = when(ident(FIRST_KEY).eq(ident(STANDING_KEY)), self.no_key()?)
            .when(ident(LINKED_KEY).eq(ident(FIRST_KEY)), ident(OLD_LINKED_KEY))
            .otherwise(ident(LINKED_KEY))?;
        let columns = [
            ident(NODE),
            ident(CONTENT),
            ident(VALUE),
            ident(NEW_CLUSTER),
            ident(NEW_REPRESENTATIVE),
            ident(STANDING_KEY),
            ident(FIRST_KEY),
            linked,
            self.options.alike(ident(VALUE), ident(STANDING_TEXT)),
        ];
        let columns = columns.into_iter().zip(COLUMNS).map(|(value, name)| value.alias(name));
        LogicalPlanBuilder::from(clustered)
            .join(
                self.standing(unseen)?,
                JoinType::Inner,
                on(NEW_REPRESENTATIVE, STANDING_NODE),
                None,
            )?
            .project(columns.collect::<Vec<_>>())?
            .build()
    }

    /// The key that a rank ends with, as it is stored.
    fn key_in(&self, rank: &str) -> Expr {
        cast(order_key::last_value(&self.nulls, ident(rank)), self.key_type.clone())
    }

    fn no_key(&self) -> Result<Expr> {
        Ok(lit(ScalarValue::try_from(&self.key_type)?))
    }

    /// Joins what is known of the old text that a new one hangs below; NULL where there is none.
    fn below_old(&self, placed: LogicalPlan) -> Result<LogicalPlan> {
        let builder = LogicalPlanBuilder::from(placed.clone());
        let Some(old) = &self.old else {
            let mut columns: Vec<Expr> = placed.schema().columns().into_iter().map(Expr::Column).collect();
            columns.push(lit(ScalarValue::Int64(None)).alias(OLD_CLUSTER));
            columns.push(lit(ScalarValue::FixedSizeBinary(16, None)).alias(OLD_REPRESENTATIVE));
            columns.push(self.no_key()?.alias(OLD_LINKED_KEY));
            return builder.project(columns)?.build();
        };
        let old = LogicalPlanBuilder::from(old.clone())
            .project([OLD_NODE, OLD_CLUSTER, OLD_REPRESENTATIVE, OLD_LINKED_KEY].map(ident))?
            .build()?;
        builder.join(old, JoinType::Left, on(ROOT, OLD_NODE), None)?.build()
    }

    /// Texts that may stand for a cluster: all new ones, and the representatives of the old clusters.
    fn standing(&self, unseen: LogicalPlan) -> Result<LogicalPlan> {
        let new = LogicalPlanBuilder::from(unseen).project(vec![
            ident(NODE).alias(STANDING_NODE),
            ident(VALUE).alias(STANDING_TEXT),
            self.key_in(RANK).alias(STANDING_KEY),
        ])?;
        let Some(old) = &self.old else {
            return new.build();
        };
        let old = LogicalPlanBuilder::from(old.clone())
            .filter(ident(OLD_NODE).eq(ident(OLD_REPRESENTATIVE)))?
            .project(vec![
                ident(OLD_NODE).alias(STANDING_NODE),
                ident(OLD_TEXT).alias(STANDING_TEXT),
                ident(OLD_FIRST_KEY).alias(STANDING_KEY),
            ])?
            .build()?;
        new.union(old)?.build()
    }

    /// The rows with what `texts` say of theirs.
    fn look_up(self, texts: LogicalPlan) -> Result<LogicalPlan> {
        let Rows { input, key, value, .. } = self.rows;
        let found = [
            OLD_NODE,
            OLD_CLUSTER,
            OLD_REPRESENTATIVE_KEY,
            OLD_FIRST_KEY,
            OLD_LINKED_KEY,
            OLD_SIMILARITY,
        ];
        let texts = LogicalPlanBuilder::from(texts).project(found.map(ident))?.build()?;
        let mut rows: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
        rows.push(content_hash().call(vec![value]).alias(NODE));
        rows.push(content_id().call(vec![lit("row"), key.clone()]).alias(CONTENT));

        let own_type = key.get_type(input.schema())?;
        let is = |name: &str| coalesce(cast(key.clone(), self.key_type.clone()).eq(ident(name)), lit(false));
        // A row without a text is in no history: it is a cluster of its own.
        let stands = when(ident(OLD_NODE).is_null(), lit(true)).otherwise(is(OLD_REPRESENTATIVE_KEY))?;
        let similarity = when(stands.clone(), lit(1.0f64)).otherwise(ident(OLD_SIMILARITY))?;
        let linked = when(stands.clone(), lit(ScalarValue::try_from(&self.key_type)?))
            .when(is(OLD_FIRST_KEY), ident(OLD_LINKED_KEY))
            .otherwise(ident(OLD_FIRST_KEY))?;
        let names = [
            DUPLICATES.cluster,
            DUPLICATES.representative,
            DUPLICATES.similarity,
            DUPLICATES.linked,
        ];
        let mut output = kept_columns(&input, &names);
        output.push(coalesce(ident(OLD_CLUSTER), ident(CONTENT)).alias(names[0]));
        output.push(stands.alias(names[1]));
        output.push(similarity.alias(names[2]));
        output.push(cast(linked, own_type).alias(names[3]));
        LogicalPlanBuilder::from(input)
            .project(rows)?
            .join(texts, JoinType::Left, on(NODE, OLD_NODE), None)?
            .project(output)?
            .build()
    }
}
