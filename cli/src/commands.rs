//! What each command does.

use std::io::{IsTerminal, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use clap::CommandFactory;
use corpusmill_access::{ClusterNetwork, Credentials, Network};
use corpusmill_coordinator::{Coordinator, CoordinatorError, CoordinatorOptions, Outcome, Sink};
use corpusmill_corpus::{CorpusReader, ExportFormat as Format, ExportOptions, export, store_attempts};
use corpusmill_traces::Exporter;

use crate::args::{Builds, Cli, Command, CorpusVersion, Export, ExportFormat, Generate, Global, Output, Run, Vacuum};
use crate::exit::Damaged;
use crate::generate::{self, generate};
use crate::interrupt::Interrupt;
use crate::output::Results;
use crate::progress::Progress;
use crate::{certs, coordinate, doctor, live, report, submit, units, work};

/// Stack of the threads that plan: the parser and the optimiser recurse, and an unoptimised build needs more a frame.
const STACK_BYTES: usize = 16 << 20;

/// Runs a command to its end.
///
/// # Errors
/// Whatever the command fails with; `exit` turns it into a message and a code.
pub(crate) fn run(cli: Cli) -> Result<()> {
    start_log(cli.global.verbose);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build()
        .context("cannot start the threads of the program")?;
    let ended = runtime.block_on(async {
        // A task of its own: the main thread's stack is the system's choice.
        tokio::spawn(dispatch(cli))
            .await
            .context("the program failed in a way that it should not; please report it")?
    });
    // What still runs in the background was cancelled; it need not be waited for.
    runtime.shutdown_background();
    ended
}

/// Sends the log to standard error: errors and the warnings of services, or more with `-v`, or what `CORPUSMILL_LOG` says.
fn start_log(verbose: u8) {
    let default = match verbose {
        0 => "error,corpusmill_coordinator=warn,corpusmill_worker=warn,corpusmill_serve=warn",
        1 => "warn,corpusmill_coordinator=info,corpusmill_sql=info,corpusmill_operators=info",
        2 => "info,corpusmill_coordinator=debug,corpusmill_sql=debug,corpusmill_operators=debug",
        _ => "debug",
    };
    let filter = std::env::var("CORPUSMILL_LOG").unwrap_or_else(|_| default.to_owned());
    // A second call in one process (tests) keeps the first log.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

/// Sends what builds do to a collector, where there is one.
pub(crate) fn traces(endpoint: Option<&str>, service: &str) -> Result<Option<Exporter>> {
    Ok(endpoint
        .map(|endpoint| Exporter::start(endpoint, service))
        .transpose()?)
}

/// What commands share.
pub(crate) struct Session {
    pub(crate) global: Global,
    pub(crate) progress: Arc<Progress>,
    pub(crate) interrupt: Interrupt,
}

async fn dispatch(cli: Cli) -> Result<()> {
    let context = Session {
        progress: Arc::new(Progress::new(cli.global.quiet)),
        global: cli.global,
        interrupt: Interrupt::listen().context("cannot listen for Ctrl-C")?,
    };
    let progress = context.progress.clone();
    let ended = command(context, cli.command).await;
    if let Some(summary) = store_attempts().summary() {
        progress.line(&summary);
    }
    ended
}

async fn command(context: Session, command: Command) -> Result<()> {
    match command {
        Command::Run(run) => context.run(run).await,
        Command::Submit(options) => submit::run(&context, options).await,
        Command::Watch(which) => submit::watch(&context, which).await,
        Command::Cancel(which) => submit::cancel(&context, which).await,
        Command::Scripts(at) => submit::scripts_of(&context, at).await,
        Command::Workers(at) => submit::workers_of(&context, at).await,
        Command::Coordinator(options) => coordinate::run(&context, options).await,
        Command::Certs(options) => certs::run(&context, &options),
        Command::Worker(options) => work::run(&context, options).await,
        Command::Corpora => context.corpora().await,
        Command::Builds(builds) => context.builds(builds).await,
        Command::Show { corpus } => context.show(&corpus).await,
        Command::Verify { corpus } => context.verify(&corpus).await,
        Command::Vacuum(vacuum) => context.vacuum(&vacuum).await,
        Command::Takedown(options) => live::takedown(&context, options).await,
        Command::Runs(options) => live::runs(&context, options).await,
        Command::Export(export) => context.export(&export).await,
        Command::Generate(generate) => context.generate(generate).await,
        Command::Doctor => {
            let report = tokio::task::spawn_blocking(corpusmill_transport::doctor::examine)
                .await
                .context("the examination failed in a way that it should not; please report it")?;
            context.results().record(&report, || doctor::text(&report))
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "corpusmill", &mut std::io::stdout());
            Ok(())
        }
    }
}

impl Session {
    /// What is shown to others, and asked of them; none where there are no certificates.
    pub(crate) fn credentials(&self) -> Result<Option<Arc<Credentials>>> {
        Ok(self.global.certs.as_ref().map(Credentials::read).transpose()?)
    }

    /// This machine's place in the network of a cluster, `network`; `address` where it is not the system's choice.
    pub(crate) fn cluster_network(
        &self,
        network: Option<Network>,
        address: Option<IpAddr>,
    ) -> Result<Option<ClusterNetwork>> {
        let Some(network) = network else { return Ok(None) };
        let credentials = self.credentials()?.with_context(|| {
            format!(
                "--cluster-network {network} takes certificates: whoever reaches those ports could run code here; make some \
                 with `corpusmill certs init certs`, and start again with `--certs certs`"
            )
        })?;
        Ok(Some(ClusterNetwork::new(network, address, credentials)?))
    }

    /// Where results go.
    pub(crate) fn results(&self) -> Results<std::io::BufWriter<std::io::Stdout>> {
        Results::stdout(self.global.output)
    }

    fn options(&self) -> CoordinatorOptions {
        CoordinatorOptions {
            warehouse: self.global.warehouse.clone(),
            catalog: self.global.catalog.clone(),
            events: self.progress.clone(),
            cancel: self.interrupt.token.clone(),
            ..CoordinatorOptions::new(&self.global.home)
        }
    }

    /// The coordinator of a home that is there. Looking at things must not make an empty home at a mistyped place.
    pub(crate) async fn existing(&self) -> Result<Coordinator> {
        let home = &self.global.home;
        if !home.is_dir() && self.global.catalog.is_none() {
            bail!(
                "{} is no corpusmill home: there is no such folder; give --home, or make one with `corpusmill run`",
                home.display()
            );
        }
        Ok(Coordinator::open(self.options()).await?)
    }

    async fn run(self, run: Run) -> Result<()> {
        let scripts = scripts(run.command.as_deref(), &run.files)?;
        let coordinator = Coordinator::open(CoordinatorOptions {
            target_partitions: run.target_partitions.map(|n| n as usize),
            batch_size: run.batch_size.map(|n| n as usize),
            memory_limit_bytes: run.memory_limit,
            spill_limit_bytes: run.spill_limit.map(|bytes| bytes as u64),
            as_of: run.as_of,
            ..self.options()
        })
        .await?;
        let mut sink = Printer {
            results: self.results(),
            progress: self.progress.clone(),
        };
        let mut ended = Ok(());
        for (text, origin) in scripts {
            ended = coordinator.run_script(&text, &origin, &mut sink).await;
            self.progress.clear();
            if ended.is_err() {
                break;
            }
        }
        coordinator.close().await;
        Ok(ended?)
    }

    async fn corpora(&self) -> Result<()> {
        let corpora = self.existing().await?.corpora().await?;
        self.results().records(&corpora, report::CORPORA)
    }

    async fn builds(&self, builds: Builds) -> Result<()> {
        let mut found = self.existing().await?.builds().await?;
        if let Some(name) = &builds.corpus {
            found.retain(|build| &build.object == name);
        }
        found.truncate(builds.limit as usize);
        self.results().records(&found, report::BUILDS)
    }

    async fn show(&self, corpus: &CorpusVersion) -> Result<()> {
        let manifest = self.existing().await?.show(&corpus.0).await?;
        self.results().record(&manifest, || report::manifest(&manifest))
    }

    async fn verify(&self, corpus: &CorpusVersion) -> Result<()> {
        let coordinator = self.existing().await?;
        let name = corpus.0.clone();
        let found = tokio::select! {
            found = coordinator.verify(&name) => found?,
            () = self.interrupt.token.cancelled() => return Err(CoordinatorError::Cancelled.into()),
        };
        self.results().record(&found, || report::verified(&found))?;
        if !found.is_sound() {
            return Err(Damaged(format!("{name} is damaged: {} faults, see above", found.fault_count)).into());
        }
        Ok(())
    }

    async fn vacuum(&self, vacuum: &Vacuum) -> Result<()> {
        let hours = Duration::from_secs(vacuum.older_than_hours.saturating_mul(3_600));
        let coordinator = self.existing().await?;
        let removed = coordinator.vacuum(hours, vacuum.dry_run).await;
        coordinator.close().await;
        let removed = removed?;
        self.results().record(&removed, || report::vacuumed(&removed))
    }

    async fn export(&self, options: &Export) -> Result<()> {
        let coordinator = self.existing().await?;
        let warehouse = coordinator.warehouse();
        let (name, version) = warehouse.resolve(&options.corpus.0).await?;
        let reader = CorpusReader::open(warehouse, &name, version).await?;
        let format = match options.format {
            ExportFormat::Webdataset => Format::WebDataset,
            ExportFormat::Mds => Format::Mds,
            ExportFormat::Megatron => Format::Megatron,
            ExportFormat::Parquet => Format::Parquet,
        };
        let columns = if options.columns.is_empty() {
            None
        } else {
            Some(options.columns.clone())
        };
        let wanted = ExportOptions {
            columns,
            file_bytes: options
                .file_size
                .map_or(ExportOptions::default().file_bytes, |bytes| bytes as u64),
            ..ExportOptions::default()
        };
        let (began, total) = (Instant::now(), reader.manifest().rows);
        let progress = self.progress.clone();
        let writing = export(&reader, format, &options.to, &wanted, move |rows, _| {
            progress.counted("rows", rows, total, began.elapsed());
        });
        let written = tokio::select! {
            written = writing => written?,
            () = self.interrupt.token.cancelled() => {
                bail!(CoordinatorError::Invalid(format!(
                    "interrupted; what is in {} is not complete: remove it before you run the command again", options.to
                )))
            }
        };
        self.progress.clear();
        self.results()
            .record(&written, || report::exported(&written, &options.to))
    }

    async fn generate(self, options: Generate) -> Result<()> {
        let wanted = generate::Options {
            seed: options.seed,
            posts: options.posts,
            images: options.images,
            format: options.format,
        };
        let (progress, flag, out) = (self.progress.clone(), self.interrupt.flag.clone(), options.out.clone());
        let began = Instant::now();
        let made = tokio::task::spawn_blocking(move || {
            let total = wanted.posts + wanted.images;
            let tell = |done| progress.counted("posts and pictures", done, total, began.elapsed());
            generate(&wanted, &out, options.force, &flag, &tell)
        })
        .await
        .context("generating failed in a way that it should not; please report it")?;
        self.progress.clear();
        let shown = options.out.display();
        match made? {
            generate::Outcome::AlreadyThere => {
                self.progress.line(&format!("{shown} already holds this data set"));
                Ok(())
            }
            generate::Outcome::Written(dataset) => {
                self.progress
                    .line(&format!("{shown}: written in {}", units::duration(began.elapsed())));
                let mut results = self.results();
                if results.output() == Output::Csv {
                    let tables: Vec<_> = dataset.tables.into_iter().collect();
                    return results.records(&tables, report::TABLES);
                }
                results.record(&dataset, || report::dataset(&dataset))
            }
        }
    }
}

/// Texts and names of the scripts of a command. All are read before the first statement runs: a mistyped name must not
/// show after an hour.
pub(crate) fn scripts(command: Option<&str>, files: &[PathBuf]) -> Result<Vec<(String, String)>> {
    match command {
        Some(sql) => Ok(vec![(sql.to_owned(), "<command line>".to_owned())]),
        None => files.iter().map(|file| Ok((read(file)?, origin(file)))).collect(),
    }
}

/// The text of a script.
fn read(file: &Path) -> Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read SQL from standard input")?;
        return Ok(text);
    }
    let bytes = std::fs::read(file).with_context(|| format!("cannot read the SQL file {}", file.display()))?;
    match String::from_utf8(bytes) {
        // Editors on Windows put a byte order mark there.
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
            bail!(
                "{}:{line}: the SQL file is not UTF-8 (byte {at}); save it as UTF-8",
                file.display()
            )
        }
    }
}

fn origin(file: &PathBuf) -> String {
    if file == Path::new("-") {
        "<standard input>".to_owned()
    } else {
        file.display().to_string()
    }
}

/// Prints what statements give back.
pub(crate) struct Printer {
    pub(crate) results: Results<std::io::BufWriter<std::io::Stdout>>,
    pub(crate) progress: Arc<Progress>,
}

#[async_trait]
impl Sink for Printer {
    async fn outcome(&mut self, outcome: Outcome) -> corpusmill_coordinator::Result<()> {
        self.progress.clear();
        let printed = match outcome {
            Outcome::Rows(stream) => self.results.rows(stream.schema(), stream).await.map(|_| ()),
            Outcome::Message(text) => {
                self.progress.line(text.trim_end());
                Ok(())
            }
            // For a person the summary of a build is a note; a program that reads JSON or CSV wants it as data.
            Outcome::Build(build) if self.results.output() == Output::Table => {
                self.progress.line(&report::build(&build));
                Ok(())
            }
            Outcome::Build(build) if self.results.output() == Output::Json => self.results.record(&build, String::new),
            Outcome::Build(build) => self.results.records(&[*build], report::BUILT),
        };
        printed.map_err(unwrap)
    }
}

/// Gives the coordinator its own kind of error back.
fn unwrap(error: anyhow::Error) -> CoordinatorError {
    let error = match error.downcast::<datafusion::error::DataFusionError>() {
        Ok(error) => return error.into(),
        Err(error) => error,
    };
    let source = match error.downcast::<std::io::Error>() {
        Ok(error) => error,
        Err(error) => std::io::Error::other(error.to_string()),
    };
    CoordinatorError::Io {
        action: "write to",
        path: PathBuf::from("standard output"),
        source,
    }
}
