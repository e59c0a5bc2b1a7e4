//! The command line as clap reads it. Help texts are the manual: each command shows how it is used.

use std::path::PathBuf;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use corpusmill_access::CERTS_VARIABLE;

use crate::certs::{self, Certs};
use crate::coordinate::{self, Coordinate};
use crate::generate::Format;
use crate::live::{self, Runs, Takedown};
use crate::submit::{self, Submit, Which};
use crate::work::{self, Work};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed: bad input, a wrong statement, a full disk, …
  2    the command line is wrong
  3    an expectation failed the build; nothing was published
  4    `verify` found damage
  75   somebody else is writing there; the same command may succeed later
  130  interrupted; the same command goes on from the last finished split

Environment:
  CORPUSMILL_HOME  the default of --home
  CORPUSMILL_WAREHOUSE  the default of --warehouse
  CORPUSMILL_CATALOG  the default of --catalog
  CORPUSMILL_COORDINATOR  the default of --coordinator
  CORPUSMILL_CERTS  the default of --certs
  CORPUSMILL_LOG   log filter, such as `info` or `corpusmill_coordinator=debug`
  AWS_*, GOOGLE_*, AZURE_*  credentials and endpoints of object stores, see docs/SQL.md, Object storage";

/// Turns raw moderation data into versioned training corpora, by SQL.
#[derive(Debug, Parser)]
#[command(name = "corpusmill", version, about, after_help = EXIT_CODES, propagate_version = true)]
#[command(arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The catalogue, and the warehouse where it is not elsewhere
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CORPUSMILL_HOME",
        default_value = "corpusmill-data"
    )]
    pub(crate) home: PathBuf,
    /// Where corpora are kept: a folder, or s3://bucket/folder, gs://…, az://… [default: DIR/warehouse, or where the
    /// home has kept them before]
    #[arg(long, global = true, value_name = "PLACE", env = "CORPUSMILL_WAREHOUSE")]
    pub(crate) warehouse: Option<String>,
    /// Certificates and token, as `certs init` makes them: needed by everything that listens beyond this machine, and by
    /// everything that calls it
    #[arg(long, global = true, value_name = "DIR", env = CERTS_VARIABLE)]
    pub(crate) certs: Option<PathBuf>,
    /// The catalogue in PostgreSQL, postgres://USER@HOST/DATABASE; the password from PGPASSWORD or ~/.pgpass [default: a
    /// file in DIR, or where the home has had it before]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "CORPUSMILL_CATALOG",
        hide_env_values = true
    )]
    pub(crate) catalog: Option<String>,
    /// How results are written to standard output; all else goes to standard error
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// No progress, no notes: results, warnings and errors only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Says more in the log; twice: much more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// One JSON document for each result: an array of rows, or an object
    Json,
    /// With a header line
    Csv,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs SQL: files, or a statement given on the spot
    #[command(after_help = "\
Examples:
  corpusmill run pipeline.sql
  corpusmill run -c 'SELECT split, count(*) FROM mod_text GROUP BY split'
  corpusmill run sources.sql corpus.sql --home /data/mill --memory-limit 8G
  echo 'SHOW CORPORA' | corpusmill run - --output json

A run that was interrupted, or whose machine died, goes on where it stopped when the same command is given again.")]
    Run(Run),
    /// Runs SQL on a cluster, as `run` does here
    #[command(after_help = submit::HELP)]
    Submit(Submit),
    /// Follows a script on a cluster: what happened to it, and what happens
    #[command(after_help = submit::WATCH_HELP)]
    Watch(Which),
    /// Stops a script on a cluster, cleanly
    #[command(after_help = "Example:\n  corpusmill cancel 019a6c0e5d5f7b0c8f6f3a5d9f1e2b3c")]
    Cancel(Which),
    /// Lists the scripts that a coordinator has, and how far they are
    #[command(
        after_help = "Example:\n  corpusmill scripts --output json | jq -r '.[] | select(.state == \"running\").script'"
    )]
    Scripts(At),
    /// Lists the workers of a coordinator
    #[command(after_help = "Example:\n  corpusmill workers --coordinator http://127.0.0.1:50050")]
    Workers(At),
    /// Serves a cluster: takes scripts, and spreads their builds over workers
    #[command(after_help = coordinate::HELP)]
    Coordinator(Coordinate),
    /// Makes certificates and a token for a cluster
    #[command(after_help = certs::HELP)]
    Certs(Certs),
    /// Works for a coordinator
    #[command(after_help = work::HELP)]
    Worker(Work),
    /// Lists the corpora and their latest versions
    #[command(after_help = "Example:\n  corpusmill corpora --output json | jq -r '.[].name'")]
    Corpora,
    /// Lists the builds: what ran, when, and how it ended
    #[command(after_help = "Examples:\n  corpusmill builds --limit 5\n  corpusmill builds --corpus mod_text")]
    Builds(Builds),
    /// Shows a version of a corpus: columns, rows, expectations, where it came from
    #[command(after_help = "Examples:\n  corpusmill show mod_text\n  corpusmill show mod_text@3 --output json")]
    Show {
        /// The corpus, and the version where it is not the latest
        #[arg(value_name = "CORPUS[@VERSION|@TAG]")]
        corpus: CorpusVersion,
    },
    /// Reads a version back, and checks every shard's bytes and the digest of its rows
    #[command(
        after_help = "Examples:\n  corpusmill verify mod_text\n  corpusmill verify mod_text@3\n\nExit code 4 says that something is damaged."
    )]
    Verify {
        /// The corpus, and the version where it is not the latest
        #[arg(value_name = "CORPUS[@VERSION|@TAG]")]
        corpus: CorpusVersion,
    },
    /// Removes files that no version and no running build needs
    #[command(after_help = "Examples:\n  corpusmill vacuum --dry-run\n  corpusmill vacuum --older-than-hours 0")]
    Vacuum(Vacuum),
    /// Takes rows down in running training jobs: from now on they arrive as mask
    #[command(after_help = live::TAKEDOWN_HELP)]
    Takedown(Takedown),
    /// Lists the training runs of live plans: what they have read, and which of them saw a row
    #[command(after_help = live::RUNS_HELP)]
    Runs(Runs),
    /// Writes a version in another trainer's format
    #[command(after_help = "\
Examples:
  corpusmill export mod_text --format mds --to mds/
  corpusmill export mod_text@3 --format megatron --columns input_ids --to megatron/mod_text
  corpusmill export mod_text --format webdataset --to shards/")]
    Export(Export),
    /// Makes a deterministic moderation data set of any size, to try things on
    #[command(after_help = "\
Examples:
  corpusmill generate --posts 10000 --out data
  corpusmill generate --posts 1000000 --seed 7 --images 500 --format parquet --out data

The same seed gives the same bytes on every machine. What was planted (labels, languages, duplicates, personal data)
stands under OUT/truth. Texts are invented, and so are the groups that hateful ones speak of; phone numbers, addresses
and domains are from the ranges that are reserved for examples.")]
    Generate(Generate),
    /// Says what this machine has for handing batches to trainers, and what to do about what is missing
    #[command(after_help = crate::doctor::HELP)]
    Doctor,
    /// Prints the completions of a shell
    #[command(after_help = "Example:\n  corpusmill completions bash > /etc/bash_completion.d/corpusmill")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// SQL files, run one after the other; `-` is standard input
    #[arg(value_name = "FILE", required_unless_present = "command")]
    pub(crate) files: Vec<PathBuf>,
    /// SQL instead of a file
    #[arg(
        short,
        long = "command",
        value_name = "SQL",
        conflicts_with = "files",
        allow_hyphen_values = true
    )]
    pub(crate) command: Option<String>,
    /// Logical time of builds, what run_start() gives [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) as_of: Option<DateTime<Utc>>,
    /// Partitions that plans are spread over; never changes a corpus [default: cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) target_partitions: Option<u32>,
    /// Memory that plans may hold before they spill, such as 512M or 8G; never changes a corpus
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory_limit: Option<usize>,
    /// Disk that spilled rows may take, such as 200G; never changes a corpus [default: what the disk has]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) spill_limit: Option<usize>,
    /// Rows in a batch between operators; never changes a corpus
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) batch_size: Option<u32>,
}

/// Where a coordinator is.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The coordinator; several that share a catalogue with commas between them
    #[arg(
        long = "coordinator",
        value_name = "URLS",
        env = "CORPUSMILL_COORDINATOR",
        default_value = "http://127.0.0.1:50050"
    )]
    pub(crate) coordinator: String,
}

#[derive(Debug, Args)]
pub(crate) struct Builds {
    /// Builds of this corpus or materialised view only
    #[arg(long, value_name = "NAME")]
    pub(crate) corpus: Option<String>,
    /// The newest so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Vacuum {
    /// Says what would be removed, and removes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Spares files that are younger
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    pub(crate) older_than_hours: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The corpus, and the version where it is not the latest
    #[arg(value_name = "CORPUS[@VERSION|@TAG]")]
    pub(crate) corpus: CorpusVersion,
    /// The format
    #[arg(long, value_enum)]
    pub(crate) format: ExportFormat,
    /// An empty or new folder, a path or a URL; for Megatron the prefix of the .bin and .idx files
    #[arg(long, value_name = "PATH")]
    pub(crate) to: String,
    /// These columns only, in this order; for Megatron the column of tokens
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// Begins a new file after so many bytes, such as 64M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) file_size: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Tar shards of one file a column and row
    Webdataset,
    /// MosaicML Streaming shards
    Mds,
    /// Megatron-LM .bin and .idx of one token column
    Megatron,
    /// Plain Parquet files
    Parquet,
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// Number of posts; users, votes and all else follow
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) posts: u64,
    /// Everything follows from it
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Number of original pictures; each comes with zero to four edited copies
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) images: u64,
    /// The format of the tables
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    pub(crate) format: Format,
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Replaces what is in the folder
    #[arg(long)]
    pub(crate) force: bool,
}

/// `CORPUS`, `CORPUS@VERSION` or `CORPUS@TAG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CorpusVersion(pub(crate) String);

impl FromStr for CorpusVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = text.split_once('@').unwrap_or((text, "latest"));
        if name.is_empty() {
            return Err("the name of the corpus is missing".to_owned());
        }
        if version.is_empty() {
            return Err(
                "the version is missing: a number as `corpusmill corpora` shows, a tag, or `latest`".to_owned(),
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// Reads `2026-11-01T02:00:00Z`, `2026-11-01 02:00:00` (UTC) or `2026-11-01`.
pub(crate) fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.to_utc());
    }
    for format in ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"] {
        if let Ok(moment) = NaiveDateTime::parse_from_str(text, format) {
            return Ok(moment.and_utc());
        }
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .map(|day| day.and_time(chrono::NaiveTime::MIN).and_utc())
        .map_err(|_| "expected a time such as 2026-11-01T02:00:00Z, or a day such as 2026-11-01".to_owned())
}

/// Reads a size in bytes, with K, M, G or T (powers of 1,024) behind it.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let upper = text.trim().to_uppercase();
    let plain = upper.trim_end_matches('B').trim_end_matches('I');
    let (digits, shift) = match plain.chars().last() {
        Some('K') => (&plain[..plain.len() - 1], 10),
        Some('M') => (&plain[..plain.len() - 1], 20),
        Some('G') => (&plain[..plain.len() - 1], 30),
        Some('T') => (&plain[..plain.len() - 1], 40),
        _ => (plain, 0),
    };
    digits
        .trim()
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes >= 1 << 20)
        .ok_or_else(|| "expected a size of at least 1M, such as 512M or 8G".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_finds_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_times_and_versions_are_read() {
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("8GiB"), Ok(8 << 30));
        assert_eq!(size("2 gb"), Ok(2 << 30));
        assert!(size("12").is_err() && size("lots").is_err() && size("99999999T").is_err());
        assert_eq!(
            moment("2026-11-01").unwrap(),
            moment("2026-11-01T08:00:00+08:00").unwrap()
        );
        assert!(moment("yesterday").is_err());
        assert_eq!("a@3".parse(), Ok(CorpusVersion("a@3".to_owned())));
        assert_eq!("a".parse(), Ok(CorpusVersion("a".to_owned())));
        assert!(
            "a@".parse::<CorpusVersion>()
                .unwrap_err()
                .contains("version is missing")
        );
        assert!(
            "@3".parse::<CorpusVersion>()
                .unwrap_err()
                .contains("name of the corpus")
        );
    }
}
