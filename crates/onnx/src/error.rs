//! Why a graph cannot be cut. None of these is anybody's fault: the published graph is used as it
//! is.

/// Why a graph cannot be cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// The bytes are no ONNX model.
    #[error("not an ONNX model: {0}")]
    Malformed(prost::DecodeError),
    /// A model without a graph.
    #[error("the model has no graph")]
    Empty,
    /// Weights in other files.
    #[error("its weights lie in other files")]
    External,
    /// Several or strange branches.
    #[error("its branches are not understood: {0}")]
    Branches(&'static str),
    /// Nothing depends on the root alone.
    #[error("nothing in it depends on \"{0}\" alone")]
    NothingToCut(String),
}
