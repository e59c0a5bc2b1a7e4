//! What the functions that find duplicates have in common: from rows to nodes, and from verified pairs back to rows.
//!
//! ```text
//! rows ─▶ nodes: one for each different value, with the rank of its first row ─▶ … pairs (a, b) of nodes
//!                  └──────── verify: join both values, compare ◀─────────────────────────┘
//!                                │ (a, b, similarity, rank_a, rank_b)
//! rows ─▶ node ─▶ left join ◀────┴─ duplicate_links ─▶ window over the cluster: representative, similarity to it
//! ```
//! Equal values are one node, so copies cost nothing beyond reading them. The *rank* of a row is its place under `keep`
//! and then the key, as bytes; the first row of a cluster is its representative.

use corpusmill_kernels::duplicate_links::ClusterShape;
use datafusion::common::{Column, JoinType, Result};
use datafusion::functions_aggregate::expr_fn::min;
use datafusion::functions_aggregate::min_max::min_udaf;
use datafusion::functions_window::expr_fn::first_value;
use datafusion::functions_window::row_number::row_number;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, ident, lit, when};

use super::relation::{kept_columns, on, over_all};
use crate::functions::{content_hash, content_id, duplicate_links, order_key};
use crate::graphs;

/// Names of the columns of [`nodes`].
pub(super) const NODE: &str = "__dup_node";
pub(super) const VALUE: &str = "__dup_value";
pub(super) const RANK: &str = "__dup_rank";
/// Whether a node is in a cluster of an earlier build.
pub(super) const SETTLED: &str = "__dup_settled";
/// Names of the columns of a plan of pairs.
pub(super) const A: &str = "__dup_a";
pub(super) const B: &str = "__dup_b";
const VALUE_A: &str = "__dup_value_a";
const VALUE_B: &str = "__dup_value_b";
const RANK_A: &str = "__dup_rank_a";
const RANK_B: &str = "__dup_rank_b";
pub(super) const SETTLED_A: &str = "__dup_settled_a";
const SIMILARITY: &str = "__dup_pair_similarity";
/// Columns of a plan of verified pairs: the field of an edge, and the name.
pub(super) const EDGE_COLUMNS: [(&str, &str); 5] = [
    ("a", A),
    ("b", B),
    ("similarity", SIMILARITY),
    ("rank_a", RANK_A),
    ("rank_b", RANK_B),
];
const LINKS: &str = "__dup_links";
const COMPONENT: &str = "__dup_component";
pub(super) const CLUSTER: &str = "__dup_cluster";
const FIRST: &str = "__dup_first";
pub(super) const LINKED: &str = "__dup_linked";
pub(super) const LINK_NODE: &str = "__dup_link_node";
const PLACE: &str = "__dup_place";
const CLUSTER_RANK: &str = "__dup_cluster_rank";
const CLUSTER_VALUE: &str = "__dup_cluster_value";
const CLUSTER_ID: &str = "__dup_cluster_id";
const CONTENT: &str = "__dup_content";

/// Rows among which duplicates are looked for.
pub(super) struct Rows {
    pub(super) input: LogicalPlan,
    pub(super) key: Expr,
    /// What is compared; a row where it is NULL is a cluster of its own.
    pub(super) value: Expr,
    /// The order in which rows are rather representatives; the key is its last term.
    pub(super) order: Vec<Sort>,
}

/// Names of the columns that are added.
pub(super) struct Added {
    pub(super) cluster: &'static str,
    pub(super) representative: &'static str,
    pub(super) similarity: &'static str,
    pub(super) linked: &'static str,
}

/// The columns of duplicates among texts and embeddings.
pub(super) const DUPLICATES: Added = Added {
    cluster: "dup_cluster_id",
    representative: "dup_is_representative",
    similarity: "dup_similarity",
    linked: "dup_linked_to",
};

impl Rows {
    pub(super) fn new(input: LogicalPlan, key: Expr, value: Expr, mut keep: Vec<Sort>) -> Rows {
        keep.push(key.clone().sort(true, false));
        Rows {
            input,
            key,
            value,
            order: keep,
        }
    }

    /// One row for each different value: [`NODE`], [`VALUE`], [`RANK`], and [`SETTLED`], which none of them is.
    pub(super) fn nodes(&self) -> Result<LogicalPlan> {
        LogicalPlanBuilder::from(self.input.clone())
            .project(vec![
                self.value.clone().alias(VALUE),
                order_key::of(&self.order).alias(RANK),
            ])?
            .filter(ident(VALUE).is_not_null())?
            .aggregate(vec![ident(VALUE)], vec![min(ident(RANK)).alias(RANK)])?
            .project(vec![
                content_hash().call(vec![ident(VALUE)]).alias(NODE),
                ident(VALUE),
                ident(RANK),
                lit(false).alias(SETTLED),
            ])?
            .build()
    }

    /// Compares the values of `pairs` ([`A`], [`B`], each once) and keeps those that `alike` gives a value from
    /// `least` on: `a`, `b`, similarity, both ranks, and whether `a` is settled.
    pub(super) fn verify(
        &self,
        pairs: LogicalPlan,
        nodes: &LogicalPlan,
        alike: impl Fn(Expr, Expr) -> Expr,
        least: f64,
    ) -> Result<LogicalPlan> {
        let side = |columns: &[(&str, &str)]| {
            LogicalPlanBuilder::from(nodes.clone())
                .project(columns.iter().map(|(name, to)| ident(*name).alias(*to)))?
                .build()
        };
        let (node_a, node_b) = ("__dup_node_a", "__dup_node_b");
        let a = side(&[(NODE, node_a), (VALUE, VALUE_A), (RANK, RANK_A), (SETTLED, SETTLED_A)])?;
        let b = side(&[(NODE, node_b), (VALUE, VALUE_B), (RANK, RANK_B)])?;
        LogicalPlanBuilder::from(pairs)
            .join(a, JoinType::Inner, on(A, node_a), None)?
            .join(b, JoinType::Inner, on(B, node_b), None)?
            .project(vec![
                ident(A),
                ident(B),
                alike(ident(VALUE_A), ident(VALUE_B)).alias(SIMILARITY),
                ident(RANK_A),
                ident(RANK_B),
                ident(SETTLED_A),
            ])?
            .filter(ident(SIMILARITY).gt_eq(lit(least)))?
            .build()
    }

    /// Puts the rows into clusters over verified pairs, and adds the columns. `alike` compares a row's value to that of
    /// its representative; `same` is what it gives for the representative itself.
    pub(super) fn annotate(
        self,
        verified: LogicalPlan,
        shape: ClusterShape,
        added: &Added,
        same: Expr,
        alike: impl Fn(Expr, Expr) -> Expr,
    ) -> Result<LogicalPlan> {
        let own = content_hash().call(vec![lit("row"), self.key.clone()]);
        let content = content_hash().call(vec![self.value.clone()]);
        let id = content_id().call(vec![self.value.clone()]);
        let own_id = content_id().call(vec![lit("row"), self.key.clone()]);
        let coalesce = |a: Expr, b: Expr| datafusion::functions::core::coalesce().call(vec![a, b]);

        let mut rows: Vec<Expr> = self.input.schema().columns().into_iter().map(Expr::Column).collect();
        rows.push(coalesce(content, own).alias(NODE));
        rows.push(coalesce(id, own_id).alias(CONTENT));
        rows.push(order_key::of(&self.order).alias(RANK));
        let linked = LogicalPlanBuilder::from(self.input.clone())
            .project(rows)?
            .join(
                links(verified, lit(false), shape)?,
                JoinType::Left,
                on(NODE, LINK_NODE),
                None,
            )?
            .build()?;

        let mut columns: Vec<Expr> = self.input.schema().columns().into_iter().map(Expr::Column).collect();
        columns.extend([RANK, CONTENT, FIRST, LINKED].map(ident));
        columns.push(coalesce(ident(CLUSTER), ident(NODE)).alias(CLUSTER));
        let in_order = || vec![ident(RANK).sort(true, false)];
        let of_cluster = |function: Expr, name: &str| {
            let window = function.partition_by(vec![ident(CLUSTER)]).order_by(in_order());
            Ok::<Expr, datafusion::error::DataFusionError>(window.build()?.alias(name))
        };
        let smallest = over_all(min_udaf(), ident(CONTENT), ident(CLUSTER), CLUSTER_ID)?;
        let windows = vec![
            of_cluster(row_number(), PLACE)?,
            of_cluster(first_value(ident(RANK)), CLUSTER_RANK)?,
            of_cluster(first_value(self.value.clone()), CLUSTER_VALUE)?,
        ];
        let first = ident(PLACE).eq(lit(1u64));
        let linked_rank = when(first.clone(), lit(datafusion::common::ScalarValue::Binary(None)))
            .when(ident(FIRST).is_null(), ident(CLUSTER_RANK))
            .when(ident(FIRST).eq(ident(RANK)), ident(LINKED))
            .otherwise(ident(FIRST))?;
        let similarity = when(first.clone(), same).otherwise(alike(self.value.clone(), ident(CLUSTER_VALUE)))?;
        let names = [added.cluster, added.representative, added.similarity, added.linked];
        let mut output = kept_columns(&self.input, &names);
        output.push(ident(CLUSTER_ID).alias(added.cluster));
        output.push(first.alias(added.representative));
        output.push(similarity.alias(added.similarity));
        output.push(order_key::last_value(&self.order, linked_rank).alias(added.linked));
        LogicalPlanBuilder::from(linked)
            .project(columns)?
            .window(vec![smallest])?
            .window(windows)?
            .project(output)?
            .build()
    }
}

/// [`LINK_NODE`], [`CLUSTER`], [`FIRST`] and [`LINKED`] of every node that has a pair; `settled` says that the `a` of a pair
/// is in a cluster of an earlier build.
pub(super) fn links(verified: LogicalPlan, settled: Expr, shape: ClusterShape) -> Result<LogicalPlan> {
    let shape = match shape {
        ClusterShape::Component => "component",
        ClusterShape::Star => "star",
    };
    let columns = || EDGE_COLUMNS.map(|(_, name)| ident(name)).into_iter();
    let edges = || {
        let node = |name: &str, to: &str| content_id().call(vec![ident(name)]).alias(to);
        let more = [settled.clone().alias(SETTLED_A), node(A, graphs::U), node(B, graphs::V)];
        LogicalPlanBuilder::from(verified.clone())
            .project(columns().chain(more))?
            .build()
    };
    // Where components are known, each is clustered by itself.
    let (pairs, settled, component) = match graphs::graph(edges)? {
        None => (verified, settled, vec![]),
        Some(graph) => {
            let (pairs, component) = graph.with_centre(graphs::scan(&graph.edges)?, graphs::U)?;
            (pairs, ident(SETTLED_A), vec![component.alias(COMPONENT)])
        }
    };
    let call = duplicate_links::function().call(columns().chain([settled, lit(shape)]).collect());
    let field = |name: &str, to: &str| {
        datafusion::functions::core::get_field()
            .call(vec![ident(LINKS), lit(name)])
            .alias(to)
    };
    LogicalPlanBuilder::from(pairs)
        .aggregate(component, vec![call.alias(LINKS)])?
        .unnest_column(Column::new_unqualified(LINKS))?
        .project(vec![
            field("node", LINK_NODE),
            field("cluster", CLUSTER),
            field("first", FIRST),
            field("linked", LINKED),
        ])?
        .build()
}
