//! The command line: its commands and options.

mod caption;
mod inspect;
mod locate;
mod manual;
mod model;
mod serve;
mod settings;
mod sheet;

use crate::test_hook::DecodeHook;
use clap::{Args, CommandFactory, Parser, Subcommand};
use settings::{AllSettings, SettingArgs};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Writes captions for pictures: alt texts and meta descriptions, with a model on this machine.
#[derive(Debug, Parser)]
#[command(name = "pg_caption_engine", version, about, after_help = manual::after_help())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve other machines with --http; without it, PostgreSQL: then it is started by the
    /// extension's launcher, not by hand
    Serve(ServeArgs),
    /// Caption files and URLs
    Caption(CaptionCommand),
    /// Caption files and URLs, and write an HTML page of pictures and texts for a review
    Sheet(SheetCommand),
    /// Show a file as the engine decodes it: format, upright size, mean colours of the quarters
    Inspect(InspectArgs),
    /// Download, list and check models
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, as roff
    Manual,
}

/// Options of `caption` and `sheet`.
#[derive(Debug, Args)]
#[command(after_help = manual::CAPTION_EXAMPLES)]
pub struct CaptionArgs {
    /// Files, and http or https URLs
    #[arg(required = true, value_name = "FILE|URL")]
    pictures: Vec<String>,
    /// A style: concise, seo, detailed or one of the model's folder; repeatable
    #[arg(long = "style", value_name = "STYLE", default_value = "concise")]
    styles: Vec<String>,
    /// The language of the captions, such as de or pt-BR [default: as the model writes]
    #[arg(long, value_name = "TAG")]
    language: Option<pg_caption_language::LanguageTag>,
    /// Most tokens of a caption
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
    /// Facts about the product, for models that follow instructions
    #[arg(long, value_name = "TEXT")]
    context: Option<String>,
    /// Generation settings that override the model's, a JSON object as in generation_config.json
    #[arg(long, value_name = "JSON")]
    generation: Option<String>,
    /// One beam and no sampling, regardless of the model's settings
    #[arg(long)]
    greedy: bool,
    /// For comparisons: full decode, blank pictures accepted, no threshold, no postprocessing
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    settings: SettingArgs<AllSettings>,
}

/// Options of `caption`.
#[derive(Debug, Args)]
pub struct CaptionCommand {
    #[command(flatten)]
    of: CaptionArgs,
    /// One JSON object a line for each picture and style
    #[arg(long)]
    json: bool,
}

/// Options of `sheet`.
#[derive(Debug, Args)]
pub struct SheetCommand {
    #[command(flatten)]
    of: CaptionArgs,
    /// The page; files are linked relative to its folder [default: standard output]
    #[arg(long, value_name = "HTML")]
    out: Option<PathBuf>,
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Listen for HTTP requests: /v1/chat/completions with pictures as data URLs, /v1/models,
    /// /health and /metrics
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
    /// Model folder [default: $PG_CAPTION_MODEL, or the one installed with the program]
    #[arg(long, value_name = "DIR", requires = "http")]
    model: Option<PathBuf>,
    /// ONNX Runtime library [default: $PG_CAPTION_ONNXRUNTIME, or the one installed with the
    /// program]
    #[arg(long, value_name = "PATH", requires = "http")]
    onnxruntime: Option<PathBuf>,
    /// File with the key that clients must have; without it only loopback addresses are served
    #[arg(long, value_name = "FILE", requires = "http")]
    key_file: Option<PathBuf>,
    /// Most requests in flight; further ones get status 503
    #[arg(long, value_name = "N", default_value_t = 256, requires = "http",
          value_parser = clap::value_parser!(u16).range(1..))]
    queue: u16,
    /// Most connections
    #[arg(long, value_name = "N", default_value_t = 512, requires = "http",
          value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Largest body of a request, in megabytes; a picture takes four thirds of its file
    #[arg(long, value_name = "MB", default_value_t = 32, requires = "http",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_body: u16,
    #[command(flatten)]
    settings: SettingArgs<AllSettings>,
}

/// Options of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = manual::INSPECT_EXAMPLES)]
pub struct InspectArgs {
    /// Files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write the upright picture as PNG; for one file
    #[arg(long, value_name = "PNG")]
    out: Option<PathBuf>,
    /// For comparisons: the first frame, no colour profile, no file that lacks its end
    #[arg(long)]
    exact: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the program. `hook` is only set by tests of the confinement.
pub fn main(hook: DecodeHook) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // One line, because standard error becomes PostgreSQL's log.
        let name = std::thread::current().name().unwrap_or("?").to_string();
        crate::log::line(format_args!("error: thread {name}: {panic}"));
    }));
    let outcome = match Cli::parse().command {
        Command::Serve(options) => serve::run(&options, hook).map(|()| true),
        Command::Caption(options) => caption::run(&options),
        Command::Sheet(options) => sheet::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Model(command) => model::run(&command),
        Command::Completions { shell } => manual::print_completions(Cli::command(), shell),
        Command::Manual => manual::print_page(Cli::command()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            crate::log::line(format_args!("error: {message}"));
            ExitCode::FAILURE
        }
    }
}
