//! Errors of splitting a graph. All are recoverable: the published graph is used instead.

/// Why a graph cannot be split.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// The bytes are not an ONNX model.
    #[error("not an ONNX model: {0}")]
    Malformed(prost::DecodeError),
    /// A model without a graph.
    #[error("the model has no graph")]
    Empty,
    /// The weights are in other files.
    #[error("the weights are in other files")]
    External,
    /// Several branches, or unsupported ones.
    #[error("unsupported branches: {0}")]
    Branches(&'static str),
    /// No node depends only on the roots.
    #[error("no node depends only on \"{0}\"")]
    NothingToCut(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    /// PostgreSQL's style of primary messages: one line, lower case, no full stop.
    #[test]
    fn messages_follow_the_style_guide() {
        let malformed = crate::proto::ModelProto::decode(&b"\xff\xff"[..]).unwrap_err();
        for (error, start) in [
            (GraphError::Malformed(malformed), "not an ONNX model: "),
            (GraphError::Empty, "the model has no graph"),
            (GraphError::External, "the weights are in other files"),
            (GraphError::Branches("no If"), "unsupported branches: no If"),
            (GraphError::NothingToCut("hidden".into()), "no node depends only on \"hidden\""),
        ] {
            let message = error.to_string();
            assert!(message.starts_with(start), "{message}");
            assert!(message.starts_with(char::is_lowercase) && !message.ends_with(['.', '\n']));
        }
    }
}
