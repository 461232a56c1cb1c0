//! The files of a model folder: graphs (`onnx/<graph><suffix>.onnx`), their external weights, and
//! the small configuration files.

/// Suffixes of published files without the underscore, in the order in which they are tried after
/// the unsuffixed file: first what a CPU runs fast, then what needs casts.
pub(crate) const SUFFIXES: [&str; 11] =
    ["quantized", "uint8", "int8", "q4", "bnb4", "q2", "q1", "fp16", "q4f16", "q2f16", "q1f16"];
/// The dtype of the unsuffixed file.
pub(crate) const PLAIN: &str = "fp32";

/// The settings of the image processor. transformers 5 writes them into `processor_config.json`.
pub(crate) const PREPROCESSOR: &str = "preprocessor_config.json";
/// The file that may have them, too.
pub(crate) const PROCESSOR: &str = "processor_config.json";

/// A small file of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigFile {
    /// Its name.
    pub name: &'static str,
    /// No folder can do without it, except that `processor_config.json` may have the content of
    /// `preprocessor_config.json`.
    pub required: bool,
    /// The captioner reads it, so it is part of the model's digest. `captions.json` is not: the
    /// styles in it are part of each request. Nor is `added_tokens.json`: `tokenizer.json` repeats
    /// it.
    pub digested: bool,
}

const fn config(name: &'static str, required: bool, digested: bool) -> ConfigFile {
    ConfigFile { name, required, digested }
}

/// The configuration files of a folder, in the order in which they are downloaded.
pub const CONFIG_FILES: [ConfigFile; 11] = [
    config("config.json", true, true),
    config(PREPROCESSOR, true, true),
    config("tokenizer.json", true, true),
    config("generation_config.json", false, true),
    config("tokenizer_config.json", false, true),
    config("special_tokens_map.json", false, true),
    config("added_tokens.json", false, false),
    config(PROCESSOR, false, true),
    config("chat_template.json", false, true),
    config("chat_template.jinja", false, true),
    config("captions.json", false, false),
];

/// A graph in one precision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphFile {
    /// Its name, without suffix.
    pub graph: String,
    /// `fp32`, or the suffix without the underscore.
    pub dtype: String,
    /// The file, as it is listed.
    pub file: String,
    /// Files of external weights.
    pub data: Vec<String>,
}

/// The graph and the precision that a file name states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedFile<'a> {
    /// Graph.
    pub graph: &'a str,
    /// `fp32`, or the suffix without the underscore.
    pub dtype: &'a str,
}

/// Reads a path relative to the folder as one of these graphs. Graphs are in `onnx/` or in the
/// folder itself.
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

/// The name of the file that holds a graph in a precision (`fp32`, or a suffix without the
/// underscore).
pub fn graph_file_name(graph: &str, dtype: &str) -> String {
    if dtype == PLAIN { format!("{graph}.onnx") } else { format!("{graph}_{dtype}.onnx") }
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
    fn file_names_state_graph_and_precision() {
        let named = |path| graph_file(path, &GRAPHS).map(|n| (n.graph, n.dtype));
        assert_eq!(named("onnx/decoder_model.onnx"), Some(("decoder_model", "fp32")));
        assert_eq!(
            named("onnx/decoder_model_merged_q4f16.onnx"),
            Some(("decoder_model_merged", "q4f16")),
            "not decoder_model in precision merged_q4f16"
        );
        assert_eq!(named("encoder_model_quantized.onnx"), Some(("encoder_model", "quantized")));
        for unknown in [
            "onnx/other.onnx",
            "onnx/decoder_model_new.onnx",
            "onnx/decoder_model.onnx_data",
            "a/decoder_model.onnx",
            "../decoder_model.onnx",
        ] {
            assert_eq!(named(unknown), None, "{unknown}");
        }
        for dtype in ["fp32", "q4f16"] {
            let name = graph_file_name("encoder_model", dtype);
            assert_eq!(graph_file(&name, &GRAPHS).unwrap().dtype, dtype);
        }
    }

    #[test]
    fn external_weights_carry_the_name_of_their_graph() {
        let graph = "onnx/encoder_model.onnx";
        assert!(
            is_external_data("onnx/encoder_model.onnx.data", graph)
                && !is_external_data("onnx/encoder_model.onnx.database", graph)
        );
        assert!(
            is_external_data("onnx/encoder_model.onnx_data", graph)
                && is_external_data("onnx/encoder_model.onnx_data_12", graph)
        );
        for unknown in [
            "onnx/encoder_model.onnx",
            "onnx/encoder_model_q4.onnx_data",
            "onnx/encoder_model.onnx_data/../x",
            "onnx/encoder_model.onnx_data_",
        ] {
            assert!(!is_external_data(unknown, graph), "{unknown}");
        }
    }

    #[test]
    fn the_first_three_configuration_files_are_required() {
        let required: Vec<&str> =
            CONFIG_FILES.iter().filter(|file| file.required).map(|file| file.name).collect();
        assert_eq!(required, ["config.json", "preprocessor_config.json", "tokenizer.json"]);
    }
}
