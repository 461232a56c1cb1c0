//! `pg_caption_engine model`: fetch, list and check models. For people; the confined server never
//! comes here.

mod check;
mod list;
mod pull;

use super::settings::{LoadSettings, SettingArgs};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What is to be done with models.
#[derive(Debug, Subcommand)]
pub enum Model {
    /// Download a published model: what is needed of it, checked; resumes where it broke
    Pull(Pull),
    /// Show what is installed
    List(List),
    /// Load a model, caption a built-in picture, and say what was found
    Check(Check),
}

/// Options of `pull`.
#[derive(Debug, Args)]
#[command(
    after_help = "Environment: HF_TOKEN opens private and gated models, HF_ENDPOINT names another hub, HTTPS_PROXY and NO_PROXY a proxy, \
                        SSL_CERT_FILE further certificates."
)]
pub struct Pull {
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
    /// Take the decoder as two files although one that unites them is published
    #[arg(long)]
    unmerged: bool,
    /// Models directory [default: $PG_CAPTION_MODELS, or the one installed with the program]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Name of the folder [default: the model's, without its owner]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Put it in the place of a folder of that name
    #[arg(long)]
    replace: bool,
}

/// Options of `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Models directory [default: $PG_CAPTION_MODELS, or the one installed with the program]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct Check {
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

/// Runs it; whether all is well.
///
/// # Errors
/// What went wrong, in words.
pub fn run(command: &Model) -> Result<bool, String> {
    match command {
        Model::Pull(options) => pull::run(options),
        Model::List(options) => list::run(options),
        Model::Check(options) => check::run(options),
    }
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}
