//! Everything of a model that needs no session. Shared by threads.

use crate::family::Prepare;
use crate::picture::{PictureOptions, Pixels, Views, view};
use crate::text::Text;
use crate::{Error, Features, Generation};
use pg_caption_pixels::Rgb;
use pg_caption_register::Style;
use pg_caption_wire::{ModelStatus, Tiles};
use std::sync::Arc;

/// What generation starts from.
#[derive(Debug, Clone)]
pub struct Prompt {
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

impl Prompt {
    /// The ids of the words the model was given (`prompt_ids` of the command line).
    pub fn words(&self) -> &[i64] {
        if self.read.is_empty() { &self.ids } else { &self.read }
    }
}

/// What a caller adds to a style.
#[derive(Debug, Clone, Copy, Default)]
pub struct Words<'a> {
    /// Instead of the style's instruction or task.
    pub text: Option<&'a str>,
    /// About the product.
    pub context: Option<&'a str>,
    /// How the picture is to be looked at.
    pub tiles: Tiles,
}

/// Everything of a model that needs no session. Shared by threads.
pub struct Preparer {
    pub(crate) prepare: Box<dyn Prepare>,
    pub(crate) generation: Arc<Generation>,
    pub(crate) text: Arc<Text>,
    pub(crate) status: ModelStatus,
}

impl Preparer {
    /// Resize, rescale, normalise.
    pub fn picture(&self, rgb: &Rgb, options: &PictureOptions) -> Result<Pixels, Error> {
        let pixels = rgb.width as usize * rgb.height as usize;
        if pixels == 0 || rgb.data.len() != pixels * 3 {
            return Err(Error::Picture(format!(
                "{} bytes are no RGB picture of {}x{}",
                rgb.data.len(),
                rgb.width,
                rgb.height
            )));
        }
        self.prepare.picture(rgb, options)
    }

    /// Bytes that [`Preparer::picture`] takes at most for a picture of this size (width, height),
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
    pub fn views<'a>(&self, tiles: Tiles, styles: impl IntoIterator<Item = &'a Style>) -> Views {
        if !self.prepare.tiles() {
            return Views::WHOLE;
        }
        styles
            .into_iter()
            .map(|style| view(tiles, style))
            .reduce(Views::and)
            .unwrap_or(Views::WHOLE)
    }

    /// The prompt of a style for a picture; `text` replaces the style's instruction or task
    /// (`--prompt`). Models that read no words refuse `text` and pass over `context`. The prompt
    /// depends on the features' bucket and on nothing else of them.
    pub fn prompt(
        &self,
        style: &Style,
        words: Words,
        features: &Features,
    ) -> Result<Prompt, Error> {
        self.prepare.prompt(style, words, features)
    }

    /// The folder's settings; `overrides` is a JSON object of generation_config fields
    /// (`--generation`, `--greedy`).
    pub fn generation(
        &self,
        overrides: Option<&serde_json::Value>,
    ) -> Result<Arc<Generation>, Error> {
        match overrides {
            None => Ok(self.generation.clone()),
            Some(overrides) => Ok(Arc::new(self.generation.overridden(overrides)?)),
        }
    }

    /// Text of generated ids, special tokens skipped. Nothing is trimmed: that is the registers'
    /// part.
    pub fn text(&self, ids: &[i64]) -> Result<String, Error> {
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
