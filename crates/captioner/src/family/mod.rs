//! What a model family is. A family is one file: it owns names, masks, positions and embeddings,
//! and nothing of search, batching or scheduling.
//!
//! Two halves, because two kinds of threads use them: [`Prepare`] is shared by the decode threads
//! and touches no session; [`Family`] owns the sessions and lives on one thread.
//!
//! Adding a family: one file here with both halves and an `open`, its `model_type` in [`open`]
//! below, its tensors as named cache entries of the right kind. The batch, the searches, the
//! scheduler and SQL stay as they are; `batch/tests.rs` holds them to that with a family of fixed
//! states, sparse layers and positions in three rows. Encoder-decoders share `decoder.rs`.

mod chat;
mod decoder;
mod embedder;
mod encoder;
mod florence2;
mod hoist;
mod idefics3;
mod python;
mod trial;
mod vision_encoder_decoder;

use crate::cache::{Cache, Rows};
use crate::folder::Folder;
use crate::picture::{PictureOptions, PixelValues};
use crate::text::Text;
use crate::{GenerationSettings, ModelError, PictureFeatures, PromptWords, TokenPrompt};
use ort::value::DynValue;
use pg_caption_pixels::RgbPicture;
use pg_caption_style::CaptionStyle;
use std::path::PathBuf;
use std::sync::Arc;

/// The half without sessions.
pub(crate) trait Prepare: Send + Sync {
    /// Width and height of the picture the model looks at, for decoders that can scale while
    /// decoding.
    fn target(&self) -> (u32, u32);
    /// Resize, rescale, normalise, tile.
    fn picture(
        &self,
        rgb: &RgbPicture,
        options: &PictureOptions,
    ) -> Result<PixelValues, ModelError>;
    /// Bytes that [`Prepare::picture`] takes at most for a picture of this size, the result among
    /// them.
    fn memory_for(&self, size: (u32, u32), options: &PictureOptions) -> u64;
    /// It may cut a picture into tiles.
    fn tiles(&self) -> bool {
        false
    }
    /// What generation starts from: depends on the style, the caller's words and the features'
    /// bucket.
    fn prompt(
        &self,
        style: &CaptionStyle,
        words: PromptWords,
        features: &PictureFeatures,
    ) -> Result<TokenPrompt, ModelError>;
    /// Pictures per encoder call and captions per decoder call that suit this family on a
    /// processor.
    fn suggested_batch(&self) -> usize;
}

/// Logits of the last position, one row per row of the cache.
pub(crate) struct Logits {
    data: Vec<f32>,
    vocabulary: usize,
    /// The file of the graph they came from.
    graph: PathBuf,
}

impl Logits {
    /// `data` is rows times `vocabulary`, row by row.
    pub fn new(data: Vec<f32>, vocabulary: usize, graph: impl Into<PathBuf>) -> Logits {
        Logits { data, vocabulary, graph: graph.into() }
    }

    /// They mean nothing: an error that names their graph.
    pub fn not_numbers(&self) -> ModelError {
        ModelError::graph(
            &self.graph,
            "the logits are not numbers (an overflow in a reduced-precision graph?)",
        )
    }

    /// The scores of one row; empty if there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        self.data.get(row * self.vocabulary..(row + 1) * self.vocabulary).unwrap_or(&[])
    }
}

/// The half with sessions: each method is one session call's worth of work.
pub(crate) trait Family {
    /// The tensors its cache is made of.
    type Value: Rows;
    /// One encoder call over pictures of one bucket.
    fn encode(&mut self, pictures: &[&PixelValues]) -> Result<Vec<PictureFeatures>, ModelError>;
    /// Reads the prompts: one row per caption. All features and all prompts are of one bucket.
    fn prefill(
        &mut self,
        captions: &[(&PictureFeatures, &TokenPrompt)],
    ) -> Result<(Logits, Cache<Self::Value>), ModelError>;
    /// Feeds one token per row.
    fn step(
        &mut self,
        cache: &mut Cache<Self::Value>,
        tokens: &[i64],
    ) -> Result<Logits, ModelError>;
}

/// A family on ONNX Runtime.
pub(crate) type Sessions = Box<dyn Family<Value = DynValue> + Send>;

/// A family's two halves.
pub(crate) struct Opened {
    pub name: &'static str,
    pub prepare: Box<dyn Prepare>,
    pub sessions: Sessions,
    /// The graphs that were loaded.
    pub graphs: Vec<crate::folder::Graph>,
    /// Cross-attention keys and values are computed once a picture although the published graph
    /// computes them for every token.
    pub hoisted: bool,
    /// Size of the decoder's vocabulary, if its graph states one.
    pub vocabulary: Option<usize>,
}

/// Opens a family, given the folder's settings and tokenizer.
type Open = fn(&Folder, &GenerationSettings, &Arc<Text>) -> Result<Opened, ModelError>;

/// Every `model_type` there is a family for.
const FAMILIES: [(&str, Open); 5] = [
    (vision_encoder_decoder::NAME, vision_encoder_decoder::open),
    (florence2::NAME, florence2::open),
    ("idefics3", idefics3::open),
    ("smolvlm", idefics3::open),
    ("smolvlm2", idefics3::open),
];

/// Opens the family that `config.json`'s `model_type` names.
pub(crate) fn open(
    folder: &Folder,
    settings: &GenerationSettings,
    text: &Arc<Text>,
) -> Result<Opened, ModelError> {
    let named = folder.model_type()?;
    match FAMILIES.iter().find(|(name, _)| *name == named) {
        Some((_, open)) => open(folder, settings, text),
        None => {
            let supported = FAMILIES.map(|(name, _)| name).join(", ");
            Err(ModelError::UnknownFamily {
                path: folder.file("config.json"),
                model_type: named.into(),
                supported,
            })
        }
    }
}
