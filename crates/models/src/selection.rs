//! Chooses the files that make a model: one precision for each graph that its family needs.

use crate::files::{PLAIN, PREPROCESSOR, PROCESSOR, SUFFIXES};
use crate::{
    CONFIG_FILES, ConfigFile, GraphFile, ModelFamily, ModelsError, graph_file, is_external_data,
};
use std::collections::BTreeMap;

/// The requested precision of a graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum GraphDtype {
    /// The unsuffixed file, else the available one that is fastest on a CPU.
    #[default]
    Auto,
    /// Only this one: `fp32`, or a suffix without the underscore.
    Named(String),
}

impl GraphDtype {
    /// From a setting: `auto` (or nothing), `fp32`, `q8`, or any suffix with or without its
    /// underscore, a private one too.
    pub fn of_setting(text: &str) -> GraphDtype {
        match text.trim_start_matches('_') {
            "" | "auto" => GraphDtype::Auto,
            // transformers.js calls the files `_quantized` by this dtype.
            "q8" => GraphDtype::Named("quantized".into()),
            name => GraphDtype::Named(name.into()),
        }
    }

    /// The dtypes to try, best first.
    pub fn candidates(&self) -> Vec<&str> {
        match self {
            GraphDtype::Auto => std::iter::once(PLAIN).chain(SUFFIXES).collect(),
            GraphDtype::Named(dtype) => vec![dtype],
        }
    }

    fn parse(text: &str) -> Result<GraphDtype, ModelsError> {
        match GraphDtype::of_setting(text) {
            GraphDtype::Auto if text.trim_start_matches('_').is_empty() => {
                Err(ModelsError::BadDtype(text.into()))
            }
            GraphDtype::Named(dtype) if dtype != PLAIN && !SUFFIXES.contains(&dtype.as_str()) => {
                Err(ModelsError::BadDtype(text.into()))
            }
            dtype => Ok(dtype),
        }
    }
}

/// The requested precisions of a model's graphs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GraphSelection {
    dtype: GraphDtype,
    graphs: BTreeMap<String, GraphDtype>,
    unmerged: bool,
}

impl GraphSelection {
    /// Parses `q4` (all graphs) and `embed_tokens=fp16` (one graph). `unmerged`: no merged decoder.
    ///
    /// # Errors
    /// [`ModelsError::BadDtype`].
    ///
    /// ```
    /// use pg_caption_models::{GraphSelection, choose, family};
    ///
    /// let files = [
    ///     "config.json",
    ///     "preprocessor_config.json",
    ///     "tokenizer.json",
    ///     "onnx/encoder_model_q4.onnx",
    ///     "onnx/encoder_model_fp16.onnx",
    ///     "onnx/decoder_model_merged.onnx",
    /// ];
    /// let selection = GraphSelection::parse(&["auto", "encoder_model=fp16"], false)?;
    /// let choice = choose(family("vision-encoder-decoder").unwrap(), &files, &selection)?;
    /// assert_eq!(choice.graphs[0].file, "onnx/encoder_model_fp16.onnx");
    /// # Ok::<(), pg_caption_models::ModelsError>(())
    /// ```
    pub fn parse(texts: &[impl AsRef<str>], unmerged: bool) -> Result<GraphSelection, ModelsError> {
        let mut selection = GraphSelection { unmerged, ..GraphSelection::default() };
        for text in texts.iter().map(AsRef::as_ref) {
            match text.split_once('=') {
                Some((graph, dtype)) => {
                    drop(selection.graphs.insert(graph.into(), GraphDtype::parse(dtype)?))
                }
                None => selection.dtype = GraphDtype::parse(text)?,
            }
        }
        Ok(selection)
    }

    fn of(&self, graph: &str) -> &GraphDtype {
        self.graphs.get(graph).unwrap_or(&self.dtype)
    }
}

/// The files that make a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphChoice {
    /// Those of [`CONFIG_FILES`] that exist.
    pub configuration: Vec<String>,
    /// One file for each graph.
    pub graphs: Vec<GraphFile>,
}

impl GraphChoice {
    /// Every file.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let graphs = self.graphs.iter().flat_map(|g| std::iter::once(&g.file).chain(&g.data));
        self.configuration.iter().chain(graphs).map(String::as_str)
    }
}

/// Chooses among these files (paths relative to the folder).
///
/// # Errors
/// The missing file, graph or dtype, with the available ones.
pub fn choose(
    family: &ModelFamily,
    files: &[impl AsRef<str>],
    selection: &GraphSelection,
) -> Result<GraphChoice, ModelsError> {
    let files: Vec<&str> = files.iter().map(AsRef::as_ref).collect();
    let all = family.all_graphs();
    if let Some(graph) = selection.graphs.keys().find(|graph| !all.contains(&graph.as_str())) {
        return Err(ModelsError::UnknownGraph {
            graph: graph.clone(),
            graphs: all.into_iter().map(Into::into).collect(),
        });
    }
    let exists = |name| files.contains(&name);
    let missing = |file: &&ConfigFile| {
        file.required && !exists(file.name) && !(file.name == PREPROCESSOR && exists(PROCESSOR))
    };
    if let Some(file) = CONFIG_FILES.iter().find(missing) {
        return Err(ModelsError::Missing { file: file.name.into() });
    }
    let pick = |graph: &&str| pick(&files, &all, graph, selection.of(graph));
    let mut graphs = family.graphs.iter().map(pick).collect::<Result<Vec<_>, _>>()?;
    let layouts = family
        .decoders
        .iter()
        .filter(|layout| !selection.unmerged || !layout.contains(&"decoder_model_merged"));
    let mut decoders = layouts.map(|layout| layout.iter().map(pick).collect::<Result<Vec<_>, _>>());
    let mut first = decoders
        .next()
        .unwrap_or_else(|| Err(ModelsError::NoGraph { graph: "decoder_model".into() }));
    for other in decoders {
        first = match (first, other) {
            (Ok(found), _) | (Err(_), Ok(found)) => Ok(found),
            // The available precisions are a better hint than the absence of the best layout.
            (Err(ModelsError::NoGraph { .. }), Err(other @ ModelsError::NoDtype { .. })) => {
                Err(other)
            }
            (Err(first), Err(_)) => Err(first),
        };
    }
    graphs.extend(first?);
    let configuration = CONFIG_FILES
        .iter()
        .filter(|file| files.contains(&file.name))
        .map(|file| file.name.to_owned());
    Ok(GraphChoice { configuration: configuration.collect(), graphs })
}

fn pick(
    files: &[&str],
    all: &[&str],
    graph: &str,
    wanted: &GraphDtype,
) -> Result<GraphFile, ModelsError> {
    let mut available: Vec<(&str, &str)> = Vec::new();
    for file in files {
        if let Some(named) = graph_file(file, all).filter(|named| named.graph == graph) {
            available.push((
                SUFFIXES.iter().copied().find(|s| *s == named.dtype).unwrap_or(PLAIN),
                file,
            ));
        }
    }
    let rank = |dtype: &str| SUFFIXES.iter().position(|s| *s == dtype).map_or(0, |at| at + 1);
    // A graph may be both in `onnx/` and in the folder itself: the longer path, the one in `onnx/`,
    // is tried first.
    available.sort_by_key(|(dtype, file)| (rank(dtype), std::cmp::Reverse(file.len())));
    if available.is_empty() {
        return Err(ModelsError::NoGraph { graph: graph.into() });
    }
    let found = match wanted {
        GraphDtype::Auto => available.first(),
        GraphDtype::Named(dtype) => available.iter().find(|(d, _)| d == dtype),
    };
    let Some((dtype, file)) = found else {
        let GraphDtype::Named(dtype) = wanted else {
            return Err(ModelsError::NoGraph { graph: graph.into() });
        };
        let mut published: Vec<String> =
            available.iter().map(|(dtype, _)| (*dtype).into()).collect();
        published.dedup();
        return Err(ModelsError::NoDtype { graph: graph.into(), dtype: dtype.clone(), published });
    };
    let data =
        files.iter().filter(|path| is_external_data(path, file)).map(|path| (*path).to_owned());
    Ok(GraphFile {
        graph: graph.into(),
        dtype: (*dtype).into(),
        file: (*file).into(),
        data: data.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;

    const SMALL: [&str; 3] = ["config.json", "preprocessor_config.json", "tokenizer.json"];

    fn chosen(
        model_type: &str,
        graphs: &[&str],
        dtypes: &[&str],
        unmerged: bool,
    ) -> Result<Vec<String>, ModelsError> {
        let files: Vec<&str> = SMALL.iter().chain(graphs).copied().collect();
        let choice =
            choose(family(model_type).unwrap(), &files, &GraphSelection::parse(dtypes, unmerged)?)?;
        Ok(choice.files().filter(|file| !SMALL.contains(file)).map(Into::into).collect())
    }

    #[test]
    fn auto_takes_the_plain_file_else_the_fastest() {
        let there = [
            "onnx/encoder_model.onnx",
            "onnx/encoder_model_q4.onnx",
            "onnx/decoder_model_merged_fp16.onnx",
            "onnx/decoder_model_merged_quantized.onnx",
        ];
        let files = chosen("vision-encoder-decoder", &there, &[], false).unwrap();
        assert_eq!(files, ["onnx/encoder_model.onnx", "onnx/decoder_model_merged_quantized.onnx"]);
    }

    #[test]
    fn a_stated_dtype_holds_for_all_graphs_or_one() {
        let there = [
            "onnx/vision_encoder_q4.onnx",
            "onnx/vision_encoder_fp16.onnx",
            "onnx/embed_tokens_fp16.onnx",
            "onnx/decoder_model_merged_q4.onnx",
        ];
        let error = chosen("smolvlm", &there, &["q4"], false).unwrap_err();
        assert_eq!(error.to_string(), "no embed_tokens graph in dtype q4; available: fp16");
        let files = chosen("idefics3", &there, &["q4", "embed_tokens=fp16"], false).unwrap();
        assert_eq!(
            files,
            [
                "onnx/vision_encoder_q4.onnx",
                "onnx/embed_tokens_fp16.onnx",
                "onnx/decoder_model_merged_q4.onnx"
            ]
        );
        assert!(matches!(
            chosen("idefics3", &there, &["encoder_model=q4"], false),
            Err(ModelsError::UnknownGraph { .. })
        ));
        assert!(matches!(
            chosen("idefics3", &there, &["q5"], false),
            Err(ModelsError::BadDtype(_))
        ));
    }

    #[test]
    fn weights_are_chosen_with_their_graph() {
        let there = [
            "onnx/encoder_model.onnx",
            "onnx/encoder_model.onnx_data",
            "onnx/encoder_model.onnx_data_1",
            "onnx/encoder_model_fp16.onnx",
            "onnx/encoder_model_fp16.onnx_data",
            "onnx/decoder_model_merged.onnx",
        ];
        let files = chosen("vision-encoder-decoder", &there, &[], false).unwrap();
        assert_eq!(files, [there[0], there[1], there[2], there[5]]);
    }

    #[test]
    fn merged_decoders_go_before_pairs_and_singles() {
        let encoder = "onnx/encoder_model.onnx";
        let (merged, first, past) = (
            "onnx/decoder_model_merged.onnx",
            "onnx/decoder_model.onnx",
            "onnx/decoder_with_past_model.onnx",
        );
        let of = |there: &[&str], unmerged| chosen("vision-encoder-decoder", there, &[], unmerged);
        assert_eq!(of(&[encoder, merged, first, past], false).unwrap(), [encoder, merged]);
        assert_eq!(of(&[encoder, merged, first, past], true).unwrap(), [encoder, first, past]);
        assert_eq!(of(&[encoder, first, past], false).unwrap(), [encoder, first, past]);
        assert_eq!(of(&[encoder, first], false).unwrap(), [encoder, first]);
        let missing = |available: &[&str]| match of(available, false) {
            Err(ModelsError::NoGraph { graph }) => graph,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(&[encoder]), "decoder_model_merged");
        assert_eq!(missing(&[merged]), "encoder_model");
    }

    #[test]
    fn a_folder_without_a_tokenizer_is_refused() {
        let error = choose(
            family("florence2").unwrap(),
            &["config.json", "preprocessor_config.json"],
            &GraphSelection::default(),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "no tokenizer.json");
    }

    #[test]
    fn one_of_two_processor_files_is_enough() {
        let with = |file: &str| {
            let files = ["config.json", file, "tokenizer.json"];
            choose(family("florence2").unwrap(), &files, &GraphSelection::default()).unwrap_err()
        };
        for file in ["preprocessor_config.json", "processor_config.json"] {
            assert!(matches!(with(file), ModelsError::NoGraph { .. }), "{file}");
        }
        assert_eq!(with("captions.json").to_string(), "no preprocessor_config.json");
    }
}
