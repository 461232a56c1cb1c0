//! Which graphs a kind of model is made of.

/// A kind of model: the values of `model_type` it goes by and the graphs it needs.
#[derive(Debug, PartialEq, Eq)]
pub struct ModelFamily {
    /// Values of `config.json`'s `model_type`.
    pub model_types: &'static [&'static str],
    /// Graphs needed whatever the layout of the decoder.
    pub graphs: &'static [&'static str],
    /// Layouts a decoder is published in, best first: one of them is needed.
    pub decoders: &'static [&'static [&'static str]],
}

const MERGED: &[&str] = &["decoder_model_merged"];
/// The first pass and the steps after it.
const PAIR: &[&str] = &["decoder_model", "decoder_with_past_model"];
/// Reads the whole text again for each token.
const ALONE: &[&str] = &["decoder_model"];

const FAMILIES: [ModelFamily; 3] = [
    ModelFamily {
        model_types: &["vision-encoder-decoder"],
        graphs: &["encoder_model"],
        decoders: &[MERGED, PAIR, ALONE],
    },
    ModelFamily {
        model_types: &["florence2"],
        graphs: &["vision_encoder", "embed_tokens", "encoder_model"],
        decoders: &[MERGED, PAIR, ALONE],
    },
    ModelFamily {
        model_types: &["idefics3", "smolvlm", "smolvlm2"],
        graphs: &["vision_encoder", "embed_tokens"],
        decoders: &[MERGED, PAIR, ALONE],
    },
];

/// The family of a `model_type`.
pub fn family(model_type: &str) -> Option<&'static ModelFamily> {
    FAMILIES.iter().find(|family| family.model_types.contains(&model_type))
}

/// Every `model_type` known.
pub fn model_types() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|family| family.model_types.iter().copied()).collect()
}

impl ModelFamily {
    /// Every graph it can have, each once.
    pub fn all_graphs(&self) -> Vec<&'static str> {
        let mut all: Vec<&str> = self.graphs.to_vec();
        for graph in self.decoders.iter().copied().flatten() {
            if !all.contains(graph) {
                all.push(graph);
            }
        }
        all
    }
}
