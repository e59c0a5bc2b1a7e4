//! `corpusmill takedown` and `corpusmill runs`: rows that running jobs train on no more, and what jobs were handed.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use corpusmill_batches::{BatchError, Ledger};
use corpusmill_corpus::Warehouse;

use crate::args::CorpusVersion;
use crate::commands::Session;
use crate::report;

pub(crate) const TAKEDOWN_HELP: &str = "\
Examples:
  corpusmill takedown mod_text --key 1777 --key 1780 --note 'asked for by their author'
  corpusmill takedown mod_text@41 --keys ids.txt

It reaches the training runs of live plans (`run` of corpusmill.Plan): the rows keep their places and arrive as mask, from
the first group of steps on that no rank has made anything of. The corpus itself stays as it is: to keep the rows out of
later plans, build a version without them.";

pub(crate) const RUNS_HELP: &str = "\
Examples:
  corpusmill runs
  corpusmill runs --corpus mod_text --saw 1777

`--saw` goes through all steps of the runs over a corpus and lists those that had the row, as mask or not. Steps that were
made ahead of a trainer count as handed to it.";

#[derive(Debug, Args)]
pub(crate) struct Takedown {
    /// The corpus: in all plans that draw from it, or from this version of it
    #[arg(value_name = "CORPUS[@VERSION|@TAG]")]
    corpus: CorpusVersion,
    /// The primary key of a row; the values of several columns with commas between them
    #[arg(long, value_name = "KEY", required_unless_present = "keys")]
    key: Vec<String>,
    /// A file with a key in each line
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Why, for whoever reads the logs of the plans
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

#[derive(Debug, Args)]
pub(crate) struct Runs {
    /// Runs of plans that draw from this corpus, or from this version of it
    #[arg(long, value_name = "CORPUS[@VERSION|@TAG]")]
    corpus: Option<CorpusVersion>,
    /// The steps that had the row with this primary key; the values of several columns with commas between them
    #[arg(long, value_name = "KEY", requires = "corpus")]
    saw: Vec<String>,
}

/// Takes rows down in the plans over a corpus.
pub(crate) async fn takedown(session: &Session, options: Takedown) -> Result<()> {
    let mut texts = options.key;
    if let Some(file) = &options.keys {
        let lines =
            std::fs::read_to_string(file).with_context(|| format!("cannot read the keys in {}", file.display()))?;
        texts.extend(lines.lines().filter(|line| !line.is_empty()).map(str::to_owned));
    }
    let coordinator = session.existing().await?;
    let keys = keys_of(coordinator.warehouse(), &options.corpus, &texts).await?;
    let corpus = pinned(coordinator.warehouse(), &options.corpus).await?;
    let taken = {
        let (corpus, note) = (corpus.clone(), options.note);
        asked(coordinator.warehouse(), move |ledger| {
            ledger.take_down(&corpus, &keys, &note)
        })
        .await?
    };
    session.results().records(&taken, report::TAKEN_DOWN)?;
    if taken.is_empty() {
        session.progress.line(&format!(
            "no run was ever made of a live plan over {corpus}: there is nothing to reach"
        ));
    } else if taken.iter().all(|plan| plan.appended.rows == 0) {
        bail!("no row of {corpus} in these plans has such a key; nothing was taken down");
    }
    Ok(())
}

/// Lists runs, or the steps in which they were handed a row.
pub(crate) async fn runs(session: &Session, options: Runs) -> Result<()> {
    let coordinator = session.existing().await?;
    let warehouse = coordinator.warehouse();
    let Some(corpus) = options.corpus else {
        let runs = asked(warehouse, Ledger::runs).await?;
        return session.results().records(&runs, report::RUNS);
    };
    let name = pinned(warehouse, &corpus).await?;
    if options.saw.is_empty() {
        let mut runs = asked(warehouse, Ledger::runs).await?;
        runs.retain(|run| {
            run.corpora
                .iter()
                .any(|c| *c == name || c.split('@').next() == Some(name.as_str()))
        });
        return session.results().records(&runs, report::RUNS);
    }
    let keys = keys_of(warehouse, &corpus, &options.saw).await?;
    let sightings = asked(warehouse, move |ledger| ledger.saw(&name, &keys)).await?;
    session.results().records(&sightings, report::SIGHTINGS)
}

/// Asks the ledger of a warehouse, on a thread that may wait.
async fn asked<T: Send + 'static>(
    warehouse: &Warehouse,
    question: impl FnOnce(&Ledger) -> Result<T, BatchError> + Send + 'static,
) -> Result<T> {
    let warehouse = warehouse.clone();
    let answer = tokio::task::spawn_blocking(move || question(&Ledger::of(warehouse)?)).await;
    Ok(answer.context("the ledger failed in a way that it should not; please report it")??)
}

/// The corpus as ledgers call it: by its name, with the number of the version where one was given, or a tag.
async fn pinned(warehouse: &Warehouse, corpus: &CorpusVersion) -> Result<String> {
    if !corpus.0.contains('@') {
        return Ok(corpus.0.clone());
    }
    let (name, version) = warehouse.resolve(&corpus.0).await?;
    Ok(format!("{name}@{version}"))
}

/// Keys as a person wrote them, cut into the columns that a key of the corpus has.
async fn keys_of(warehouse: &Warehouse, corpus: &CorpusVersion, texts: &[String]) -> Result<Vec<Vec<String>>> {
    let (name, version) = warehouse.resolve(&corpus.0).await?;
    let columns = warehouse.manifest(&name, version).await?.primary_key.len();
    let key = |text: &String| text.splitn(columns, ',').map(str::to_owned).collect();
    Ok(texts.iter().map(key).collect())
}
