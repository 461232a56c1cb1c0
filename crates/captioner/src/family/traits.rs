//! The interface of a model family: its two halves, and the result of opening it.

use crate::ModelError;
use crate::cache::{DecoderCache, RowTensor};
use crate::features::PictureFeatures;
use crate::folder::GraphSource;
use crate::logits::LogitRows;
use crate::picture::{PictureOptions, PixelValues};
use crate::prompt::{PromptWords, TokenPrompt};
use ort::value::DynValue;
use pg_caption_pixels::RgbPicture;
use pg_caption_style::CaptionStyle;

/// The half without sessions.
pub(crate) trait FamilyPreparer: Send + Sync {
    /// Width and height of the picture that the model receives, for decoders that can scale while
    /// decoding.
    fn target(&self) -> (u32, u32);
    /// Whether JPEGs of any size may be decoded at reduced scale: the model was made for this
    /// program, so no reference promises its input to the bit.
    fn reduces_all(&self) -> bool {
        false
    }
    /// Resize, rescale, normalise, tile.
    fn picture(
        &self,
        rgb: &RgbPicture,
        options: &PictureOptions,
    ) -> Result<PixelValues, ModelError>;
    /// Upper bound of the bytes that [`FamilyPreparer::picture`] takes for a picture of this size,
    /// its result included.
    fn memory_for(&self, size: (u32, u32), options: &PictureOptions) -> u64;
    /// Whether it may cut a picture into tiles.
    fn tiles(&self) -> bool {
        false
    }
    /// The prompt of a caption. Depends on the style, the caller's text and the bucket of the
    /// features.
    fn prompt(
        &self,
        style: &CaptionStyle,
        words: PromptWords,
        features: &PictureFeatures,
    ) -> Result<TokenPrompt, ModelError>;
    /// Pictures per encoder call and captions per decoder call that suit this family on a CPU.
    fn suggested_batch(&self) -> usize;
}

/// The half with sessions: each method is the work of one session call.
pub(crate) trait FamilyRunner {
    /// The tensors of its cache.
    type Value: RowTensor;
    /// One encoder call over pictures of one bucket.
    fn encode(&mut self, pictures: &[&PixelValues]) -> Result<Vec<PictureFeatures>, ModelError>;
    /// Reads the prompts, one row per caption. All features are of one bucket, and so are all
    /// prompts.
    fn prefill(
        &mut self,
        captions: &[(&PictureFeatures, &TokenPrompt)],
    ) -> Result<(LogitRows, DecoderCache<Self::Value>), ModelError>;
    /// Feeds one token per row.
    fn step(
        &mut self,
        cache: &mut DecoderCache<Self::Value>,
        tokens: &[i64],
    ) -> Result<LogitRows, ModelError>;
}

/// The half with sessions of a family on ONNX Runtime.
pub(crate) type FamilySessions = Box<dyn FamilyRunner<Value = DynValue> + Send>;

/// Both halves of a family, and facts about its graphs.
pub(crate) struct OpenedFamily {
    pub prepare: Box<dyn FamilyPreparer>,
    pub sessions: FamilySessions,
    /// The files of the loaded graphs.
    pub graphs: Vec<GraphSource>,
    /// Cross-attention keys and values are computed once a picture although the published graph
    /// computes them for every token.
    pub hoisted: bool,
    /// Size of the decoder's vocabulary, if its graph states it.
    pub vocabulary: Option<usize>,
}
