//! What is asked of a coordinator: `submit` runs the same files as `run`, on a cluster; `watch`, `cancel`, `scripts` and
//! `workers` look after them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use clap::Args;
use corpusmill_coordinator::{Events, ListKind, Remote, RemoteScript, ScriptInfo, WorkerInfo};

use crate::args::{At, moment};
use crate::commands::{Printer, Session, scripts};
use crate::report;

pub(crate) const HELP: &str = "\
Examples:
  corpusmill submit --coordinator http://127.0.0.1:50050 pipeline.sql
  corpusmill submit -c 'SHOW CORPORA'          with CORPUSMILL_COORDINATOR set
  corpusmill submit --coordinator https://mill:50050 --certs certs pipeline.sql
  corpusmill watch $(corpusmill submit --detach pipeline.sql)

Relative paths start from the folder that the command is given in: coordinator and workers must see it too. Ctrl-C stops
the script on the coordinator, cleanly; the same command goes on from there.";

#[derive(Debug, Args)]
pub(crate) struct Submit {
    #[command(flatten)]
    at: At,
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
    /// Leaves the script to the coordinator, and writes its id; `corpusmill watch` follows it. Rows of queries are lost
    #[arg(long)]
    detach: bool,
}

/// Runs the command to its end.
pub(crate) async fn run(session: &Session, options: Submit) -> Result<()> {
    let scripts = scripts(options.command.as_deref(), &options.files)?;
    let here = std::env::current_dir().context("cannot tell which folder relative paths start from")?;
    let mut remote = connect(session, &options.at).await?;
    let events: Arc<dyn Events> = session.progress.clone();
    let mut sink = printer(session);
    for (text, origin) in scripts {
        let script = RemoteScript {
            text,
            origin,
            base_dir: here.to_string_lossy().into_owned(),
            as_of: options.as_of,
        };
        if options.detach {
            let id = remote.submit(script).await?;
            session.results().line(&id)?;
            continue;
        }
        let ended = remote
            .run_script(script, &mut sink, &events, &session.interrupt.token)
            .await;
        session.progress.clear();
        ended?;
    }
    Ok(())
}

pub(crate) const WATCH_HELP: &str = "\
Examples:
  corpusmill scripts                                  ids of the scripts, and how far they are
  corpusmill watch 019a6c0e5d5f7b0c8f6f3a5d9f1e2b3c    from its beginning to its end

The exit code is that of the script. Ctrl-C ends watching, not the script: `corpusmill cancel` does that. Rows of queries
go to whoever submitted them.";

/// Which script.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Its id, as `corpusmill scripts` shows
    script: String,
    #[command(flatten)]
    at: At,
}

/// Tells what happened to a script and what happens, to its end.
pub(crate) async fn watch(session: &Session, which: Which) -> Result<()> {
    let mut remote = connect(session, &which.at).await?;
    let events: Arc<dyn Events> = session.progress.clone();
    let ended = remote
        .watch(&which.script, &mut printer(session), &events, &session.interrupt.token)
        .await;
    session.progress.clear();
    Ok(ended?)
}

/// Stops a script.
pub(crate) async fn cancel(session: &Session, which: Which) -> Result<()> {
    let running = connect(session, &which.at).await?.cancel(&which.script).await?;
    session.progress.line(match running {
        true => "it stops once what it does at the moment can be stopped; the same script goes on from there",
        false => "it had ended already",
    });
    Ok(())
}

/// Lists the scripts of a coordinator.
pub(crate) async fn scripts_of(session: &Session, at: At) -> Result<()> {
    let listed = connect(session, &at).await?.list(ListKind::Scripts).await?;
    let scripts: Vec<ScriptInfo> = serde_json::from_str(&listed).context(STRANGE)?;
    session.results().records(&scripts, report::SCRIPTS)
}

/// Lists the workers of a coordinator.
pub(crate) async fn workers_of(session: &Session, at: At) -> Result<()> {
    let listed = connect(session, &at).await?.list(ListKind::Workers).await?;
    let workers: Vec<WorkerInfo> = serde_json::from_str(&listed).context(STRANGE)?;
    session.results().records(&workers, report::WORKERS)
}

const STRANGE: &str = "the coordinator said something that this program does not understand";

async fn connect(session: &Session, at: &At) -> Result<Remote> {
    Ok(Remote::connect(&at.coordinator, session.credentials()?.as_ref()).await?)
}

fn printer(session: &Session) -> Printer {
    Printer {
        results: session.results(),
        progress: session.progress.clone(),
    }
}
