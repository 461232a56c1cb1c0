//! Errors of a model folder's list of files and of its small files.

use std::path::{Path, PathBuf};

/// Why a folder's files do not make a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelsError {
    /// No family has this `model_type`.
    #[error("unsupported model_type \"{model_type}\"; expected {}", supported.join(", "))]
    UnknownFamily {
        /// As `config.json` states it.
        model_type: String,
        /// The values that families have.
        supported: Vec<&'static str>,
    },
    /// A required file is missing.
    #[error("no {file}")]
    Missing {
        /// The file.
        file: String,
    },
    /// No file of a graph exists, whatever its precision.
    #[error("no {graph} graph (onnx/{graph}.onnx, with or without a suffix)")]
    NoGraph {
        /// The graph.
        graph: String,
    },
    /// A graph does not exist in the requested precision.
    #[error("no {graph} graph in dtype {dtype}; available: {}", published.join(", "))]
    NoDtype {
        /// The graph.
        graph: String,
        /// The requested dtype.
        dtype: String,
        /// The dtypes that exist.
        published: Vec<String>,
    },
    /// A dtype was requested for a graph that this family does not have.
    #[error("unknown graph \"{graph}\"; expected {}", graphs.join(", "))]
    UnknownGraph {
        /// As requested.
        graph: String,
        /// The graphs of the family.
        graphs: Vec<String>,
    },
    /// A dtype that is not one of the known suffixes.
    #[error(
        "invalid dtype \"{}\"; expected auto, fp32, q8, {}, or GRAPH=DTYPE",
        .0,
        crate::files::SUFFIXES.join(", ")
    )]
    BadDtype(String),
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A clone without Git LFS has pointers in place of large files.
    #[error("{}: a Git LFS pointer, not the file itself; run \"git lfs pull\"", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A file was read, but its content is invalid.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl ModelsError {
    pub(crate) fn content(path: &Path, reason: impl ToString) -> ModelsError {
        ModelsError::Content { path: path.into(), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PostgreSQL's style of primary messages: one line, lower case, no full stop.
    #[test]
    fn messages_follow_the_style_guide() {
        let source = || std::io::Error::from(std::io::ErrorKind::NotFound);
        for (error, message) in [
            (
                ModelsError::UnknownFamily { model_type: "poet".into(), supported: vec!["a", "b"] },
                "unsupported model_type \"poet\"; expected a, b",
            ),
            (ModelsError::Missing { file: "tokenizer.json".into() }, "no tokenizer.json"),
            (
                ModelsError::NoGraph { graph: "encoder_model".into() },
                "no encoder_model graph (onnx/encoder_model.onnx, with or without a suffix)",
            ),
            (
                ModelsError::NoDtype {
                    graph: "encoder_model".into(),
                    dtype: "q4".into(),
                    published: vec!["fp16".into()],
                },
                "no encoder_model graph in dtype q4; available: fp16",
            ),
            (
                ModelsError::UnknownGraph { graph: "x".into(), graphs: vec!["y".into()] },
                "unknown graph \"x\"; expected y",
            ),
            (
                ModelsError::BadDtype("q5".into()),
                "invalid dtype \"q5\"; expected auto, fp32, q8, quantized, uint8, int8, q4, bnb4, \
                 q2, q1, fp16, q4f16, q2f16, q1f16, or GRAPH=DTYPE",
            ),
            (ModelsError::File { path: "a".into(), source: source() }, "a: entity not found"),
            (
                ModelsError::LfsPointer { path: "a".into() },
                "a: a Git LFS pointer, not the file itself; run \"git lfs pull\"",
            ),
            (ModelsError::content(Path::new("a"), "not a JSON object"), "a: not a JSON object"),
        ] {
            assert_eq!(error.to_string(), message);
            assert!(message.starts_with(char::is_lowercase) && !message.ends_with('.'));
        }
    }
}
