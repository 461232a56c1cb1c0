//! Errors of a model. Every message names the file (or the setting) and the reason.
//!
//! None of them is caused by a picture or a client: the operator has to fix the model, so the
//! engine reports them with class `engine`.

use pg_caption_models::ModelsError;
use std::path::{Path, PathBuf};

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The ONNX Runtime library is missing, too old, or not such a library.
    #[error("could not load ONNX Runtime from {}: {reason}", path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// The loader's message.
        reason: String,
    },
    /// A session was requested before [`crate::init`].
    #[error("the ONNX Runtime library is not loaded; call init() first")]
    NotInitialised,
    /// A file of the folder is missing or unreadable.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file of the folder was read, but its content is invalid.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// No family has this `model_type`.
    #[error("{}: unsupported model_type \"{model_type}\"; expected {supported}", path.display())]
    UnknownFamily {
        /// `config.json`.
        path: PathBuf,
        /// As it states it.
        model_type: String,
        /// The values that families have.
        supported: String,
    },
    /// Another fault of the folder's list of files.
    #[error(transparent)]
    Models(ModelsError),
    /// A graph does not load, or has an input that the captioner does not know.
    #[error("{}: {reason}", path.display())]
    Graph {
        /// The graph's file.
        path: PathBuf,
        /// The message of ONNX Runtime or of a check.
        reason: String,
    },
    /// No graph of that name is installed in the requested precision.
    #[error("{}: no {graph} graph: expected {expected} in onnx/", folder.display())]
    NotInstalled {
        /// The model folder.
        folder: PathBuf,
        /// The graph's name, without suffix.
        graph: String,
        /// The expected file name.
        expected: String,
    },
    /// No installed file of a graph is usable.
    #[error("{}: no usable {graph} graph: {reason}", folder.display())]
    NoGraph {
        /// The model folder.
        folder: PathBuf,
        /// The graph's name, without suffix.
        graph: String,
        /// Every candidate with its reason.
        reason: String,
    },
    /// An unknown generation setting, or an invalid value of one.
    #[error("invalid generation setting \"{setting}\": {reason}")]
    Generation {
        /// The field's name as in generation_config.json.
        setting: String,
        /// What is wrong.
        reason: String,
    },
    /// The model does not accept this prompt.
    #[error("invalid prompt: {0}")]
    Prompt(String),
    /// A picture cannot be prepared for the model.
    #[error("invalid picture: {0}")]
    Picture(String),
    /// The tokenizer rejected ids or text.
    #[error("tokenizer failed: {0}")]
    Tokenizer(String),
    /// A session call failed, or its result contradicts the graph's declaration.
    #[error("{graph}: {reason}")]
    Run {
        /// The graph.
        graph: String,
        /// What happened.
        reason: String,
    },
    /// Inputs of one call may not share it: an error of the caller, never of the model.
    #[error("invalid batch: {0}")]
    Batch(String),
}

impl From<ModelsError> for ModelError {
    fn from(error: ModelsError) -> ModelError {
        match error {
            ModelsError::File { path, source } => ModelError::File { path, source },
            ModelsError::Content { path, reason } => ModelError::Config { path, reason },
            other => ModelError::Models(other),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// PostgreSQL's style of primary messages: one line, lower case (a file name may come first),
    /// no full stop.
    #[test]
    fn messages_follow_the_style_guide() {
        let path = || PathBuf::from("/models/vit/config.json");
        let text = || "reason".to_owned();
        let source = || std::io::Error::from(std::io::ErrorKind::NotFound);
        for error in [
            ModelError::Library { path: path(), reason: text() },
            ModelError::NotInitialised,
            ModelError::File { path: path(), source: source() },
            ModelError::config(path(), text()),
            ModelError::UnknownFamily {
                path: path(),
                model_type: "poet".into(),
                supported: "florence2, idefics3".into(),
            },
            ModelError::from(ModelsError::Missing { file: "tokenizer.json".into() }),
            ModelError::graph(path(), text()),
            ModelError::NotInstalled {
                folder: path(),
                graph: "encoder_model".into(),
                expected: "encoder_model_q4.onnx".into(),
            },
            ModelError::NoGraph { folder: path(), graph: "decoder".into(), reason: text() },
            ModelError::Generation { setting: "num_beams".into(), reason: text() },
            ModelError::Prompt(text()),
            ModelError::Picture(text()),
            ModelError::Tokenizer(text()),
            ModelError::run("decoder", text()),
            ModelError::Batch(text()),
        ] {
            let message = error.to_string();
            assert!(message.starts_with(|c: char| c.is_lowercase() || c == '/'), "{message}");
            assert!(!message.ends_with(['.', '\n']) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn folder_errors_keep_their_file() {
        let content = ModelsError::Content { path: "a/config.json".into(), reason: "bad".into() };
        assert_eq!(ModelError::from(content).to_string(), "a/config.json: bad");
    }
}
