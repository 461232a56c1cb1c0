//! Captions pictures with the ONNX model of a folder: tokenizer, model families, generation.
//!
//! Two halves on both sides of a thread boundary. [`InputPreparer`] is shared by the decode threads
//! and uses no session: it turns pictures into tensors, styles into prompts and ids into text.
//! [`Captioner`] owns the sessions and is used by one thread. Each of its methods is the work of
//! one session call (the scheduler's unit), so that several [`CaptionBatch`]es can be in progress.
//!
//! A model folder is read exactly as published; `config.json`'s `model_type` selects the family
//! (`family/`, one file each). Nothing here depends on PostgreSQL, HTTP or picture formats, and no
//! content of a folder may cause a panic.
//!
//! ```no_run
//! use pg_caption_captioner::{
//!     CaptionSequence, LoadOptions, PictureOptions, PromptWords, init, load,
//! };
//! use pg_caption_pixels::{DecodeOptions, decode};
//! use std::{path::Path, sync::Arc};
//!
//! init(Path::new("/usr/lib/libonnxruntime.so"), 2)?;
//! let (mut captioner, preparer) = load(Path::new("models/default"), &LoadOptions::default())?;
//! let picture = decode(&std::fs::read("cat.jpg")?, &DecodeOptions::default())?;
//! let pixels = preparer.picture(&picture.rgb, &PictureOptions::default())?;
//! let features = Arc::new(captioner.encode(&[pixels])?.remove(0));
//! let style = pg_caption_style::builtin("concise").unwrap();
//! let sequence = CaptionSequence {
//!     key: 1,
//!     prompt: preparer.prompt(&style, PromptWords::default(), &features)?,
//!     features,
//!     max_new_tokens: 64,
//!     generation: preparer.generation(None)?,
//! };
//! let (mut batch, mut finished) = captioner.begin(vec![sequence])?;
//! while !batch.is_empty() {
//!     finished.extend(captioner.step(&mut batch)?);
//! }
//! println!("{}", preparer.text(&finished[0].ids)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod cache;
mod captioner;
mod catch_panic;
mod digest;
mod error;
mod family;
mod features;
mod folder;
mod generation;
mod logits;
mod picture;
mod preparer;
mod prompt;
mod runtime;
mod sequence;
mod tensor;
mod text;
mod weights;

pub use captioner::{CaptionBatch, Captioner};
pub use catch_panic::catch_panic;
pub use error::ModelError;
pub use features::PictureFeatures;
pub use folder::LoadOptions;
pub use generation::{EarlyStopping, GenerationSettings};
pub use picture::{PictureOptions, PixelValues, TileViews};
pub use preparer::InputPreparer;
pub use prompt::{PromptWords, TokenPrompt};
pub use runtime::init;
pub use sequence::{CaptionSequence, FinishedCaption};
pub use weights::external_data;

#[cfg(test)]
mod testing;

use pg_caption_wire::{GraphStatus, LocalModelStatus, ModelStatus};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Loads a model folder. [`init`] must be called before.
///
/// # Errors
/// [`ModelError`] with the file and the reason.
pub fn load(
    folder: &Path,
    options: &LoadOptions,
) -> Result<(Captioner, Arc<InputPreparer>), ModelError> {
    let folder = folder::ModelFolder::open(folder, options)?;
    let family = family::known(&folder)?;
    let generation = GenerationSettings::of_folder(&folder)?;
    let text = Arc::new(text::TextTokenizer::open(&folder)?);
    let (family, opened) = family.open(&folder, &generation, &text)?;
    if let Some(vocabulary) = opened.vocabulary.filter(|size| *size < text.vocabulary()) {
        let reason =
            format!("{} tokens, but the decoder's vocabulary has {vocabulary}", text.vocabulary());
        return Err(ModelError::config(folder.file("tokenizer.json"), reason));
    }
    if let Some(vocabulary) = opened.vocabulary {
        generation.fits(&folder, vocabulary)?;
    }
    let paths: Vec<PathBuf> = opened.graphs.iter().map(|g| g.path.clone()).collect();
    let identity = digest::identify(&folder, &paths)?;
    let file = |path: &Path| {
        path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    };
    let local = LocalModelStatus {
        graphs: opened
            .graphs
            .iter()
            .map(|g| GraphStatus { file: file(&g.path), dtype: g.dtype.clone() })
            .collect(),
        batch_invariant: identity.batch_invariant,
        hoisted: opened.hoisted,
        skipped_graphs: opened.graphs.into_iter().flat_map(|g| g.skipped).collect(),
    };
    let status = ModelStatus {
        name: folder.name(),
        digest: identity.digest,
        family: family.name().into(),
        bytes: identity.bytes,
        min_confidence: min_confidence(&folder)?,
        local: Some(local),
        remote: None,
    };
    let preparer =
        InputPreparer { prepare: opened.prepare, generation: Arc::new(generation), text, status };
    Ok((Captioner::new(opened.sessions), Arc::new(preparer)))
}

/// The threshold of a folder that states none: the geometric mean of the probabilities of a text's
/// tokens. Weights that were never trained give about 0.02, trained ones several tenths.
const NOISE: f32 = 0.1;

/// `"pg_caption": {"min_confidence": x}` of `config.json`, else what refuses noise.
fn min_confidence(folder: &folder::ModelFolder) -> Result<Option<f32>, ModelError> {
    match folder.config.get("pg_caption").and_then(|own| own.get("min_confidence")) {
        None | Some(serde_json::Value::Null) => Ok(Some(NOISE)),
        Some(value) => match value.as_f64().filter(|x| (0.0..=1.0).contains(x)) {
            Some(x) => Ok(Some(x as f32)),
            None => Err(ModelError::config(
                folder.file("config.json"),
                format!("\"min_confidence\" is {value}; expected a number from 0 to 1"),
            )),
        },
    }
}

/// Types that cross threads, checked by the compiler.
const _: () = {
    const fn sent<T: Send>() {}
    const fn shared<T: Send + Sync>() {}
    sent::<Captioner>();
    sent::<CaptionBatch>();
    shared::<InputPreparer>();
    shared::<PictureFeatures>();
    shared::<PixelValues>();
};
