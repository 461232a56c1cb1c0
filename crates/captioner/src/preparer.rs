//! Everything of a model that needs no session. Shared by threads.

use crate::family::Prepare;
use crate::picture::{PictureOptions, PixelValues, TileViews, view};
use crate::text::Text;
use crate::{GenerationSettings, ModelError, PictureFeatures};
use pg_caption_pixels::RgbPicture;
use pg_caption_style::CaptionStyle;
use pg_caption_wire::{ModelStatus, TileMode};
use std::sync::Arc;

/// What generation starts from.
#[derive(Debug, Clone)]
pub struct TokenPrompt {
    /// The decoder's sequence before the first new token: a start token, or the whole prompt.
    pub ids: Vec<i64>,
    /// What an encoder of text reads beside the picture (Florence-2's task sentence); empty where
    /// there is none.
    pub read: Vec<i64>,
    /// Only equal buckets may share a batch.
    pub bucket: u64,
    /// Its prefill takes so much memory that it shares a batch with nobody.
    pub alone: bool,
}

impl TokenPrompt {
    /// The ids of the words the model was given (`prompt_ids` of the command line).
    pub fn words(&self) -> &[i64] {
        if self.read.is_empty() { &self.ids } else { &self.read }
    }
}

/// What a caller adds to a style.
#[derive(Debug, Clone, Copy, Default)]
pub struct PromptWords<'a> {
    /// Instead of the style's instruction or task.
    pub text: Option<&'a str>,
    /// About the product.
    pub context: Option<&'a str>,
    /// How the picture is to be looked at.
    pub tiles: TileMode,
}

/// Everything of a model that needs no session. Shared by threads.
pub struct InputPreparer {
    pub(crate) prepare: Box<dyn Prepare>,
    pub(crate) generation: Arc<GenerationSettings>,
    pub(crate) text: Arc<Text>,
    pub(crate) status: ModelStatus,
}

impl InputPreparer {
    /// Resize, rescale, normalise.
    pub fn picture(
        &self,
        rgb: &RgbPicture,
        options: &PictureOptions,
    ) -> Result<PixelValues, ModelError> {
        let pixels = rgb.width as usize * rgb.height as usize;
        if pixels == 0 || rgb.data.len() != pixels * 3 {
            return Err(ModelError::Picture(format!(
                "{} bytes are no RGB picture of {}x{}",
                rgb.data.len(),
                rgb.width,
                rgb.height
            )));
        }
        self.prepare.picture(rgb, options)
    }

    /// Bytes that [`InputPreparer::picture`] takes at most for a picture of this size (width, height),
    /// the result among them.
    pub fn memory_for(&self, size: (u32, u32), options: &PictureOptions) -> u64 {
        self.prepare.memory_for(size, options)
    }

    /// Size of the picture the model will look at (for reduced-scale JPEG decoding): width, height.
    pub fn target(&self) -> (u32, u32) {
        self.prepare.target()
    }

    /// The views that captions of these styles need a picture in; the same for every style where a
    /// model has but one.
    pub fn views<'a>(
        &self,
        tiles: TileMode,
        styles: impl IntoIterator<Item = &'a CaptionStyle>,
    ) -> TileViews {
        if !self.prepare.tiles() {
            return TileViews::WHOLE;
        }
        styles
            .into_iter()
            .map(|style| view(tiles, style))
            .reduce(TileViews::and)
            .unwrap_or(TileViews::WHOLE)
    }

    /// The prompt of a style for a picture; `text` replaces the style's instruction or task
    /// (`--prompt`). Models that read no words refuse `text` and pass over `context`. The prompt
    /// depends on the features' bucket and on nothing else of them.
    pub fn prompt(
        &self,
        style: &CaptionStyle,
        words: PromptWords,
        features: &PictureFeatures,
    ) -> Result<TokenPrompt, ModelError> {
        self.prepare.prompt(style, words, features)
    }

    /// The folder's settings; `overrides` is a JSON object of generation_config fields
    /// (`--generation`, `--greedy`).
    pub fn generation(
        &self,
        overrides: Option<&serde_json::Value>,
    ) -> Result<Arc<GenerationSettings>, ModelError> {
        match overrides {
            None => Ok(self.generation.clone()),
            Some(overrides) => Ok(Arc::new(self.generation.overridden(overrides)?)),
        }
    }

    /// Text of generated ids, special tokens skipped. Nothing is trimmed: that is the registers'
    /// part.
    pub fn text(&self, ids: &[i64]) -> Result<String, ModelError> {
        self.text.decode(ids)
    }

    /// Name, digest, family, graphs, min_confidence …
    pub fn status(&self) -> &ModelStatus {
        &self.status
    }

    /// Pictures per encoder call and captions per decoder call that suit this model on a processor.
    pub fn suggested_batch(&self) -> usize {
        self.prepare.suggested_batch()
    }
}
