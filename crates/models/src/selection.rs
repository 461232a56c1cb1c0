//! Of the files there are, which ones make a model: one precision for each graph that its family
//! needs.

use crate::files::{PLAIN, SUFFIXES};
use crate::{
    CONFIGURATION, GraphFile, ModelFamily, ModelsError, REQUIRED, graph_file, is_external_data,
};
use std::collections::BTreeMap;

/// A precision that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum GraphDtype {
    /// The unsuffixed file, else what there is, the quickest on a processor first.
    #[default]
    Auto,
    /// This one only: `fp32`, or a suffix without the underscore.
    Named(String),
}

impl GraphDtype {
    fn parse(text: &str) -> Result<GraphDtype, ModelsError> {
        match text.trim_start_matches('_') {
            "auto" => Ok(GraphDtype::Auto),
            PLAIN => Ok(GraphDtype::Named(PLAIN.into())),
            // What the tensor type of transformers.js calls the file `_quantized`.
            "q8" => Ok(GraphDtype::Named("quantized".into())),
            name if SUFFIXES.contains(&name) => Ok(GraphDtype::Named(name.into())),
            _ => Err(ModelsError::BadDtype(text.into())),
        }
    }
}

/// What is wanted of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GraphSelection {
    dtype: GraphDtype,
    graphs: BTreeMap<String, GraphDtype>,
    unmerged: bool,
}

impl GraphSelection {
    /// From `q4` for all graphs, `embed_tokens=fp16` for one. `unmerged`: no merged decoder.
    ///
    /// # Errors
    /// [`ModelsError::BadDtype`].
    pub fn parse(texts: &[impl AsRef<str>], unmerged: bool) -> Result<GraphSelection, ModelsError> {
        let mut wish = GraphSelection { unmerged, ..GraphSelection::default() };
        for text in texts.iter().map(AsRef::as_ref) {
            match text.split_once('=') {
                Some((graph, dtype)) => {
                    drop(wish.graphs.insert(graph.into(), GraphDtype::parse(dtype)?))
                }
                None => wish.dtype = GraphDtype::parse(text)?,
            }
        }
        Ok(wish)
    }

    fn of(&self, graph: &str) -> &GraphDtype {
        self.graphs.get(graph).unwrap_or(&self.dtype)
    }
}

/// The files that make a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphChoice {
    /// Small files, those of [`CONFIGURATION`] that there are.
    pub configuration: Vec<String>,
    /// One precision for each graph.
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
/// What is missing, and what there is instead.
pub fn choose(
    family: &ModelFamily,
    files: &[impl AsRef<str>],
    wish: &GraphSelection,
) -> Result<GraphChoice, ModelsError> {
    let files: Vec<&str> = files.iter().map(AsRef::as_ref).collect();
    let all = family.all_graphs();
    if let Some(graph) = wish.graphs.keys().find(|graph| !all.contains(&graph.as_str())) {
        return Err(ModelsError::StrangeGraph {
            graph: graph.clone(),
            graphs: all.into_iter().map(Into::into).collect(),
        });
    }
    if let Some(file) = CONFIGURATION[..REQUIRED].iter().find(|file| !files.contains(file)) {
        return Err(ModelsError::Missing { file: (*file).into() });
    }
    let pick = |graph: &&str| pick(&files, &all, graph, wish.of(graph));
    let mut graphs = family.graphs.iter().map(pick).collect::<Result<Vec<_>, _>>()?;
    let layouts = family
        .decoders
        .iter()
        .filter(|layout| !wish.unmerged || !layout.contains(&"decoder_model_merged"));
    let mut decoders = layouts.map(|layout| layout.iter().map(pick).collect::<Result<Vec<_>, _>>());
    let mut first = decoders
        .next()
        .unwrap_or_else(|| Err(ModelsError::NoGraph { graph: "decoder_model".into() }));
    for other in decoders {
        first = match (first, other) {
            (Ok(found), _) | (Err(_), Ok(found)) => Ok(found),
            // The precisions that there are say more than that the best layout is not there at all.
            (Err(ModelsError::NoGraph { .. }), Err(other @ ModelsError::NoDtype { .. })) => {
                Err(other)
            }
            (Err(first), Err(_)) => Err(first),
        };
    }
    graphs.extend(first?);
    let configuration =
        CONFIGURATION.iter().filter(|file| files.contains(file)).map(|file| (*file).to_owned());
    Ok(GraphChoice { configuration: configuration.collect(), graphs })
}

fn pick(
    files: &[&str],
    all: &[&str],
    graph: &str,
    wanted: &GraphDtype,
) -> Result<GraphFile, ModelsError> {
    let mut there: Vec<(&str, &str)> = Vec::new();
    for file in files {
        if let Some(named) = graph_file(file, all).filter(|named| named.graph == graph) {
            there.push((
                SUFFIXES.iter().copied().find(|s| *s == named.dtype).unwrap_or(PLAIN),
                file,
            ));
        }
    }
    let rank = |dtype: &str| SUFFIXES.iter().position(|s| *s == dtype).map_or(0, |at| at + 1);
    // The same graph may lie in `onnx/` and beside it: the longer path is the one in `onnx/`, which
    // is tried first.
    there.sort_by_key(|(dtype, file)| (rank(dtype), std::cmp::Reverse(file.len())));
    if there.is_empty() {
        return Err(ModelsError::NoGraph { graph: graph.into() });
    }
    let found = match wanted {
        GraphDtype::Auto => there.first(),
        GraphDtype::Named(dtype) => there.iter().find(|(d, _)| d == dtype),
    };
    let Some((dtype, file)) = found else {
        let GraphDtype::Named(dtype) = wanted else {
            return Err(ModelsError::NoGraph { graph: graph.into() });
        };
        let mut published: Vec<String> = there.iter().map(|(dtype, _)| (*dtype).into()).collect();
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
    fn the_unsuffixed_file_is_taken_else_the_quickest_and_never_two() {
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
    fn a_stated_precision_holds_for_all_graphs_or_for_one() {
        let there = [
            "onnx/vision_encoder_q4.onnx",
            "onnx/vision_encoder_fp16.onnx",
            "onnx/embed_tokens_fp16.onnx",
            "onnx/decoder_model_merged_q4.onnx",
        ];
        let error = chosen("smolvlm", &there, &["q4"], false).unwrap_err();
        assert_eq!(error.to_string(), "graph embed_tokens is not there in dtype q4; there is fp16");
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
            Err(ModelsError::StrangeGraph { .. })
        ));
        assert!(matches!(
            chosen("idefics3", &there, &["q5"], false),
            Err(ModelsError::BadDtype(_))
        ));
    }

    #[test]
    fn weights_come_with_their_graph_alone() {
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
    fn the_merged_decoder_is_taken_else_the_pair_else_one_alone() {
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
        assert!(
            matches!(of(&[encoder], false), Err(ModelsError::NoGraph { graph }) if graph == "decoder_model_merged")
        );
        assert!(
            matches!(of(&[merged], false), Err(ModelsError::NoGraph { graph }) if graph == "encoder_model")
        );
    }

    #[test]
    fn a_folder_without_a_tokenizer_is_none() {
        let error = choose(
            family("florence2").unwrap(),
            &["config.json", "preprocessor_config.json"],
            &GraphSelection::default(),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "no tokenizer.json");
    }
}
