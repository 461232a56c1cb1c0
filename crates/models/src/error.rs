//! What can be wrong with a folder's list of files.

use std::path::PathBuf;

/// What can be wrong with a folder's list of files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelsError {
    /// No family here reads this kind of model.
    #[error("config.json says model_type \"{model_type}\", which is not supported (supported: {})", supported.join(", "))]
    UnknownFamily {
        /// What it says.
        model_type: String,
        /// What it may say.
        supported: Vec<&'static str>,
    },
    /// A file that no folder can do without is not there.
    #[error("no {file}")]
    Missing {
        /// The file.
        file: String,
    },
    /// No file of a graph, whatever its precision.
    #[error("no {graph} graph (onnx/{graph}.onnx, with or without a suffix)")]
    NoGraph {
        /// The graph.
        graph: String,
    },
    /// Not in the precision asked for.
    #[error("graph {graph} is not there in dtype {dtype}; there is {}", published.join(", "))]
    NoDtype {
        /// The graph.
        graph: String,
        /// What was asked for.
        dtype: String,
        /// What there is.
        published: Vec<String>,
    },
    /// A dtype was asked for a graph that this family does not have.
    #[error("this family has no graph \"{graph}\"; its graphs are {}", graphs.join(", "))]
    StrangeGraph {
        /// As asked.
        graph: String,
        /// What there is.
        graphs: Vec<String>,
    },
    /// A dtype that is not written as one.
    #[error(
        "\"{0}\" is no dtype: write one as in a file's suffix (fp32, fp16, quantized, q4f16 …), or GRAPH=DTYPE"
    )]
    BadDtype(String),
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file was read, but is not what it should be.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}
