//! `corpusmill submit`: the same files as `run`, on a cluster.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use clap::Args;
use corpusmill_coordinator::{Events, Remote, RemoteScript};

use crate::args::moment;
use crate::commands::{Printer, Session, scripts};

pub(crate) const HELP: &str = "\
Examples:
  corpusmill submit --coordinator http://127.0.0.1:50050 pipeline.sql
  corpusmill submit -c 'SHOW CORPORA'          with CORPUSMILL_COORDINATOR set
  corpusmill submit --coordinator https://mill:50050 --certs certs pipeline.sql

Relative paths start from the folder that the command is given in: coordinator and workers must see it too. Ctrl-C stops
the script on the coordinator, cleanly; the same command goes on from there.";

#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// The coordinator; several that share a catalogue with commas between them
    #[arg(
        long,
        value_name = "URLS",
        env = "CORPUSMILL_COORDINATOR",
        default_value = "http://127.0.0.1:50050"
    )]
    coordinator: String,
    /// SQL files, run one after the other; `-` is standard input
    #[arg(value_name = "FILE", required_unless_present = "command")]
    files: Vec<PathBuf>,
    /// SQL instead of a file
    #[arg(
        short,
        long = "command",
        value_name = "SQL",
        conflicts_with = "files",
        allow_hyphen_values = true
    )]
    command: Option<String>,
    /// Logical time of builds, what run_start() gives [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    as_of: Option<DateTime<Utc>>,
}

/// Runs the command to its end.
pub(crate) async fn run(session: &Session, options: Submit) -> Result<()> {
    let scripts = scripts(options.command.as_deref(), &options.files)?;
    let here = std::env::current_dir().context("cannot tell which folder relative paths start from")?;
    let mut remote = Remote::connect(&options.coordinator, session.credentials()?.as_ref()).await?;
    let events: Arc<dyn Events> = session.progress.clone();
    let mut sink = Printer {
        results: session.results(),
        progress: session.progress.clone(),
    };
    for (text, origin) in scripts {
        let script = RemoteScript {
            text,
            origin,
            base_dir: here.to_string_lossy().into_owned(),
            as_of: options.as_of,
        };
        let ended = remote
            .run_script(script, &mut sink, &events, &session.interrupt.token)
            .await;
        session.progress.clear();
        ended?;
    }
    Ok(())
}
