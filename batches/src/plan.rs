//! A plan: its arguments, the corpora behind it, and the order of samples over them.
//!
//! ```text
//!  Options (JSON from Python) ─▶ sources ─▶ columns checked ─▶ rows.rs: filter, classes ─▶ spec ─▶ stream::Plan
//!                                   └──────▶ row lengths, block store
//! ```

mod changes;
mod found;
mod options;
mod provenance;
mod rows;
mod spec;

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::DataType;
use corpusmill_corpus::{StoreOptions, Warehouse};
use corpusmill_stream::{Plan as Order, Shape, State, StepPlan};

use crate::batch::BatchShape;
use crate::blocks::{BlockCounters, BlockStore, DiskCache, Projection, ReadThreads, plain_type};
use crate::error::{BatchError, Result};
use crate::kept::Kept;
use crate::live::{Live, PlanFolder};
use crate::source::{RowLengths, Source};

pub use changes::{Appended, LogEntry};
pub use options::{Options, Surroundings, worker_threads};
pub use provenance::RowsOfStep;

/// Kind of the files that keep group indices.
const INDEX: &str = "groups";

/// A plan with everything open that it needs.
pub struct OpenPlan {
    pub(crate) options: Options,
    pub(crate) shape: Arc<BatchShape>,
    pub(crate) sources: Arc<[Arc<Source>]>,
    pub(crate) projection: Projection,
    /// Types of the further columns in decoded blocks, in the plan's order.
    pub(crate) column_types: Vec<(String, DataType)>,
    pub(crate) blocks: BlockStore,
    pub(crate) order: Order,
    pub(crate) threads: Arc<ReadThreads>,
    /// Where its log is, which only a live plan reads.
    folder: PlanFolder,
    live: Option<Live>,
    kept: Option<Kept>,
    notes: Vec<String>,
}

impl std::fmt::Debug for OpenPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenPlan")
            .field("hash", &self.order.hash())
            .finish_non_exhaustive()
    }
}

impl OpenPlan {
    /// Opens the corpora, checks the arguments against them, and works out which rows can be drawn.
    ///
    /// # Errors
    /// Plan or NotFound, naming the argument; those of the corpus and stream crates.
    pub fn open(options: Options) -> Result<Self> {
        options.check()?;
        let warehouse = open_warehouse(&options.warehouse)?;
        Self::over(&warehouse, options)
    }

    /// As [`OpenPlan::open`], over a warehouse that is open.
    pub(crate) fn over(warehouse: &Warehouse, options: Options) -> Result<Self> {
        let threads = Arc::new(ReadThreads::new(worker_threads(None))?);
        let sources: Arc<[Arc<Source>]> = threads.block_on(open_sources(warehouse, &options.corpora))?.into();
        let projection = Projection {
            tokens: options.tokens.clone(),
            columns: options.columns.clone(),
        };
        let column_types = check_columns(&sources, &options)?;
        let disk = open_cache(&options)?;
        let lengths = RowLengths::open(&sources, options.tokens.as_deref(), threads.clone())?;
        let lengths = Arc::new(lengths);
        let kept = options.cache_dir.as_ref().map(|folder| Kept::below(folder.as_ref()));
        let scan = rows::Scan {
            kept: kept.as_ref(),
            skips_damage: options.masks_corrupt(),
        };
        let chosen = threads.block_on(rows::choose(&sources, &options, &scan))?;
        let notes = chosen.iter().flat_map(|c| c.notes.clone()).collect();
        let (spec, rows) = spec::build(&options, &sources, chosen, lengths.totals()?)?;
        let order = Order::with_rows(spec, lengths, rows)?;
        let folder = PlanFolder::of(warehouse, order.hash());
        let live = options.run.clone().map(|run| {
            let arguments = options.portable(sources.iter().map(|s| s.name.clone()).collect());
            Live::new(run, folder.clone(), arguments, threads.clone())
        });
        if let Some(live) = &live {
            live.refresh(&order)?;
        }
        if let Some(index) = kept.as_ref().and_then(|k| k.get(INDEX, &[order.hash()])) {
            // An index that does not fit is worked out again.
            let _ = order.load_index(&index);
        }
        let memory_max = usize::try_from(options.memory_bytes).unwrap_or(usize::MAX);
        let blocks = BlockStore::new(sources.clone(), projection.clone(), disk, memory_max, threads.clone());
        Ok(Self {
            shape: Arc::new(shape_of(&options, &order)),
            options,
            sources,
            projection,
            column_types,
            blocks,
            order,
            threads,
            folder,
            live,
            kept,
            notes,
        })
    }

    /// What its batches have in common.
    #[must_use]
    pub fn shape(&self) -> &Arc<BatchShape> {
        &self.shape
    }

    /// The order of samples.
    #[must_use]
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// The corpora with their versions, `name@version`.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|s| s.name.as_str())
    }

    /// The run whose log it follows.
    #[must_use]
    pub fn run(&self) -> Option<&str> {
        self.options.run.as_deref()
    }

    /// What is to be logged about making the plan: blocks that a filter could not read.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How its blocks were come by.
    #[must_use]
    pub fn block_counters(&self) -> &BlockCounters {
        self.blocks.counters()
    }

    /// The threads that read for it.
    #[must_use]
    pub fn threads(&self) -> &Arc<ReadThreads> {
        &self.threads
    }

    /// The arguments as JSON, with the versions of the corpora: they give the same plan in another process.
    #[must_use]
    pub fn arguments(&self) -> String {
        let mut options = self.options.clone();
        options.corpora = self.sources().map(str::to_owned).collect();
        serde_json::to_string(&options).expect("options are texts and numbers")
    }

    /// The packs of all ranks in a step, which is to be delivered: in a live plan, what holds for it is fixed with that.
    /// `None` behind the last.
    ///
    /// # Errors
    /// Those of the stream crate, among them row lengths that could not be read; those of the store.
    pub(crate) fn enter(&self, step: u64) -> Result<Option<StepPlan>> {
        if let Some(live) = &self.live {
            live.enter(&self.order, step)?;
        }
        Ok(self.order.step(step)?)
    }

    /// The packs of all ranks in a step, `None` behind the last. In a live plan they are what was delivered if the run
    /// has been there, and what would be delivered now otherwise.
    ///
    /// # Errors
    /// Those of the stream crate, among them row lengths that could not be read; those of the store.
    pub fn step(&self, step: u64) -> Result<Option<StepPlan>> {
        self.look(step)?;
        Ok(self.order.step(step)?)
    }

    /// Learns what holds for a step of a live plan.
    fn look(&self, step: u64) -> Result<()> {
        match &self.live {
            Some(live) => live.look(&self.order, step),
            None => Ok(()),
        }
    }

    /// The state of a job that has delivered all steps before `step`.
    ///
    /// # Errors
    /// As `step`.
    pub fn state(&self, step: u64) -> Result<State> {
        self.look(step)?;
        Ok(self.order.state(step)?)
    }

    /// The step at which a state goes on.
    ///
    /// # Errors
    /// Those of the stream crate, for a state of another plan; State for one of another run.
    pub fn resume(&self, state: &State) -> Result<u64> {
        if let Some(live) = &self.live {
            live.check_state(&self.order, state)?;
        }
        Ok(self.order.resume(state)?)
    }

    /// Steps of a finite plan.
    ///
    /// # Errors
    /// As `step`.
    pub fn steps(&self) -> Result<Option<u64>> {
        let steps = self.order.steps()?;
        if let (Some(_), Some(_), Some(kept)) = (steps, self.shape.sequence_length, &self.kept)
            && kept.get(INDEX, &[self.order.hash()]).is_none()
        {
            kept.put(INDEX, &[self.order.hash()], self.order.index_to_bytes());
        }
        Ok(steps)
    }

    /// Width of the token fields of a batch whose rows have `lengths` tokens.
    pub fn width(&self, lengths: &[i32]) -> usize {
        let longest = || lengths.iter().copied().max().unwrap_or(0).unsigned_abs() as usize;
        match (self.shape.sequence_length, self.options.padded_width()) {
            (Some(sequence), _) => sequence,
            (None, Some(width)) => width,
            (None, None) => longest(),
        }
    }
}

fn shape_of(options: &Options, order: &Order) -> BatchShape {
    BatchShape {
        tokens: options.tokens.is_some(),
        sequence_length: match order.spec().shape {
            Shape::Packed { sequence_length, .. } => Some(sequence_length as usize),
            Shape::Fixed { .. } => None,
        },
        wide_ids: options.ids == "int64",
        columns: options.columns.clone(),
        fill: options.fill.clone(),
    }
}

fn open_warehouse(location: &str) -> Result<Warehouse> {
    if !location.contains("://") && !Path::new(location).is_dir() {
        let whole = std::path::absolute(location).unwrap_or_else(|_| location.into());
        return Err(BatchError::NotFound(format!(
            "warehouse: there is no folder {}: name the warehouse of a corpusmill home, such as \
             ./corpusmill-data/warehouse, or a URL",
            whole.display()
        )));
    }
    let mut options = StoreOptions::new();
    if location.starts_with("http://") {
        // Who writes http:// has chosen it; the store's client asks for a second yes.
        options.insert("allow_http".into(), "true".into());
    }
    Ok(Warehouse::open(location, &options)?)
}

async fn open_sources(warehouse: &Warehouse, references: &[String]) -> Result<Vec<Arc<Source>>> {
    let mut sources: Vec<Arc<Source>> = Vec::new();
    for reference in references {
        let source = Source::open(warehouse, reference).await?;
        if sources.iter().any(|s| s.name == source.name) {
            return Err(BatchError::Plan(format!(
                "{} is named twice: give it one weight",
                source.name
            )));
        }
        sources.push(Arc::new(source));
    }
    Ok(sources)
}

fn open_cache(options: &Options) -> Result<Option<DiskCache>> {
    let Some(folder) = &options.cache_dir else {
        return Ok(None);
    };
    DiskCache::open(folder.as_ref(), options.cache_bytes)
        .map(Some)
        .map_err(|e| {
            BatchError::Plan(format!(
                "{e}: give cache_dir a folder that can be written, or cache_dir=\"\" for no cache"
            ))
        })
}

/// Checks that the token column holds tokens and the others exist, with one type over all sources.
fn check_columns(sources: &[Arc<Source>], options: &Options) -> Result<Vec<(String, DataType)>> {
    let mut types: Vec<(String, DataType)> = Vec::new();
    for source in sources {
        let names: Vec<&str> = source.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let field = |argument: &str, name: &str| {
            source.schema.field_with_name(name).map_err(|_| {
                BatchError::Plan(format!(
                    "{argument}: {} has no column `{name}`{}",
                    source.name,
                    nearest(name, &names)
                ))
            })
        };
        if let Some(tokens) = &options.tokens {
            let found = field("tokens", tokens).map_err(|e| {
                BatchError::Plan(format!("{e}; a plan without token ids has tokens=None and columns=[…]"))
            })?;
            if !is_token_list(found.data_type()) {
                let kind = found.data_type();
                return Err(BatchError::Plan(format!(
                    "tokens: column `{tokens}` of {} is {kind}, not a list of integers: make it with tokenize() in SQL",
                    source.name
                )));
            }
        }
        for name in &options.columns {
            let kind = plain_type(field("columns", name)?.data_type());
            match types.iter().find(|(n, _)| n == name) {
                None => types.push((name.clone(), kind)),
                Some((_, known)) if *known == kind => {}
                Some((_, known)) => {
                    return Err(BatchError::Plan(format!(
                        "columns: `{name}` is {kind} in {} and {known} in {}: CAST it in one of the corpora",
                        source.name, sources[0].name
                    )));
                }
            }
        }
    }
    options.check_fill(&types)?;
    Ok(types)
}

fn is_token_list(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(f) => f.data_type().is_integer(),
        _ => false,
    }
}

/// The position of the source that `key` stands for: as it was written in `corpora`, by full name, or by corpus.
fn source_named(argument: &str, key: &str, sources: &[Arc<Source>], as_written: &[String]) -> Result<usize> {
    let by = |test: &dyn Fn(usize) -> bool| {
        let mut hits = (0..sources.len()).filter(|&i| test(i));
        hits.next().filter(|_| hits.next().is_none())
    };
    let corpus = key.split('@').next().unwrap_or(key);
    by(&|i| sources[i].name == key)
        .or_else(|| by(&|i| as_written[i] == key))
        .or_else(|| by(&|i| sources[i].corpus == corpus))
        .ok_or_else(|| {
            let names: Vec<&str> = sources.iter().map(|s| s.name.as_str()).collect();
            BatchError::Plan(format!(
                "{argument}: `{key}` is none of the plan's corpora{}",
                nearest(key, &names)
            ))
        })
}

/// Says which of `known` is most like `name`, and lists them: "; did you mean `x`? There are: …".
pub fn nearest(name: &str, known: &[&str]) -> String {
    const LISTED: usize = 20;
    let score = |k: &&&str| strsim::jaro_winkler(&name.to_lowercase(), &k.to_lowercase());
    let best = known
        .iter()
        .max_by(|a, b| score(a).total_cmp(&score(b)))
        .filter(|k| score(k) > 0.7);
    let best = best
        .map(|k| format!("; did you mean `{k}`?"))
        .unwrap_or_else(|| ";".into());
    let more = if known.len() > LISTED { ", …" } else { "" };
    let list: Vec<&str> = known.iter().take(LISTED).copied().collect();
    format!("{best} There are: {}{more}", list.join(", "))
}
