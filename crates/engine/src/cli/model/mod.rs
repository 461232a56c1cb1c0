//! `pg_caption_engine model`: download, list and check models. For administrators; the confined
//! server never runs it.

mod agree;
mod check;
mod list;
mod pull;

use super::settings::{LoadSettings, SettingArgs};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Download the needed files of a published model, checked; resumes an interrupted download
    Pull(PullArgs),
    /// Show the installed models
    List(ListArgs),
    /// Load a model, caption a built-in picture, and describe the model
    Check(CheckArgs),
    /// Caption files with two models; show what each threshold of a cascade would mean
    Agree(AgreeArgs),
}

/// Options of `pull`.
#[derive(Debug, Args)]
#[command(
    after_help = super::manual::PULL_EXAMPLES
)]
pub struct PullArgs {
    /// The model's name at the hub
    #[arg(value_name = "OWNER/NAME")]
    repo: String,
    /// Branch, tag or commit
    #[arg(long, value_name = "NAME", default_value = "main")]
    revision: String,
    /// Which files: auto, fp32, fp16, quantized, int8, uint8, q4, q4f16 …; GRAPH=DTYPE for one
    /// graph; repeatable
    #[arg(long = "dtype", value_name = "[GRAPH=]DTYPE", default_value = "auto")]
    dtypes: Vec<String>,
    /// Take the decoder as two files although a merged one is published
    #[arg(long)]
    unmerged: bool,
    /// Models directory [default: $PG_CAPTION_MODELS, or the one installed with the program]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Name of the folder [default: the model's, without its owner]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Replace a folder of that name
    #[arg(long)]
    replace: bool,
}

/// Options of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Models directory [default: $PG_CAPTION_MODELS, or the one installed with the program]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Model folder, or the name of one in the models directory
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// ONNX Runtime library [default: $PG_CAPTION_ONNXRUNTIME, or the one installed with the
    /// program]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingArgs<LoadSettings>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Options of `agree`.
#[derive(Debug, Args)]
pub struct AgreeArgs {
    /// Folder or name of the first model
    #[arg(value_name = "FIRST")]
    first: PathBuf,
    /// Folder or name of the second model
    #[arg(value_name = "THEN")]
    then: PathBuf,
    /// Pictures
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A built-in style
    #[arg(long, value_name = "STYLE", default_value = "concise")]
    style: String,
    /// ONNX Runtime library [default: $PG_CAPTION_ONNXRUNTIME, or the one installed with the
    /// program]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingArgs<LoadSettings>,
}

/// Runs it. Returns whether the models are usable.
///
/// # Errors
/// The reason of the failure.
pub fn run(command: &ModelCommand) -> Result<bool, String> {
    match command {
        ModelCommand::Pull(options) => pull::run(options),
        ModelCommand::List(options) => list::run(options),
        ModelCommand::Check(options) => check::run(options),
        ModelCommand::Agree(options) => agree::run(options),
    }
}

/// Bytes with a decimal unit.
fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}
