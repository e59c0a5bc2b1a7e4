//! The `corpusmill` command line: what a person types, turned into calls of the coordinator.
//!
//! ```text
//!   arguments ─► args (clap) ─► commands ─► coordinator
//!                                  │            │ events ─► progress ─► standard error
//!                                  │            └ outcomes ─► output  ─► standard output (table, JSON, CSV)
//!                                  └► generate: a deterministic data set, without the coordinator
//!   Ctrl-C, SIGTERM ─► interrupt          errors ─► exit: message and exit code
//! ```
//! To add a command: a variant in `args::Command` with an example in its help, and an arm in `commands::dispatch`.
//! To add an output format: a variant in `args::Output`, and an arm in each function of `output`.

mod args;
mod certs;
mod commands;
mod coordinate;
mod doctor;
mod exit;
pub mod generate;
mod interrupt;
mod live;
mod output;
mod progress;
mod report;
mod submit;
mod units;
mod work;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

/// Whether the program takes these arguments, the program's name first; nothing is run.
///
/// # Errors
/// What is wrong with them, as the program would say it.
pub fn accepts(arguments: impl IntoIterator<Item = OsString>) -> Result<(), String> {
    match args::Cli::try_parse_from(arguments) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs the program with these arguments, the program's name first, and returns its exit code.
///
/// Results go to standard output, all else to standard error. `--help` lists the exit codes.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match args::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are such "errors" too; a closed pipe does not matter here.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::FAILED));
        }
    };
    corpusmill_models::ModelLibrary::install();
    match commands::run(cli) {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(error) => ExitCode::from(exit::report(&error)),
    }
}
