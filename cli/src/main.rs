//! The `corpusmill` program.

fn main() -> std::process::ExitCode {
    corpusmill_cli::main(std::env::args_os())
}
