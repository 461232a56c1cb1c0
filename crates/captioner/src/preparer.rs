//! Everything of a model that needs no session. Shared by threads.

use crate::family::Prepare;
use crate::picture::{PictureOptions, Pixels};
use crate::text::Text;
use crate::{Error, Generation};
use pg_caption_pixels::Rgb;
use pg_caption_register::Style;
use pg_caption_wire::ModelStatus;
use std::sync::Arc;

/// What generation starts from. (`ids` is what `prompt_ids` of the CLI shows.)
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Token ids (start token or whole prompt).
    pub ids: Vec<i64>,
    /// Only equal buckets may share a batch.
    pub bucket: u64,
}

/// Everything of a model that needs no session. Shared by threads.
pub struct Preparer {
    pub(crate) prepare: Box<dyn Prepare>,
    pub(crate) generation: Arc<Generation>,
    pub(crate) text: Text,
    pub(crate) status: ModelStatus,
}

impl Preparer {
    /// Resize, rescale, normalise.
    pub fn picture(&self, rgb: &Rgb, options: &PictureOptions) -> Result<Pixels, Error> {
        let pixels = rgb.width as usize * rgb.height as usize;
        if pixels == 0 || rgb.data.len() != pixels * 3 {
            return Err(Error::Picture(format!("{} bytes are no RGB picture of {}x{}", rgb.data.len(), rgb.width, rgb.height)));
        }
        self.prepare.picture(rgb, options)
    }

    /// Size of the picture the model will look at (for reduced-scale JPEG decoding): width, height.
    pub fn target(&self) -> (u32, u32) {
        self.prepare.target()
    }

    /// The prompt of a style; `text` replaces the style's instruction or task (`--prompt`). Models that read no words refuse
    /// `text` and pass over `context`.
    pub fn prompt(&self, style: &Style, text: Option<&str>, context: Option<&str>) -> Result<Prompt, Error> {
        self.prepare.prompt(style, text, context)
    }

    /// The folder's settings; `overrides` is a JSON object of generation_config fields (`--generation`, `--greedy`).
    pub fn generation(&self, overrides: Option<&serde_json::Value>) -> Result<Arc<Generation>, Error> {
        match overrides {
            None => Ok(self.generation.clone()),
            Some(overrides) => Ok(Arc::new(self.generation.overridden(overrides)?)),
        }
    }

    /// Text of generated ids, special tokens skipped. Nothing is trimmed: that is the registers' part.
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
