//! What can go wrong with a model: every message names the file (or the setting) and the reason.
//!
//! Nothing here is a failure of a picture's sender: all of it is the operator's to mend, so the
//! engine answers with class `engine`.

use std::path::{Path, PathBuf};

/// What can go wrong with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The ONNX Runtime library is missing, too old, or no such library.
    #[error("ONNX Runtime library {}: {reason}", path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// A session was wanted before [`crate::init`].
    #[error("ONNX Runtime is not initialised: call init() first")]
    NotInitialised,
    /// A file of the folder is missing or unreadable.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the folder was read but says something impossible.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// No family here reads this kind of model.
    #[error("{}: model_type \"{model_type}\" is not supported (supported: {supported})", path.display())]
    UnknownFamily {
        /// `config.json`.
        path: PathBuf,
        /// What it says.
        model_type: String,
        /// What it may say.
        supported: String,
    },
    /// A graph does not load, or asks for something nobody feeds.
    #[error("{}: {reason}", path.display())]
    Graph {
        /// The graph's file.
        path: PathBuf,
        /// What ONNX Runtime or our check said.
        reason: String,
    },
    /// No graph of that name is installed in a precision that is wanted.
    #[error("{}: no usable {graph} graph: no {wanted} in onnx/", folder.display())]
    NotInstalled {
        /// The model folder.
        folder: PathBuf,
        /// The graph's name, without suffix.
        graph: String,
        /// The file, or how it may be called.
        wanted: String,
    },
    /// No graph of that name is installed in a usable form.
    #[error("{}: no usable {graph} graph: {reason}", folder.display())]
    NoGraph {
        /// The model folder.
        folder: PathBuf,
        /// The graph's name, without suffix.
        graph: String,
        /// Every candidate with its reason.
        reason: String,
    },
    /// A generation setting that does not exist or cannot have this value.
    #[error("generation setting \"{setting}\": {reason}")]
    Generation {
        /// The field's name as in generation_config.json.
        setting: String,
        /// What is wrong.
        reason: String,
    },
    /// The model cannot be prompted like this.
    #[error("prompt: {0}")]
    Prompt(String),
    /// A picture cannot be prepared for the model.
    #[error("picture: {0}")]
    Picture(String),
    /// The tokenizer refused ids or text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A session call failed, or gave what its graph did not promise.
    #[error("{graph}: {reason}")]
    Run {
        /// The graph.
        graph: String,
        /// What happened.
        reason: String,
    },
    /// Things were put into one call that may not share it: a mistake of the caller, never of the
    /// model.
    #[error("batch: {0}")]
    Batch(String),
}

impl ModelError {
    pub(crate) fn config(path: impl AsRef<Path>, reason: impl ToString) -> ModelError {
        ModelError::Config { path: path.as_ref().into(), reason: reason.to_string() }
    }

    pub(crate) fn graph(path: impl AsRef<Path>, reason: impl ToString) -> ModelError {
        ModelError::Graph { path: path.as_ref().into(), reason: reason.to_string() }
    }

    pub(crate) fn run(graph: impl ToString, reason: impl ToString) -> ModelError {
        ModelError::Run { graph: graph.to_string(), reason: reason.to_string() }
    }
}
