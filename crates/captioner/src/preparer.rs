//! The half of a model that needs no session. Shared by threads.

use crate::ModelError;
use crate::family::FamilyPreparer;
use crate::features::PictureFeatures;
use crate::generation::GenerationSettings;
use crate::picture::{PictureOptions, PixelValues, TileViews, view};
use crate::prompt::{PromptWords, TokenPrompt};
use crate::text::TextTokenizer;
use pg_caption_pixels::RgbPicture;
use pg_caption_style::CaptionStyle;
use pg_caption_wire::{LocalModelStatus, ModelStatus, TileMode};
use std::sync::Arc;

/// The half of a model that needs no session. Shared by threads.
pub struct InputPreparer {
    pub(crate) prepare: Box<dyn FamilyPreparer>,
    pub(crate) generation: Arc<GenerationSettings>,
    pub(crate) text: Arc<TextTokenizer>,
    pub(crate) status: ModelStatus,
}

impl InputPreparer {
    /// Resizes, rescales and normalises a picture.
    pub fn picture(
        &self,
        rgb: &RgbPicture,
        options: &PictureOptions,
    ) -> Result<PixelValues, ModelError> {
        let pixels = rgb.width as usize * rgb.height as usize;
        if pixels == 0 || rgb.data.len() != pixels * 3 {
            return Err(ModelError::Picture(format!(
                "{} bytes do not match an RGB picture of {} x {}",
                rgb.data.len(),
                rgb.width,
                rgb.height
            )));
        }
        self.prepare.picture(rgb, options)
    }

    /// Upper bound of the bytes that [`InputPreparer::picture`] takes for a picture of this size
    /// (width, height), its result included.
    pub fn memory_for(&self, size: (u32, u32), options: &PictureOptions) -> u64 {
        self.prepare.memory_for(size, options)
    }

    /// Width and height of the picture that the model receives, for reduced-scale JPEG decoding.
    pub fn target(&self) -> (u32, u32) {
        self.prepare.target()
    }

    /// Whether JPEGs of any size may be decoded at reduced scale.
    pub fn reduces_all(&self) -> bool {
        self.prepare.reduces_all()
    }

    /// The views that captions of these styles need; equal for every style if the model has only
    /// one view.
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

    /// The prompt of a style for a picture. `words.text` replaces the style's instruction or task
    /// (`--prompt`). Models without a text prompt reject `text` and ignore `context`. Of the
    /// features, the prompt depends only on the bucket.
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

    /// Text of generated ids, without special tokens. Not trimmed: post-processing is the task of
    /// the style.
    pub fn text(&self, ids: &[i64]) -> Result<String, ModelError> {
        self.text.decode(ids)
    }

    /// Name, digest, family, graphs, min_confidence …
    pub fn status(&self) -> &ModelStatus {
        &self.status
    }

    /// The part of [`InputPreparer::status`] about graphs.
    pub fn graph_status(&self) -> &LocalModelStatus {
        self.status.local.as_ref().expect("a loaded folder has graphs")
    }

    /// Pictures per encoder call and captions per decoder call that suit this model on a CPU.
    pub fn suggested_batch(&self) -> usize {
        self.prepare.suggested_batch()
    }
}
