//! A model folder becomes something that captions: tokeniser, model families, generation.
//!
//! Two halves with a thread boundary between them. [`InputPreparer`] is shared by the decode threads and
//! touches no session: it turns pictures into tensors, styles into prompts and ids into text.
//! [`Captioner`] owns the sessions and lives on one thread: each of its methods is one session
//! call's worth of work (the scheduler's unit), so that several [`CaptionBatch`]es can be alive at once.
//!
//! A model folder is read exactly as it is published; `config.json`'s `model_type` picks the family
//! (`family/`, one file each). Nothing in here knows PostgreSQL, HTTP or picture formats, and
//! nothing in a folder may make it panic.

mod batch;
mod cache;
mod captioner;
mod catch_panic;
mod digest;
mod error;
mod family;
mod folder;
mod generation;
mod picture;
mod preparer;
mod runtime;
mod tensor;
mod text;

pub use captioner::{CaptionBatch, CaptionSequence, Captioner, FinishedCaption, PictureFeatures};
pub use catch_panic::catch_panic;
pub use digest::external_data;
pub use error::ModelError;
pub use generation::{EarlyStopping, GenerationSettings};
pub use picture::{PictureOptions, PixelValues, TileViews};
pub use preparer::{InputPreparer, PromptWords, TokenPrompt};
pub use runtime::init;

#[cfg(test)]
mod testing;

use pg_caption_wire::{GraphStatus, ModelStatus};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to load a folder.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// `auto`: the unsuffixed file of each graph, else what is installed and loads; or a suffix of
    /// the published files, with or without its underscore (`_quantized`, `q4`, `fp16`; `fp32` is
    /// the unsuffixed file).
    pub dtype: String,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { dtype: "auto".into() }
    }
}

/// Opens a model folder; [`init`] comes first.
pub fn load(
    folder: &Path,
    options: &LoadOptions,
) -> Result<(Captioner, Arc<InputPreparer>), ModelError> {
    let folder = folder::Folder::open(folder, options)?;
    let generation = GenerationSettings::of_folder(&folder)?;
    let text = Arc::new(text::Text::open(&folder)?);
    let opened = family::open(&folder, &generation, &text)?;
    if let Some(vocabulary) = opened.vocabulary.filter(|size| *size < text.vocabulary()) {
        let reason = format!(
            "{} tokens, but the decoder knows {vocabulary}: it belongs to another model",
            text.vocabulary()
        );
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
    let status = ModelStatus {
        name: folder.name(),
        digest: identity.digest,
        family: opened.name.into(),
        bytes: identity.bytes,
        graphs: opened
            .graphs
            .iter()
            .map(|g| GraphStatus { file: file(&g.path), dtype: g.dtype.clone() })
            .collect(),
        batch_invariant: identity.batch_invariant,
        hoisted: opened.hoisted,
        min_confidence: min_confidence(&folder)?,
        passed_over: opened.graphs.into_iter().flat_map(|g| g.passed_over).collect(),
    };
    let preparer =
        InputPreparer { prepare: opened.prepare, generation: Arc::new(generation), text, status };
    Ok((Captioner::new(opened.sessions), Arc::new(preparer)))
}

/// `"pg_caption": {"min_confidence": x}` of `config.json`.
fn min_confidence(folder: &folder::Folder) -> Result<Option<f32>, ModelError> {
    match folder.config.get("pg_caption").and_then(|own| own.get("min_confidence")) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(value) => match value.as_f64().filter(|x| (0.0..=1.0).contains(x)) {
            Some(x) => Ok(Some(x as f32)),
            None => Err(ModelError::config(
                folder.file("config.json"),
                format!("\"min_confidence\" is {value}, not a number from 0 to 1"),
            )),
        },
    }
}

/// What may cross a thread boundary, checked by the compiler.
const _: () = {
    const fn sent<T: Send>() {}
    const fn shared<T: Send + Sync>() {}
    sent::<Captioner>();
    sent::<CaptionBatch>();
    shared::<InputPreparer>();
    shared::<PictureFeatures>();
    shared::<PixelValues>();
};
