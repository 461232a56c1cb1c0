//! The command line.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Image captions: fetches, decodes, batches and captions pictures.
#[derive(Debug, Parser)]
#[command(name = "pg_caption_engine", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve PostgreSQL: started by the extension's launcher, not by hand.
    Serve,
}

/// Runs the program.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve => match crate::serve::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("error: {e}");
                ExitCode::FAILURE
            }
        },
    }
}
