//! From `CREATE CORPUS … AS SELECT` to the plan of its last step.
//!
//! ```text
//! query ─ checked to be reproducible ─ [only the shards that are missing] ─ one Boolean per row expectation
//!   ─ _hash, _shard, _verdict, _warn_… ─ Screen ─ exchange by _shard ─ sort (_shard, _class, _hash, key) ─ WriteShards
//! ```

use std::sync::Arc;

use corpusmill_corpus::{arrow_schema, columns_of};
use corpusmill_operators::{
    CLASS, Destination, HASH, Reason, ReasonAction, SHARD, Screen, ScreenSpec, ShardSink, VERDICT, WriteShards,
    key_hash_udf, key_shard_udf, warn_column,
};
use corpusmill_sql::{
    CreateCorpus, Expectation, ExpectationScope, Graph, GraphCall, HistoryCall, Session, SqlText, Statement,
    ViolationAction,
};
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit, when};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _, Partitioning};

use crate::corpus_options::CorpusOptions;
use crate::error::{CoordinatorError, Result};
use crate::names::nearest;

/// A corpus whose query is planned and whose clauses fit it.
#[derive(Debug, Clone)]
pub(crate) struct CorpusPlan {
    /// The statement.
    pub(crate) corpus: CreateCorpus,
    /// Its options.
    pub(crate) options: CorpusOptions,
    /// Its rows before any expectation.
    pub(crate) rows: LogicalPlan,
    /// Its columns as they are stored, all nullable.
    pub(crate) schema: SchemaRef,
    /// What its query compares with the history of a corpus.
    pub(crate) history: Vec<HistoryCall>,
    /// Graphs that its query asks for, and that were not decided on.
    pub(crate) graphs: Vec<GraphCall>,
}

/// Where the last step writes.
#[derive(Debug, Clone)]
pub(crate) struct ShardTarget {
    /// The corpus' folder.
    pub(crate) corpus: Destination,
    /// The step's staging folder.
    pub(crate) staging: Destination,
    /// Id of the build.
    pub(crate) build: String,
    /// Name of the step.
    pub(crate) step: String,
    /// The shards that are still to be made.
    pub(crate) splits: Vec<u32>,
}

impl CorpusPlan {
    /// Plans the query of `statement` with the graphs that were decided on, and holds the clauses of the corpus against its columns.
    ///
    /// # Errors
    /// When the query does not plan or is not reproducible, or a clause names a column that is not there.
    pub(crate) async fn new(
        session: &Session,
        statement: &Statement,
        corpus: &CreateCorpus,
        graphs: &[Option<Arc<Graph>>],
    ) -> Result<Self> {
        let options = CorpusOptions::parse(corpus)?;
        let planned = session.plan_for_build(statement, graphs).await?;
        let plan = session.check_reproducible(planned.plan, &corpus.query)?;
        let rows = to_microseconds(plan)?;
        let schema = stored(corpus, &rows)?;
        check_columns(corpus, &schema)?;
        Ok(Self {
            corpus: corpus.clone(),
            options,
            rows,
            schema,
            history: planned.history,
            graphs: planned.graphs,
        })
    }

    /// Row expectations, in order.
    pub(crate) fn row_expectations(&self) -> impl Iterator<Item = &Expectation> {
        self.corpus
            .expectations
            .iter()
            .filter(|e| e.scope == ExpectationScope::Row)
    }

    /// Corpus expectations, in order.
    pub(crate) fn corpus_expectations(&self) -> impl Iterator<Item = &Expectation> {
        self.corpus
            .expectations
            .iter()
            .filter(|e| e.scope == ExpectationScope::Corpus)
    }

    fn reasons(&self) -> Vec<Reason> {
        let action = |action| match action {
            ViolationAction::DropRow => ReasonAction::Drop,
            ViolationAction::QuarantineRow => ReasonAction::Quarantine,
            ViolationAction::FailBuild => ReasonAction::Fail,
            ViolationAction::Warn => ReasonAction::Warn,
        };
        self.row_expectations()
            .map(|e| Reason {
                name: e.name.clone(),
                action: action(e.action),
            })
            .collect()
    }

    /// The plan of the rows with their place and verdict; only rows of `splits` when some shards are done.
    ///
    /// # Errors
    /// When a condition does not plan.
    pub(crate) async fn annotated(&self, session: &Session, splits: &[u32]) -> Result<LogicalPlan> {
        let mut builder = LogicalPlanBuilder::from(self.rows.clone());
        if splits.len() < self.options.shards as usize {
            let wanted = splits.iter().map(|split| lit(*split)).collect();
            builder = builder.filter(self.shard_of(self.hash()).in_list(wanted, false))?;
        }
        let conditions: Vec<(String, SqlText)> = self
            .row_expectations()
            .enumerate()
            .map(|(index, expectation)| (condition_column(index), expectation.condition.clone()))
            .collect();
        let rows = builder.build()?;
        let judged = session
            .plan_row_conditions(rows, &self.corpus.name, &conditions)
            .await?;
        let mut columns: Vec<Expr> = self.schema.fields().iter().map(|field| own(field.name())).collect();
        columns.push(self.hash().alias(HASH));
        columns.push(self.shard_of(self.hash()).alias(SHARD));
        columns.push(self.verdict()?.alias(VERDICT));
        for (index, reason) in self.reasons().iter().enumerate() {
            if reason.action == ReasonAction::Warn {
                columns.push(own(&condition_column(index)).is_not_true().alias(warn_column(index)));
            }
        }
        Ok(LogicalPlanBuilder::from(judged).project(columns)?.build()?)
    }

    fn hash(&self) -> Expr {
        key_hash_udf().call(self.corpus.primary_key.iter().map(|key| own(key)).collect())
    }

    fn shard_of(&self, hash: Expr) -> Expr {
        key_shard_udf().call(vec![hash, lit(self.options.shards)])
    }

    /// The first expectation that a row breaks, those that only warn aside.
    fn verdict(&self) -> Result<Expr> {
        let none = lit(ScalarValue::Int32(None));
        let reasons = self.reasons();
        let mut deciding = reasons
            .iter()
            .enumerate()
            .filter(|(_, reason)| reason.action != ReasonAction::Warn);
        let broken = |index: usize| own(&condition_column(index)).is_not_true();
        let Some((first, _)) = deciding.next() else {
            return Ok(none);
        };
        let mut case = when(broken(first), lit(first as i32));
        for (index, _) in deciding {
            case = case.when(broken(index), lit(index as i32));
        }
        Ok(case.otherwise(none)?)
    }

    /// The physical plan of the last step over `annotated`, spread over `partitions`.
    ///
    /// # Errors
    /// When a column is missing from the plan.
    pub(crate) fn sink(
        &self,
        annotated: Arc<dyn ExecutionPlan>,
        target: ShardTarget,
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = self.corpus.primary_key.clone();
        let reasons = self.reasons();
        let spec = ScreenSpec {
            keys: keys.clone(),
            reasons: reasons.clone(),
            splits: target.splits.clone(),
        };
        let screen: Arc<dyn ExecutionPlan> = Arc::new(Screen::try_new(annotated, Arc::new(spec))?);
        let sources = screen.output_partitioning().partition_count();
        let schema = screen.schema();
        let column = |name: &str| -> Result<Arc<dyn PhysicalExpr>> {
            Ok(Arc::new(PhysicalColumn::new_with_schema(name, &schema)?))
        };
        let partitions = partitions.clamp(1, target.splits.len().max(1));
        let exchange = RepartitionExec::try_new(screen, Partitioning::Hash(vec![column(SHARD)?], partitions))?;
        let options = SortOptions {
            descending: false,
            nulls_first: true,
        };
        let order = [SHARD, CLASS, HASH]
            .into_iter()
            .chain(keys.iter().map(String::as_str))
            .map(|name| Ok(PhysicalSortExpr::new(column(name)?, options)))
            .collect::<Result<Vec<_>>>()?;
        let Some(order) = LexOrdering::new(order) else {
            return Err(CoordinatorError::Invalid("a corpus needs a PRIMARY KEY".into()));
        };
        let sort = SortExec::new(order, Arc::new(exchange)).with_preserve_partitioning(true);
        let sink = ShardSink {
            corpus: target.corpus,
            staging: target.staging,
            build: target.build,
            step: target.step,
            keys,
            partition_by: self.corpus.partitioned_by.clone(),
            reasons,
            sources,
            block_rows: self.options.block_rows,
        };
        Ok(Arc::new(WriteShards::try_new(Arc::new(sort), Arc::new(sink))?))
    }
}

/// A column of the corpus itself, whatever relation it comes from.
fn own(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

fn condition_column(index: usize) -> String {
    format!("_expect_{index}")
}

/// Casts timestamps to what is stored, before keys are hashed and compared: two keys that differ in nanoseconds only
/// would be one key in the corpus. Also takes the relations off the columns' names.
fn to_microseconds(plan: LogicalPlan) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = plan
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
            let exact = match field.data_type() {
                DataType::Timestamp(unit, zone) if *unit != TimeUnit::Microsecond => {
                    cast(column, DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
                }
                DataType::Date64 => cast(column, DataType::Date32),
                _ => column,
            };
            exact.alias(field.name())
        })
        .collect();
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

fn stored(corpus: &CreateCorpus, rows: &LogicalPlan) -> Result<SchemaRef> {
    let mut columns = columns_of(rows.schema().as_arrow())?;
    for column in &mut columns {
        if column.name.starts_with('_') {
            return Err(CoordinatorError::Invalid(format!(
                "corpus {}: column {} begins with an underscore, which corpusmill keeps for its own columns: rename it with AS",
                corpus.name, column.name
            )));
        }
        // A later version may have NULL where this one has none; readers keep one schema.
        column.nullable = true;
    }
    Ok(arrow_schema(&columns))
}

fn check_columns(corpus: &CreateCorpus, schema: &Schema) -> Result<()> {
    let clauses = [
        ("PRIMARY KEY", &corpus.primary_key),
        ("PARTITIONED BY", &corpus.partitioned_by),
    ];
    for (clause, columns) in clauses {
        for name in columns {
            let Ok(field) = schema.field_with_name(name) else {
                let names = schema.fields().iter().map(|f| f.name().as_str());
                return Err(CoordinatorError::Invalid(format!(
                    "corpus {}: {clause} ({name}) names a column that the query does not give{}",
                    corpus.name,
                    nearest(name, names)
                )));
            };
            if !fits(clause, field.data_type()) {
                return Err(CoordinatorError::Invalid(format!(
                    "corpus {}: {clause} ({name}) cannot be of type {}: {}",
                    corpus.name,
                    field.data_type(),
                    if clause == "PRIMARY KEY" {
                        "use text, numbers that are whole, dates, times, booleans or bytes"
                    } else {
                        "use text, whole numbers, dates or booleans"
                    }
                )));
            }
        }
    }
    if schema.fields().len() == corpus.partitioned_by.len() {
        return Err(CoordinatorError::Invalid(format!(
            "corpus {}: PARTITIONED BY takes all columns; one at least must stay in the files",
            corpus.name
        )));
    }
    Ok(())
}

fn fits(clause: &str, data_type: &DataType) -> bool {
    let partition =
        data_type.is_integer() || matches!(data_type, DataType::Utf8 | DataType::Boolean | DataType::Date32);
    let key = matches!(
        data_type,
        DataType::Binary | DataType::Timestamp(..) | DataType::Decimal128(..)
    );
    partition || (clause == "PRIMARY KEY" && key)
}
