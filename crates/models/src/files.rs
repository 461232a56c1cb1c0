//! What a file's name says: `onnx/<graph><suffix>.onnx`, and the weights that lie beside it.

/// Suffixes of published files without the underscore, in the order in which they are preferred
/// after the unsuffixed file. As the captioner tries them.
pub(crate) const SUFFIXES: [&str; 11] =
    ["quantized", "uint8", "int8", "q4", "bnb4", "q2", "q1", "fp16", "q4f16", "q2f16", "q1f16"];
/// The unsuffixed file.
pub(crate) const PLAIN: &str = "fp32";

/// A graph in one precision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphFile {
    /// Its name, without suffix.
    pub graph: String,
    /// `fp32`, or the suffix without the underscore.
    pub dtype: String,
    /// The file, as it is listed.
    pub file: String,
    /// Weights beside it.
    pub data: Vec<String>,
}

/// What a file's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedFile<'a> {
    /// Graph.
    pub graph: &'a str,
    /// `fp32`, or the suffix without the underscore.
    pub dtype: &'a str,
}

/// Reads a path relative to the folder as one of these graphs; graphs lie in `onnx/` or beside
/// `config.json`.
pub fn graph_file<'a>(path: &'a str, graphs: &[&'a str]) -> Option<NamedFile<'a>> {
    let stem = path.strip_prefix("onnx/").unwrap_or(path).strip_suffix(".onnx")?;
    graphs.iter().copied().find_map(|graph| match stem.strip_prefix(graph)? {
        "" => Some(NamedFile { graph, dtype: PLAIN }),
        suffix => SUFFIXES
            .iter()
            .copied()
            .find(|known| suffix.strip_prefix('_') == Some(known))
            .map(|dtype| NamedFile { graph, dtype }),
    })
}

/// Whether `path` holds weights of the graph file `graph`: `<graph>_data`, `<graph>_data_1` …,
/// `<graph>.data`
pub fn is_external_data(path: &str, graph: &str) -> bool {
    match path
        .strip_prefix(graph)
        .and_then(|rest| rest.strip_prefix("_data").or_else(|| rest.strip_prefix(".data")))
    {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix('_')
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAPHS: [&str; 3] = ["decoder_model", "decoder_model_merged", "encoder_model"];

    #[test]
    fn a_file_s_name_says_graph_and_precision() {
        let named = |path| graph_file(path, &GRAPHS).map(|n| (n.graph, n.dtype));
        assert_eq!(named("onnx/decoder_model.onnx"), Some(("decoder_model", "fp32")));
        assert_eq!(
            named("onnx/decoder_model_merged_q4f16.onnx"),
            Some(("decoder_model_merged", "q4f16")),
            "not decoder_model in precision merged_q4f16"
        );
        assert_eq!(named("encoder_model_quantized.onnx"), Some(("encoder_model", "quantized")));
        for strange in [
            "onnx/other.onnx",
            "onnx/decoder_model_new.onnx",
            "onnx/decoder_model.onnx_data",
            "a/decoder_model.onnx",
            "../decoder_model.onnx",
        ] {
            assert_eq!(named(strange), None, "{strange}");
        }
    }

    #[test]
    fn weights_lie_beside_their_graph_under_its_name() {
        let graph = "onnx/encoder_model.onnx";
        assert!(
            is_external_data("onnx/encoder_model.onnx.data", graph)
                && !is_external_data("onnx/encoder_model.onnx.database", graph)
        );
        assert!(
            is_external_data("onnx/encoder_model.onnx_data", graph)
                && is_external_data("onnx/encoder_model.onnx_data_12", graph)
        );
        for strange in [
            "onnx/encoder_model.onnx",
            "onnx/encoder_model_q4.onnx_data",
            "onnx/encoder_model.onnx_data/../x",
            "onnx/encoder_model.onnx_data_",
        ] {
            assert!(!is_external_data(strange, graph), "{strange}");
        }
    }
}
