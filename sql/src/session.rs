//! The one session that everything is planned in.

mod spill_pool;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use corpusmill_operators::PlanPredictions;
use datafusion::common::DataFusionError;
use datafusion::datasource::ViewTable;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{CopyToSource, CopyToStatement, Statement as EngineStatement};
use datafusion::sql::sqlparser::ast;

use crate::catalog::{CATALOG, ObjectCatalog, SCHEMA, Scope};
use crate::error::{Fault, Result, SqlError};
use crate::functions;
use crate::graphs::{self, DialectOptions, Graph, GraphCall};
use crate::history::{self, HistoryCall};
use crate::objects::Objects;
use crate::plan_errors::{self, find_word};
use crate::reproducible;
use crate::script;
use crate::source_text::SqlText;
use crate::sources;
use crate::sources::stores::StoresOnDemand;
use crate::statement::{CreateExternalTable, CreateView, ObjectKind, Statement, StatementKind};
use crate::table_functions;
use crate::{asof, bind, expectations, hash_lists, models};
use spill_pool::SpillPool;

/// Rows in a batch, where memory is not short.
const ROWS: usize = 8_192;

/// How much of the machine a session may use.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Partitions that run side by side; 0 stands for the number of cores.
    pub target_partitions: usize,
    /// Rows in a batch; 0 stands for 8,192, or fewer where memory is limited to less than a gigabyte.
    pub batch_size: usize,
    /// Bytes that sorts, joins and aggregates may hold before they spill; `None` for no limit.
    pub memory_limit_bytes: Option<usize>,
    /// Where they spill; the system's temporary folder when not given.
    pub spill_dir: Option<PathBuf>,
    /// Bytes that spilled rows may take at once; as many as the disk has when `None`.
    pub spill_limit_bytes: Option<u64>,
}

impl SessionOptions {
    /// Rows in a batch. An operator holds a few whole batches before it can spill.
    fn batch_rows(&self) -> usize {
        let by_memory = |bytes: usize| (bytes >> 17).next_power_of_two().clamp(64, ROWS);
        match self.batch_size {
            0 => self.memory_limit_bytes.map_or(ROWS, by_memory),
            rows => rows,
        }
    }
}

/// What a build is planned to compute, and what it may make in steps of its own before.
#[derive(Debug)]
pub struct BuildPlan {
    /// The plan.
    pub plan: LogicalPlan,
    /// Calls that compare with the history of a corpus.
    pub history: Vec<HistoryCall>,
    /// Graphs that nobody has decided on, in the order in which they are asked for.
    pub graphs: Vec<GraphCall>,
}

/// Plans statements over the objects of a catalogue; cheap to clone.
#[derive(Debug, Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    context: SessionContext,
    objects: Arc<dyn Objects>,
    run_time: Mutex<RunTime>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.context.session_id())
            .field("objects", &self.objects)
            .finish_non_exhaustive()
    }
}

/// The logical time that a build stands for: `run_start()` and `run_end()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunTime {
    /// Start of the interval, inclusive.
    pub start: DateTime<Utc>,
    /// End of the interval, exclusive.
    pub end: DateTime<Utc>,
}

impl RunTime {
    /// An interval of no length at `time`: what a build without a schedule stands for.
    pub fn at(time: DateTime<Utc>) -> RunTime {
        RunTime { start: time, end: time }
    }
}

/// Opens a session over the objects that `objects` knows.
///
/// # Errors
/// [`SqlError::Engine`] when the spill folder cannot be used.
pub fn session(options: &SessionOptions, objects: Arc<dyn Objects>) -> Result<Session> {
    let run_time = RunTime::at(Utc::now());
    let state = session_state(options, run_time)?;
    let context = SessionContext::new_with_state(state);
    let inner = Arc::new_cyclic(|session| {
        context.register_catalog(CATALOG, Arc::new(ObjectCatalog::new(session.clone())));
        Inner {
            context,
            objects,
            run_time: Mutex::new(run_time),
        }
    });
    Ok(Session { inner })
}

fn session_state(options: &SessionOptions, run_time: RunTime) -> Result<datafusion::execution::SessionState> {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        .with_batch_size(options.batch_rows())
        .with_option_extension(DialectOptions::default());
    if options.target_partitions > 0 {
        config = config.with_target_partitions(options.target_partitions);
    }
    let settings = config.options_mut();
    settings.sql_parser.collect_spans = true;
    // Round-robin exchanges make the order of rows depend on timing, and a cluster drops them anyway.
    settings.optimizer.enable_round_robin_repartition = false;
    settings.catalog.has_header = true;
    if let Some(bytes) = options.memory_limit_bytes {
        // Each sort takes it before its first row.
        let reserved = &mut settings.execution.sort_spill_reservation_bytes;
        *reserved = (*reserved).min(bytes / 64);
    }

    // The engine's own bound is 100 GB; a disk that is full is told as such, so there is none unless a person sets it.
    let mut disk =
        DiskManagerBuilder::default().with_max_temp_directory_size(options.spill_limit_bytes.unwrap_or(u64::MAX));
    if let Some(folder) = &options.spill_dir {
        std::fs::create_dir_all(folder).map_err(|error| {
            SqlError::Engine(DataFusionError::IoError(std::io::Error::new(
                error.kind(),
                format!("cannot create the spill folder {}: {error}", folder.display()),
            )))
        })?;
        disk.set_mode(DiskManagerMode::Directories(vec![folder.clone()]));
    }
    let mut runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(Arc::new(StoresOnDemand::default()))
        .with_disk_manager_builder(disk);
    if let Some(bytes) = options.memory_limit_bytes {
        runtime = runtime.with_memory_pool(Arc::new(SpillPool::new(bytes)));
    }
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime.build_arc()?)
        .with_default_features()
        .with_physical_optimizer_rules(PlanPredictions::before_all())
        .build();
    for function in functions::all(run_time) {
        function.register(&mut state)?;
    }
    for planner in table_functions::planners() {
        state.register_relation_planner(planner)?;
    }
    Ok(state)
}

impl Session {
    pub(crate) fn from_inner(inner: Arc<Inner>) -> Session {
        Session { inner }
    }

    /// The engine's context, to execute plans with.
    pub fn context(&self) -> &SessionContext {
        &self.inner.context
    }

    /// The error that there is no object of a kind with this name, which stands in `text`; names the nearest.
    pub(crate) async fn unknown(&self, kind: ObjectKind, name: &str, text: &SqlText) -> Result<SqlError> {
        let known = self.objects().names().await?.into_iter();
        let known = known.filter(|(of, _)| *of == kind).map(|(_, name)| name);
        Ok(SqlError::unknown(
            kind.words(),
            name,
            known,
            text,
            find_word(text, name),
        ))
    }

    /// The objects that this session plans over.
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.inner.objects
    }

    /// Sets the logical time of the statements that are planned from now on.
    ///
    /// # Errors
    /// [`SqlError::Engine`] if the engine refuses the functions.
    pub fn set_run_time(&self, run_time: RunTime) -> Result<()> {
        *self.inner.run_time.lock().unwrap_or_else(PoisonError::into_inner) = run_time;
        let state = self.inner.context.state_ref();
        let mut state = state.write();
        for function in functions::of_run_time(run_time) {
            function.register(&mut state)?;
        }
        Ok(())
    }

    /// The logical time in force.
    pub fn run_time(&self) -> RunTime {
        *self.inner.run_time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans what a statement computes: a query, `EXPLAIN`, `COPY TO`, or the query inside a view or corpus.
    ///
    /// # Errors
    /// [`SqlError::Plan`] with the place in the file where names or types do not fit, [`SqlError::Source`] when a
    /// file is missing or unreadable, [`SqlError::Unsupported`] for a statement that computes nothing.
    pub async fn plan(&self, statement: &Statement) -> Result<LogicalPlan> {
        match &statement.kind {
            StatementKind::Query(engine)
            | StatementKind::Explain(engine)
            | StatementKind::CopyTo(engine)
            | StatementKind::Set(engine) => self.plan_engine(engine, &statement.text).await,
            StatementKind::CreateView(view) | StatementKind::CreateMaterializedView(view) => self.plan_view(view).await,
            StatementKind::CreateCorpus(corpus) => self.plan_query(&corpus.query).await,
            StatementKind::CreateHashList(list) => hash_lists::plan(self, list, &statement.text).await,
            _ => Err(SqlError::Unsupported(Fault::at(
                &statement.text,
                Some(statement.position()),
                "this statement has no plan of its own",
            ))),
        }
    }

    /// As [`Session::plan`], for a build, which makes some things in steps before: `graphs` are those that it has decided on,
    /// in the order in which the statement asks for them.
    ///
    /// # Errors
    /// As [`Session::plan`].
    pub async fn plan_for_build(&self, statement: &Statement, graphs: &[Option<Arc<Graph>>]) -> Result<BuildPlan> {
        let planned = graphs::with_prepared(graphs, history::recorded(Box::pin(self.plan(statement))));
        let ((plan, history), graphs) = planned.await;
        Ok(BuildPlan {
            plan: plan?,
            history,
            graphs,
        })
    }

    /// Edges of a graph from which on a build finds its components in steps: `SET corpusmill.component_edges_max`.
    #[must_use]
    pub fn component_edges_max(&self) -> u64 {
        let state = self.inner.context.state();
        let options = state.config().options().extensions.get::<DialectOptions>().cloned();
        options.unwrap_or_default().component_edges_max as u64
    }

    /// Plans a query.
    ///
    /// # Errors
    /// As [`Session::plan`].
    pub async fn plan_query(&self, query: &SqlText) -> Result<LogicalPlan> {
        let parsed = script::parse_query(query)?;
        let statement = EngineStatement::Statement(Box::new(ast::Statement::Query(Box::new(parsed))));
        self.plan_engine(&statement, query).await
    }

    /// Plans a view's query, its columns renamed as the view says.
    pub(crate) async fn plan_view(&self, view: &CreateView) -> Result<LogicalPlan> {
        let plan = self.plan_query(&view.query).await?;
        if view.columns.is_empty() {
            return Ok(plan);
        }
        let columns = plan.schema().columns();
        if columns.len() != view.columns.len() {
            return Err(SqlError::Plan(Fault::at(
                &view.query,
                Some(view.query.start),
                format!(
                    "view '{}' names {} columns, its query has {}",
                    view.name,
                    view.columns.len(),
                    columns.len()
                ),
            )));
        }
        let renamed = columns
            .into_iter()
            .zip(&view.columns)
            .map(|(column, name)| datafusion::logical_expr::Expr::Column(column).alias(name));
        Ok(datafusion::logical_expr::LogicalPlanBuilder::from(plan)
            .project(renamed)?
            .build()?)
    }

    /// Plans a query that may use `name` for the rows of `plan`, whatever the catalogue knows under that name.
    ///
    /// # Errors
    /// As [`Session::plan`].
    pub async fn plan_query_over(&self, query: &SqlText, name: &str, plan: LogicalPlan) -> Result<LogicalPlan> {
        let table = Arc::new(ViewTable::new(plan, None));
        Scope::with_stand_in(name, table, Box::pin(self.plan_query(query))).await
    }

    /// Plans a generated frame around an expression that stands in `text`, with `name` standing for the rows of `plan`.
    pub(crate) async fn plan_parsed_over(
        &self,
        query: expectations::GeneratedSelect,
        text: &SqlText,
        name: &str,
        plan: LogicalPlan,
    ) -> Result<LogicalPlan> {
        let query = query.into_query()?;
        let statement = EngineStatement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
        let table = Arc::new(ViewTable::new(plan, None));
        Scope::with_stand_in(name, table, Box::pin(self.plan_engine(&statement, text))).await
    }

    /// Plans SQL that we wrote ourselves on behalf of `text`; faults point at `text`, not at what we wrote.
    ///
    /// # Errors
    /// As [`Session::plan`].
    pub async fn plan_generated(&self, sql: &str, text: &SqlText) -> Result<LogicalPlan> {
        let query = script::parse_query(&SqlText::file(sql, "<generated>"))?;
        let mut statement = EngineStatement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
        match self.plan_rewritten(&mut statement, text).await {
            Ok(plan) => Ok(plan),
            Err(error) => Err(plan_errors::locate_generated(error, text, self).await),
        }
    }

    /// Adds one nullable Boolean column per condition to `plan`; a condition sees the plan's columns, also as
    /// `relation.column`, and may ask `[NOT] EXISTS (SELECT …)` of other relations.
    ///
    /// # Errors
    /// As [`Session::plan`]; [`SqlError::Plan`] also when a condition is not Boolean.
    pub async fn plan_row_conditions(
        &self,
        plan: LogicalPlan,
        relation: &str,
        conditions: &[(String, SqlText)],
    ) -> Result<LogicalPlan> {
        expectations::plan_row_conditions(self, plan, relation, conditions).await
    }

    /// Plans the condition of an `EXPECT CORPUS` over `corpus` and, where there is one, the `previous` version.
    ///
    /// Both are relation names, `c@7` among them. The plan gives one row with the columns `passed` (Boolean, NULL
    /// counts as a violation) and `observed` (text: what the left side of a comparison came to, or NULL).
    ///
    /// # Errors
    /// As [`Session::plan`].
    pub async fn plan_corpus_expectation(
        &self,
        condition: &SqlText,
        corpus: &str,
        previous: Option<&str>,
        partitioned_by: &[String],
    ) -> Result<LogicalPlan> {
        expectations::plan_corpus_expectation(self, condition, corpus, previous, partitioned_by).await
    }

    /// Refuses plans whose rows could differ from run to run, and makes sums of floats independent of order.
    ///
    /// `text` is the statement the plan came from: errors point into it.
    ///
    /// # Errors
    /// [`SqlError::NotReproducible`] with the fix.
    pub fn check_reproducible(&self, plan: LogicalPlan, text: &SqlText) -> Result<LogicalPlan> {
        reproducible::check(plan, text)
    }

    /// Opens an external table to see that its files are there and readable.
    ///
    /// Returns the schema.
    ///
    /// # Errors
    /// [`SqlError::Source`] naming the file and what is wrong with it, [`SqlError::Plan`] for wrong options.
    pub async fn check_external_table(
        &self,
        table: &CreateExternalTable,
        text: &SqlText,
    ) -> Result<datafusion::arrow::datatypes::SchemaRef> {
        Ok(sources::open_external_table(self, table, text).await?.schema())
    }

    /// Checks that a Python function compiles, imports what it needs and defines its name.
    ///
    /// # Errors
    /// [`SqlError::Python`] with the traceback, [`SqlError::Plan`] for a type that cannot be passed.
    pub async fn check_function(&self, function: &crate::statement::CreateFunction, text: &SqlText) -> Result<()> {
        crate::python::check(self, function, text).await
    }

    /// Plans how `plan` is run.
    ///
    /// # Errors
    /// What the engine fails with, as [`Session::explain_error`] explains it.
    pub async fn physical(&self, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        match self.context().state().create_physical_plan(plan).await {
            Ok(physical) => Ok(physical),
            Err(error) => Err(self.explain_error(error, plan).await),
        }
    }

    /// Explains an error that came up while `plan` ran: finds the file, row and column of bad source data.
    ///
    /// Reads source files again, so it costs as much as the failed scan; call it once, on the error that ends a
    /// statement.
    pub async fn explain_error(&self, error: DataFusionError, plan: &LogicalPlan) -> SqlError {
        sources::diagnose(self, error, plan).await
    }

    async fn plan_engine(&self, statement: &EngineStatement, text: &SqlText) -> Result<LogicalPlan> {
        let mut statement = statement.clone();
        match self.plan_rewritten(&mut statement, text).await {
            Ok(plan) => Ok(plan),
            Err(error) => Err(plan_errors::locate(error, text, self).await),
        }
    }

    async fn plan_rewritten(&self, statement: &mut EngineStatement, text: &SqlText) -> Result<LogicalPlan> {
        if let Some(query) = query_of(statement) {
            asof::group(query);
            bind::register_functions(self, query, text).await?;
        }
        // Planning awaits the objects it names, so the state is copied out of its lock first.
        let state = self.inner.context.state();
        let planned = async {
            let plan = Box::pin(state.statement_to_plan(statement.clone())).await?;
            bind::bind_models(plan)
        };
        let query = query_of(&mut statement.clone()).cloned();
        let planned = hash_lists::with_named(self, query.as_ref(), text, planned);
        let planned = Box::pin(history::with_named(self, query.as_ref(), text, planned));
        let plan = Box::pin(models::with_named(self, query.as_ref(), text, planned)).await????;
        bind::bind_tokenizers(self, plan, text).await
    }
}

/// The query inside a statement, if it has one.
fn query_of(statement: &mut EngineStatement) -> Option<&mut ast::Query> {
    match statement {
        EngineStatement::Statement(inner) => match inner.as_mut() {
            ast::Statement::Query(query) => Some(query),
            _ => None,
        },
        EngineStatement::Explain(explain) => query_of(&mut explain.statement),
        EngineStatement::CopyTo(CopyToStatement {
            source: CopyToSource::Query(query),
            ..
        }) => Some(query),
        _ => None,
    }
}
