//! A model folder becomes something that captions: tokeniser, model families, generation.
//!
//! Two halves with a thread boundary between them. [`Preparer`] is shared by the decode threads and touches no session: it turns
//! pictures into tensors, styles into prompts and ids into text. [`Captioner`] owns the sessions and lives on one thread: each of its
//! methods is one session call's worth of work (the scheduler's unit), so that several [`Batch`]es can be alive at once.

use pg_caption_pixels::Rgb;
use pg_caption_register::Style;
use std::path::Path;
use std::sync::Arc;

/// Loads the ONNX Runtime library and builds the process-wide environment; once in a process's life.
/// `threads` is the size of the global intra-op pool (spinning off).
pub fn init(library: &Path, threads: usize) -> Result<(), Error> {
    let _ = (library, threads);
    unimplemented!()
}

/// How to load a folder.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// `auto` or a suffix
    pub dtype: String,
}

/// Opens a model folder.
pub fn load(folder: &Path, options: &LoadOptions) -> Result<(Captioner, Arc<Preparer>), Error> {
    let _ = (folder, options);
    unimplemented!()
}

/// What can go wrong with a model. (thiserror enum; every variant names file and reason)
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// x
    #[error("{0}")]
    Model(String),
}

/// Options for one picture.
#[derive(Debug, Clone, Default)]
pub struct PictureOptions {
    /// one-tile mode etc.; unused by vision-encoder-decoder
    pub tiles: Option<u32>,
}

/// One picture ready for the encoder.
pub struct Pixels {
    /* named tensors */
    /// Only equal buckets may share an encoder call.
    pub bucket: u64,
    /// Bytes held.
    pub bytes: usize,
    /// SHA-256 of the little-endian float32 pixel_values, lower-case hex (`--json`'s pixels_sha256), computed on demand
    _private: (),
}
impl Pixels {
    /// see above
    pub fn sha256(&self) -> String {
        unimplemented!()
    }
}

/// What the encoder made of one picture; shared by all its captions.
pub struct Features {
    /// Only equal buckets may share a decoder batch (shape).
    pub bucket: u64,
    /// Bytes held.
    pub bytes: usize,
    /// The encoder's own calibrated confidence that it knows what is shown (optional graph output `confidence`), 0..=1.
    pub confidence: Option<f32>,
    _private: (),
}

/// What generation starts from. (`ids` is what `prompt_ids` of the CLI shows.)
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Token ids (start token or whole prompt)
    pub ids: Vec<i64>,
    /// Only equal buckets may share a batch.
    pub bucket: u64,
}

/// One caption to generate.
pub struct Sequence {
    /// Chosen by the caller, returned in [`Finished`]; unique within a batch.
    pub key: u64,
    /// the picture
    pub features: Arc<Features>,
    /// the prompt
    pub prompt: Prompt,
    /// ceiling: the smaller of this and the folder's own holds
    pub max_new_tokens: u32,
    /// beams, n-gram ban, penalties …: only equal generations share a batch
    pub generation: Arc<Generation>,
}

/// Generation settings: config.json, generation_config.json and the caller's overrides, merged as transformers does.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// rows per caption
    pub num_beams: u32, /* … all the others */
}
impl Generation {
    /// a key: only equal generations share a batch
    pub fn bucket(&self) -> u64 {
        unimplemented!()
    }
}

/// A caption that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// of the sequence
    pub key: u64,
    /// new ids, the end token included when it was produced
    pub ids: Vec<i64>,
    /// why (a forced final end token counts as Length)
    pub finish: pg_caption_wire::Finish,
    /// geometric mean probability of the tokens, 0..=1
    pub confidence: f32,
}

/// Captions being generated together.
pub struct Batch {
    _private: (),
}
impl Batch {
    /// Captions still running.
    pub fn len(&self) -> usize {
        unimplemented!()
    }
    /// None left.
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
    /// Keys still running.
    pub fn keys(&self) -> Vec<u64> {
        unimplemented!()
    }
    /// Drops captions whose caller left; takes effect before the next step.
    pub fn cancel(&mut self, keys: &[u64]) {
        let _ = keys;
        unimplemented!()
    }
    /// Cache bytes held now.
    pub fn bytes(&self) -> usize {
        unimplemented!()
    }
}

/// The sessions of a model. Lives on one thread.
pub struct Captioner {
    _private: (),
}
impl Captioner {
    /// One encoder call over pictures of one bucket.
    pub fn encode(&mut self, pictures: &[Pixels]) -> Result<Vec<Features>, Error> {
        let _ = pictures;
        unimplemented!()
    }
    /// Prefill: sequences of equal features bucket, prompt bucket and generation. Some may finish at once.
    pub fn begin(&mut self, sequences: Vec<Sequence>) -> Result<(Batch, Vec<Finished>), Error> {
        let _ = sequences;
        unimplemented!()
    }
    /// One decode step of everything in the batch; finished and cancelled rows leave.
    pub fn step(&mut self, batch: &mut Batch) -> Result<Vec<Finished>, Error> {
        let _ = batch;
        unimplemented!()
    }
}

/// Everything of a model that needs no session. Shared by threads.
pub struct Preparer {
    _private: (),
}
impl Preparer {
    /// Resize, rescale, normalise.
    pub fn picture(&self, rgb: &Rgb, options: &PictureOptions) -> Result<Pixels, Error> {
        let _ = (rgb, options);
        unimplemented!()
    }
    /// Size of the picture the model will look at (for reduced-scale JPEG decoding): width, height.
    pub fn target(&self) -> (u32, u32) {
        unimplemented!()
    }
    /// The prompt of a style; `text` replaces the style's instruction or task (`--prompt`).
    pub fn prompt(&self, style: &Style, text: Option<&str>, context: Option<&str>) -> Result<Prompt, Error> {
        let _ = (style, text, context);
        unimplemented!()
    }
    /// The folder's settings; `overrides` is a JSON object of generation_config fields (`--generation`, `--greedy`).
    pub fn generation(&self, overrides: Option<&serde_json::Value>) -> Result<Arc<Generation>, Error> {
        let _ = overrides;
        unimplemented!()
    }
    /// Text of generated ids, special tokens skipped.
    pub fn text(&self, ids: &[i64]) -> Result<String, Error> {
        let _ = ids;
        unimplemented!()
    }
    /// Name, digest, family, graphs, min_confidence …
    pub fn status(&self) -> &pg_caption_wire::ModelStatus {
        unimplemented!()
    }
    /// Pictures per encoder call and captions per decoder call that suit this model on a processor.
    pub fn suggested_batch(&self) -> usize {
        unimplemented!()
    }
}
