//! Graphs whose connected components a build finds in steps of its own, because one task might not hold them.
//!
//! ```text
//! a function asks for the graph of its edges (u, v, …) ── there is none ──▶ union-find, in one task
//!                     │ GraphCall                  ▲
//!                     ▼                            │ Graph: planned again, the function groups by component
//!   a build: are there many edges? ── step "edges" ─▶ (u > v), each once ─▶ round ─▶ round ─▶ … until nothing changes
//! ```
//! A round is a large star and a small star of Kiveris, Lattanzi, Mirrokni, Rastogi & Vassilvitskii, "Connected Components
//! in MapReduce and Beyond" (SoCC 2014): every node's greater neighbours, then its smaller ones, are hung below the
//! smallest. In the end every node hangs below the smallest one that it is connected to, which is what union-find says too.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{JoinType, Result, extensions_options};
use datafusion::config::ConfigExtension;
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::expr_fn::{bit_xor, count};
use datafusion::functions_aggregate::min_max::min_udaf;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit, when};

use crate::functions::content_id;
use crate::sources::FileTable;
use crate::table_functions::relation::{on, over_all};

/// Columns of the edges of a graph: the two nodes, as numbers; others may be beside them.
pub(crate) const U: &str = "__graph_u";
pub(crate) const V: &str = "__graph_v";
const LEAST: &str = "__graph_least";
const STAR: &str = "__graph_star";
const CENTRE: &str = "__graph_centre";

extensions_options! {
    /// Settings of the dialect: `SET corpusmill.… = …`.
    pub struct DialectOptions {
        /// Edges of a graph up to which a build finds its connected components in one task.
        pub component_edges_max: usize, default = 100_000_000
    }
}

impl ConfigExtension for DialectOptions {
    const PREFIX: &'static str = "corpusmill";
}

tokio::task_local! {
    static PLANNING: Arc<Mutex<Planning>>;
}

#[derive(Debug, Default)]
struct Planning {
    /// The graphs that were decided on before, in the order in which they are asked for; `None` for a small one.
    prepared: Vec<Option<Arc<Graph>>>,
    asked: usize,
    calls: Vec<GraphCall>,
}

/// A graph that a query asks for, and that nobody has decided on yet.
#[derive(Debug, Clone)]
pub struct GraphCall {
    /// Plan of its edges.
    pub edges: LogicalPlan,
}

/// A graph whose components are found.
#[derive(Debug)]
pub struct Graph {
    /// Its edges, as the call gave them.
    pub edges: FileTable,
    /// Each node that is not the smallest of its component, and that one: what the last round gave.
    pub stars: FileTable,
}

impl Graph {
    /// The columns of pairs of nodes, which rounds take and give.
    #[must_use]
    pub fn pairs_schema() -> SchemaRef {
        let column = |name: &str| Field::new(name, DataType::Int64, true);
        Arc::new(Schema::new(vec![column(U), column(V)]))
    }

    /// Plans the pairs of nodes that edges connect, the greater node first, each pair once.
    ///
    /// # Errors
    /// [`crate::SqlError::Engine`] when the table has not the columns of edges.
    pub fn pairs(edges: &FileTable) -> crate::error::Result<LogicalPlan> {
        let greater = ident(U).gt(ident(V));
        let pair = LogicalPlanBuilder::from(scan(edges)?)
            .filter(ident(U).not_eq(ident(V)))?
            .project(vec![
                when(greater.clone(), ident(U)).otherwise(ident(V))?.alias(U),
                when(greater, ident(V)).otherwise(ident(U))?.alias(V),
            ])?
            .distinct()?;
        Ok(pair.build()?)
    }

    /// Plans one round over pairs: pairs again.
    ///
    /// # Errors
    /// [`crate::SqlError::Engine`] when the table has not the columns of pairs.
    pub fn round(pairs: &FileTable) -> crate::error::Result<LogicalPlan> {
        let pairs = scan(pairs)?;
        let turned = LogicalPlanBuilder::from(pairs.clone())
            .project(vec![ident(V).alias(U), ident(U).alias(V)])?
            .build()?;
        let both = LogicalPlanBuilder::from(pairs).union(turned)?.build()?;
        // Every greater neighbour of a node is hung below the smallest neighbour, or below the node itself.
        let smaller = when(ident(LEAST).lt(ident(U)), ident(LEAST)).otherwise(ident(U))?;
        let large = with_least(both)?
            .filter(ident(V).gt(ident(U)))?
            .project(vec![ident(V).alias(U), smaller.alias(V)])?
            .distinct()?
            .build()?;
        // A node and its smaller neighbours are hung below the smallest of these.
        let hung = when(ident(V).eq(ident(LEAST)), ident(U)).otherwise(ident(V))?;
        let small = with_least(large)?
            .project(vec![hung.alias(U), ident(LEAST).alias(V)])?
            .distinct()?;
        Ok(small.build()?)
    }

    /// Plans what two rounds are compared by: the number of pairs and a sum over them, in one row.
    ///
    /// # Errors
    /// [`crate::SqlError::Engine`] when the table has not the columns of pairs.
    pub fn digest(pairs: &FileTable) -> crate::error::Result<LogicalPlan> {
        let sum = bit_xor(content_id().call(vec![ident(U), ident(V)]));
        let row = LogicalPlanBuilder::from(scan(pairs)?).aggregate(
            Vec::<Expr>::new(),
            vec![count(lit(1i64)).alias("pairs"), sum.alias("sum")],
        )?;
        Ok(row.build()?)
    }

    /// The columns of `nodes`, and [`CENTRE`]: the smallest node that the one in column `node` is connected to.
    pub(crate) fn with_centre(&self, nodes: LogicalPlan, node: &str) -> Result<(LogicalPlan, Expr)> {
        let stars = LogicalPlanBuilder::from(scan(&self.stars)?)
            .project(vec![ident(U).alias(STAR), ident(V).alias(CENTRE)])?
            .build()?;
        let joined = LogicalPlanBuilder::from(nodes)
            .join(stars, JoinType::Left, on(node, STAR), None)?
            .build()?;
        let centre = datafusion::functions::core::coalesce().call(vec![ident(CENTRE), ident(node)]);
        Ok((joined, centre))
    }
}

/// The columns of a table of a graph, without a qualifier; what a file says of NULLs does not matter.
pub(crate) fn scan(table: &FileTable) -> Result<LogicalPlan> {
    let fields = table.schema.fields().iter();
    let fields: Vec<Field> = fields.map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let columns: Vec<Expr> = fields
        .iter()
        .map(|field| ident(field.name()).alias(field.name()))
        .collect();
    let table = FileTable {
        schema: Arc::new(Schema::new(fields)),
        ..table.clone()
    };
    LogicalPlanBuilder::scan("graph", provider_as_source(Arc::new(table)), None)?
        .project(columns)?
        .build()
}

/// Pairs with the smallest `v` of each `u`.
fn with_least(pairs: LogicalPlan) -> Result<LogicalPlanBuilder> {
    let least = over_all(min_udaf(), ident(V), ident(U), LEAST)?;
    LogicalPlanBuilder::from(pairs).window(vec![least])
}

/// The graph of these edges, where it was prepared; the edges have the columns [`U`] and [`V`].
pub(crate) fn graph(edges: impl FnOnce() -> Result<LogicalPlan>) -> Result<Option<Arc<Graph>>> {
    let asked = |planning: &Arc<Mutex<Planning>>| -> Result<Option<Arc<Graph>>> {
        let mut planning = planning.lock().unwrap_or_else(PoisonError::into_inner);
        let number = planning.asked;
        planning.asked += 1;
        match planning.prepared.get(number) {
            Some(prepared) => Ok(prepared.clone()),
            None => {
                planning.calls.push(GraphCall { edges: edges()? });
                Ok(None)
            }
        }
    };
    // Outside of a build there is none.
    PLANNING.try_with(asked).unwrap_or(Ok(None))
}

/// Passes over a graph that was asked for when the statement was planned before, and is needed no more.
pub(crate) fn pass_over() {
    let _ = PLANNING.try_with(|planning| planning.lock().unwrap_or_else(PoisonError::into_inner).asked += 1);
}

/// How many graphs the statement has asked for so far.
pub(crate) fn asked() -> usize {
    let asked = PLANNING.try_with(|planning| planning.lock().unwrap_or_else(PoisonError::into_inner).asked);
    asked.unwrap_or(0)
}

/// Plans with the graphs that were decided on, and gives those that were not.
pub(crate) async fn with_prepared<F: Future>(prepared: &[Option<Arc<Graph>>], plan: F) -> (F::Output, Vec<GraphCall>) {
    let planning = Arc::new(Mutex::new(Planning {
        prepared: prepared.to_vec(),
        ..Planning::default()
    }));
    let planned = PLANNING.scope(Arc::clone(&planning), plan).await;
    let calls = std::mem::take(&mut planning.lock().unwrap_or_else(PoisonError::into_inner).calls);
    (planned, calls)
}
