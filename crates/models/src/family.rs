//! Model families: the values of `model_type` that name them and the graphs that they need.
//!
//! A new family is one row here and one module of the captioner (`crates/captioner/src/family/`).

/// Passes the table of families to the macro `$then`. Each row states the captioner's module, the
/// values of `model_type` (the family's own name first), and the graphs needed besides a decoder.
#[macro_export]
macro_rules! families {
    ($then:ident) => {
        $then! {
            vision_encoder_decoder: ["vision-encoder-decoder"], ["encoder_model"];
            florence2: ["florence2"], ["vision_encoder", "embed_tokens", "encoder_model"];
            idefics3: ["idefics3", "smolvlm", "smolvlm2"], ["vision_encoder", "embed_tokens"];
        }
    };
}

/// A kind of model: its values of `model_type` and the graphs it needs.
#[derive(Debug, PartialEq, Eq)]
pub struct ModelFamily {
    /// Values of `config.json`'s `model_type`; the first one is the family's own name.
    pub model_types: &'static [&'static str],
    /// Graphs needed whatever the layout of the decoder.
    pub graphs: &'static [&'static str],
    /// Layouts in which a decoder is published, best first; one of them is needed.
    pub decoders: &'static [&'static [&'static str]],
}

/// Layouts of a decoder: one merged graph; a graph for the prompt and one for the steps after it;
/// one graph that reads the whole text again for each token.
const DECODERS: &[&[&str]] =
    &[&["decoder_model_merged"], &["decoder_model", "decoder_with_past_model"], &["decoder_model"]];

macro_rules! table {
    ($($module:ident: $model_types:tt, $graphs:tt;)*) => {
        const FAMILIES: &[ModelFamily] = &[$(ModelFamily {
            model_types: &$model_types,
            graphs: &$graphs,
            decoders: DECODERS,
        }),*];
    };
}
families!(table);

/// The family of a `model_type`.
///
/// ```
/// let family = pg_caption_models::family("smolvlm").unwrap();
/// assert_eq!(family.name(), "idefics3");
/// assert_eq!(family.graphs, ["vision_encoder", "embed_tokens"]);
/// ```
pub fn family(model_type: &str) -> Option<&'static ModelFamily> {
    FAMILIES.iter().find(|family| family.model_types.contains(&model_type))
}

/// Every `model_type` known.
pub fn model_types() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|family| family.model_types.iter().copied()).collect()
}

/// The values of `model_type` of the family that `model_type` names, or `model_type` alone where no
/// family has it.
pub fn aliases(model_type: &str) -> Vec<&str> {
    family(model_type).map_or_else(|| vec![model_type], |family| family.model_types.to_vec())
}

impl ModelFamily {
    /// The family's own name, whichever `model_type` a folder states.
    pub fn name(&self) -> &'static str {
        self.model_types[0]
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_type_belongs_to_one_family() {
        let mut all = model_types();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), model_types().len());
        assert_eq!(aliases("smolvlm2"), ["idefics3", "smolvlm", "smolvlm2"]);
        assert_eq!(aliases("poet"), ["poet"]);
    }
}
