//! The command line: what can be asked, and who answers it.

mod caption;
mod inspect;
mod locate;
mod model;
mod settings;

use clap::{Args, Parser, Subcommand};
use settings::{AllSettings, SettingArgs};
use std::path::PathBuf;
use std::process::ExitCode;

/// Writes captions for pictures: alt texts and meta descriptions, with a model on this machine.
#[derive(Debug, Parser)]
#[command(name = "pg_caption_engine", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve PostgreSQL: started by the extension's launcher, not by hand
    Serve,
    /// Caption files and URLs
    Caption(Caption),
    /// Show what the engine sees of a file: format, upright size, mean colours of the quarters
    Inspect(Inspect),
    /// Fetch, list and check models
    #[command(subcommand)]
    Model(model::Model),
}

/// Options of `caption`.
#[derive(Debug, Args)]
pub struct Caption {
    /// Files, and http or https URLs
    #[arg(required = true, value_name = "FILE|URL")]
    pictures: Vec<String>,
    /// A style: concise, seo, detailed or one of the model's own; repeat it for several captions of
    /// each picture
    #[arg(long = "style", value_name = "STYLE", default_value = "concise")]
    styles: Vec<String>,
    /// Ceiling for the generated tokens of a caption
    #[arg(long, value_name = "N", default_value_t = pg_caption_style::DEFAULT_TOKENS,
          value_parser = clap::value_parser!(u32).range(1..=pg_caption_style::MAX_TOKENS as i64))]
    max_tokens: u32,
    /// Model folder, as published on the hub [default: $PG_CAPTION_MODEL, or the one installed with
    /// the program]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// ONNX Runtime library [default: $PG_CAPTION_ONNXRUNTIME, or the one installed with the
    /// program]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// Replaces the style's instruction or task
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Words about the product that an instruction-following model may use
    #[arg(long, value_name = "TEXT")]
    context: Option<String>,
    /// Generation settings that override the model's, a JSON object as in generation_config.json
    #[arg(long, value_name = "JSON")]
    generation: Option<String>,
    /// One beam, no sampling, whatever the model's settings say
    #[arg(long)]
    greedy: bool,
    /// For comparisons: full decode, no refusal of blank pictures, no threshold, no tidy-up
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    settings: SettingArgs<AllSettings>,
    /// One JSON object a line for each picture and style
    #[arg(long)]
    json: bool,
}

/// Options of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write the upright picture as PNG; for one file
    #[arg(long, value_name = "PNG")]
    out: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the program.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // One line, because standard error becomes PostgreSQL's log.
        let name = std::thread::current().name().unwrap_or("?").to_string();
        crate::log::line(format_args!("error: thread {name}: {panic}"));
    }));
    let outcome = match Cli::parse().command {
        Command::Serve => crate::serve::run().map(|()| true).map_err(|e| e.to_string()),
        Command::Caption(options) => caption::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Model(command) => model::run(&command),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(words) => {
            crate::log::line(format_args!("error: {words}"));
            ExitCode::FAILURE
        }
    }
}
